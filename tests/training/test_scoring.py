"""Held-out episodes, and the scores of a run on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from cql import config, data
from cql.algorithm import networks
from cql.algorithm.scorers import Scored, scores
from cql.rollout.envs import env_info
from cql.training import build, experiment
from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics

pytestmark = pytest.mark.usefixtures("no_figures")


def loaded(dataset: Path, *overrides: str) -> data.Transitions:
    chosen = tiny_config(dataset, *overrides)
    return build.load_data(chosen, env_info(build.env_spec(chosen)), torch.device("cpu"))


def test_held_out_episodes_and_the_others_are_the_dataset(dataset: Path) -> None:
    raw = data.load_d4rl(dataset)
    kept, held = data.hold_out(raw, 0.3, seed=1)
    assert held is not None
    assert (kept.n_episodes, held.n_episodes) == (14, 6)
    assert sorted([*kept.episode_returns, *held.episode_returns]) == sorted(raw.episode_returns)
    assert len(kept) + len(held) == len(raw)
    again, other = data.hold_out(raw, 0.3, seed=1)[1], data.hold_out(raw, 0.3, seed=2)[1]
    assert again is not None
    assert other is not None
    assert data.fingerprint(again) == data.fingerprint(held) != data.fingerprint(other)
    assert data.hold_out(raw, 0.0) == (raw, None)


def test_training_sees_nothing_of_held_out_episodes(dataset: Path) -> None:
    whole, divided = loaded(dataset), loaded(dataset, "dataset.validation_fraction=0.25")
    held = divided.held_out
    assert held is not None
    assert len(divided) + len(held) == len(whole)
    assert len(divided.episode_lengths) == 15
    # Both are normalised by what training sees.
    assert divided.normaliser is held.normaliser
    assert torch.allclose(divided.observations.mean(0), torch.zeros(4), atol=1e-5)
    assert not torch.allclose(whole.normaliser.mean, divided.normaliser.mean)
    assert whole.fingerprint != divided.fingerprint


def test_held_out_rewards_are_scaled_like_those_of_training(dataset: Path) -> None:
    normalised = ("dataset.validation_fraction=0.25", "dataset.normalise_rewards=true", "dataset.reward_bias=-1")
    divided = loaded(dataset, *normalised)
    held = divided.held_out
    assert held is not None
    assert held.reward_scale == divided.reward_scale != 1.0
    # All raw rewards are 1.
    assert set(held.rewards.tolist()) == set(divided.rewards.tolist())


def test_each_dataset_of_a_mixture_is_divided(dataset: Path) -> None:
    sources = f"dataset.mixture=[{{kind:d4rl,path:{dataset}}},{{kind:d4rl,path:{dataset},n_episodes:8}}]"
    chosen = build_mixture(sources, "dataset.validation_fraction=0.25")
    divided = build.load_data(chosen, env_info(build.env_spec(chosen)), torch.device("cpu"))
    assert divided.held_out is not None
    assert len(divided.episode_lengths) == 15 + 6
    assert len(divided.held_out.episode_lengths) == 5 + 2


def build_mixture(*overrides: str) -> config.TrainConfig:
    from composed import load as composed
    from tiny import OVERRIDES

    return composed("dataset=mixture", *OVERRIDES, *overrides)


def test_no_episode_left_to_train_on(dataset: Path) -> None:
    with pytest.raises(data.DatasetError, match=r"validation_fraction=0\.5 holds out 1 of 1 episodes"):
        loaded(dataset, "dataset.n_episodes=1", "dataset.validation_fraction=0.5")


@pytest.mark.parametrize("fraction", ["1.0", "-0.1"])
def test_fraction_out_of_range(dataset: Path, fraction: str) -> None:
    with pytest.raises(config.ConfigError, match="validation_fraction"):
        tiny_config(dataset, f"dataset.validation_fraction={fraction}")


def test_the_metrics_of_an_evaluation_hold_the_scores_of_its_policy(dataset: Path, tmp_path: Path) -> None:
    chosen = tiny_config(dataset, "dataset.validation_fraction=0.25", "n_epochs_per_eval=2")
    experiment.run(chosen, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "offline_td_error" in row] == [20, 40, 60]
    held = loaded(dataset, "dataset.validation_fraction=0.25").held_out
    assert held is not None
    # By plain networks from the last checkpoint, all at once.
    own = load(tmp_path / "run" / "checkpoints" / "step_0000060.pt")["agent"]["parameters"]
    actor, critics = ({name: each[None] for name, each in own[part].items()} for part in ("actor", "critics"))
    shape = build.actor_mlp(chosen)

    def act(states: torch.Tensor) -> torch.Tensor:
        return networks.actor(shape, actor, states[None], -20.0, 2.0)[0][0].tanh()

    def value(states: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
        return networks.critics(shape, critics, states[None], actions[None, None])[0, :, 0].amin(0).double().numpy()

    states, following = held.observations, held.next_observations
    starts = states[np.cumsum(held.episode_lengths) - held.episode_lengths]
    expected = scores(
        Scored(
            rewards=held.rewards.double().numpy(),
            terminated=held.terminated.double().numpy(),
            actions=held.actions.double().numpy(),
            policy_actions=act(states).double().numpy(),
            q_data=value(states, held.actions),
            q_policy=value(states, act(states)),
            q_next=value(following, act(following)),
            lengths=held.episode_lengths,
            initial_values=value(starts, act(starts)),
        ),
        0.99,
    )
    found = {name.removeprefix("offline_"): x for name, x in rows[-1].items() if name.startswith("offline_")}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_scores_of_a_run_do_not_depend_on_its_stack(dataset: Path, tmp_path: Path) -> None:
    alike = ("network.width=64", "batch_size=64")  # rounded alike alone and in a stack
    chosen = tiny_config(dataset, "dataset.validation_fraction=0.25", "n_steps=20", *alike)
    other = dataclasses.replace(chosen, seed=7)
    experiment.run(chosen, tmp_path / "alone")
    for directory, each in ((tmp_path / "a", other), (tmp_path / "b", chosen)):
        experiment.claim_folder(each, directory)
    experiment.run_stack([other, chosen], [tmp_path / "a", tmp_path / "b"])
    assert read_metrics(tmp_path / "b") == read_metrics(tmp_path / "alone")
