"""Training that continues in the environment: collected whole, resumed bit for bit, alone as in a stack."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import breaking
import gymnasium
import numpy as np
import pytest
import torch
from children import fork
from test_resume import assert_same_run, calls_of, dying_before_call, exit_code, run_and_signal
from tiny import tiny_config, write_dataset

from cql import data
from cql.algorithm.sampling import Batch, Mixture, Pool, ReplayBuffer, Sampler
from cql.config import ConfigError, TrainConfig
from cql.rollout.collection import Collector, Episode, _seed
from cql.rollout.envs import env_info
from cql.training import build, experiment, online
from cql.training.checkpoint import CheckpointFolder, load
from cql.training.initial import INIT_FILE
from cql.training.local_logger import read_metrics
from cql.training.run import Schedule
from cql.training.run_folder import FolderError, claim_folder, read_summary

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes"),
    pytest.mark.usefixtures("no_figures"),
]

CPU = torch.device("cpu")
SHORT = ("n_steps=20", "online=finetune", "online.n_online_steps=40", "online.n_steps_per_epoch=12")
# With smaller networks, the end of a tensor is rounded otherwise than its middle, which depends on the stack.
ALGORITHM = ("algorithm/penalty=cal_ql", "network.width=64", "batch_size=64")


def config_of(dataset: Path, *overrides: str) -> TrainConfig:
    return tiny_config(dataset, *ALGORITHM, *SHORT, *overrides)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "online").iterdir())}


def trained(train_config: TrainConfig, folder: Path) -> Path:
    experiment.run(train_config, folder)
    return folder


# What a run leaves ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four runs, each by itself."""
    place = tmp_path_factory.mktemp("alone")
    return [trained(each, place / str(index)) for index, each in enumerate(four(dataset))]


def four(dataset: Path) -> list[TrainConfig]:
    """Runs that differ in all that a stack may keep per run."""
    own = [
        ("seed=0",),
        ("seed=1", "algorithm.discount=0.9", "online.w_cql=0.0"),
        ("seed=2", "algorithm.actor_learning_rate=1e-2", "online.alpha_cql=1.0"),
        ("seed=3", "algorithm.critic_max_grad_norm=1.0", "algorithm.penalty.gap_clip_max=3.0"),
    ]
    return [config_of(dataset, *each) for each in own]


def test_rows_tell_of_both_parts(alone: list[Path]) -> None:
    rows = read_metrics(alone[0])
    assert [row["step"] for row in rows] == [10, 20, 32, 44, 56, 60]
    assert [("env_steps" in row, "eval_return_mean" in row) for row in rows] == [(False, True)] * 2 + [(True, True)] * 4
    lengths = [online.read(alone[0], number, 4, 1)[0] for number in range(len(files_of(alone[0])))]
    collected = [online.read(alone[0], number, 4, 1) for number in range(len(lengths))]
    for begin, row in zip((20, 32, 44, 56), rows[2:], strict=True):
        known = [episode for episode, step in collected if step < row["step"]]
        assert row["env_steps"] == row["buffer_size"] == sum(map(len, known))
        new = [episode for episode, step in collected if begin <= step < row["step"]]
        assert row.get("online_return") == (pytest.approx(np.mean([x.rewards.sum() for x in new])) if new else None)
        assert "online_success" not in row
        assert 0.0 <= row["floor_share"] <= 1.0
    # A run has always collected what its training steps need, and no episode more.
    n_steps = 0
    for episode, step in collected:
        assert n_steps <= step - 20 < n_steps + len(episode)
        n_steps += len(episode)
    assert n_steps - len(collected[-1][0]) < 40 <= n_steps


def test_the_summary_has_the_offline_return_and_the_regret(alone: list[Path], dataset: Path, tmp_path: Path) -> None:
    returns = [row["eval_return_mean"] for row in read_metrics(alone[0])]
    summary = read_summary(alone[0])
    assert (summary["offline_eval_return_mean"], summary["eval_return_mean"]) == (returns[1], returns[-1])
    assert (summary["n_steps"], summary["step"], summary["regret"]) == (60, 60, None)  # no reference scores
    scored = read_summary(trained(config_of(dataset, "env.reference=[0,50]"), tmp_path))
    assert scored["regret"] == pytest.approx(np.mean([1 - mean / 50 for mean in returns[2:]]))
    assert scored["offline_eval_score"] == pytest.approx(2 * returns[1])


def test_a_stack_of_four_is_four_runs_alone(alone: list[Path], dataset: Path, tmp_path: Path) -> None:
    configs, folders = four(dataset), [tmp_path / str(index) for index in range(4)]
    for each, folder in zip(configs, folders, strict=True):
        claim_folder(each, folder)
    outcomes = experiment.run_stack(configs, folders)
    assert all(isinstance(outcome, float) for outcome in outcomes), outcomes
    for folder, by_itself in zip(folders, alone, strict=True):
        assert_same_run(folder, by_itself)
        assert files_of(folder) == files_of(by_itself)
    assert len({tuple(files_of(folder)) for folder in folders}) > 1  # their episodes have other lengths
    # The overrides of the environment's part.
    assert [read_metrics(folder)[-1]["alpha_cql"] for folder in folders] == [5.0, 5.0, 1.0, 5.0]


def test_learning_from_scratch_and_with_prior_data(dataset: Path, tmp_path: Path) -> None:
    for ratio in ("0.0", "0.5", "null"):
        overrides = ("n_steps=0", f"online.mixing_ratio={ratio}", "online.n_start_steps=15")
        folder = trained(config_of(dataset, *overrides), tmp_path / ratio)
        rows = read_metrics(folder)
        assert [row["step"] for row in rows] == [0, 12, 24, 25]
        assert set(rows[0]) == {"step", "eval_return_mean", "eval_return_std"}  # nothing has been trained
        assert online.read(folder, 0, 4, 1)[1] == 0
        assert read_summary(folder)["offline_eval_return_mean"] == rows[0]["eval_return_mean"]


def test_more_updates_than_steps_and_several_episodes_at_once(dataset: Path, tmp_path: Path) -> None:
    overrides = ("online.update_to_data=3", "online.episodes_per_collection=2", "online.buffer_size=10")
    folder = trained(config_of(dataset, *overrides), tmp_path)
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [10, 20, 56, 92, 128, 140]
    assert [row["buffer_size"] for row in rows[2:]] == [10.0] * 4
    steps = [online.read(folder, number, 4, 1)[1] for number in range(len(files_of(folder)))]
    assert steps[::2] == steps[1::2]


# Resumed --------------------------------------------------------------------------------------------------------------


RESUMABLE = ("n_epochs_per_checkpoint=2", "n_kept_checkpoints=2", "algorithm.critic_schedule=cosine")


@pytest.fixture(scope="module", params=["n_steps=20", "n_steps=0"])
def resumable(request: pytest.FixtureRequest, dataset: Path) -> TrainConfig:
    return config_of(dataset, *RESUMABLE, request.param)


@pytest.fixture(scope="module")
def undisturbed(resumable: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert exit_code(fork(lambda: experiment.run(resumable, folder))) == 0
    return folder


@pytest.fixture(scope="module")
def n_calls(resumable: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> int:
    return calls_of(resumable, tmp_path_factory.mktemp("counted"))


@pytest.mark.parametrize("point", range(4))
def test_kill_9_at_counted_points(
    point: int, n_calls: int, resumable: TrainConfig, undisturbed: Path, tmp_path: Path
) -> None:
    number = 5 + 9 * point if resumable.n_steps == 0 else 5 + point * n_calls // 4  # the beginning of the one, all else
    assert number < n_calls
    assert exit_code(fork(lambda: dying_before_call(resumable, tmp_path, number))) == -signal.SIGKILL
    assert exit_code(fork(lambda: experiment.run(resumable, tmp_path))) == 0
    assert_same_run(tmp_path, undisturbed)
    assert files_of(tmp_path) == files_of(undisturbed)


def test_a_signal_in_the_middle_of_an_episode(resumable: TrainConfig, undisturbed: Path, tmp_path: Path) -> None:
    step = resumable.n_steps + 8
    assert exit_code(fork(lambda: run_and_signal(resumable, tmp_path, step, signal.SIGTERM))) == 128 + signal.SIGTERM
    state = load(tmp_path / "checkpoints" / f"step_{step + 1:07d}.pt")["online"]
    assert state["n_episodes"] > 0
    assert state["n_episodes"] == len(files_of(tmp_path))
    assert exit_code(fork(lambda: experiment.run(resumable, tmp_path))) == 0
    assert_same_run(tmp_path, undisturbed)
    assert files_of(tmp_path) == files_of(undisturbed)


def written_anew(path: Path, observation_size: int) -> None:
    shapes = (3, observation_size), (2, 1), (2,)
    observations, actions, rewards = (np.zeros(shape, np.float32) for shape in shapes)
    online.write(path.parents[1], Episode(0, 1, observations, actions, rewards.astype(np.float64), True, None), 0)


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:200] + b"\xff" + path.read_bytes()[201:]),
    "empty": lambda path: path.write_bytes(b""),
    "another size": lambda path: written_anew(path, 5),
    "another length": lambda path: written_anew(path, 4),
}


@pytest.fixture(scope="module")
def killed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that were killed in the environment."""
    place = tmp_path_factory.mktemp("killed")

    def task() -> None:
        update = experiment.Agent.update

        def fatal(self: Any, *args: Any) -> torch.Tensor:
            if self.n_steps_done == 50:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(self, *args)

        experiment.Agent.update = fatal  # type: ignore[method-assign]
        started(dataset, place)

    assert exit_code(fork(task)) == -signal.SIGKILL
    return place


def started(dataset: Path, place: Path, *overrides: str) -> list[float | Exception]:
    """What becomes of two runs of one stack in the folders a and b."""
    configs, folders = [config_of(dataset, *overrides, f"seed={seed}") for seed in (0, 1)], [place / "a", place / "b"]
    for each, folder in zip(configs, folders, strict=True):
        claim_folder(each, folder)
    return experiment.run_stack(configs, folders)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_episode_is_named_and_ends_that_run_alone(
    damage: str, killed: Path, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](online.path_of(tmp_path / "a", 0))
    broken, fine = started(dataset, tmp_path)
    assert isinstance(broken, experiment.RunFailed)
    named = "online" if damage == "another length" else "episode_0000000.npz"
    assert named in str(broken)
    assert "put" in str(broken)
    assert isinstance(fine, float)
    assert read_summary(tmp_path / "a")["status"] == "failed"


def test_a_kill_between_two_checkpoints_at_the_switch(dataset: Path, tmp_path: Path) -> None:
    configs = [config_of(dataset, "n_steps=0", f"seed={seed}") for seed in (0, 1)]
    folders = [[tmp_path / place / letter for letter in "ab"] for place in ("whole", "killed")]

    def task(place: list[Path], fatal: int) -> None:
        for each, folder in zip(configs, place, strict=True):
            claim_folder(each, folder)
        write, calls = CheckpointFolder.write, []

        def counted(self: Any, *args: Any) -> Path:
            calls.append(write(self, *args))
            if len(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return calls[-1]

        CheckpointFolder.write = counted  # type: ignore[method-assign]
        experiment.run_stack(configs, place)

    assert exit_code(fork(lambda: task(folders[0], 0))) == 0
    # The third is that of the first run after the evaluation at the switch; the second run lacks its own.
    assert exit_code(fork(lambda: task(folders[1], 3))) == -signal.SIGKILL
    assert exit_code(fork(lambda: task(folders[1], 0))) == 0
    for whole, killed in zip(*folders, strict=True):
        assert_same_run(killed, whole)
        assert files_of(killed) == files_of(whole)


# An environment that breaks -------------------------------------------------------------------------------------------


def test_a_simulator_that_breaks_ends_that_run_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = _seed(0, 2)  # of the third episode of the first run
    monkeypatch.setitem(breaking.FAULTS, seed, (2, "observation"))
    broken, fine = started(dataset, tmp_path, "env.id=BreakingPendulum-v0", "env.reference=null")
    assert isinstance(broken, experiment.RunFailed)
    for part in ("online episode 2", f"seed {seed}", "step 2 of BreakingPendulum-v0"):
        assert part in str(broken)
    assert isinstance(fine, float)


@pytest.mark.parametrize("worker", ["off", "on"])
def test_what_was_done_before_a_failed_collection_is_kept(
    worker: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Collector.collect

    def failing(self: Collector, policy: Any, first: dict[int, int]) -> Any:
        return {0: "made to fail"} if len(steps) >= 32 else collect(self, policy, first)

    steps: list[int] = []
    update = experiment.Agent.update
    monkeypatch.setattr(experiment.Agent, "update", lambda self, *args: steps.append(1) or update(self, *args))
    monkeypatch.setattr(Collector, "collect", failing)
    train_config = config_of(dataset, f"eval_worker={worker}", "online.n_steps_per_epoch=4")
    claim_folder(train_config, tmp_path)
    (outcome,) = experiment.run_stack([train_config], [tmp_path])
    assert "made to fail" in str(outcome)
    done = 20 + (len(steps) - 20) // 4 * 4
    assert read_metrics(tmp_path)[-1]["step"] == done
    assert (tmp_path / "checkpoints" / f"step_{done:07d}.pt").exists()


# Begun with another run -----------------------------------------------------------------------------------------------


def test_both_parts_in_two_runs_are_the_run_that_does_both(alone: list[Path], dataset: Path, tmp_path: Path) -> None:
    on_data = tiny_config(dataset, *ALGORITHM, "n_steps=20", "seed=0")
    first = trained(on_data, tmp_path / "first")
    for index, source in enumerate((first, first / "checkpoints" / "step_0000020.pt")):
        second = trained(config_of(dataset, "seed=0", f"init_from={source}"), tmp_path / f"second {index}")
        assert read_metrics(second)[1:] == read_metrics(alone[0])[2:]
        assert files_of(second) == files_of(alone[0])
        one, two = (load(folder / "checkpoints" / "step_0000060.pt") for folder in (second, alone[0]))
        for name, tensor in one["agent"]["parameters"]["critics"].items():
            assert torch.equal(tensor, two["agent"]["parameters"]["critics"][name])
        at_the_switch = read_metrics(second)[0]
        at_evaluations = {"eval_return_mean", "eval_return_std", "action_distance", "at_bounds", "initial_value"}
        assert (at_the_switch["step"], set(at_the_switch)) == (20, {"step"} | at_evaluations)
        assert {name: read_metrics(first)[-1][name] for name in at_evaluations}.items() <= at_the_switch.items()
        assert read_summary(second)["offline_eval_return_mean"] == at_the_switch["eval_return_mean"]


def test_what_differs_is_said_and_stored(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = ("algorithm/penalty=cql_h", "n_steps=10", "n_steps_per_epoch=5", "seed=0")
    first = trained(tiny_config(dataset, *ALGORITHM, *own), tmp_path / "first")
    changed = config_of(dataset, "n_steps=10", f"init_from={first}", "seed=5", "algorithm.discount=0.9")
    caplog.set_level("INFO")
    second = trained(changed, tmp_path / "second")
    origin = json.loads((second / INIT_FILE).read_text())
    assert origin["step"] == 10
    assert origin["checkpoint"] == str(first / "checkpoints" / "step_0000010.pt")
    keys = sorted(line.partition(":")[0] for line in origin["differences"])
    assert keys == ["algorithm.discount", "algorithm.penalty.kind", "n_steps_per_epoch", "seed"]
    assert "algorithm.discount: 0.99 -> 0.9" in caplog.text
    # Resumed, it needs the other run no more.
    (first / "checkpoints" / "step_0000010.pt").unlink()
    (second / "summary.json").unlink()
    assert exit_code(fork(lambda: experiment.run(changed, second))) == 0


def test_runs_of_a_sweep_begin_with_their_twins(dataset: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for sweep in (first, second):
        sweep.mkdir()
        (sweep / "sweep.json").write_text("{}")
    for seed in (0, 1):
        trained(tiny_config(dataset, *ALGORITHM, "n_steps=10", f"seed={seed}"), first / f"seed-{seed}")
    own = config_of(dataset, "n_steps=10", "seed=1", "init_from_sweep=first", "online.mixing_ratio=0.25")
    folder = trained(own, second / "mixing_ratio-0.25__seed-1")
    assert json.loads((folder / INIT_FILE).read_text())["checkpoint"].endswith(
        "first/seed-1/checkpoints/step_0000010.pt"
    )
    lost = config_of(dataset, "n_steps=10", "seed=2", "init_from_sweep=first")
    claim_folder(lost, second / "seed-2")
    (outcome,) = experiment.run_stack([lost], [second / "seed-2"])
    assert isinstance(outcome, FolderError)
    assert "no run of that sweep has the values of seed-2" in str(outcome)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("init_from=nowhere",), "there is no such folder or file"),
        (("n_steps=9", "n_steps_per_epoch=9"), "write n_steps=10"),
        (("network.width=8",), "does not fit the run"),
        (("algorithm/alpha_cql=learned",), "does not fit the run"),
        (("dataset.n_episodes=3",), "choose the dataset of that run"),
        (("dataset.normalise_observations=false",), "set dataset.normalise_observations=true"),
        (("online=none",), "nothing is left to train"),
        (("init_from=data",), "it holds no .hydra/config.yaml"),
        (("init_from=null", "init_from_sweep=other"), "add -m, or give init_from=RUN"),
    ],
)
def test_what_cannot_be_begun_with(
    overrides: tuple[str, ...], said: str, first: Path, dataset: Path, tmp_path: Path
) -> None:
    own = [text.replace("=data", f"={dataset.parent}") for text in overrides]
    make = tiny_config if "online=none" in overrides else config_of
    changed = make(dataset, *ALGORITHM, "n_steps=10", f"init_from={first}", *own)
    (outcome,) = experiment.run_stack([changed], [tmp_path])
    assert isinstance(outcome, Exception)
    assert said in str(outcome)
    assert "init_from" in str(outcome)


@pytest.fixture(scope="module")
def first(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_config(dataset, *ALGORITHM, "n_steps=10"), tmp_path_factory.mktemp("first"))


# The pieces -----------------------------------------------------------------------------------------------------------


def test_an_episode_is_prepared_as_the_dataset_is(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "one.hdf5", n_episodes=3)
    train_config = config_of(
        path, "dataset.reward_scale=10", "dataset.reward_bias=-5", "dataset.action_clip=0.5",
        "dataset.normalise_rewards=true", "dataset.returns_to_go=bootstrap_failure",
    )  # fmt: skip
    info = env_info(train_config.env.id)
    transitions, raw = build.load_data(train_config, info, CPU), data.load_d4rl(path)
    pool = build.as_pool(transitions, [train_config])
    online_part = experiment.build_online([train_config], [tmp_path], transitions, pool)
    assert online_part is not None
    start = 0
    for number, length in enumerate(raw.episode_lengths):
        rows = slice(start, start + length)
        scaled = np.clip((raw.actions[rows] + 3.0) / 3.0 - 1.0, -1, 1)
        observations = np.concatenate([raw.observations[rows], raw.next_observations[rows][-1:]])
        episode = Episode(
            number, 0, observations, scaled.astype(np.float32), raw.rewards[rows].astype(np.float64),
            bool(raw.terminated[rows][-1]), None,
        )  # fmt: skip
        found = online_part.preparation.transitions(episode, train_config.algorithm.discount)
        expected = pool.take(torch.arange(start, start + length)[None])
        for name, ours, theirs in zip(Batch._fields, found, expected, strict=True):
            assert ours is not None
            assert theirs is not None
            torch.testing.assert_close(ours, theirs[0], rtol=1e-6, atol=1e-6, msg=name)
        start += length
    online_part.close()


def of_numbers(first: int, length: int) -> Batch:
    """Transitions with rewards that are all different."""
    values = torch.arange(first, first + length).float()
    return Batch(values[:, None], values[:, None], values, values[:, None] + 1, torch.zeros(length))


def test_a_ring_keeps_the_newest() -> None:
    buffer = ReplayBuffer(2, 5, 1, 1, CPU, with_returns=False)
    buffer.add(0, of_numbers(0, 3))
    buffer.add(1, of_numbers(100, 4))
    assert buffer.size.tolist() == [3, 4]
    buffer.add(0, of_numbers(3, 4))
    buffer.add(1, of_numbers(200, 12))
    assert buffer.size.tolist() == [5, 5]
    assert buffer.n_added == [7, 16]
    batch = buffer.take(torch.arange(5).expand(2, 5))
    assert sorted(batch.rewards[0].tolist()) == [2, 3, 4, 5, 6]
    assert sorted(batch.rewards[1].tolist()) == [207, 208, 209, 210, 211]
    assert torch.equal(batch.next_observations, batch.observations + 1)
    assert batch.returns_to_go is None


@pytest.mark.parametrize(
    ("n_offline", "expected"), [(4, (0.25, 0.25)), (0, (0.0, 0.0)), (16, (1.0, 1.0)), (None, (0.8, 0.5))]
)
def test_batches_are_mixed_by_ratio_or_by_size(n_offline: int | None, expected: tuple[float, float]) -> None:
    rows = torch.arange(41.0)[:, None]
    pool = Pool(rows, torch.arange(40), -rows[:40], -torch.ones(40), torch.zeros(40))
    buffer = ReplayBuffer(2, 100, 1, 1, CPU, with_returns=False)
    buffer.add(0, of_numbers(0, 10))
    buffer.add(1, of_numbers(0, 40))
    sizes = {"n_uniform": 1, "n_policy": 1, "n_next_policy": 1, "n_target": 1, "n_choices": (2, 0), "n_subset": 0}
    sampler = Sampler([0, 1], batch_size=16, action_size=1, device=CPU, **sizes)  # type: ignore[arg-type]
    shares, seen = [], [set(), set()]
    for _ in range(400):
        batch, _ = sampler.draw(Mixture(pool, buffer, n_offline))
        assert batch.rewards.shape == (2, 16)
        shares.append((batch.rewards < 0).float().mean(1))
        for run in range(2):
            seen[run] |= set(batch.rewards[run].tolist()) - {-1.0}
    share = torch.stack(shares).mean(0).tolist()
    assert share == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 6400))
    if n_offline != 16:
        assert seen == [set(map(float, range(10))), set(map(float, range(40)))]  # each run its own, the last one too


def test_an_episode_depends_on_its_number_and_its_run_alone() -> None:
    info = env_info("InvertedPendulum-v5")

    def policy(observations: Any, noise: Any) -> Any:
        return np.clip(0.1 * observations[..., :1] + 0.2 * noise, -1, 1).astype(np.float32)

    many, one = Collector("InvertedPendulum-v5", [3, 4, 5], 2), Collector("InvertedPendulum-v5", [4], 1)
    first = many.collect(policy, {0: 0, 1: 6})
    (again,) = one.collect(policy, {0: 7})[0]
    assert not isinstance(first[1], str)
    same = first[1][1]
    assert isinstance(again, Episode)
    assert (same.number, same.seed, same.terminated, same.success) == (7, again.seed, again.terminated, None)
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(same, name), getattr(again, name))
    assert len(same.observations) == len(same) + 1
    assert same.observations.shape[1] == info.observation_size
    assert not np.array_equal(same.observations[0], first[1][0].observations[0])
    many.close()
    one.close()


def test_success_is_what_the_environment_says(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any step of an episode; and at the end no environment is left open."""
    opened: list[Any] = []
    closed: list[Any] = []

    class Telling(breaking.Breaking):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            opened.append(self)

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated, truncated, {**info, "success": np.bool_(observation[1] > 0.15)}

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(gymnasium.registry[breaking.ENV], "entry_point", Telling)
    folder = trained(config_of(dataset, f"env.id={breaking.ENV}"), tmp_path)
    episodes = [online.read(folder, number, 4, 1) for number in range(len(files_of(folder)))]
    told = [(episode.success, bool((episode.observations[1:, 1] > 0.15).any())) for episode, _ in episodes]
    assert set(told) == {(True, True), (False, False)}
    rows = [row for row in read_metrics(folder) if "online_return" in row]
    begins = [20, *(row["step"] for row in rows)]
    for begin, row in zip(begins, rows, strict=False):
        new = [episode.success for episode, step in episodes if begin <= step < row["step"]]
        assert row["online_success"] == pytest.approx(np.mean(new))
    assert len(rows) >= 2
    assert {id(env) for env in opened} == {id(env) for env in closed}


def test_a_schedule_of_two_parts() -> None:
    schedule = Schedule(100, 20, 7, n_steps_per_online_epoch=30)
    ends = [step for step in range(1, 101) if schedule.ends_epoch(step)]
    assert ends == [7, 14, 20, 50, 80, 100]
    assert [schedule.epoch(step) for step in ends] == [1, 2, 3, 1, 2, 3]
    assert [schedule.epoch_start(step) for step in ends] == [0, 7, 14, 20, 50, 80]
    whole = Schedule(20, 20, 7)
    assert [step for step in range(1, 21) if whole.ends_epoch(step)] == [7, 14, 20]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("online=none", "n_steps=0"), "n_steps=0 trains nothing"),
        (("online.n_start_steps=40",), "online.n_start_steps=40 must be less than online.n_online_steps=40"),
        (("algorithm/alpha_cql=learned", "online.alpha_cql=1.0"), "has no effect on a learned alpha_cql"),
        (("algorithm/penalty=cql_h", "online.calibrated=false"), "online.calibrated=false has no effect"),
        (("init_from=a", "init_from_sweep=b"), "set one of them to null"),
        (("init_from=''",), "init_from is empty"),
        (("online.mixing_ratio=1.5",), "online.mixing_ratio=1.5 is out of range"),
    ],
)
def test_what_is_refused(overrides: tuple[str, ...], said: str, dataset: Path) -> None:
    changed = [text for text in SHORT if not any(text.startswith(own.partition("=")[0] + "=") for own in overrides)]
    if "online=none" in overrides:
        changed = []
    with pytest.raises(ConfigError) as caught:
        tiny_config(dataset, "algorithm/penalty=cal_ql", *changed, *overrides)
    assert said in str(caught.value)
