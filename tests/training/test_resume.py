"""Stopped at any moment and taken up again, a run ends bit for bit as if it had never been stopped."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from children import fork
from nested import assert_same
from tiny import tiny_config

from cql.algorithm.agent import Agent
from cql.config.schema import TrainConfig
from cql.training import experiment, run_folder
from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes"),
    pytest.mark.usefixtures("no_figures"),
]

N_KILLS = 20


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_and_signal(train_config: TrainConfig, folder: Path, step: int, sent: signal.Signals) -> None:
    """A run, in a child, that gets a signal after so many steps."""
    update = Agent.update

    def signalled(self: Agent, *args: Any) -> torch.Tensor:
        if self.n_steps_done == step:
            os.kill(os.getpid(), sent)
        return update(self, *args)

    Agent.update = signalled  # type: ignore[method-assign]
    experiment.run(train_config, folder)


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    for name in ("metrics.jsonl", "episodes.csv"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    names = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == names
    for name in names:
        one, two = folder / "checkpoints" / name, undisturbed / "checkpoints" / name
        if one.read_bytes() != two.read_bytes():  # to load is slow, and says what differs
            assert_same(load(one), load(two))


@pytest.fixture(scope="module")
def train_config(dataset: Path) -> TrainConfig:
    return tiny_config(
        dataset,
        "algorithm/alpha_cql=learned",
        "n_steps=90",
        "n_steps_per_epoch=9",
        "n_epochs_per_checkpoint=2",
        "n_kept_checkpoints=2",
    )


@pytest.fixture(scope="module")
def undisturbed(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a run that nobody stopped, and how many seconds it took in a child."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.perf_counter()
    assert exit_code(fork(lambda: experiment.run(train_config, folder))) == 0
    return folder, time.perf_counter() - began


def dying_before_call(train_config: TrainConfig, folder: Path, number: int) -> int:
    """A run that kills itself before its n-th rename or flush to the disk; the number of calls that it came to."""
    calls = 0
    for name in ("replace", "fsync"):
        real = getattr(os, name)

        def counted(*args: Any, real: Any = real) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(os, name, counted)
    experiment.run(train_config, folder)
    return calls


def calls_of(train_config: TrainConfig, place: Path) -> int:
    """How often an undisturbed run renames or flushes."""

    def task() -> None:
        (place / "calls").write_text(str(dying_before_call(train_config, place / "run", 0)))

    assert exit_code(fork(task)) == 0
    return int((place / "calls").read_text())


@pytest.fixture(scope="module")
def n_calls(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> int:
    return calls_of(train_config, tmp_path_factory.mktemp("counted"))


@pytest.mark.parametrize("point", [pytest.param(point, marks=[pytest.mark.slow] * (point % 2)) for point in range(10)])
def test_kill_9_at_counted_points(
    point: int, n_calls: int, train_config: TrainConfig, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    assert n_calls > 60
    number = 1 + point * n_calls // 10  # in different places of an epoch
    assert exit_code(fork(lambda: dying_before_call(train_config, tmp_path, number))) == -signal.SIGKILL
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / ".partial-1-step_0000010.gif").touch()  # as if it had been killed while it wrote a video
    assert exit_code(fork(lambda: experiment.run(train_config, tmp_path))) == 0
    assert_same_run(tmp_path, undisturbed[0])
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.slow
def test_kill_9_at_random_moments(train_config: TrainConfig, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = undisturbed
    seed = random.SystemRandom().randrange(2**32)
    moments = random.Random(seed)
    stopped_at = []
    for kill in range(N_KILLS):
        folder = tmp_path / str(kill)
        child = fork(lambda folder=folder: experiment.run(train_config, folder))
        time.sleep(moments.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        if exit_code(child) == -signal.SIGKILL:
            rows = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
            stopped_at.append(int(rows[-1]["step"]) if rows else 0)
        assert exit_code(fork(lambda folder=folder: experiment.run(train_config, folder))) == 0, f"seed {seed}"
        assert_same_run(folder, reference)
    # The kills did hit runs, and at different steps.
    assert len(stopped_at) > N_KILLS // 2, f"seed {seed}: {stopped_at}"
    assert len(set(stopped_at)) > 2, f"seed {seed}: {stopped_at}"


def test_killed_again_and_again(train_config: TrainConfig, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = undisturbed
    for fraction in (0.5, 0.7, 0.6, 0.9):
        child = fork(lambda: experiment.run(train_config, tmp_path))
        time.sleep(fraction * seconds)
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    assert exit_code(fork(lambda: experiment.run(train_config, tmp_path))) == 0
    assert_same_run(tmp_path, reference)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_in_the_middle_of_an_epoch(
    train_config: TrainConfig, undisturbed: tuple[Path, float], tmp_path: Path, sent: signal.Signals
) -> None:
    reference, _ = undisturbed
    assert exit_code(fork(lambda: run_and_signal(train_config, tmp_path, 40, sent))) == 128 + sent
    assert run_folder.read_summary(tmp_path)["status"] == "interrupted"
    assert run_folder.read_summary(tmp_path)["step"] == 41  # 4 epochs of 9 steps, and 5 more
    assert load(tmp_path / "checkpoints" / "step_0000041.pt")["epoch"]["count"] == 5
    assert run_folder.resumed_config(tmp_path) == train_config
    assert exit_code(fork(lambda: experiment.run(train_config, tmp_path))) == 0
    assert_same_run(tmp_path, reference)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    train_config: TrainConfig, undisturbed: tuple[Path, float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference, _ = undisturbed
    assert exit_code(fork(lambda: run_and_signal(train_config, tmp_path, 60, signal.SIGKILL))) == -signal.SIGKILL
    newest = tmp_path / "checkpoints" / "step_0000054.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert experiment.run(train_config, tmp_path) == read_metrics(reference)[-1]["eval_return_mean"]
    assert "step_0000054.pt: damaged" in caplog.text
    assert_same_run(tmp_path, reference)
