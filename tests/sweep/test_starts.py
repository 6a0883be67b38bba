"""Who has a sweep's or a run's name: the start that is first to train there, and none that could not begin."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from children import start, train, wait
from four import GRID, POINTS, assert_same_run, copy, runs_of, status, sweep_of
from processes import holder, wait_until

from cql.config import SWEEP_LOCK_FILE
from cql.training.checkpoint import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
train, start = functools.partial(train, lean=True), functools.partial(start, lean=True)

SLIPS = {
    "file": ("dataset.path=absent.hdf5", "D4RL file 'absent.hdf5' does not exist"),
    "environment": ("env=Hopper-v5", "Hopper-v5"),
    "device": ("device=cuda", "torch sees no CUDA device"),
}


def says_that_it_waits(folder: Path) -> bool:
    output = folder / "output.txt"
    return output.exists() and "waiting for it" in output.read_text()


@pytest.mark.parametrize(
    "slip", [pytest.param(slip, marks=pytest.mark.slow) if slip == "environment" else slip for slip in SLIPS]
)
def test_a_start_that_could_not_begin_is_in_nobodys_way(slip: str, dataset: Path, tmp_path: Path) -> None:
    override, said = SLIPS[slip]
    if slip == "device":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("needs a machine without a GPU")
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1", override)
    assert ended.code != 0
    assert said in ended.text
    assert "Traceback" not in ended.text
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1")
    assert ended.code == 0, ended.text
    assert "2 of 2 runs finished" in ended.text
    assert json.loads((sweep_of(tmp_path) / "sweep.json").read_text())["base"]["dataset"]["path"] == str(dataset)

    assert train(dataset, tmp_path, "hydra.run.dir=run", override).code != 0
    ended = train(dataset, tmp_path, "hydra.run.dir=run")
    assert ended.code == 0, ended.text
    assert load(tmp_path / "run" / "checkpoints" / "best.pt")["config"]["dataset"]["path"] == str(dataset)
    # Now it is in the way.
    ended = train(dataset, tmp_path, "hydra.run.dir=run", "seed=7")
    assert ended.code == 1
    assert "holds a run with another config" in ended.text


def test_the_same_command_runs_once_the_file_is_there(dataset: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.hdf5"
    command = ("-m", "sweep_name=four", "seed=0,1", f"dataset.path={later}")
    assert train(dataset, tmp_path, *command).code == 2
    later.write_bytes(dataset.read_bytes())
    ended = train(dataset, tmp_path, *command)
    assert ended.code == 0, ended.text


def test_a_start_waits_for_another_one_of_the_same_sweep(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    other = holder(sweep_of(folder), SWEEP_LOCK_FILE)
    child = start(dataset, folder, "-m", "sweep_name=four", *GRID)
    wait_until(lambda: says_that_it_waits(folder))
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    ended = wait(child, folder)
    assert ended.code == 0, ended.text
    assert "4 of 4 runs finished" in ended.text


@pytest.mark.parametrize("others", [GRID, pytest.param(("seed=2,3",), marks=pytest.mark.slow)])
def test_of_two_starts_at_once_under_one_name_one_has_it(
    others: tuple[str, ...], dataset: Path, swept: Path, tmp_path: Path
) -> None:
    """The first is held in its composition; the second, with another config, must not touch what it has written."""
    fifo = tmp_path / "go_on"
    os.mkfifo(fifo)

    def held_while_composing() -> None:
        from cql.sweep import jobs

        compose = jobs.compose_all

        def slow(*given: object) -> object:
            fifo.read_bytes()  # until the other start has come and gone
            return compose(*given)  # type: ignore[arg-type]

        jobs.compose_all = slow  # type: ignore[assignment]

    first = start(dataset, tmp_path, "-m", "sweep_name=four", *GRID, before=held_while_composing)
    wait_until((sweep_of(tmp_path) / "sweep.json").exists)
    output = (tmp_path / "output.txt").rename(tmp_path / "first.txt")
    second = start(dataset, tmp_path, "-m", "sweep_name=four", "algorithm.discount=0.9", *others)
    refused = wait(second, tmp_path)
    fifo.write_text("x")
    (tmp_path / "output.txt").unlink()
    output.rename(tmp_path / "output.txt")
    ended = wait(first, tmp_path)
    assert ended.code == 0, ended.text
    assert refused.code == 2, refused.text
    assert "algorithm.discount: 0.99 -> 0.9" in refused.text
    assert json.loads((sweep_of(tmp_path) / "sweep.json").read_text())["base"]["algorithm"]["discount"] == 0.99
    assert runs_of(sweep_of(tmp_path)) == POINTS
    for point in POINTS:
        assert_same_run(sweep_of(tmp_path) / point, sweep_of(swept) / point)


def test_what_is_promised_is_on_the_disk_before_it_has_its_name(dataset: Path, tmp_path: Path) -> None:
    """A loss of power leaves the old file or the new one, if a file is flushed before it is renamed, and its folder."""
    path = tmp_path / "calls.txt"

    def watch() -> None:
        replace, fsync, calls = os.replace, os.fsync, path.open("a")

        def replacing(source: Path, target: Path) -> None:
            print("replace", source, target, file=calls, flush=True)
            replace(source, target)

        def flushing(descriptor: int) -> None:
            print("flush", Path(f"/proc/self/fd/{descriptor}").readlink(), file=calls, flush=True)
            fsync(descriptor)

        os.replace, os.fsync = replacing, flushing  # type: ignore[assignment]

    ended = wait(start(dataset, tmp_path, "-m", "sweep_name=four", "seed=0", "n_steps=10", before=watch), tmp_path)
    assert ended.code == 0, ended.text
    calls = [[*map(Path, line.split()[1:])] for line in path.read_text().splitlines()]
    renamed = set()
    for before, (source, *target), after in zip(calls, calls[1:], calls[2:], strict=False):
        if target:
            assert before == [tmp_path / source]
            assert after == [(tmp_path / target[0]).parent]
            renamed.add(target[0].name)
    assert renamed >= {
        "sweep.json", "stacks.json", "config.yaml", "hydra.yaml", "overrides.yaml", "provenance.json", "summary.json",
        "step_0000000.pt", "step_0000010.pt", "best.pt",
    }  # fmt: skip
    assert {each.name for each, *target in calls if not target} >= {"metrics.jsonl", "episodes.csv", "timing.jsonl"}


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        *(("sweep.json", text) for text in ("{", '{"base": 1}')),
        *(("stacks.json", text) for text in ("", "[[1]]")),
        *(pytest.param("sweep.json", text, marks=pytest.mark.slow) for text in ("", "[]")),
        *(pytest.param("stacks.json", text, marks=pytest.mark.slow) for text in ("{", "[1]")),
    ],
)
def test_a_damaged_file_of_a_sweep_is_named_and_its_remedy_works(
    file: str, contents: str, dataset: Path, swept: Path, tmp_path: Path
) -> None:
    folder = copy(swept, tmp_path)
    path = sweep_of(folder) / file
    before = json.loads(path.read_text())
    path.write_text(contents)
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 2, ended.text
    assert f"{file} is {'damaged' if contents else 'empty'}: remove it and give the command again" in ended.text
    assert "Traceback" not in ended.text
    path.unlink()
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    assert json.loads(path.read_text()) == before


def test_a_damaged_summary_is_written_anew_as_its_message_says(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    path = sweep_of(folder) / POINTS[2] / "summary.json"
    before = status(path.parent)
    path.write_text("")
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 1, ended.text
    assert "summary.json is empty: remove it and start the run again" in ended.text
    path.unlink()
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    assert status(path.parent) == before
