"""A process beside this one that does jobs, so that training does not wait for evaluations.

The process belongs to a ``concurrent.futures.ProcessPoolExecutor`` (spawn). Results do not depend on it: what a job
raises there is raised here, and when the process dies, that is reported and the job is done in this process. It ends
with this process, however that ends. A process that may have no children (a daemonic one) does all jobs itself.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

Job = Any
Answer = Any
Records = list[tuple[str, int, str]]

log = logging.getLogger(__name__)

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# A terminal or a batch system sends these to all processes of a job; only the training process acts on them.
_FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_SECONDS_TO_END = 10.0


class WorkerError(RuntimeError):
    """The function that does the jobs could not be made in the worker process."""


class Worker:
    """Does jobs in a child process with one thread, or in this process when the child has died.

    Args:
        build: makes the function from job to answer, in the child. It is pickled, and so are jobs, answers and
            exceptions.
        name: of the child, for the log.
        max_deaths: after this many deaths no further child is started.
    """

    def __init__(self, build: Callable[[], Callable[[Job], Answer]], *, name: str, max_deaths: int = 3) -> None:
        self._build, self._name, self._max_deaths = build, name, max_deaths
        self._pool: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._future: Future[tuple[Answer, Records]] | None = None
        self._n_deaths = max_deaths if multiprocessing.current_process().daemon else 0
        self._job: Job = None

    @property
    def process_id(self) -> int | None:
        """Process id of the child, None if there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the child if there is none, without waiting for it: a job may be submitted at once."""
        if self._pool is not None or self._n_deaths >= self._max_deaths:
            return
        try:
            self._pool, (self._process,) = started_pool(self._build, 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._report(f"could not be started ({type(error).__name__}: {error})")

    def submit(self, job: Job) -> None:
        """Hand over a job. The answer to the previous one must have been taken."""
        self._job, self._future = job, None
        if self._process is not None and connection.wait([self._process.sentinel], timeout=0):
            self._bury("before its next job")
        self.start()
        if self._pool is not None:
            try:
                self._future = self._pool.submit(do, job)
            except BrokenProcessPool:
                self._bury("before its next job")

    @property
    def done(self) -> bool:
        """Whether :meth:`result` returns without waiting for the child."""
        return self._future is None or self._future.done()

    def result(self, here: Callable[[Job], Answer]) -> Answer:
        """Wait for the answer to the job.

        Args:
            here: does the job in this process, if the child died or there is none.

        Raises:
            Exception: what the job raised.
        """
        future, self._future = self._future, None
        if future is None:
            return here(self._job)
        try:
            answer, records = future.result()
        except BrokenProcessPool:
            self._bury("while it worked")
        except (WorkerError, MemoryError) as error:  # this process may have what the child lacks
            self._bury("while it worked", f"{type(error).__name__}: {error}")
        else:
            for name, level, text in records:
                logging.getLogger(name).log(level, "%s", text)
            return answer
        return here(self._job)

    def close(self) -> None:
        """End the child at once. A later :meth:`submit` starts another."""
        if self._pool is not None and self._process is not None:
            self._process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._process = self._future = None

    def _bury(self, when: str, why: str = "") -> None:
        process = self._process
        assert process is not None
        number, how = process.pid, f"failed ({why})" if why else how_it_ended(exit_code(process))
        self.close()
        self._report(f"(process {number}) {how} {when}")

    def _report(self, what: str) -> None:
        self._n_deaths += 1
        if self._n_deaths < self._max_deaths:
            then = "this process does its job, and the next job starts another"
        else:
            then = f"after {self._n_deaths} failures it is not started again, and this process does its jobs"
        log.warning("the %s %s; %s", self._name, what, then)


def started_pool(
    build: Callable[[], Callable[[Job], Answer]], n_processes: int
) -> tuple[ProcessPoolExecutor, list[BaseProcess]]:
    """A pool whose processes have been started; hand it jobs by ``pool.submit(do, job)``.

    The processes use one thread each, print to stderr, and leave signals to this process.

    Args:
        build: makes the function from job to answer, once in each process.
        n_processes: at least 1.

    Returns:
        The pool, and its processes.

    Raises:
        OSError: a process could not be started.
        RuntimeError: the pool's own thread could not be started.
    """
    pool = ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"), _begin, (build, os.getpid()))
    before = set(multiprocessing.active_children())
    with _environment({**_glfw_found_here(), **dict.fromkeys(_THREADS, "1")}), _blocked():
        for _ in range(n_processes):
            pool.submit(_warm_up)  # the pool starts a process for each job while none is idle
    processes = list(set(multiprocessing.active_children()) - before)
    if len(processes) < n_processes:
        pool.shutdown(cancel_futures=True)
        raise OSError("it ended as soon as it was started")
    return pool, processes


def exit_code(process: BaseProcess) -> int | None:
    """Wait for the end of a pool's process; None if it has not ended after ten seconds.

    The pool's own thread waits for it as well. One of the two finds no process, and may do so before the other has
    noted the code.
    """
    end = time.monotonic() + _SECONDS_TO_END
    process.join(_SECONDS_TO_END)
    while process.exitcode is None and time.monotonic() < end:
        time.sleep(0.01)
    return process.exitcode


def how_it_ended(code: int | None) -> str:
    """An exit code in words, such as "was killed by SIGKILL"."""
    if code is None or code >= 0:
        return f"ended with exit status {code}"
    names = {int(each): each.name for each in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


def _glfw_found_here() -> dict[str, str]:
    """The variable that tells GLFW's bindings, which MuJoCo's environments import, where their library is.

    Without it they look at each candidate in a process of its own, which outlives a killed child and prints a
    traceback.
    """
    found = getattr(sys.modules.get("glfw.library"), "glfw", None)
    return {} if found is None else {"PYGLFW_LIBRARY": found._name}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a moment, for the processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Block signals in this thread for a moment: a child inherits the mask, and this thread gets them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the child ---------------------------------------------------------------------------------------------------------

_build: Callable[[], Callable[[Job], Answer]]
_work: Callable[[Job], Answer] | None = None


def _begin(build: Callable[[], Callable[[Job], Answer]], parent: int) -> None:
    global _build
    _build = build
    os.dup2(2, 1)  # what is printed must not mix with the parent's results
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """End this process when the parent has gone, or when the parent (and nobody else) asks for it by SIGTERM."""
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 0.5)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)


def _warm_up() -> None:
    with contextlib.suppress(WorkerError):  # the first job raises it again
        _made()


def _made() -> Callable[[Job], Answer]:
    global _work
    if _work is None:
        try:
            _work = _build()
        except Exception as error:
            raise WorkerError(f"{type(error).__name__}: {error}") from error
    return _work


def do(job: Job) -> tuple[Answer, Records]:
    """Do a job in a process of :func:`started_pool`.

    Returns:
        The answer, and the warnings that were logged meanwhile (logger, level, text).

    Raises:
        WorkerError: the function that does the jobs could not be made.
        Exception: what the job raised; a RuntimeError with its text if it cannot be pickled.
    """
    records: Records = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append((record.name, record.levelno, record.getMessage()))

    work, root, keep = _made(), logging.getLogger(), Keep(logging.WARNING)
    root.addHandler(keep)
    try:
        return work(job), records
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001  some need other arguments than they keep
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
    finally:
        root.removeHandler(keep)
