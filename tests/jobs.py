"""What the tests of the worker have it do; light, because each worker imports it."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cql.rollout.worker import Worker


class NeedsTwoError(Exception):
    """Pickles, but cannot be read back: it keeps one argument and wants two."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def doubling() -> Callable[[Any], Any]:
    """Doubles its jobs, and does odd things for some."""
    sys.stdout.write("printed while it began\n")

    def work(job: Any) -> Any:
        match job:
            case "raise":
                raise KeyError("of the job")
            case "raise what does not travel":
                raise NeedsTwoError("a", "b")
            case "answer what does not travel":
                return lambda: None
            case "exit":
                os._exit(3)
            case "want memory":
                raise MemoryError
            case "log":
                logging.getLogger("some.room").warning("there were %d", 7)
                logging.getLogger("some.room").info("not worth it")
            case "print":
                sys.stdout.write("printed")
                os.write(1, b"written")
            case "sleep":
                time.sleep(60)
            case "turn":
                while True:
                    pass
            case "environment":
                return dict(os.environ), sorted(sys.modules)
            case "import glfw":
                return processes_started_by("import glfw")
        return job * 2

    return work


def processes_started_by(code: str) -> int:
    """How many processes some code starts."""
    started = []
    sys.addaudithook(lambda event, _: started.append(event) if event == "subprocess.Popen" else None)
    exec(code)
    return len(started)


def failing() -> Callable[[Any], Any]:
    """Cannot even begin."""
    raise OSError("no such library")


def slow_doubling() -> Callable[[Any], Any]:
    """Takes half a second."""

    def work(job: Any) -> Any:
        time.sleep(0.5)
        return job * 2

    return work


def gated_rollouts(gate: str, env_id: str, seeds: Sequence[Sequence[int]], **film: Any) -> Callable[[Any], Any]:
    """`rolling_out`, that begins each job only when there is a file, which it takes away."""
    from cql.rollout.evaluation import rolling_out

    roll_out = rolling_out(env_id, seeds, **film)

    def work(rollouts: Any) -> Any:
        while not Path(gate).exists():
            time.sleep(0.005)
        Path(gate).unlink()
        return roll_out(rollouts)

    return work


class GatedWorker(Worker):
    """Never done before it is waited for, or its gate is opened."""

    def __init__(self, gate: Path, *args: Any, **film: Any) -> None:
        super().__init__(functools.partial(gated_rollouts, str(gate), *args, **film), name="evaluation worker")
        self.gate = gate

    def submit(self, job: Any) -> None:
        self.gate.unlink(missing_ok=True)
        super().submit(job)

    def open(self) -> None:
        """Let it do its job, and wait for that."""
        self.gate.touch()
        while not self.done:
            time.sleep(0.005)

    def result(self, here: Callable[[Any], Any]) -> Any:
        self.gate.touch()
        return super().result(here)


def broken_rollouts() -> Callable[[Any], Any]:
    """Evaluations fail."""

    def work(_: Any) -> Any:
        from cql.rollout.envs import EnvError

        raise EnvError("the environment broke")

    return work


def imported_for_rollouts(env_id: str, seeds: Sequence[Sequence[int]]) -> Callable[[Any], list[str]]:
    """Tells what has been imported after a job of rollouts."""
    from cql.rollout.evaluation import rolling_out

    roll_out = rolling_out(env_id, seeds, size=32, seconds=0.1)

    def work(rollouts: Any) -> list[str]:
        roll_out(rollouts)
        return sorted(sys.modules)

    return work


def parent(place: str, job: str) -> None:
    """A process that has a worker do something that takes long, and waits for ever."""
    worker = Worker(doubling, name="worker")
    worker.start()
    worker.submit("first")
    assert worker.result(lambda _: "no worker") == "firstfirst"
    if job:
        worker.submit(job)
    partial = Path(place, "partial")
    partial.write_text(str(worker.process_id))
    partial.rename(Path(place, "worker"))
    time.sleep(600)


def ask_a_worker(place: str) -> None:
    """A whole life of a worker."""
    worker = Worker(doubling, name="worker")
    worker.start()
    worker.submit("a")
    Path(place, "answer").write_text(worker.result(lambda _: "no worker"))
    worker.close()
