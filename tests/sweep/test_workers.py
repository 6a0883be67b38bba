"""Sweeps in several processes, through other launchers and sweepers, and in Weights & Biases."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from children import ROOT, wait
from four import (
    FILES,
    GRID,
    POINTS,
    assert_same_but_for_rounding,
    runs_of,
    start,
    status,
    sweep_of,
    train,
)
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from tiny import OVERRIDES
from wandb_reader import offline_runs

from cql import points
from cql.sweep import workers
from cql.sweep.jobs import Job
from cql.training import device
from cql.training.local_logger import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
INNER = f"hydra.launcher.inner={{_target_:{BASIC}}}"


def test_stacks_can_be_jobs_of_another_launcher(dataset: Path, swept: Path, tmp_path: Path) -> None:
    # In one process: what is other launchers' own is tested below.
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", INNER, "hydra.launcher.stack_size=2", *GRID)
    assert ended.code == 0, ended.text
    assert "4 of 4 runs finished, 0 failed" in ended.text
    assert runs_of(sweep_of(tmp_path)) == POINTS
    for point in POINTS:
        assert {path.name for path in (sweep_of(tmp_path) / point).iterdir()} == FILES
        assert_same_but_for_rounding(sweep_of(tmp_path) / point, sweep_of(swept) / point)


def test_a_lost_worker_costs_its_own_stack_alone(dataset: Path, tmp_path: Path) -> None:
    def lose_the_second() -> None:
        def launch(self: Launcher, overrides: list[list[str]], first: int) -> None:
            launched(self, overrides[:1], first)
            (sweep_of(tmp_path) / POINTS[2]).mkdir()
            (sweep_of(tmp_path) / POINTS[2] / "summary.json").write_text('{"status": "running", "step": 20}')
            raise EOFError("the worker is gone")

        # Hydra has loaded the module of its launcher by itself.
        launcher = Plugins.instance().class_name_to_class[BASIC]
        launched, launcher.launch = launcher.launch, launch
        workers._GRACE = 0.1

    child = start(
        dataset, tmp_path, "-m", "sweep_name=four", INNER, "hydra.launcher.stack_size=2", *GRID, before=lose_the_second
    )
    ended = wait(child, tmp_path)
    assert ended.code == 2, ended.text
    assert "BasicLauncher lost a worker: EOFError: the worker is gone" in ended.text
    assert "2 of 4 runs finished, 2 failed" in ended.text
    assert f"{POINTS[2]} stopped at step 20: its worker died" in ended.text
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "hydra.launcher.stack_size=2", *GRID)
    assert ended.code == 0, ended.text
    assert "2 finished, 1 stopped, 1 new" in ended.text


@pytest.mark.parametrize(
    ("states", "held_until", "seconds"),
    [
        (["finished", "failed"], 100.0, 0.0),  # all have ended, so nothing is waited for
        (["finished", "running"], 40.0, 70.0),  # the grace begins when a lock was seen last
        (["running", "running"], 0.0, 30.0),
        ([None, None], 100.0, 0.0),  # no job has started
    ],
)
def test_stacks_that_still_train_are_waited_for(
    states: list[str | None],
    held_until: float,
    seconds: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0

    def sleep(step: float) -> None:
        nonlocal now
        now += step

    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(workers, "held", lambda directory: directory.name == "1" and now < held_until)
    for number, state in enumerate(states):
        if state is not None:
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "summary.json").write_text(json.dumps({"status": state, "eval_score": 1.0}))
    caplog.set_level("INFO")
    workers._wait_for_others([[Job(number, [], tmp_path / str(number), "key")] for number in range(len(states))])
    assert now == pytest.approx(seconds, abs=0.5)
    assert caplog.text.count("waiting for the stacks that still train") == (held_until > 0 and seconds > 0)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=[pytest.mark.slow, pytest.mark.ci])])
def test_stacks_are_spread_over_the_gpus_of_a_machine(dataset: Path, swept: Path, tmp_path: Path, method: str) -> None:
    get_context = multiprocessing.get_context

    def two_gpus() -> None:
        # Forked workers have done their imports; they need no more than a second.
        multiprocessing.get_context = lambda _=None: get_context(method)  # type: ignore[assignment]
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
        assert_same_but_for_rounding(
            sweep / f"alpha_cql-{alpha_cql}__w_cql-1__seed-1", sweep_of(swept) / f"alpha_cql-{alpha_cql}__seed-1"
        )


@pytest.mark.slow
@pytest.mark.ci
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
        assert_same_but_for_rounding(sweep / point, sweep_of(swept) / point)
    again = train(dataset, tmp_path, "-m", "sweep_name=four", f"hydra/launcher={launcher}", *size, *GRID)
    assert again.code == 0, again.text


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


@pytest.mark.slow
@pytest.mark.ci
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
