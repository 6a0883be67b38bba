"""`env=none`: training on logged data without a simulator."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from children import fork
from composed import load
from nested import assert_same

from cql import config, data
from cql.algorithm.agent import Agent
from cql.config import folders
from cql.config.messages import ConfigError
from cql.config.schema import TrainConfig
from cql.rollout.envs import EnvError
from cql.scorer_names import DIRECTIONS
from cql.training import checkpoint, experiment, run_folder
from cql.training.build import env_of, load_behaviour, load_data
from cql.training.evaluate import evaluate
from cql.training.local_logger import read_metrics
from cql.training.policy import load as load_run
from cql.training.run_folder import FolderError, claim_folder
from cql.training.wandb_run import open_wandb_run

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="forks"), pytest.mark.usefixtures("no_figures")]

SETTINGS = (
    "dataset=table", "env=none", "dataset.observation_columns=[obs_*]", "dataset.action_columns=[act_*]",
    "dataset.episode_column=id", "dataset.normalise_observations=true", "network.width=16", "batch_size=16",
    "n_steps=30", "n_steps_per_epoch=10", "algorithm.num_sampled_actions=2", "logger=local", "device=cpu",
    "n_threads=1",
)  # fmt: skip
LOW, HIGH = (-2.0, 0.5), (2.0, 1.5)  # of the actions in the table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a process that nobody can simulate: 12 episodes of 5 to 16 steps."""
    path, random = tmp_path_factory.mktemp("logs") / "log.csv", np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["id", "obs_0", "obs_1", "obs_2", "obs_3", "act_0", "act_1", "reward", "terminated", "operator"]
        )
        for episode in range(12):
            for step in range(length := 5 + episode):
                act = (random.uniform(LOW[0], HIGH[0]), random.uniform(LOW[1], HIGH[1]))
                act = LOW if (episode, step) == (1, 0) else HIGH if (episode, step) == (1, 1) else act
                ends = episode % 2 == 0 and step == length - 1
                writer.writerow([f"run {episode}", *random.normal(size=4), *act, random.normal(), int(ends), "x"])
    return path


def chosen(table: Path, *overrides: str) -> TrainConfig:
    return load(*SETTINGS, f"dataset.path={table}", *overrides)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


# What the data say ----------------------------------------------------------------------------------------------------


def test_sizes_bounds_and_time_limit_are_those_of_the_data(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cql"):
        info = env_of(chosen(table))
    assert (info.env_id, info.observation_size, info.action_size) == ("none", 4, 2)
    np.testing.assert_array_equal(info.action_low, np.float32(LOW))
    np.testing.assert_array_equal(info.action_high, np.float32(HIGH))
    assert info.max_episode_steps == 15  # the last step of a cut episode has no next observation
    assert "4 observation and 2 action features, actions from [-2, 0.5] to [2, 1.5] (env.action_low" in caplog.text
    actions = load_data(chosen(table), info, torch.device("cpu")).actions
    assert actions.amin(0).tolist() == [-1, -1]
    assert actions.amax(0).tolist() == [1, 1]


def test_bounds_and_time_limit_can_be_given(table: Path) -> None:
    info = env_of(chosen(table, "env.action_low=-4", "env.action_high=[2.0,6]", "env.max_episode_steps=99"))
    assert (info.action_low.tolist(), info.action_high.tolist(), info.max_episode_steps) == ([-4, -4], [2, 6], 99)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["env.action_low=[1,2,3]"], "env.action_low has 3 numbers, but an action of the dataset has 2"),
        (["env.action_low=2"], "action 0 (counted from 0) has the bounds 2 and 2, by the data where none are given"),
        (["env.action_high=1.25"], "env.action_low and env.action_high, the farthest with 2 in column 0"),
        (["dataset.action_columns=[terminated]", "dataset.terminated_column=null",
          "env.action_low=0", "env.action_high=0"], "has the bounds 0 and 0"),
    ],
)  # fmt: skip
def test_bounds_that_make_no_sense_are_refused(table: Path, overrides: list[str], said: str) -> None:
    own = chosen(table, *overrides)
    with pytest.raises(data.DatasetError) as caught:
        load_data(own, env_of(own), torch.device("cpu"))
    assert said in str(caught.value)


def test_the_datasets_of_a_mixture_have_the_same_sizes(table: Path) -> None:
    own = "kind:table,path:{},observation_columns:[{}],action_columns:[act_*],episode_column:id"
    both = f"dataset.mixture=[{{{own.format(table, 'obs_*')}}},{{{own.format(table, 'obs_1')}}}]"
    settings = [each for each in SETTINGS if not each.startswith("dataset")]
    with pytest.raises(data.DatasetError, match="has 1 observation and 2 action features, but the first one 4 obs"):
        env_of(load("dataset=mixture", *settings, both))
    alike = env_of(load("dataset=mixture", *settings, both.replace("obs_1", "obs_*")))
    assert alike.action_low.tolist() == list(LOW)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["online=finetune"], "online=finetune collects episodes, and env=none has no simulator"),
        (["env.kwargs={a:1}"], "env.kwargs={'a': 1} has no effect with env=none"),
        (["env.reference=[0,1]"], "write env.reference=null"),
        (["env.best_by=initial"], "env.best_by=initial is unknown; there are td_error, "),
        (["env.action_low=x"], "env.action_low=x: it must be a finite number, a list of such"),
        (["env.id=Hopper-v5", "env.best_by=td_error"], "env.best_by=td_error has no effect with env.id=Hopper-v5"),
        (["env.id=Hopper-v5", "env.action_high=1"], "env.action_high=1 has no effect with env.id=Hopper-v5"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(table: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(table, *overrides)
    assert said in str(caught.value)


def test_a_search_needs_a_named_scorer(table: Path, tmp_path: Path) -> None:
    config.register()
    with hydra.initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        given = [*SETTINGS, f"dataset.path={table}", "hydra/sweeper=optuna"]
        root = hydra.compose("train", overrides=given, return_hydra_config=True)
    with pytest.raises(
        ConfigError, match=r"OptunaSweeper needs a number to maximise.* e\.g\. env\.best_by=initial_value"
    ):
        folders._sweep_plan(root, tmp_path)
    root.env.best_by = "initial_value"
    assert folders._sweep_plan(root, tmp_path)["base"]["env"]["id"] == "none"


# Runs -----------------------------------------------------------------------------------------------------------------


class Absent:
    """Refuses to find packages that nothing may need."""

    packages = ("gymnasium", "mujoco", "minari")

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in self.packages:
            raise ImportError(f"{name} must not be imported")


def test_neither_gymnasium_nor_mujoco_is_imported(table: Path, tmp_path: Path) -> None:
    plain = config.to_dict(chosen(table, "env.best_by=initial_value", "n_steps=10"))

    def task() -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] in (*Absent.packages, "cql", "hydra_plugins"):
                del sys.modules[name]
        sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
        from cql import config
        from cql.training import experiment

        print(experiment.run(config.from_dict(plain), tmp_path / "run"))  # noqa: T201

    assert os.waitpid(fork(task, tmp_path / "said"), 0)[1] == 0, (tmp_path / "said").read_text()
    assert float((tmp_path / "said").read_text().split()[-1]) == summary(tmp_path / "run")["objective"]
    assert (tmp_path / "run" / "key_curves.png").stat().st_size > 10_000


def test_a_run_is_scored_on_all_episodes_or_on_those_held_out(table: Path, tmp_path: Path) -> None:
    outcomes = {}
    for name, fraction in (("all", 0.0), ("held", 0.25)):
        own = chosen(table, f"dataset.validation_fraction={fraction}", "n_epochs_per_eval=2")
        assert math.isnan(experiment.run(own, tmp_path / name))
        rows = read_metrics(tmp_path / name)
        assert [row["step"] for row in rows if "offline_td_error" in row] == [20, 30]
        assert not any(key.startswith("eval_") for row in rows for key in row)
        found = outcomes[name] = summary(tmp_path / name)
        assert {f"offline_{scorer}": rows[-1][f"offline_{scorer}"] for scorer in DIRECTIONS}.items() <= found.items()
        assert (found["status"], found["objective"], found["best_step"]) == ("finished", None, None)
        assert not (tmp_path / name / "checkpoints" / "best.pt").exists()
        assert not (tmp_path / name / "videos").exists()
    assert outcomes["all"]["offline_td_error"] != outcomes["held"]["offline_td_error"]


@pytest.mark.parametrize("scorer", ["initial_value", "td_error"])
def test_the_best_checkpoint_and_the_objective_are_those_of_the_named_scorer(
    scorer: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([2.0, 3.0, 1.0])
    from cql.algorithm import scorers

    scores = scorers.scores
    monkeypatch.setattr(scorers, "scores", lambda *args: scores(*args) | {scorer: next(given)})
    objective = experiment.run(chosen(table, f"env.best_by={scorer}"), tmp_path / "run")
    sign, step, best = (1, 20, 3.0) if scorer == "initial_value" else (-1, 30, 1.0)
    assert objective == sign * 1.0
    found = summary(tmp_path / "run")
    assert (found["best_step"], found[f"best_offline_{scorer}"], found[f"offline_{scorer}"]) == (step, best, 1.0)
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == step
    assert run_folder.score(found) == objective


def test_a_scorer_that_is_not_defined_fails_the_run_by_name(table: Path, tmp_path: Path) -> None:
    # With the same return in all episodes, none is a good one.
    own = chosen(table, "env.best_by=soft_opc", "dataset.n_episodes=1")
    with pytest.raises(experiment.RunFailed, match=r"env\.best_by=soft_opc is not defined on these data"):
        experiment.run(own, tmp_path / "run")


def test_killed_and_resumed_it_ends_as_if_undisturbed(table: Path, tmp_path: Path) -> None:
    own = chosen(table, "env.best_by=initial_value", "dataset.validation_fraction=0.25")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    update = Agent.update

    def dying(self: Agent, *args: Any) -> torch.Tensor:
        if self.n_steps_done == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *args)

    def task() -> None:
        Agent.update = dying  # type: ignore[method-assign]
        experiment.run(own, killed)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(task), 0)[1]) == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(killed)] == [10]
    assert experiment.run(own, killed) == experiment.run(own, undisturbed)
    assert (killed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    names = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert "best.pt" in names
    for name in names:
        assert_same(*(checkpoint.load(folder / "checkpoints" / name) for folder in (killed, undisturbed)))
    assert summary(killed) == summary(undisturbed)


def test_a_run_does_not_depend_on_its_stack(table: Path, tmp_path: Path) -> None:
    alike = ("network.width=64", "batch_size=64", "n_steps=20", "env.best_by=initial_value")  # rounded alike
    own = chosen(table, *alike)
    other = dataclasses.replace(own, seed=7)
    alone = experiment.run(own, tmp_path / "alone")
    for directory, each in ((tmp_path / "a", other), (tmp_path / "b", own)):
        claim_folder(each, directory)
    assert experiment.run_stack([other, own], [tmp_path / "a", tmp_path / "b"])[1] == alone
    assert read_metrics(tmp_path / "b") == read_metrics(tmp_path / "alone")
    assert read_metrics(tmp_path / "a") != read_metrics(tmp_path / "alone")
    # A finished run is left as it is.
    assert experiment.run_stack([other, own], [tmp_path / "a", tmp_path / "b"])[1] == alone


# Afterwards -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    own = chosen(table, "env.best_by=initial_value", "n_steps=10", "dataset.action_columns=[act_0]")
    experiment.run(own, folder)
    return folder


def test_its_policy_acts_within_the_bounds_of_the_data(trained: Path) -> None:
    policy = load_run(trained)
    assert (policy.spaces.action_low.tolist(), policy.spaces.action_high.tolist()) == ([-2], [2])
    assert load_behaviour(trained / "checkpoints" / "best.pt", "x").bounds == (np.float32([-2]), np.float32([2]))


def test_it_is_evaluated_where_there_is_a_simulator_of_its_sizes(trained: Path) -> None:
    with pytest.raises(EnvError) as caught:
        evaluate(trained)
    assert "was trained without a simulator (env=none)" in str(caught.value)
    assert f"scripts/judge.py {trained}), or name an environment of the same sizes with --env ID" in str(caught.value)
    with pytest.raises(EnvError, match=r"it has 11 observation and 3 action features, but the policy of .* 4 and 1"):
        evaluate(trained, env="Hopper-v5")
    found = evaluate(trained, env="InvertedPendulum-v5", n_episodes=2, seed=3)
    assert (found.env_id, len(found.returns), found.scores) == ("InvertedPendulum-v5", 2, None)
    # Played once more, by the policy in units of its data.
    import gymnasium

    env, policy = gymnasium.make("InvertedPendulum-v5"), load_run(trained, "last")
    observation, _ = env.reset(seed=3)
    return_, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        return_, ended = return_ + float(reward), terminated or truncated
    assert found.returns[0] == return_


def test_what_it_begins_with_has_the_same_bounds(table: Path, trained: Path, tmp_path: Path) -> None:
    overrides = ("dataset.action_columns=[act_0]", f"init_from={trained}")
    with pytest.raises(FolderError, match=r"scaled by other bounds: set env\.action_low=\[-2\] env\.action_high=\[2\]"):
        experiment.run(chosen(table, *overrides, "env.action_low=-3"), tmp_path / "other")
    experiment.run(chosen(table, *overrides, "env.action_low=-2", "env.action_high=2"), tmp_path / "same")
    assert summary(tmp_path / "same")["step"] == 30


def test_it_stands_in_wandb_by_its_dataset(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = chosen(table, "logger=wandb_offline")
    found: dict[str, Any] = {}
    monkeypatch.setattr("cql.training.wandb_run.open_wandb", lambda *_, **given: found.update(given))
    open_wandb_run(own, env_of(own), tmp_path, disabled=False)
    assert (found["group"], config.task_label(own)) == ("log", "log")
    assert (
        config.task_label(dataclasses.replace(own, env=dataclasses.replace(own.env, id="Hopper-v5"))) == "Hopper-v5/log"
    )
