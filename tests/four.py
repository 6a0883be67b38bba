"""A sweep of four tiny runs, `outputs/sweeps/four`: how it is started and what its folders hold."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import children
from nested import assert_same

from cql.training.checkpoint import load

GRID = ("algorithm.alpha_cql.value=1,5", "seed=0,1")
POINTS = ["alpha_cql-1__seed-0", "alpha_cql-1__seed-1", "alpha_cql-5__seed-0", "alpha_cql-5__seed-1"]
FILES = {
    ".hydra", ".lock", "checkpoints", "episodes.csv", "key_curves.png", "metrics.jsonl", "provenance.json",
    "summary.json", "timing.jsonl", "train.log",
}  # fmt: skip

start = functools.partial(children.start, lean=True)
train = functools.partial(children.train, lean=True)


def sweep_of(folder: Path) -> Path:
    return folder / "outputs" / "sweeps" / "four"


def runs_of(sweep: Path) -> list[str]:
    return sorted(path.parents[1].name for path in sweep.glob("*/.hydra/config.yaml"))


def status(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "summary.json").read_text()))


def newest_steps(folder: Path) -> tuple[int, ...]:
    """The step of each run's newest checkpoint, -1 if there is none."""
    written = [(sweep_of(folder) / point / "checkpoints").glob("step_*.pt") for point in POINTS]
    return tuple(max((int(path.stem[5:]) for path in paths), default=-1) for paths in written)


def last_agent(run: Path) -> dict[str, object]:
    """What the checkpoint of step 60 holds of the agent."""
    return dict(load(run / "checkpoints" / "step_0000060.pt")["agent"])


def assert_same_run(run: Path, other: Path) -> None:
    """The same numbers to the last bit; the configs in the checkpoints may be those of different sweeps."""
    for name in ("metrics.jsonl", "episodes.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), (run, name)
    names = sorted(path.name for path in (other / "checkpoints").iterdir())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    for name in names:
        one, two = load(run / "checkpoints" / name), load(other / "checkpoints" / name)
        assert_same({**one, "config": None}, {**two, "config": None})


def assert_same_but_for_rounding(run: Path, other: Path) -> None:
    """The same parameters at the end, trained in stacks of different sizes."""
    assert_same(last_agent(run)["parameters"], last_agent(other)["parameters"], rtol=1e-4, atol=1e-6)


def copy(swept: Path, tmp_path: Path) -> Path:
    shutil.copytree(swept, tmp_path / "copy")
    return tmp_path / "copy"
