"""A sweep in a process of its own, which the tests of the launchers start, disturb, take up again and compare."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nested import assert_same
from tiny import OVERRIDES

from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
# A run of some seconds with a checkpoint at every tenth of it, so that it can be stopped in its middle.
N_STEPS, N_STEPS_PER_EPOCH = 500, 50
LENGTH = (f"n_steps={N_STEPS}", f"n_steps_per_epoch={N_STEPS_PER_EPOCH}")
SECONDS = 180.0
"""The longest that anything here may take; a start alone is many seconds where other work has the cores."""


class Sweep:
    """A sweep of seeds and fixed `alpha_cql`, always of the same name: started again in its folder, it resumes.

    Args:
        cwd: where it is started; made if absent.
        dataset: a file of :func:`tiny.write_dataset`.
        alphas: values of `alpha_cql`.
        seeds: of the runs.
        environment: variables of the process besides those of this one.
    """

    def __init__(
        self, cwd: Path, dataset: Path, alphas: Sequence[int], seeds: Sequence[int], environment: Mapping[str, str] = {}
    ) -> None:
        cwd.mkdir(exist_ok=True)
        self.cwd, self.folder, self.log = cwd, cwd / "outputs" / "sweeps" / "grid", cwd / "console.log"
        self.runs = [self.folder / f"alpha_cql-{alpha}__seed-{seed}" for alpha in alphas for seed in seeds]
        grid = (f"algorithm.alpha_cql.value={','.join(map(str, alphas))}", f"seed={','.join(map(str, seeds))}")
        self._command = (
            sys.executable, str(SCRIPT), "-m", "sweep_name=grid",
            "dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, *LENGTH, *grid,
        )  # fmt: skip
        self._environment = {**os.environ, **environment}

    @contextlib.contextmanager
    def started(self, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
        """The process of the sweep, killed at the end of the block if it runs still."""
        with self.log.open("ab") as console:
            process = subprocess.Popen(
                [*self._command, *overrides],
                cwd=self.cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, *overrides: str) -> int:
        """Start the sweep and wait for its end; its exit code."""
        with self.started(*overrides) as process:
            return process.wait(SECONDS)

    def said(self) -> str:
        """All that the sweep and its jobs have said, for the message of an assertion."""
        logs = [self.log, *sorted(self.folder.glob(".submitit/*/*_log.*"))]
        return "\n".join(f"{path}:\n{path.read_text()[-4000:]}" for path in logs if path.exists())

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
        """Wait until something has happened, which has to be before the sweep's process ends."""
        end = time.monotonic() + SECONDS
        while not condition():
            assert process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def disturb(self, disturbances: Mapping[Path, Callable[[Path], object]], process: subprocess.Popen[bytes]) -> None:
        """Do something to each of these runs in its middle: it has a checkpoint to resume from, and steps left."""
        pending = dict(disturbances)
        while pending:
            self.wait_for(lambda: any(is_in_middle(run) for run in pending), process)
            for run in filter(is_in_middle, list(pending)):
                pending.pop(run)(run)


def is_in_middle(run: Path) -> bool:
    """Whether a run has a checkpoint of some steps."""
    return any(path.name >= f"step_{2 * N_STEPS_PER_EPOCH:07d}.pt" for path in run.glob("checkpoints/step_*.pt"))


def kill(run: Path) -> None:
    """Take away the process that trains a run, without a warning."""
    os.kill(worker(run), signal.SIGKILL)


def status(run: Path) -> str | None:
    """What a run's summary says of it."""
    path = run / "summary.json"
    return str(json.loads(path.read_text())["status"]) if path.exists() else None


def worker(run: Path) -> int:
    """The process that trains a run, which signs the run's lock."""
    match = re.match(r"process (\d+) on", (run / ".lock").read_text())
    assert match is not None
    return int(match[1])


def last_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / f"step_{N_STEPS:07d}.pt"


def assert_complete(sweep: Sweep) -> None:
    """Every run of the sweep has finished, and its folder holds what that of a run alone does."""
    assert sorted(path.parent for path in sweep.folder.glob("*/summary.json")) == sorted(sweep.runs), sweep.said()
    for run in sweep.runs:
        assert status(run) == "finished", sweep.said()
        steps = [row["step"] for row in read_metrics(run)]
        assert steps == list(range(N_STEPS_PER_EPOCH, N_STEPS + 1, N_STEPS_PER_EPOCH)), run
        assert last_checkpoint(run).exists(), run
        assert (run / "checkpoints" / "best.pt").exists(), run
        assert f"step {N_STEPS}/{N_STEPS}" in (run / "train.log").read_text(), run
        assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}


def assert_same_table(sweep: Sweep, undisturbed: Sweep) -> None:
    """Every run has ended bit for bit as its twin in the other sweep."""
    for run, twin in zip(sweep.runs, undisturbed.runs, strict=True):
        assert run.name == twin.name
        for name in ("metrics.jsonl", "episodes.csv"):
            assert (run / name).read_bytes() == (twin / name).read_bytes(), run / name
        assert_same(load(last_checkpoint(run)), load(last_checkpoint(twin)), run.name)
