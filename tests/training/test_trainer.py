"""The training loop of a stack: runs at different steps, failures that stay a run's own, signals, and what is said."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import breaking
import numpy as np
import pytest
import torch
from children import fork
from test_resume import assert_same_run, exit_code
from tiny import tiny_config, write_dataset

from cql import config
from cql.algorithm.agent import METRICS, Agent
from cql.config.schema import TrainConfig
from cql.rollout.envs import env_info
from cql.rollout.evaluation import Evaluator, Recording
from cql.rollout.rendering import RenderingError
from cql.training import build, provenance
from cql.training.checkpoint import CheckpointFolder, load
from cql.training.epoch_metrics import EpochMetrics
from cql.training.local_logger import LocalLogger, evaluations, read_episodes, read_metrics
from cql.training.progress import rounded
from cql.training.resume import stacks_to_resume
from cql.training.run import Run, Schedule
from cql.training.trainer import Trainer
from cql.training.wandb_logger import WandbLogger, open_wandb

pytestmark = pytest.mark.usefixtures("no_figures")

CPU = torch.device("cpu")
forks = pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes")


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainConfig]:
    """Three runs of one stack that differ in all that they may."""
    dataset = write_dataset(tmp_path_factory.mktemp("data") / "pendulum.hdf5")
    shared = (
        "algorithm/alpha_cql=learned", "algorithm/alpha_temp=learned", "algorithm.target_update_period=3",
        "n_kept_checkpoints=20", "n_epochs_per_checkpoint=2",
    )  # fmt: skip
    own = [
        ("seed=0", "algorithm.alpha_cql.tau_cql=-1", "algorithm.bc_steps=15"),
        ("seed=1", "algorithm.alpha_cql.initial_value=5", "algorithm.critic_learning_rate=1e-3"),
        ("seed=2", "algorithm.discount=0.9", "algorithm.bc_steps=45", "algorithm.actor_learning_rate=1e-3"),
    ]
    return [tiny_config(dataset, *shared, *overrides) for overrides in own]


def folders_in(place: Path) -> list[Path]:
    return [place / f"run-{letter}" for letter in "abc"]


def stack(configs: Sequence[TrainConfig], place: Path, **options: Any) -> Trainer:
    """The stack in its folders, resuming from the newest step that all its runs have."""
    first, info = configs[0], env_info(configs[0].env.id)
    transitions = build.load_data(first, info, CPU)
    (chosen,), errors = stacks_to_resume(folders_in(place))
    assert not errors
    runs = []
    for each, directory in zip(configs, folders_in(place), strict=True):
        folder = CheckpointFolder(directory / "checkpoints", each.n_kept_checkpoints)
        folder.cut(chosen.step)
        local = LocalLogger(directory)
        local.rewind(chosen.step)
        wandb = open_wandb(directory, config={}, project="", mode="disabled")
        so_far = evaluations(directory)
        runs.append(Run(directory, config.to_dict(each), local, wandb, folder, reference=None, evaluations=so_far))
    seeds = [each.seed for each in configs]
    agent = Agent(build.agent_config(first, info), [build.hyper_params(each, info) for each in configs], seeds, CPU)
    trainer = Trainer(
        agent=agent,
        sampler=agent.sampler(seeds, first.batch_size),
        data=build.as_pool(transitions),
        normaliser=transitions.normaliser,
        evaluator=Evaluator(first.env.id, [[1000, 1001]] * len(configs)),
        recorder=None,
        runs=runs,
        schedule=Schedule(
            first.n_steps, first.n_steps, first.n_steps_per_epoch, n_epochs_per_checkpoint=first.n_epochs_per_checkpoint
        ),
        provenance={"versions": provenance.versions(), "data_fingerprint": transitions.fingerprint},
        progress=False,
        **options,
    )
    trainer.load([chosen.checkpoints[directory] for directory in folders_in(place)])
    return trainer


def train(trainer: Trainer) -> list[str]:
    trainer.train()
    trainer.evaluator.close()
    return [run.status for run in trainer.runs]


@pytest.fixture(scope="module")
def undisturbed(configs: list[TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    assert train(stack(configs, place)) == ["finished"] * 3
    return place


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def at_update(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> list[int]:
    """Do something right before one of the updates; returns the numbers of all updates, as they come."""
    update, seen = Agent.update, []

    def watched(self: Agent, batch: Any, noise: Any) -> torch.Tensor:
        seen.append(len(seen) + 1)
        if len(seen) == number:
            act()
        return update(self, batch, noise)

    monkeypatch.setattr(Agent, "update", watched)
    return seen


def test_a_simulator_that_breaks_rarely_costs_an_evaluation_and_often_a_run(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def made(place: Path) -> Trainer:
        trainer = stack(configs, place)
        trainer.evaluator = Evaluator(breaking.ENV, [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
        return trainer

    def breaks_at(trainer: Trainer, faults: Mapping[int, Mapping[int, tuple[int, str]]]) -> None:
        """Faults by the step of training whose evaluation they are in."""
        evaluate = trainer.evaluator.evaluate

        def evaluated(*given: Any) -> Any:
            breaking.FAULTS.clear()
            breaking.FAULTS.update(faults.get(trainer.agent.n_steps_done, {}))
            return evaluate(*given)

        monkeypatch.setattr(trainer.evaluator, "evaluate", evaluated)

    undisturbed, trainer = made(tmp_path / "undisturbed"), made(tmp_path / "broken")
    assert train(undisturbed) == ["finished"] * 3
    breaks_at(trainer, {20: {5: (1, "reward")}, 40: {7: (1, "raise"), 8: (1, "raise")}, 60: {4: (1, "observation")}})
    assert train(trainer) == ["finished", "finished", "failed"]
    breaking.FAULTS.clear()
    first, second, third = folders_in(tmp_path / "broken")
    for name in ("metrics.jsonl", "episodes.csv"):
        assert (first / name).read_bytes() == (tmp_path / "undisturbed" / "run-a" / name).read_bytes()
    whole, rows = read_metrics(tmp_path / "undisturbed" / "run-b"), read_metrics(second)
    assert [row["step"] for row in rows if "eval_return_mean" not in row] == [20, 60]
    kept = [row for row in whole if row["step"] not in (20, 60)]
    assert [row for row in rows if "eval_return_mean" in row] == kept
    assert {row.step for row in read_episodes(second)} == {10, 30, 40, 50}
    assert summary(second)["eval_return_mean"] == kept[-1]["eval_return_mean"]
    assert (
        "no evaluation at step 20: the environment broke in 1 of 3 episodes (episode 1, seed 5, step 1" in caplog.text
    )
    assert "broke in 2 of 3 episodes (episode 0, seed 7, step 1" in str(summary(third)["failure"])
    assert "in the evaluation at step 40" in str(summary(third)["failure"])


def nothing() -> None:
    pass


# Resume ----------------------------------------------------------------------------------------------


def keep_up_to(folder: Path, step: int | None) -> None:
    """Leave a folder as it was when the checkpoint of a step was its newest; None: before the run began."""
    if step is None:
        shutil.rmtree(folder)
        return
    (folder / "summary.json").unlink()
    CheckpointFolder(folder / "checkpoints").cut(step)


@pytest.mark.parametrize("steps", [(40, 60, 60), (60, 20, 40), (60, None, 60), (0, 40, None), (0, None, 0)], ids=str)
def test_a_stack_resumes_from_the_newest_step_that_all_have(
    steps: tuple[int | None, ...],
    configs: list[TrainConfig],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, common = tmp_path / "stack", min(step or 0 for step in steps)
    shutil.copytree(undisturbed, place)
    for folder, step in zip(folders_in(place), steps, strict=True):
        keep_up_to(folder, step)
    seen = at_update(monkeypatch, 0, nothing)
    trainer = stack(configs, place)
    assert trainer._step_done == common
    assert train(trainer) == ["finished"] * 3
    assert len(seen) == 60 - common
    for folder, reference in zip(folders_in(place), folders_in(undisturbed), strict=True):
        assert_same_run(folder, reference)
        assert summary(folder) == summary(reference)


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_stack_resumes_in_the_middle_of_an_epoch(
    behind: int, configs: list[TrainConfig], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, expected in ((27, 27), (4, 31)):  # once more, in the same epoch's next
        with monkeypatch.context() as patched:
            at_update(patched, number, lambda: signal.raise_signal(signal.SIGTERM))
            trainer = stack(configs, tmp_path)
            assert train(trainer) == ["interrupted"] * 3
        assert [run.exit_code for run in trainer.runs] == [128 + signal.SIGTERM] * 3
        assert [summary(each)["step"] for each in folders_in(tmp_path)] == [expected] * 3
        assert [summary(each)["status"] for each in folders_in(tmp_path)] == ["interrupted"] * 3
    # A kill between two of the checkpoints at step 31 leaves this: the stack goes back to step 27.
    (folders_in(tmp_path)[behind] / "checkpoints" / "step_0000031.pt").unlink()
    trainer = stack(configs, tmp_path)
    assert trainer._step_done == 27
    assert train(trainer) == ["finished"] * 3
    for each, reference in zip(folders_in(tmp_path), folders_in(undisturbed), strict=True):
        for step in (27, 31):
            (each / "checkpoints" / f"step_{step:07d}.pt").unlink(missing_ok=True)
        assert_same_run(each, reference)


def test_checkpoints_of_different_steps_are_no_stack(configs: list[TrainConfig], undisturbed: Path) -> None:
    trainer = stack(configs, undisturbed)
    found = [
        load(folder / "checkpoints" / f"step_{step:07d}.pt")
        for folder, step in zip(folders_in(undisturbed), (40, 20, 40), strict=True)
    ]
    with pytest.raises(ValueError, match="resume from one step"):
        trainer.load(found)
    with pytest.raises(ValueError, match="resume from one step"):
        trainer.load([found[0], None, found[2]])


@forks
@pytest.mark.parametrize("n_kept", [1, 3])
@pytest.mark.parametrize("number", range(1, 9))
def test_killed_between_two_files_there_is_a_step_that_all_have(
    number: int, n_kept: int, configs: list[TrainConfig], tmp_path: Path
) -> None:
    """Of the second checkpoint of three runs: three files with three summaries, then what is too old is dropped."""
    chosen = [dataclasses.replace(each, n_kept_checkpoints=n_kept) for each in configs]

    def task() -> None:
        trainer = stack(chosen, tmp_path)
        checkpoint, calls = trainer._checkpoint, []

        def die(*_: object) -> None:
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(*arguments: Any) -> None:
            if trainer._step_done > 0:
                for module, name in ((os, "replace"), (Path, "unlink")):
                    real = getattr(module, name)
                    setattr(module, name, lambda *given, real=real: (die(), real(*given))[1])
            checkpoint(*arguments)

        trainer._checkpoint = watched  # type: ignore[method-assign]
        train(trainer)

    exit_code(fork(task))
    (found,), errors = stacks_to_resume(folders_in(tmp_path))
    assert not errors
    assert len(found.checkpoints) == 3


@pytest.mark.slow
@forks
def test_a_stack_killed_at_random_moments_ends_as_if_it_had_not_been(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path
) -> None:
    began = time.perf_counter()
    assert exit_code(fork(lambda: train(stack(configs, tmp_path / "timed")))) == 0
    seconds = time.perf_counter() - began
    seed = random.SystemRandom().randrange(2**32)
    moments, n_killed = random.Random(seed), 0
    for _ in range(10):
        child = fork(lambda: train(stack(configs, tmp_path)))
        time.sleep(moments.uniform(0.0, 0.6 * seconds))
        os.kill(child, signal.SIGKILL)
        n_killed += exit_code(child) == -signal.SIGKILL
    assert n_killed > 2, f"seed {seed}"
    assert exit_code(fork(lambda: train(stack(configs, tmp_path)))) == 0
    for folder, reference in zip(folders_in(tmp_path), folders_in(undisturbed), strict=True):
        assert_same_run(folder, reference)


def test_the_metrics_of_an_epoch_are_means_per_run() -> None:
    epoch, values = EpochMetrics(tuple(METRICS), 3, CPU), torch.arange(len(METRICS) * 3.0).view(len(METRICS), 3)
    epoch.add(1, values)
    epoch.add(2, 3 * values)
    assert [epoch.means(1)[name] for name in METRICS] == pytest.approx((values[:, 1] * 2).tolist())
    assert [epoch.first_bad_step(run) for run in range(3)] == [None, None, None]
    epoch.reset()
    assert [epoch.state(run)["count"] for run in range(3)] == [0, 0, 0]
    broken = values.clone()
    broken[4, 2] = float("nan")
    for step in (3, 4):
        epoch.add(step, broken)
    assert [epoch.first_bad_step(run) for run in range(3)] == [None, None, 3]
    assert [epoch.means(0)[name] for name in METRICS] == pytest.approx(values[:, 0].tolist())
    assert epoch.state(0)["sums"].tolist() == (2 * values[:, 0]).tolist()


@pytest.mark.parametrize("step", [0, 40])
def test_a_run_that_has_ended_keeps_its_slot_and_is_not_touched(
    step: int, configs: list[TrainConfig], undisturbed: Path, tmp_path: Path
) -> None:
    place = tmp_path / "stack"
    shutil.copytree(undisturbed, place)
    for folder in folders_in(place):
        keep_up_to(folder, step)
    trainer = stack(configs, place)
    checkpoints = [load(folder / "checkpoints" / f"step_{step:07d}.pt") for folder in folders_in(place)]
    trainer.runs[1].status = "failed"
    shutil.rmtree(folders_in(place)[1])
    folders_in(place)[1].mkdir()
    trainer.load([checkpoints[0], None, checkpoints[2]])
    assert train(trainer) == ["finished", "failed", "finished"]
    assert list(folders_in(place)[1].iterdir()) == []
    for index in (0, 2):
        assert_same_run(folders_in(place)[index], folders_in(undisturbed)[index])


# What a run comes to --------------------------------------------------------------------------------------------------


def test_a_summary_has_the_last_the_best_and_the_mean_of_the_last_five(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stacked() -> Trainer:
        trainer = stack(configs, tmp_path)
        trainer.runs[0].reference = (2.0, 52.0)
        return trainer

    def check(n_evaluations: int) -> None:
        for index, folder in enumerate(folders_in(tmp_path)):
            returns = [row["eval_return_mean"] for row in read_metrics(folder)]
            assert len(returns) == n_evaluations
            found = summary(folder)
            for key, value in {"": returns[-1], "best_": max(returns), "last5_": np.mean(returns[-5:])}.items():
                assert found[f"{key}eval_return_mean"] == value
                expected = pytest.approx(2.0 * (value - 2.0)) if index == 0 else None
                assert found[f"{key}eval_score"] == expected

    with monkeypatch.context() as patched:
        at_update(patched, 27, lambda: signal.raise_signal(signal.SIGINT))
        assert train(stacked()) == ["interrupted"] * 3
    check(2)
    assert train(stacked()) == ["finished"] * 3
    check(6)


# A run's failure is its own -------------------------------------------------------------------------------------------


def lose_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("in the way")


def lose_the_checkpoints(folder: Path) -> None:
    lose_the_folder(folder / "checkpoints")


def block(name: str) -> Callable[[Path], None]:
    """Put a folder in a file's place."""

    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name / "in the way").mkdir(parents=True)

    return act


@pytest.mark.parametrize(
    ("act", "reason", "step"),
    [
        (lose_the_folder, "NotADirectoryError", None),
        (lose_the_checkpoints, "Error", 30),
        (block("metrics.jsonl"), "IsADirectoryError", 30),
        (block("episodes.csv"), "IsADirectoryError", 30),
        (block("timing.jsonl"), "IsADirectoryError", 30),
        (block("summary.json"), "Error", None),
        (block("key_curves.png"), "IsADirectoryError", 60),
    ],
    ids=["folder", "checkpoints", "metrics", "episodes", "timing", "summary", "figure"],
)
def test_a_folder_that_cannot_be_written_fails_its_run_alone(
    act: Callable[[Path], None],
    reason: str,
    step: int | None,
    configs: list[TrainConfig],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = folders_in(tmp_path)[1]
    at_update(monkeypatch, 25, lambda: act(folder))
    trainer = stack(configs, tmp_path)
    assert train(trainer) == ["finished", "failed", "finished"]
    assert trainer.runs[1].exit_code == 1
    assert reason in (trainer.runs[1].failure or "")
    if step is not None:
        found = summary(folder)
        assert found["status"] == "failed"
        assert found["step"] >= step
        assert reason in found["failure"]
    for index in (0, 2):
        assert_same_run(folders_in(tmp_path)[index], folders_in(undisturbed)[index])
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors
    assert {getattr(record, "run_dir", None) for record in errors} == {folder}


def test_a_folder_that_cannot_be_written_at_the_start_fails_its_run_alone(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path
) -> None:
    trainer = stack(configs, tmp_path)
    lose_the_folder(folders_in(tmp_path)[0])
    assert train(trainer) == ["failed", "finished", "finished"]
    for index in (1, 2):
        assert_same_run(folders_in(tmp_path)[index], folders_in(undisturbed)[index])


class FakeRecorder:
    """Films two grey pictures, or cannot draw."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def record(self, *_: object) -> Recording:
        if self.error is not None:
            raise self.error
        return Recording(np.full((2, 16, 16, 3), 128, np.uint8), 0.05, 0.0, 1)


def test_a_film_that_cannot_be_kept_fails_its_run_alone(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []
    monkeypatch.setattr(WandbLogger, "log_video", lambda _, step, path: logged.append((step, path.parents[1].name)))
    trainer = stack(configs, tmp_path)
    trainer.recorder = FakeRecorder()  # type: ignore[assignment]
    (folders_in(tmp_path)[2] / "videos").write_text("in the way")
    assert train(trainer) == ["finished", "finished", "failed"]
    for index in (0, 1):
        assert_same_run(folders_in(tmp_path)[index], folders_in(undisturbed)[index])
        assert len(list((folders_in(tmp_path)[index] / "videos").glob("*.gif"))) == 6
    assert logged == [(step, run) for step in range(10, 70, 10) for run in ("run-a", "run-b")]


def test_where_nothing_can_draw_the_stack_goes_on_without_films(
    configs: list[TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = stack(configs, tmp_path)
    trainer.recorder = FakeRecorder(RenderingError("no display"))  # type: ignore[assignment]
    assert train(trainer) == ["finished"] * 3
    assert [record.message for record in caplog.records if "no display" in record.message] == [
        "no more videos: no display"
    ]


def test_a_stack_whose_runs_have_all_failed_ends_early(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = stack(configs, tmp_path)

    def poison() -> None:
        with torch.no_grad():
            trainer.agent.critics["0.weight"].fill_(float("nan"))

    seen = at_update(monkeypatch, 15, poison)
    assert train(trainer) == ["failed"] * 3
    assert len(seen) == 20
    assert all("not finite from step 15 on" in (run.failure or "") for run in trainer.runs)


# What is said ---------------------------------------------------------------------------------------------------------


def of_the_trainer(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "cql.training.trainer"]


def test_every_message_about_a_run_carries_its_folder_and_no_other_names_one(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at_update(monkeypatch, 25, lambda: lose_the_checkpoints(folders_in(tmp_path)[1]))
    train(stack(configs, tmp_path, label="stack 1/2"))
    folders = folders_in(tmp_path)
    by_run = [[r for r in of_the_trainer(caplog) if getattr(r, "run_dir", None) == folder] for folder in folders]
    assert [len(records) for records in by_run] == [6, 5, 6]  # one an epoch; the second: four and its failure
    for record in of_the_trainer(caplog):
        if not hasattr(record, "run_dir") or record.levelno == logging.INFO:
            assert not any(folder.name in record.getMessage() for folder in folders)
    assert by_run[0][0].getMessage().startswith("step 10/60  ")


def test_a_stack_is_one_line_an_epoch(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at_update(monkeypatch, 25, lambda: lose_the_folder(folders_in(tmp_path)[1]))
    train(stack(configs, tmp_path, label="stack 1/2"))
    lines = [record.getMessage() for record in of_the_trainer(caplog) if getattr(record, "stack", False)]
    returns = [[read_metrics(folder)[0]["eval_return_mean"] for folder in folders_in(tmp_path)[::2]]]
    assert len(lines) == 6
    assert re.fullmatch(
        r"stack 1/2: step 10/60  3 runs  \d+\.\d steps/s  return [\d.]+ \([\d.]+ to [\d.]+\)  about \d+ s left",
        lines[0],
    )
    told = r"[\d.]+ steps/s  return [\d.]+ \([\d.]+ to [\d.]+\)  about \d+ s left"
    assert re.fullmatch(rf"stack 1/2: step 30/60  2 runs  1 failed  {told}", lines[2])
    assert re.fullmatch(
        r"stack 1/2: step 60/60  2 runs  1 failed  .* steps/s  return [\d.]+ \([\d.]+ to [\d.]+\)", lines[5]
    )
    low, high = map(float, re.findall(r"\(([\d.]+) to ([\d.]+)\)", lines[0])[0])
    assert low <= min(returns[0]) + 1
    assert high >= max(returns[0]) - 1


def test_without_a_label_nothing_is_said_of_the_stack(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "stack"
    shutil.copytree(undisturbed, place)
    for folder in folders_in(place):
        (folder / "checkpoints" / "step_0000060.pt").unlink()
    train(stack(configs, place))
    assert not [record for record in of_the_trainer(caplog) if hasattr(record, "stack")]


def test_the_consoles_filters_hold_under_the_bar(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "stack"
    shutil.copytree(undisturbed, place)
    for folder in folders_in(place):
        (folder / "checkpoints" / "step_0000060.pt").unlink()
    root = logging.getLogger()
    console, level = logging.StreamHandler(sys.stdout), root.level
    console.addFilter(lambda record: not hasattr(record, "run_dir"))
    root.addHandler(console)
    root.setLevel(logging.INFO)
    try:
        train(stack(configs, place, label="stack 1/1"))
    finally:
        root.removeHandler(console)
        root.setLevel(level)
    said = capsys.readouterr()
    shown = said.out.splitlines() + [line for line in said.err.splitlines() if "critic_td" in line]
    assert [line.split("  ")[0] for line in shown] == ["stack 1/1: step 50/60", "stack 1/1: step 60/60"]


# Signals that somebody else handles -----------------------------------------------------------------------------------


def steps_on_disk(place: Path) -> list[int]:
    return [CheckpointFolder(folder / "checkpoints").steps()[-1] for folder in folders_in(place)]


def trained_under(
    configs: list[TrainConfig], place: Path, handlers: dict[signal.Signals, Any], sent: signal.Signals, number: int
) -> int:
    """Exit code of a child that trains with such handlers installed and gets a signal at one of its updates."""

    def task() -> None:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        patch = pytest.MonkeyPatch()
        at_update(patch, number, lambda: os.kill(os.getpid(), sent))
        statuses = train(stack(configs, place))
        for each, handler in handlers.items():
            assert signal.getsignal(each) == handler  # they are back where they were
        sys.exit(0 if statuses == ["finished"] * 3 else 99)

    return exit_code(fork(task))


@forks
@pytest.mark.parametrize("sent", [signal.SIGUSR2, signal.SIGUSR1, signal.SIGTERM])
def test_a_handler_that_ends_the_process_finds_checkpoints(
    sent: signal.Signals, configs: list[TrainConfig], undisturbed: Path, tmp_path: Path
) -> None:
    def requeue(number: int, frame: object) -> None:
        found = {
            "number": number,
            "steps": steps_on_disk(tmp_path),
            "statuses": [summary(folder)["status"] for folder in folders_in(tmp_path)],
        }
        (tmp_path / "requeued.json").write_text(json.dumps(found))
        sys.exit(17)

    assert trained_under(configs, tmp_path, {sent: requeue}, sent, 33) == 17
    assert json.loads((tmp_path / "requeued.json").read_text()) == {
        "number": sent,
        "steps": [33] * 3,
        "statuses": ["interrupted"] * 3,
    }
    assert [summary(folder)["status"] for folder in folders_in(tmp_path)] == ["interrupted"] * 3
    assert train(stack(configs, tmp_path)) == ["finished"] * 3
    for folder, reference in zip(folders_in(tmp_path), folders_in(undisturbed), strict=True):
        (folder / "checkpoints" / "step_0000033.pt").unlink()
        assert_same_run(folder, reference)


@forks
def test_after_a_handler_that_returns_training_goes_on(
    configs: list[TrainConfig], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bypass(number: int, frame: object) -> None:
        statuses = [summary(folder)["status"] for folder in folders_in(tmp_path)]
        with (tmp_path / "bypassed.jsonl").open("a") as file:
            file.write(json.dumps([number, statuses, steps_on_disk(tmp_path)]) + "\n")

    handlers = {signal.SIGTERM: bypass, signal.SIGUSR2: bypass}
    assert trained_under(configs, tmp_path, handlers, signal.SIGTERM, 33) == 0
    (line,) = (tmp_path / "bypassed.jsonl").read_text().splitlines()
    assert json.loads(line) == [signal.SIGTERM, ["interrupted"] * 3, [33] * 3]
    for folder, reference in zip(folders_in(tmp_path), folders_in(undisturbed), strict=True):
        assert summary(folder) == summary(reference)
        (folder / "checkpoints" / "step_0000033.pt").unlink()
        assert_same_run(folder, reference)


@forks
def test_the_same_signal_twice_in_a_step_is_handed_on_once(configs: list[TrainConfig], tmp_path: Path) -> None:
    def count(number: int, frame: object) -> None:
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{number}\n")

    def task() -> None:
        for each in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, count)

        def send() -> None:
            for sent in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), sent)

        at_update(pytest.MonkeyPatch(), 12, send)
        train(stack(configs, tmp_path))

    assert exit_code(fork(task)) == 0
    assert sorted((tmp_path / "calls").read_text().split()) == sorted(
        [str(int(signal.SIGUSR1)), str(int(signal.SIGUSR2))]
    )


@forks
def test_signals_that_nobody_handles_are_left_alone(configs: list[TrainConfig], tmp_path: Path) -> None:
    assert trained_under(configs, tmp_path, {}, signal.SIGUSR2, 33) == -signal.SIGUSR2
    assert steps_on_disk(tmp_path) == [20] * 3


@forks
def test_a_second_signal_ends_at_once(configs: list[TrainConfig], tmp_path: Path) -> None:
    def task() -> None:
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

        at_update(pytest.MonkeyPatch(), 33, twice)
        try:
            train(stack(configs, tmp_path))
        except KeyboardInterrupt:
            sys.exit(77)

    assert exit_code(fork(task)) == 77
    assert steps_on_disk(tmp_path) == [20] * 3


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {each: signal.getsignal(each) for each in before} == before


# Stopped in W&B -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [15, 20])  # in the middle of an epoch, and at its last step
def test_a_run_that_is_stopped_in_wandb_ends_alone(
    configs: list[TrainConfig],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    trainer = stack(configs, tmp_path)
    stopped = trainer.runs[1].wandb
    at_update(monkeypatch, number, stopped._stopped.set)
    assert train(trainer) == ["finished", "interrupted", "finished"]
    monkeypatch.undo()
    assert [run.exit_code for run in trainer.runs] == [0, 1, 0]
    assert summary(folders_in(tmp_path)[1])["status"] == "interrupted"
    assert "stopped on its page in W&B at step 20" in caplog.text
    for index in (0, 2):
        assert_same_run(folders_in(tmp_path)[index], folders_in(undisturbed)[index])
    steps = [row["step"] for row in read_metrics(folders_in(tmp_path)[1])]
    assert steps == [10, 20]
    assert CheckpointFolder(folders_in(tmp_path)[1] / "checkpoints").steps()[-1] == 20


@pytest.mark.parametrize(
    ("value", "text"), [(4612.4, "4612"), (-10.6, "-11"), (9.94, "9.9"), (0.35, "0.35"), (-0.5, "-0.5"), (0.0, "0")]
)
def test_small_returns_are_told_with_two_digits(value: float, text: str) -> None:
    assert rounded(value) == text
