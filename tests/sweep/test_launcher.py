"""Sweeps through the stacking launcher: their folders, their stacks, and what is refused."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import children
import pytest
from children import wait
from four import (
    FILES,
    GRID,
    POINTS,
    copy,
    runs_of,
    start,
    status,
    sweep_of,
    train,
)
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from nested import assert_same
from tiny import tiny_config

from cql import config
from cql.training import experiment, run_folder
from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


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


def test_a_sweep_without_a_name_is_named_by_the_time(dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "seed=0,1", "n_steps=10")
    assert ended.code == 0, ended.text
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert f"add sweep_name={sweep.name}" in ended.text
    assert f"next: python scripts/report.py {sweep.name}\n" in ended.text
    assert runs_of(sweep) == ["seed-0", "seed-1"]
    assert train(dataset, tmp_path, "-m", "seed=0,1", "n_steps=10", f"sweep_name={sweep.name}").code == 0
    assert [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()] == [sweep.name]


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


def test_a_wrong_sweep_is_refused_and_its_name_stays_free(dataset: Path, tmp_path: Path) -> None:
    for overrides, message in (
        (("hydra.launcher.workers=2", "seed=0,1"), "hydra.launcher.workers=2 has no effect in one process"),
        (("hydra.launcher.stack_size=0", "seed=0,1"), "hydra.launcher.stack_size=0 is out of range"),
        (("sweep_name=one,two",), "sweep_name is one for the whole sweep"),
        (("retry_failed=true,false",), "retry_failed is one for the whole sweep"),
        (("hydra/launcher=absent", "seed=0,1"), "hydra/launcher=absent: there is no such option"),
        (("hydra.job.chdir=true", "seed=0,1"), "hydra.job.chdir=true is impossible with stacks"),
        (("algorithm.w_cql=-1", "seed=0,1"), "algorithm.w_cql=-1.0 is out of range"),
    ):
        ended = train(dataset, tmp_path, "-m", "sweep_name=four", *overrides, lean=False)
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


def test_what_cannot_be_stacked_is_trained_in_other_stacks(dataset: Path, tmp_path: Path) -> None:
    ended = train(
        dataset, tmp_path, "-m", "sweep_name=four", "seed=0", "network.width=16,32", "algorithm.discount=0.9,0.99",
        "algorithm.actor_learning_rate=1e-4,1e-3", "n_steps=10",
    )  # fmt: skip
    assert ended.code == 0, ended.text
    stacks = json.loads((sweep_of(tmp_path) / "stacks.json").read_text())
    assert [len(stack) for stack in stacks] == [4, 4]
    assert all(len({"width-16" in name for name in stack}) == 1 for stack in stacks)
    assert "8 of 8 runs finished" in ended.text


def test_the_size_of_a_stack_can_be_bounded(dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "hydra.launcher.stack_size=2", "seed=0,1,2", "n_steps=10")
    assert ended.code == 0, ended.text
    assert [len(stack) for stack in json.loads((sweep_of(tmp_path) / "stacks.json").read_text())] == [2, 1]


# Hydra's other options -----------------------------------------------------------------------------------------------


def options_of_hydra() -> list[str]:
    """All options of Hydra's own groups; launchers and sweepers have tests of their own."""
    config.register()
    with initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        groups = [group for group in loader.list_groups("hydra") if group not in ("launcher", "sweeper")]
        return [f"hydra/{group}={option}" for group in groups for option in loader.get_group_options(f"hydra/{group}")]


@pytest.mark.parametrize(
    "option",
    [
        option if option.endswith(("=cql", "=none")) else pytest.param(option, marks=pytest.mark.slow)
        for option in options_of_hydra()
    ],
)
def test_every_option_of_hydra_works(option: str, dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1", "n_steps=10", option)
    assert ended.code == 0, ended.text
    assert "Traceback" not in ended.text
    assert runs_of(sweep_of(tmp_path)) == ["seed-0", "seed-1"]
    assert status(sweep_of(tmp_path) / "seed-1")["status"] == "finished"
    if "logging" in option:
        ended = train(dataset, tmp_path, "hydra.run.dir=run", "n_steps=10", option)
        assert ended.code == 0, ended.text
        assert "Traceback" not in ended.text
        assert ("step 10/10" in (tmp_path / "run" / "train.log").read_text()) == ("job_logging=disabled" not in option)


def test_a_verbose_sweep_has_its_log(dataset: Path, tmp_path: Path) -> None:
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1", "n_steps=10", "hydra.verbose=true")
    assert ended.code == 0, ended.text
    assert "2 of 2 runs finished" in (sweep_of(tmp_path) / "sweep.log").read_text()


def test_another_task_function_is_refused(dataset: Path, tmp_path: Path) -> None:
    """It would not be called: the launcher trains."""

    def unmark() -> None:
        config.stackable = children.config.stackable = lambda task: task  # type: ignore[assignment]

    ended = wait(start(dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1", before=unmark), tmp_path)
    assert ended.code == 2, ended.text
    assert "would not call your train: choose hydra/launcher=basic" in ended.text
    ended = wait(
        start(
            dataset, tmp_path, "-m", "sweep_name=four", "seed=0,1", "n_steps=10", "hydra/launcher=basic", before=unmark
        ),
        tmp_path,
    )
    assert ended.code == 0, ended.text


def test_minus_zero_is_zero(dataset: Path, tmp_path: Path) -> None:
    grid = ("seed=0", "algorithm/alpha_cql=learned", "algorithm.alpha_cql.tau_cql=0.0,-0.0")
    ended = train(dataset, tmp_path, "-m", "sweep_name=four", *grid, "n_steps=10")
    assert ended.code == 0, ended.text
    assert runs_of(sweep_of(tmp_path)) == ["tau_cql-0__seed-0"]


def test_few_open_files_make_small_stacks(dataset: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    grid = ("-m", "seed=range(10)", "n_steps=10")
    ended = wait(start(dataset, tmp_path, "sweep_name=four", *grid, before=limit), tmp_path)
    assert ended.code == 0, ended.text
    assert [len(stack) for stack in json.loads((sweep_of(tmp_path) / "stacks.json").read_text())] == [3, 4, 3]
    assert "at most 4 runs per stack: a run takes 2 open files" in ended.text
    asked = "hydra.launcher.stack_size=8"
    ended = wait(start(dataset, tmp_path, "sweep_name=five", *grid, asked, before=limit), tmp_path)
    assert ended.code == 2, ended.text
    assert f"{asked}: a run takes 2 open files" in ended.text
    assert "give at most 4" in ended.text
    assert not (sweep_of(tmp_path).parent / "five").exists()
