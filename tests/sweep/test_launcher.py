"""Sweeps through the stacking launcher: folders, failures, taking up, interruption, delegation."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import ROOT, start, train, wait
from nested import assert_same
from tiny import OVERRIDES, tiny_config
from wandb_reader import offline_runs

from cql import points
from cql.training import device, experiment, run_folder
from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics
from cql.training.lock import hold

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

GRID = ("algorithm.alpha_cql.value=1,5", "seed=0,1")
POINTS = ["alpha_cql-1__seed-0", "alpha_cql-1__seed-1", "alpha_cql-5__seed-0", "alpha_cql-5__seed-1"]
FILES = {
    ".hydra", ".lock", "checkpoints", "episodes.csv", "key_curves.png", "metrics.jsonl", "provenance.json",
    "summary.json", "timing.jsonl", "train.log",
}  # fmt: skip


@pytest.fixture(scope="module")
def swept(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a sweep of four runs, `outputs/sweeps/four`, is finished."""
    folder = tmp_path_factory.mktemp("swept")
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    (folder / "output.txt").rename(folder / "first_output.txt")
    return folder


def sweep_of(folder: Path) -> Path:
    return folder / "outputs" / "sweeps" / "four"


def runs_of(sweep: Path) -> list[str]:
    return sorted(path.parents[1].name for path in sweep.glob("*/.hydra/config.yaml"))


def status(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "summary.json").read_text()))


def assert_same_run(run: Path, other: Path) -> None:
    """The same numbers to the last bit; the configs in the checkpoints may be those of different sweeps."""
    for name in ("metrics.jsonl", "episodes.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), (run, name)
    names = sorted(path.name for path in (other / "checkpoints").iterdir())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    for name in names:
        one, two = load(run / "checkpoints" / name), load(other / "checkpoints" / name)
        assert_same({**one, "config": None}, {**two, "config": None})


def copy(swept: Path, tmp_path: Path) -> Path:
    shutil.copytree(swept, tmp_path / "copy")
    return tmp_path / "copy"


# One sweep ------------------------------------------------------------------------------------------------------------


def test_a_sweep_leaves_a_folder_a_run_and_its_own_files(swept: Path) -> None:
    sweep = sweep_of(swept)
    assert runs_of(sweep) == POINTS
    assert json.loads((sweep / "stacks.json").read_text()) == [POINTS]
    assert (sweep / "sweep_curves.png").exists()
    assert "4 of 4 runs finished, 0 failed" in (sweep / "sweep.log").read_text()
    for point in POINTS:
        assert {path.name for path in (sweep / point).iterdir()} == FILES
        assert {path.name for path in (sweep / point / ".hydra").iterdir()} == {
            "config.yaml", "hydra.yaml", "overrides.yaml",
        }  # fmt: skip
        assert status(sweep / point)["status"] == "finished"
        alpha_cql, seed = point.split("-")[1].split("_")[0], point[-1]
        assert f"algorithm.alpha_cql.value={alpha_cql}" in (sweep / point / ".hydra/overrides.yaml").read_text()
        assert run_folder.resumed_config(sweep / point).seed == int(seed)


def test_nothing_in_a_folder_tells_of_the_stack(swept: Path) -> None:
    for point in POINTS:
        written = (sweep_of(swept) / point / "train.log").read_text()
        assert "step 60/60" in written
        assert "transitions of InvertedPendulum-v5" in written
        assert "stack" not in written
        assert not [other for other in POINTS if other != point and other in written]
        saved = load(sweep_of(swept) / point / "checkpoints" / "step_0000060.pt")
        assert saved["agent"]["parameters"]["actor"].keys()
        assert {tensor.dim() for tensor in saved["agent"]["parameters"]["critics"].values()} <= {2, 3}


def test_the_console_has_one_line_an_epoch_for_the_stack(swept: Path) -> None:
    lines = [
        line for line in (swept / "first_output.txt").read_text().splitlines() if "step " in line and "/60" in line
    ]
    assert len(lines) == 6
    assert all("stack 1/1" in line and "4 runs" in line for line in lines)
    assert "runs per stack: a run takes about" in (swept / "first_output.txt").read_text()


def test_a_run_of_a_stack_is_the_run_that_it_would_be_alone(dataset: Path, swept: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    experiment.run(tiny_config(dataset, "algorithm.alpha_cql.value=5", "seed=1"), alone)
    stacked = sweep_of(swept) / "alpha_cql-5__seed-1"
    one, two = (load(path / "checkpoints" / "step_0000060.pt")["agent"] for path in (alone, stacked))
    assert_same(one["parameters"], two["parameters"], rtol=1e-4, atol=1e-6)
    rows = read_metrics(stacked)
    assert [row.keys() for row in read_metrics(alone)] == [row.keys() for row in rows]
    assert {path.name for path in alone.iterdir()} | {"train.log"} == {path.name for path in stacked.iterdir()}


# Taking a sweep up ----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_counted_and_left_alone(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    before = {path: path.read_bytes() for path in sweep_of(folder).glob("*__*/*") if path.is_file()}
    ended = train(dataset, folder, "-m", "seed=1,0", "algorithm.alpha_cql.value=5,1", "sweep_name=four")
    assert ended.code == 0, ended.text
    assert "4 finished" in ended.text
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert changed == []
    assert runs_of(sweep_of(folder)) == POINTS


def test_a_widened_grid_adds_points_and_finds_the_old_ones_under_their_names(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    folder = copy(swept, tmp_path)
    sweep = sweep_of(folder)
    untouched = {point: (sweep / point / "metrics.jsonl").stat().st_mtime_ns for point in POINTS}
    ended = train(
        dataset,
        folder,
        "-m",
        "sweep_name=four",
        "algorithm.alpha_cql.value=1,5.0,10",
        "seed=0,1",
        "algorithm.w_cql=1,2",
    )
    assert ended.code == 0, ended.text
    assert "12 runs (4 finished, 8 new)" in ended.text
    assert len(runs_of(sweep)) == 12
    assert {point: (sweep / point / "metrics.jsonl").stat().st_mtime_ns for point in POINTS} == untouched
    assert "alpha_cql-10__w_cql-2__seed-1" in runs_of(sweep)
    # Its runs were in a stack before; the new ones are in one of their own.
    first, second = json.loads((sweep / "stacks.json").read_text())
    assert first == POINTS
    assert len(second) == 8


@pytest.mark.parametrize("grid", [GRID, ("algorithm.alpha_cql.value=7", "seed=8,9")])
def test_another_config_under_an_old_name_is_refused(
    dataset: Path, swept: Path, tmp_path: Path, grid: tuple[str, ...]
) -> None:
    folder = copy(swept, tmp_path)
    before = {path: path.read_bytes() for path in sweep_of(folder).rglob("*") if path.is_file()}
    ended = train(dataset, folder, "-m", "sweep_name=four", "algorithm.discount=0.9", *grid)
    assert ended.code == 2
    assert "algorithm.discount: 0.99 -> 0.9" in ended.text
    assert "sweep_name" in ended.text
    assert "Traceback" not in ended.text
    after = {path: path.read_bytes() for path in sweep_of(folder).rglob("*") if path.is_file()}
    assert after == before


def test_runs_that_stand_at_different_steps_go_on_together(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    sweep = sweep_of(folder)
    for point, n_lost in zip(POINTS[:3], (1, 2, 3), strict=True):
        checkpoints = sorted((sweep / point / "checkpoints").glob("step_*.pt"))
        for path in checkpoints[-n_lost:]:
            path.unlink()
        (sweep / point / "summary.json").write_text(
            json.dumps({**status(sweep / point), "status": "running", "step": 60 - 10 * n_lost})
        )
    shutil.rmtree(sweep / POINTS[2] / "checkpoints")
    for name in ("metrics.jsonl", "episodes.csv", "timing.jsonl", "summary.json"):
        (sweep / POINTS[2] / name).unlink()
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    assert "4 of 4 runs finished" in ended.text
    # The finished fourth is not trained again, so the others were in a smaller stack: equal but for rounding.
    for point in POINTS:
        one, two = (
            load(each / point / "checkpoints" / "step_0000060.pt")["agent"] for each in (sweep, sweep_of(swept))
        )
        assert_same(one["parameters"], two["parameters"], rtol=1e-4, atol=1e-6)
        assert [row["step"] for row in read_metrics(sweep / point)] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("n_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_taken_up_every_parameter_is_that_of_the_undisturbed_sweep(
    dataset: Path, tmp_path: Path, n_kills: int
) -> None:
    moments = random.Random(seed := random.SystemRandom().randrange(2**32))
    overrides = ("-m", "sweep_name=four", *GRID, "n_steps=600")
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    assert train(dataset, undisturbed, *overrides).code == 0
    run = sweep_of(undisturbed) / POINTS[0]
    rows = (run / "timing.jsonl").read_text().splitlines()
    training = sum(json.loads(row)["seconds"] for row in rows) * 2  # evaluations take about as long
    n_killed, stood_at = 0, set()
    while n_killed < n_kills:
        child = start(dataset, folder, *overrides)
        before = newest_steps(folder)
        # A third of them anywhere from the start on, the others while it trains.
        began = time.monotonic()
        while n_killed % 3 and newest_steps(folder) == before and time.monotonic() - began < 30:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.4) * training if n_killed % 3 else moments.uniform(0.0, 2.0))
        os.kill(child, signal.SIGKILL)
        ended = wait(child, folder)
        n_killed += ended.code == -signal.SIGKILL
        stood_at.add(newest_steps(folder))
        if newest_steps(folder) == (600,) * 4 or n_killed == n_kills:
            # To the end; the next kills have a new sweep.
            ended = train(dataset, folder, *overrides)
            assert ended.code == 0, f"seed {seed}: {ended.text}"
            for point in POINTS:
                assert_same_run(sweep_of(folder) / point, sweep_of(undisturbed) / point)
            folder = tmp_path / f"killed_{n_killed}"
    assert len(stood_at) > n_kills // 3, f"seed {seed}: {stood_at}"


def newest_steps(folder: Path) -> tuple[int, ...]:
    """The step of each run's newest checkpoint, -1 where there is none."""
    written = [(sweep_of(folder) / point / "checkpoints").glob("step_*.pt") for point in POINTS]
    return tuple(max((int(path.stem[5:]) for path in paths), default=-1) for paths in written)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_every_run_to_be_taken_up(dataset: Path, tmp_path: Path, sent: signal.Signals) -> None:
    overrides = ("-m", "sweep_name=four", *GRID, "n_steps=2000")
    child = start(dataset, tmp_path, *overrides)
    sweep = sweep_of(tmp_path)
    deadline = time.monotonic() + 60
    while not (sweep / POINTS[-1] / "metrics.jsonl").exists():
        assert time.monotonic() < deadline, (tmp_path / "output.txt").read_text()
        time.sleep(0.02)
    os.kill(child, sent)
    ended = wait(child, tmp_path)
    assert ended.code == 128 + sent, ended.text
    assert "sweep_name=four" in ended.text
    states = [status(sweep / point) for point in POINTS]
    assert [state["status"] for state in states] == ["interrupted"] * 4
    (step,) = {state["step"] for state in states}
    ended = train(dataset, tmp_path, *overrides)
    assert ended.code == 0, ended.text
    assert "4 stopped" in ended.text
    assert "resuming" in (sweep / POINTS[0] / "train.log").read_text()
    assert [row["step"] for row in read_metrics(sweep / POINTS[0])] == list(range(10, 2001, 10))
    assert int(str(step)) < 2000


# Failures -------------------------------------------------------------------------------------------------------------


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
    one = load(sweep / "w_cql-1__seed-0" / "checkpoints" / "step_0000060.pt")["agent"]
    two = load(sweep_of(swept) / "alpha_cql-5__seed-0" / "checkpoints" / "step_0000060.pt")["agent"]
    assert_same(one["parameters"], two["parameters"], rtol=1e-4, atol=1e-6)

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


def test_a_failed_run_keeps_its_place_so_that_the_others_go_on_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    overrides = ("-m", "sweep_name=four", "algorithm.w_cql=1,1e38", "seed=0,1", "n_steps=300")
    folder, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert train(dataset, undisturbed, *overrides).code == 2
    child = start(dataset, folder, *overrides)
    run = sweep_of(folder) / "w_cql-1__seed-1"
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "step_0000100.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert wait(child, folder).code == -signal.SIGKILL
    failed = sweep_of(folder) / "w_cql-1e+38__seed-1"
    before = {path: path.read_bytes() for path in failed.rglob("*") if path.is_file() and path.name != ".lock"}
    assert train(dataset, folder, *overrides).code == 2
    for seed in (0, 1):
        assert_same_run(*(sweep_of(each) / f"w_cql-1__seed-{seed}" for each in (folder, undisturbed)))
    assert {path: path.read_bytes() for path in before} == before


# What may be stacked --------------------------------------------------------------------------------------------------


def test_points_that_come_to_the_same_config_are_one_run(dataset: Path, tmp_path: Path) -> None:
    overrides = ("-m", "sweep_name=four", "+arm=base,fixed_again", "seed=0", "algorithm.w_cql=1,2", "n_steps=10")
    (tmp_path / "own" / "arm").mkdir(parents=True)
    (tmp_path / "own" / "arm" / "fixed_again.yaml").write_text(
        "# @package _global_\nalgorithm:\n  alpha_cql:\n    value: 5.0\n"
    )
    for attempt in range(2):
        ended = train(dataset, tmp_path, *overrides, f"hydra.searchpath=[{tmp_path}/own]")
        assert ended.code == 0, ended.text
        same = "arm-fixed_again__w_cql-1__seed-0 is the same run as arm-base__w_cql-1__seed-0"
        assert (same in ended.text) == (attempt == 0)  # then it is found under that name
        assert "2 of 2 runs finished" in ended.text
        assert runs_of(sweep_of(tmp_path)) == ["arm-base__w_cql-1__seed-0", "arm-base__w_cql-2__seed-0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("hydra.launcher.workers=2", "seed=0,1"), "hydra.launcher.workers=2 has no effect in one process"),
        (("hydra.launcher.stack_size=0", "seed=0,1"), "hydra.launcher.stack_size=0 is out of range"),
        (("sweep_name=one,two",), "sweep_name is one for the whole sweep"),
        (("retry_failed=true,false",), "retry_failed is one for the whole sweep"),
        (("hydra/launcher=absent", "seed=0,1"), "hydra/launcher=absent: there is no such option"),
        (("hydra.job.chdir=true", "seed=0,1"), "hydra.job.chdir=true is impossible with stacks"),
        (("algorithm.w_cql=-1", "seed=0,1"), "algorithm.w_cql=-1.0 is out of range"),
    ],
)
def test_a_wrong_sweep_is_refused_and_its_name_stays_free(
    dataset: Path, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", *overrides)
    assert ended.code == 2, ended.text
    assert message in ended.text
    assert "Traceback" not in ended.text
    assert not sweep_of(tmp_path).exists()
    assert train(dataset, tmp_path, "-m", "sweep_name=four", "seed=0", "n_steps=10").code == 0


def test_a_refusal_leaves_the_folder_of_a_sweep_that_has_runs(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    before = sorted(sweep_of(folder).rglob("*"))
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID, "hydra.launcher.stack_size=0")
    assert ended.code == 2, ended.text
    assert sorted(sweep_of(folder).rglob("*")) == before


def test_what_is_trained_elsewhere_is_said_and_left_alone(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    run = sweep_of(folder) / POINTS[0]
    shutil.rmtree(sweep_of(folder) / POINTS[1])
    (run / "summary.json").write_text(json.dumps({**status(run), "status": "running"}))
    before = (run / "metrics.jsonl").read_bytes()
    with hold(run):
        ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 1, ended.text
    assert "3 of 4 runs finished, 0 failed, 1 being trained by another process" in ended.text
    assert f"process {os.getpid()} on" in ended.text
    assert (run / "metrics.jsonl").read_bytes() == before


def test_what_cannot_be_stacked_is_trained_in_other_stacks(dataset: Path, tmp_path: Path) -> None:
    ended = train(
        dataset, tmp_path, "-m", "sweep_name=four", "seed=0", "network.width=16,32", "algorithm.discount=0.9,0.99",
        "algorithm.actor_learning_rate=1e-4,1e-3",
    )  # fmt: skip
    assert ended.code == 0, ended.text
    stacks = json.loads((sweep_of(tmp_path) / "stacks.json").read_text())
    assert [len(stack) for stack in stacks] == [4, 4]
    assert all(len({"width-16" in name for name in stack}) == 1 for stack in stacks)
    assert "8 of 8 runs finished" in ended.text


def test_the_size_of_a_stack_can_be_bounded(dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "hydra.launcher.stack_size=2", "seed=0,1,2")
    assert ended.code == 0, ended.text
    assert [len(stack) for stack in json.loads((sweep_of(tmp_path) / "stacks.json").read_text())] == [2, 1]


def test_the_default_size_is_what_fits(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "_free_memory", lambda: 2**30)
    wide = tiny_config(dataset, "network.width=1024", "batch_size=1024")
    size, why = device.fitting_stack_size(wide)
    assert 1 < size < 20
    assert "of the 1024 MiB that are free on cpu" in why
    assert device.fitting_stack_size(wide, workers=2)[0] == size // 2
    assert device.fitting_stack_size(tiny_config(dataset, "network.width=4096"))[0] == 1


def test_a_sweep_without_a_name_is_named_by_the_time(dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "seed=0,1", "n_steps=10")
    assert ended.code == 0, ended.text
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert f"add sweep_name={sweep.name}" in ended.text
    assert runs_of(sweep) == ["seed-0", "seed-1"]
    assert train(dataset, tmp_path, "-m", "seed=0,1", "n_steps=10", f"sweep_name={sweep.name}").code == 0
    assert [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()] == [sweep.name]


# Other launchers ------------------------------------------------------------------------------------------------------


def test_the_basic_launcher_takes_the_same_sweep_up(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    shutil.rmtree(sweep_of(folder) / POINTS[3])
    ended = train(dataset, folder, "-m", "sweep_name=four", "hydra/launcher=basic", *GRID)
    assert ended.code == 0, ended.text
    assert ended.text.count("finished already") == 3
    assert status(sweep_of(folder) / POINTS[3])["status"] == "finished"
    assert "step 60/60" in (sweep_of(folder) / POINTS[3] / "train.log").read_text()


@pytest.mark.parametrize(
    "launcher",
    [
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.ci]) for name in ("stacked_joblib", "joblib")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "stacked_submitit_local")),
    ],
)
def test_other_launchers_leave_the_same_folders(dataset: Path, swept: Path, tmp_path: Path, launcher: str) -> None:
    kind = launcher.removeprefix("stacked_")
    pytest.importorskip(f"hydra_plugins.hydra_{'joblib' if kind == 'joblib' else 'submitit'}_launcher")
    size = ["hydra.launcher.stack_size=2"] if launcher.startswith("stacked") else []
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", f"hydra/launcher={launcher}", *size, *GRID)
    assert ended.code == 0, ended.text
    sweep = sweep_of(tmp_path)
    assert runs_of(sweep) == POINTS
    for point in POINTS:
        assert {path.name for path in (sweep / point).iterdir()} == FILES
        assert "step 60/60" in (sweep / point / "train.log").read_text()
        one, two = (
            load(each / point / "checkpoints" / "step_0000060.pt")["agent"] for each in (sweep, sweep_of(swept))
        )
        assert_same(one["parameters"], two["parameters"], rtol=1e-4, atol=1e-6)
    again = train(dataset, tmp_path, "-m", "sweep_name=four", f"hydra/launcher={launcher}", *size, *GRID)
    assert again.code == 0, again.text


def test_stacks_are_spread_over_the_gpus_of_a_machine(dataset: Path, swept: Path, tmp_path: Path) -> None:
    def two_gpus() -> None:
        device.n_devices = lambda _: 2  # type: ignore[assignment]
        os.environ["CUDA_VISIBLE_DEVICES"] = "3,5"

    # Without GPUs the processes, their devices and their results can be tested; the training is on the processor.
    child = start(dataset, tmp_path, "-m", "sweep_name=four", "algorithm.w_cql=1,1e38", *GRID, before=two_gpus)
    ended = wait(child, tmp_path)
    sweep = sweep_of(tmp_path)
    stacks = json.loads((sweep / "stacks.json").read_text())
    assert [len(stack) for stack in stacks] == [4, 4], ended.text
    owners = [{(sweep / name / ".lock").read_text() for name in stack} for stack in stacks]
    assert [len(each) for each in owners] == [1, 1]
    assert owners[0] != owners[1]
    assert {f"on GPU {device}" in ended.text for device in (3, 5)} == {True}
    failed = [name for name in runs_of(sweep) if status(sweep / name)["status"] == "failed"]
    assert ended.code == len(failed) == 4
    assert all("w_cql-1e+38" in name for name in failed)
    for alpha_cql in (1, 5):
        one, two = (
            load(path / "checkpoints" / "step_0000060.pt")["agent"]
            for path in (
                sweep / f"alpha_cql-{alpha_cql}__w_cql-1__seed-1",
                sweep_of(swept) / f"alpha_cql-{alpha_cql}__seed-1",
            )
        )
        assert_same(one["parameters"], two["parameters"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.ci
def test_optuna_gets_the_score_of_each_run(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    ended = train(
        dataset, tmp_path, "-m", "sweep_name=four", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2", "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1",
        "algorithm.alpha_cql.value=interval(1.0, 5.0)",
    )  # fmt: skip
    assert ended.code == 0, ended.text
    returns = {status(sweep_of(tmp_path) / name)["eval_return_mean"] for name in runs_of(sweep_of(tmp_path))}
    assert len(runs_of(sweep_of(tmp_path))) == 4
    best = (sweep_of(tmp_path) / "optimization_results.yaml").read_text()
    assert f"best_value: {max(returns)}" in best  # type: ignore[type-var]


# Weights & Biases -----------------------------------------------------------------------------------------------------


def test_twelve_runs_of_one_process_are_twelve_runs_in_wandb(dataset: Path, tmp_path: Path) -> None:
    # Not forked: a test that opened W&B before would hand its service down.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    places = dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"), str(tmp_path))
    ended = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "train.py"), "-m", "dataset=d4rl", f"dataset.path={dataset}",
            *OVERRIDES, "sweep_name=four", "n_steps=20", "algorithm/alpha_cql=learned", "logger=wandb_offline",
            "logger.tags=[tiny]", "algorithm.alpha_cql.tau_cql=-1,2",
            "algorithm.w_cql=1,1e38", "seed=0,1,2",
        ],
        cwd=tmp_path, env={**inherited, **places}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 6, ended.stderr
    sweep = sweep_of(tmp_path)
    recorded = {name: offline_runs(sweep / name) for name in runs_of(sweep)}
    assert len(recorded) == 12
    assert {len(runs) for runs in recorded.values()} == {1}
    runs = {name: only for name, (only,) in recorded.items()}
    assert len({run.id for run in runs.values()}) == 12
    assert len({run.group for run in runs.values()}) == 4
    for name, run in runs.items():
        failed = "w_cql-1e+38" in name
        assert run.exit_code == int(failed)
        assert run.summary["status"] == ("failed" if failed else "finished")
        assert run.tags == ["tiny", "four"]
        assert run.name == points.human_point(name)
        assert run.group == f"four/{points.human_point(points.without_seed(name))}"
        assert run.config["seed"] == int(name[-1])
        assert f"tau_cql-{run.config['algorithm']['alpha_cql']['tau_cql']:g}__" in name
        rows = [(row["step"], row["cql_gap"]) for row in read_metrics(sweep / name)] if not failed else []
        assert run.rows("step", "cql_gap") == rows
        assert len(rows) == (0 if failed else 2)
        written = (sweep / name / "train.log").read_text()
        assert f"wandb sync {sweep / name}" in written
        assert not [other for other in runs if other != name and other in written]
