"""Sweeps with runs that fail."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from children import signal_before, wait
from four import (
    GRID,
    POINTS,
    assert_same_but_for_rounding,
    assert_same_run,
    copy,
    start,
    status,
    sweep_of,
    train,
)

from cql.training.checkpoint import load, save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def test_failures_are_those_of_their_runs_and_the_exit_code_counts_them(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    grid = ("algorithm.w_cql=1,1e38", "algorithm.alpha_cql.value=5", "seed=0,1")
    sweep = sweep_of(tmp_path)
    sweep.mkdir(parents=True)
    # A folder that cannot be made, for any user: a file has its name.
    (sweep / "w_cql-1__seed-1").write_text("in the way")
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", *grid)
    assert ended.code == 3, ended.text
    assert "1 of 4 runs finished, 3 failed" in ended.text
    assert "Traceback" not in ended.text
    assert status(sweep / "w_cql-1__seed-0")["status"] == "finished"
    for seed in (0, 1):
        failed = status(sweep / f"w_cql-1e+38__seed-{seed}")
        assert failed["status"] == "failed"
        assert "not finite" in str(failed["failure"])
    # What was not disturbed is what it would have been.
    assert_same_but_for_rounding(sweep / "w_cql-1__seed-0", sweep_of(swept) / "alpha_cql-5__seed-0")

    (sweep / "w_cql-1__seed-1").unlink()
    before = (sweep / "w_cql-1e+38__seed-0" / "train.log").read_bytes()
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", *grid)
    assert ended.code == 2, ended.text
    assert "retry_failed=true" in ended.text
    assert "2 of 4 runs finished, 2 failed" in ended.text
    assert (sweep / "w_cql-1e+38__seed-0" / "train.log").read_bytes() == before

    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "retry_failed=true", *grid)
    assert ended.code == 2, ended.text
    assert (sweep / "w_cql-1e+38__seed-0" / "train.log").read_bytes() != before


def test_a_dataset_that_is_missing_fails_its_runs_and_not_the_others(dataset: Path, tmp_path: Path) -> None:
    ended = train(
        dataset, tmp_path, "-m", "sweep_name=four", f"dataset.path={dataset},{tmp_path}/absent.hdf5", "seed=0,1"
    )
    assert ended.code == 2, ended.text
    states = {path.parent.name: status(path.parent)["status"] for path in sweep_of(tmp_path).glob("*/summary.json")}
    assert sorted(states.values()) == ["failed", "failed", "finished", "finished"]
    assert all(("absent" in name) == (state == "failed") for name, state in states.items())


def test_a_failed_run_keeps_its_place_so_that_the_others_resume_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    overrides = ("-m", "sweep_name=four", "algorithm.w_cql=1,1e38", "seed=0,1")
    folder, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert train(dataset, undisturbed, *overrides).code == 2
    kill = signal_before(signal.SIGKILL, "replace", "w_cql-1__seed-1/checkpoints/step_0000040.pt")
    assert wait(start(dataset, folder, *overrides, before=kill), folder).code == -signal.SIGKILL
    failed = sweep_of(folder) / "w_cql-1e+38__seed-1"
    before = {path: path.read_bytes() for path in failed.rglob("*") if path.is_file() and path.name != ".lock"}
    assert train(dataset, folder, *overrides).code == 2
    for seed in (0, 1):
        assert_same_run(*(sweep_of(each) / f"w_cql-1__seed-{seed}" for each in (folder, undisturbed)))
    assert {path: path.read_bytes() for path in before} == before


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_infinite(path: Path) -> None:
    path.write_text(re.sub(r'("eval_return_mean": )[^,]+', r"\g<1>1e999", path.read_text(), count=1))


def drop_second_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))


def cut_moments(path: Path) -> None:
    contents = load(path)
    moments = contents["agent"]["optimisers"]["actor"][0]["exp_avg"]
    contents["agent"]["optimisers"]["actor"][0]["exp_avg"] = moments.flatten()[:1]
    save(path, contents)


def of_another_step(path: Path) -> None:
    save(path, {**load(path), "step": 30})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "train.log": (replace_by_folder, "train.log is not a file: remove it"),
    "summary.json": (lambda path: path.write_text("{"), "summary.json is damaged: remove it and start the run again"),
    ".hydra/config.yaml": (lambda path: path.write_text(""), "config.yaml holds no config, as after a loss of power"),
    ".hydra/hydra.yaml": (Path.unlink, ""),
    "metrics.jsonl": (drop_second_line, "metrics.jsonl has 3 of the 4 rows that were written to it"),
    "metrics.jsonl, a folder": (replace_by_folder, "metrics.jsonl is not a file"),
    "episodes.csv, a pipe": (replace_by_pipe, "episodes.csv is not a file"),
    "metrics.jsonl, a value": (make_infinite, "metrics.jsonl: line 1 is damaged"),
    "provenance.json, a list": (lambda path: path.write_text("[1]"), "provenance.json is damaged: remove it, to start"),
    ".hydra/config.yaml, a pipe": (replace_by_pipe, "config.yaml is not a file"),
    "provenance.json": (lambda path: path.write_text("{"), "provenance.json is damaged: remove it, to start a new one"),
    "episodes.csv": (drop_second_line, "episodes.csv has 7 of the 8 rows that were written to it"),
    "checkpoints/step_0000040.pt": (cut_moments, "the checkpoint of step 40 does not fit the run: moments"),
    "checkpoints/step_0000040.pt, another": (of_another_step, "step 40 does not fit the run: it is of step 30"),
}


@pytest.mark.parametrize("first", range(0, len(DAMAGES), 3))
def test_a_damaged_file_fails_its_run_by_name_and_no_other(
    first: int, dataset: Path, swept: Path, tmp_path: Path
) -> None:
    damages = dict(zip(POINTS, list(DAMAGES.items())[first : first + 3], strict=False))
    folder = copy(swept, tmp_path)
    for point in POINTS:
        run = sweep_of(folder) / point
        for step in (50, 60):
            (run / "checkpoints" / f"step_00000{step}.pt").unlink()
        (run / "summary.json").write_text(json.dumps({**status(run), "status": "running", "step": 40}))
    for point, (file, (damage, _)) in damages.items():
        damage(sweep_of(folder) / point / file.partition(",")[0])
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    failed = {point: message for point, (_, (_, message)) in damages.items() if message}
    assert ended.code == len(failed), ended.text
    assert f"{4 - len(failed)} of 4 runs finished, {len(failed)} failed" in ended.text
    assert "Traceback" not in ended.text
    for point in POINTS:
        if point in failed:
            assert re.search(f"{point}.*{re.escape(failed[point])}", ended.text), ended.text
        else:
            assert_same_but_for_rounding(sweep_of(folder) / point, sweep_of(swept) / point)
            assert [status(sweep_of(folder) / point)[key] for key in ("status", "step")] == ["finished", 60]
