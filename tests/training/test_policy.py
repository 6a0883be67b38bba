"""A loaded policy acts as in evaluation, values actions in the environment's units, and says what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

import cql
from cql.algorithm import networks
from cql.rollout.envs import EnvError, make_env, to_env_actions
from cql.training import build, checkpoint, evaluate, experiment
from cql.training.checkpoint import CheckpointError
from cql.training.networks import load_values
from cql.training.policy import PolicyError

OLD_RUNS = Path(__file__).resolve().parents[1] / "data" / "old_runs"
LOW, HIGH = np.array([-3.0], np.float32), np.array([3.0], np.float32)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory, no_figures: None) -> Path:
    """A run whose actions are between -3 and 3."""
    folder = tmp_path_factory.mktemp("policy") / "run"
    experiment.run(tiny_config(dataset, "n_steps=20", "algorithm.actor_learning_rate=0.01"), folder)
    return folder


@pytest.fixture(scope="module")
def observations(run: Path) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 4))  # float64, as environments give them


def changed(run: Path, path: Path, **changes: object) -> Path:
    """The run's best checkpoint with other entries; those that are None are left out."""
    contents = {**checkpoint.read(run / "checkpoints" / "best.pt"), **changes}
    del contents["format_version"]
    checkpoint.save(path, {name: value for name, value in contents.items() if value is not None})
    return path


def test_it_acts_as_in_evaluation_bit_for_bit(run, observations):
    policy = cql.load(run)
    stacked, _, step = build.load_policy(run / "checkpoints" / "best.pt")
    expected = to_env_actions(stacked(observations[None].astype(np.float32))[0], LOW, HIGH)
    acted = policy.act(observations)
    assert acted.dtype == np.float32
    assert np.array_equal(acted, expected)
    assert np.abs(acted).max() > 1  # the bounds count
    for row in (0, 17, 39):
        assert np.array_equal(policy.act(observations[row]), expected[row])
        assert np.array_equal(policy.act(observations[row].tolist()), expected[row])
    assert np.array_equal(policy.act(torch.tensor(observations)), expected)
    assert policy.step == step
    assert policy.config["env"]["id"] == "InvertedPendulum-v5"


def test_its_episodes_are_those_of_an_evaluation(run):
    policy, evaluation = cql.load(run, "last"), evaluate.evaluate(run, n_episodes=2)
    env, returns = make_env("InvertedPendulum-v5"), []
    for seed in (1000, 1001):
        observation, ended, total = env.reset(seed=seed)[0], False, 0.0
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
            ended, total = terminated or truncated, total + float(reward)
        returns.append(total)
    env.close()
    assert returns == evaluation.returns.tolist()


def test_samples_have_the_policys_spread(run, observations):
    policy, contents = cql.load(run), checkpoint.load(run / "checkpoints" / "best.pt")
    noise = np.random.default_rng(3).standard_normal((1, 40, 1), np.float32)
    parameters = {name: each[None] for name, each in contents["agent"]["parameters"]["actor"].items()}
    states = torch.tensor(observations, dtype=torch.float32) - contents["normaliser"]["mean"]
    inputs = states / contents["normaliser"]["std"]
    mean, log_std = networks.actor(networks.Mlp(16), parameters, inputs[None], -20.0, 2.0)
    expected = 3 * torch.tanh(mean + log_std.exp() * torch.tensor(noise))[0]
    assert np.allclose(policy.act(observations, sample=True, seed=3), expected, atol=1e-5)
    generator = np.random.default_rng(3)
    first, second = (policy.act(observations, sample=True, seed=generator) for _ in range(2))
    assert np.array_equal(first, policy.act(observations, sample=True, seed=3))
    assert not np.array_equal(first, second)


def test_values_are_of_actions_in_the_environments_units(run, observations):
    policy, actions = cql.load(run), np.linspace(-3, 3, 40)[:, None]
    values = policy.q(observations, actions)
    table = load_values(run / "checkpoints" / "best.pt")(observations, actions / 3)
    assert values.shape == (40,)
    assert np.allclose(values, np.diag(table), atol=1e-5)
    assert not np.allclose(values, np.diag(load_values(run / "checkpoints" / "best.pt")(observations, actions / 4)))
    one = policy.q(observations[5], actions[5])
    assert isinstance(one, float)
    assert one == pytest.approx(values[5], abs=1e-5)


def test_parts_of_a_dict_are_joined_in_the_runs_order(run, observations, tmp_path):
    spaces = {**checkpoint.read(run / "checkpoints" / "best.pt")["spaces"], "observation_keys": ["z", "inner/a"]}
    policy = cql.load(changed(run, tmp_path / "dict.pt", spaces=spaces))
    assert policy.spaces.observation_keys == ("z", "inner/a")
    parts = {"inner": {"a": observations[:, 3:]}, "unused": 0, "z": observations[:, :3]}
    assert np.array_equal(policy.act(parts), policy.act(observations))
    one = {"inner": {"a": observations[2, 3:]}, "z": observations[2, :3]}
    assert np.array_equal(policy.act(one), policy.act(observations[2]))
    with pytest.raises(PolicyError, match=r"a mapping of z; arrays under z, inner/a"):
        policy.act({"z": observations})
    with pytest.raises(PolicyError, match=r"shape \(3,\); \(4,\) or \(B, 4\) is needed"):
        policy.act({"z": observations[0, :2], "inner": {"a": observations[0, :1]}})


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(3), r"shape \(3,\); \(4,\) or \(B, 4\) is needed"),
        (np.zeros((2, 2, 4)), r"shape \(2, 2, 4\); \(4,\) or \(B, 4\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (1.0, r"shape \(\)"),
        ("abc", "not an array of numbers"),
        ({"observation": np.zeros(4)}, "a mapping of observation; an array is needed"),
    ],
)
def test_an_observation_that_does_not_fit_is_named(run, observation, message):
    with pytest.raises(PolicyError, match=message):
        cql.load(run).act(observation)


def test_an_action_that_does_not_fit_is_named(run):
    policy = cql.load(run)
    with pytest.raises(PolicyError, match=r"shape \(1,\); \(2, 1\) is needed"):
        policy.q(np.zeros((2, 4)), np.zeros(1))
    with pytest.raises(PolicyError, match=r"shape \(2,\); \(1,\) is needed"):
        policy.q(np.zeros(4), np.zeros(2))


def test_what_cannot_be_loaded_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "sweep" / "run")
    copy = tmp_path / "sweep" / "run"
    assert cql.load(copy, 20).step == cql.load(copy / "checkpoints" / "step_0000020.pt").step == 20
    (copy / "checkpoints" / "best.pt").unlink()
    assert cql.load(copy).step == 20  # the last one, where nothing says which is the best
    with pytest.raises(CheckpointError, match="no checkpoint 'best'; there are: last, 0, 10, 20"):
        cql.load(copy, "best")
    with pytest.raises(PolicyError, match="NaN or infinite"):
        cql.load(copy).act([0.0, np.nan, 0.0, 0.0])
    with pytest.raises(CheckpointError, match=r"sweep holds no checkpoints: .*of a sweep, one of its runs"):
        cql.load(tmp_path / "sweep")
    with pytest.raises(CheckpointError, match="leave out checkpoint=last"):
        cql.load(copy / "checkpoints" / "step_0000020.pt", "last")
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        cql.load(tmp_path / "nowhere")
    with pytest.raises(PolicyError, match="given together"):
        cql.load(copy, "last", action_low=[-1])
    for high in ([1, 1], [-5], [np.inf]):
        with pytest.raises(PolicyError, match="1 finite numbers each"):
            cql.load(copy, "last", action_low=[-1], action_high=high)
    without = checkpoint.read(run / "checkpoints" / "best.pt")["agent"]
    del without["parameters"]["critics"]
    policy = cql.load(changed(run, tmp_path / "actor.pt", agent=without))
    with pytest.raises(CheckpointError, match="its critics"):
        policy.q(np.zeros(4), np.zeros(1))


def test_old_checkpoints_take_their_bounds_from_the_environment_or_the_caller(run, tmp_path):
    old = cql.load(OLD_RUNS / "learned")  # trained before bounds were written down
    assert (old.spaces.action_low, old.spaces.action_high) == (LOW, HIGH)
    given = cql.load(OLD_RUNS / "learned", action_low=[-1], action_high=[1])
    observations = np.random.default_rng(1).normal(size=(3, 4))
    assert np.allclose(3 * given.act(observations), old.act(observations))
    config = json.loads(json.dumps(old.config))
    config["env"]["id"] = "not_to_be_imported:Env-v0"
    foreign = changed(run, tmp_path / "foreign.pt", config=config, spaces=None)
    with pytest.raises(
        EnvError, match=r"would run code of the package 'not_to_be_imported'.*action_low= and action_high="
    ):
        cql.load(foreign)
    assert cql.load(foreign, action_low=[-2], action_high=[2]).spaces.action_high == [2]
    config["env"]["id"] = "NoSuchEnv-v0"
    unknown = changed(run, tmp_path / "unknown.pt", config=config, spaces=None)
    with pytest.raises(EnvError, match=r"cannot make 'NoSuchEnv-v0'.*action_low= and action_high="):
        cql.load(unknown)
