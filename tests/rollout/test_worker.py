"""The process beside this one: it answers what this process would, and its death is reported and survived."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jobs
import pytest
from processes import SECONDS, is_running, said, wait_until

from cql.rollout.worker import Worker, exit_code, how_it_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def here(job: Any) -> Any:
    """What a worker's job gives where this process does it."""
    return ("here", job)


def by_the_child(job: Any) -> Any:
    raise AssertionError(f"{job} was left to this process")


def descriptors_of_this_process() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(jobs.doubling, name="worker")
    yield made
    made.close()


def test_jobs_are_answered_one_after_the_other_by_one_process(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    assert worker.done  # there is nothing to wait for
    worker.start()
    process = worker.process_id
    for job in (2, "a", [1], "x" * 3_000_000):  # the last is longer than what a pipe holds
        worker.submit(job)
        wait_until(lambda: worker.done)
        assert worker.result(by_the_child) == job * 2
    assert worker.process_id == process != os.getpid()
    assert said(caplog) == []


def test_a_job_may_be_submitted_before_the_process_listens(worker: Worker) -> None:
    worker.submit("x" * 3_000_000)
    assert not worker.done
    assert worker.result(by_the_child) == "x" * 6_000_000


def test_what_it_prints_disturbs_nothing_and_what_it_logs_is_logged_here(
    worker: Worker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for job in ("print", "log"):
        worker.submit(job)
        assert worker.result(by_the_child) == job * 2
    worker.close()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "written" in printed.err
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [
        ("some.room", logging.WARNING, "there were 7")
    ]


def test_it_has_one_thread_and_imports_nothing_by_itself(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    worker.submit("environment")
    environment, modules = worker.result(by_the_child)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "1"
    assert environment["MUJOCO_GL"] == "osmesa"
    assert not {"torch", "numpy", "hydra"} & set(modules)


def test_it_does_not_search_for_glfw_with_processes_of_its_own(worker: Worker) -> None:
    # They would outlive it for a moment, and print tracebacks about the pipe that it left.
    searching = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jobs; print(jobs.processes_started_by('import glfw'))"
    )
    found = subprocess.run([sys.executable, "-c", searching, str(Path(jobs.__file__).parent)], capture_output=True)
    assert int(found.stdout) > 0  # where nobody has found it before
    import glfw  # noqa: F401

    worker.submit("import glfw")
    assert worker.result(by_the_child) == 0


def test_what_a_job_raises_is_raised_here_and_the_process_goes_on(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.submit("raise")
    with pytest.raises(KeyError, match="of the job") as caught:
        worker.result(by_the_child)
    assert "Traceback" in str(caught.value.__cause__)  # that of the child
    assert "jobs.py" in str(caught.value.__cause__)
    process = worker.process_id
    worker.submit("raise what does not travel")
    with pytest.raises(RuntimeError, match="NeedsTwoError: ab"):
        worker.result(by_the_child)
    worker.submit(4)
    assert worker.result(by_the_child) == 8
    assert worker.process_id == process
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("job", "how"), [("exit", "ended with exit status 3"), ("want memory", "failed (MemoryError: )")]
)
def test_where_it_ends_its_job_is_done_here_and_the_next_by_another(
    job: str, how: str, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.start()
    process = worker.process_id
    worker.submit(job)
    assert worker.result(here) == ("here", job)
    assert said(caplog) == [
        f"the worker (process {process}) {how} while it worked; this process does its job, and the next job starts "
        "another"
    ]
    worker.submit(3)
    assert worker.process_id not in (process, None)
    assert worker.result(by_the_child) == 6
    assert len(said(caplog)) == 1


def test_killed_in_the_middle_of_its_work(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.submit("sleep")
    assert not worker.done
    assert worker.process_id is not None
    os.kill(worker.process_id, signal.SIGKILL)
    wait_until(lambda: worker.done)
    assert worker.result(here) == ("here", "sleep")
    assert "was killed by SIGKILL while it worked" in said(caplog)[0]


def test_killed_between_two_jobs_the_next_is_still_done_by_a_process(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.submit(1)
    assert worker.result(by_the_child) == 2
    process = worker.process_id
    assert process is not None
    os.kill(process, signal.SIGKILL)
    # Its first thread can be gone while others are still going, so its state in /proc is too early a sign.
    assert worker._process is not None
    assert multiprocessing.connection.wait([worker._process.sentinel], SECONDS)
    worker.submit(5)
    assert worker.result(by_the_child) == 10
    assert worker.process_id != process
    (warning,) = said(caplog)
    assert f"(process {process}) was killed by SIGKILL before its next job" in warning


def test_after_three_deaths_no_other_is_started(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        worker.submit("exit")
        assert worker.result(here) == ("here", "exit")
    worker.submit(1)
    assert worker.process_id is None
    assert worker.done
    assert worker.result(here) == ("here", 1)
    assert len(said(caplog)) == 3
    assert said(caplog)[-1].endswith("; after 3 failures it is not started again, and this process does its jobs")


def test_one_that_cannot_be_started_is_named(
    worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen._launch", fail)
    descriptors = descriptors_of_this_process()
    for job in range(4):
        worker.submit(job)
        assert worker.result(here) == ("here", job)
    assert descriptors_of_this_process() == descriptors
    assert len(said(caplog)) == 3
    assert said(caplog)[0].startswith("the worker could not be started (OSError: [Errno 12] Cannot allocate memory); ")


def test_one_whose_interpreter_is_gone_leaves_its_jobs_to_this_process(
    worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/no/such/python")
    for job in range(4):
        worker.submit(job)
        assert worker.result(here) == ("here", job)
    assert len(said(caplog)) == 3


def test_one_that_cannot_begin_says_why(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(jobs.failing, name="worker")
    worker.start()
    worker.submit(1)
    assert worker.result(here) == ("here", 1)
    (warning,) = said(caplog)
    assert "failed (WorkerError: OSError: no such library) while it worked" in warning
    worker.close()


def test_an_answer_that_does_not_pickle_is_the_jobs_error(worker: Worker) -> None:
    worker.submit("answer what does not travel")
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        worker.result(by_the_child)


def test_signals_to_all_processes_of_a_job_do_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(jobs.slow_doubling, name="worker")
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    worker.start()
    worker.submit(1)
    assert worker.process_id is not None
    for sent in ("INT", "TERM", "USR1", "USR2"):
        subprocess.run(["kill", f"-{sent}", str(worker.process_id)], check=True)  # from its very first moment on
    assert worker.result(by_the_child) == 2
    worker.close()
    assert said(caplog) == []
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(handlers)  # this process still gets them


def test_closing_ends_it_in_the_middle_of_its_work_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    descriptors = descriptors_of_this_process()
    worker = Worker(jobs.doubling, name="worker")
    worker.submit("turn")
    process = worker.process_id
    assert process is not None
    worker.close()
    worker.close()
    assert not is_running(process)
    assert descriptors_of_this_process() == descriptors
    assert said(caplog) == []


@pytest.mark.parametrize("job", ["", "sleep", "turn"])
def test_it_ends_when_its_parent_is_killed(job: str, tmp_path: Path) -> None:
    code = "import sys, jobs; jobs.parent(*sys.argv[1:])"
    path = os.pathsep.join(path for path in sys.path if path)
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), job], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: (tmp_path / "worker").exists() or parent.poll() is not None)
        process = int((tmp_path / "worker").read_text())
        assert is_running(process)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_running(process))


def test_a_daemonic_process_does_the_jobs_itself(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=jobs.ask_a_worker, args=(str(tmp_path),), daemon=True)
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0
    assert (tmp_path / "answer").read_text() == "no worker"
    process.close()


def test_an_exit_code_that_another_thread_has_yet_to_note_is_waited_for() -> None:
    class Reaped:
        """Ended, and waited for by another thread, which notes the code a moment later."""

        codes: ClassVar = [None, None, -signal.SIGKILL, -signal.SIGKILL]

        def join(self, timeout: float) -> None:
            assert timeout == pytest.approx(10.0)

        @property
        def exitcode(self) -> int | None:
            return self.codes.pop(0)

    code = exit_code(Reaped())  # type: ignore[arg-type]
    assert how_it_ended(code) == "was killed by SIGKILL"
    assert how_it_ended(3) == "ended with exit status 3"
