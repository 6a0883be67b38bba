"""A process beside this one that does jobs, so that they hold nothing up here.

It is a plain child, ``python -m cql.rollout.worker``, and not one of ``multiprocessing``'s: those cannot be started by
daemonic processes, and import the main module anew. Both sides speak pickles, each after its length, over two pipes
that nobody else writes to. One job is under way at a time.

Results do not depend on the child. What it raises in a job is raised here; where it dies, for want of memory or by a
signal, or cannot even begin, that is reported and its job is done in this process. It ends with this process, however
that ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Job = Any
Answer = Any

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<Q")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: What a terminal or a batch system sends to all processes of a job; what follows from it is the parent's to say.
_FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_SECONDS_TO_END = 10.0


class Worker:
    """Does jobs in a child, which uses one thread, and in this process where the child dies.

    Args:
        build: makes, in the child, the function from job to answer. It travels as a pickle, and so do jobs, answers and
            exceptions. An exception of `build` itself counts as a death.
        name: of the child, for the log.
        max_deaths: so many deaths, and no further child is started.
    """

    def __init__(self, build: Callable[[], Callable[[Job], Answer]], *, name: str, max_deaths: int = 3) -> None:
        self._setup = pickle.dumps(build)
        self._name, self._max_deaths = name, max_deaths
        self._child: _Child | None = None
        self._n_deaths = 0
        self._job: Job = None

    @property
    def process_id(self) -> int | None:
        """Of the child, None where there is none."""
        return None if self._child is None else self._child.process.pid

    def start(self) -> None:
        """Start the child where there is none, and do not wait for it: a job may be submitted at once."""
        if self._child is not None or self._n_deaths >= self._max_deaths:
            return
        try:
            self._child = _Child(self._setup)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread left to talk to it
            self._report(f"could not be started ({type(error).__name__}: {error})")

    def submit(self, job: Job) -> None:
        """Hand a job over; the answer to the one before must have been taken."""
        self._job = job
        if self._child is not None and self._child.has_ended:
            self._bury("before its next job")
        self.start()
        if self._child is not None:
            self._child.submit(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))

    @property
    def done(self) -> bool:
        """Whether :meth:`result` needs not wait for the child. It costs next to nothing to ask."""
        return self._child is None or self._child.answered.is_set()

    def result(self, here: Callable[[Job], Answer]) -> Answer:
        """Wait for the answer to the job.

        Args:
            here: does the job in this process, where the child died or there is none.

        Raises:
            Exception: what the job raised.
        """
        if self._child is not None:
            self._child.answered.wait()
            reply = self._child.take()
            if reply is not None:
                kind, value = reply
                if kind == "raised":
                    raise value
                return value
            self._bury("in the middle of its work")
        return here(self._job)

    def close(self) -> None:
        """End the child at once; a later :meth:`submit` would start another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _bury(self, when: str) -> None:
        assert self._child is not None
        how = self._child.bury()
        self._child = None
        self._report(f"{how} {when}")

    def _report(self, what: str) -> None:
        self._n_deaths += 1
        if self._n_deaths < self._max_deaths:
            then = "this process does its work until another is started"
        else:
            then = f"it is not started again after {self._n_deaths} failures: this process does its work from now on"
        log.warning("the %s %s; %s", self._name, what, then)


class _Child:
    """One process, and the thread that talks to it.

    Args:
        setup: the pickle of what makes the function from job to answer.

    Raises:
        OSError: it cannot be started.
        RuntimeError: no thread can be started.
    """

    def __init__(self, setup: bytes) -> None:
        paths = [str(Path(path or ".").resolve()) for path in sys.path]
        own = {**dict.fromkeys(_THREADS, "1"), "PYTHONPATH": os.pathsep.join(paths)}
        environment = {**_glfw_found_here(), **os.environ, **own}
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        try:
            with _blocked(_FOR_THE_PARENT):  # which a child inherits
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "cql.rollout.worker", str(theirs_in), str(theirs_out)],
                    pass_fds=(theirs_in, theirs_out),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self.answered = threading.Event()
        self._jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reply: tuple[str, Any] | None = None
        self._why = ""
        self._is_over = False
        self._thread = threading.Thread(target=self._talk, args=(setup,), name="cql.rollout.worker", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.process.kill()
            self.process.wait()
            self._close()
            raise

    @property
    def has_ended(self) -> bool:
        """Whether it takes no more jobs."""
        return self._is_over or self.process.poll() is not None

    def submit(self, job: bytes) -> None:
        self.answered.clear()
        self._jobs.put(job)
        if self._is_over:  # the thread may have ended before this job came
            self.answered.set()

    def take(self) -> tuple[str, Any] | None:
        """The reply to the last job, None where there will be none."""
        reply, self._reply = self._reply, None
        return reply

    def bury(self) -> str:
        """Wait for the end that is near, and say how it was."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_SECONDS_TO_END)
        code = self._reap()
        self._read_reply()  # its last words, where they came when nobody listened
        self._close()
        names = {int(each): each.name for each in signal.Signals}
        how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit status {code}"
        return f"(process {self.process.pid}) {how}" + (f" ({self._why})" if self._why else "")

    def kill(self) -> None:
        """End it now."""
        self._reap()
        self._close()

    def _reap(self) -> int:
        """Make sure that process and thread have ended; the exit status, negative for a signal."""
        self.process.kill()
        code = self.process.wait()
        self._jobs.put(None)
        self._thread.join()
        return code

    def _close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    def _talk(self, setup: bytes) -> None:
        """Write jobs and read replies until the process ends; all waiting for it is done in this thread."""
        try:
            _write(self._out, setup)
            while (job := self._jobs.get()) is not None:
                _write(self._out, job)
                self._reply = self._read_reply()
                if self._reply is None:
                    break
                self.answered.set()
        except OSError:
            pass  # it reads no more, because it has ended
        except Exception as error:  # noqa: BLE001  a reply that cannot be read, whatever the reason
            self._why = f"its reply cannot be read: {type(error).__name__}: {error}"
            self.process.kill()
        self._is_over = True
        self.answered.set()

    def _read_reply(self) -> tuple[str, Any] | None:
        """The next answer or exception, None where the process has ended; what it logs on the way is logged here."""
        while (message := _read(self._in)) is not None:
            kind, value = pickle.loads(message)
            if kind == "log":
                name, level, text = value
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "unable":
                self._why = value
            else:
                return kind, value
        return None


def _glfw_found_here() -> dict[str, str]:
    """The variable that spares GLFW's bindings, which MuJoCo's environments import, their search in a child.

    They look at each library in a process of its own, which nobody ends with the child and which would print a
    traceback when it finds the child gone.
    """
    found = getattr(sys.modules.get("glfw.library"), "glfw", None)
    return {} if found is None else {"PYGLFW_LIBRARY": found._name}


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals in this thread for a moment; they arrive afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(descriptor: int, message: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(message)) + message)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int) -> bytes | None:
    """The next message, None where the other side has closed the pipe, in the middle of a message too."""
    length = _read_exactly(descriptor, _LENGTH.size)
    return None if length is None else _read_exactly(descriptor, _LENGTH.unpack(length)[0])


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        piece = os.read(descriptor, min(size - len(found), 2**20))
        if not piece:
            return None
        found += piece
    return bytes(found)


# The child ------------------------------------------------------------------------------------------------------------


class _ToTheParent(logging.Handler):
    """Sends records to the parent's log."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", (record.name, record.levelno, record.getMessage()))


def _serve(incoming: int, outgoing: int) -> None:
    """Do what comes in, one after the other, until the parent has gone or kills this process."""
    os.dup2(2, 1)  # what is printed belongs to the log, and not into the parent's results
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    sending = threading.Lock()

    def listen() -> None:
        while (message := _read(incoming)) is not None:
            messages.put(message)
        os._exit(0)  # the parent has gone; also in the middle of a job, which nobody waits for any more

    def send(kind: str, value: Any) -> None:
        message = pickle.dumps((kind, value), pickle.HIGHEST_PROTOCOL)
        try:
            with sending:
                _write(outgoing, message)
        except BrokenPipeError:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, handlers=[_ToTheParent(send)])
    try:
        work = pickle.loads(messages.get())()
    except Exception as error:
        send("unable", f"{type(error).__name__}: {error}")
        raise
    while True:
        job = pickle.loads(messages.get())
        try:
            kind, value = "answer", work(job)
        except MemoryError:
            raise  # this process's own: the parent may have more
        except Exception as error:  # noqa: BLE001  it is the parent's
            kind, value = "raised", _portable(error)
        send(kind, value)


def _portable(error: Exception) -> Exception:
    """An exception that pickles, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  some need other arguments than they keep
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in the worker:\n{text}")
    return error


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
