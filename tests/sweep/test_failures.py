"""Sweeps with runs that fail."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from children import signal_before, wait
from four import (
    assert_same_but_for_rounding,
    assert_same_run,
    start,
    status,
    sweep_of,
    train,
)

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
