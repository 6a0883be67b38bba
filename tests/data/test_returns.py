"""Returns to go by each rule, against loops; rewards by the range of returns; clipped actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config, write_dataset

from cql import data
from cql.config import TrainConfig
from cql.data.returns import returns_to_go
from cql.rollout.envs import env_info
from cql.training import build

CPU = torch.device("cpu")
# Three episodes: one that never succeeds, one that does and fails again, one that ends with its success.
REWARDS = np.array([-5, -5, -5, -5, 5, -5, -5, 5], np.float32)
LENGTHS = np.array([3, 3, 2])
DISCOUNT = 0.9


def by_loop(rule: str) -> list[float]:
    found: list[float] = []
    start = 0
    for length in LENGTHS.tolist():
        own = REWARDS[start : start + length].tolist()
        fails = {"truncate": False, "all": set(own) == {-5.0}, "last": own[-1] == -5.0}[rule]
        following, returns = 0.0, []
        for reward in reversed(own):
            following = reward + DISCOUNT * following
            returns.append(-5.0 / (1 - DISCOUNT) if fails else following)
        found += returns[::-1]
        start += length
    return found


@pytest.mark.parametrize("rule", ["truncate", "all", "last"])
def test_returns_to_go_are_those_of_a_loop(rule: str) -> None:
    failure = None if rule == "truncate" else -5.0
    found = returns_to_go(REWARDS, LENGTHS, DISCOUNT, failure=failure, by_last=rule == "last")
    np.testing.assert_allclose(found, by_loop(rule))
    n_failed = {"truncate": 0, "all": 3, "last": 6}[rule]
    assert np.isclose(found, -50.0).sum() == n_failed


def loaded(path: Path, *overrides: str) -> tuple[TrainConfig, data.Transitions]:
    train_config = tiny_config(path, *overrides)
    return train_config, build.load_data(train_config, env_info(train_config.env.id), CPU)


def test_each_run_of_a_stack_has_the_returns_of_its_discount(dataset: Path) -> None:
    configs, pools = [], []
    for discount in (0.9, 0.99, 0.9):
        own = loaded(dataset, "algorithm/penalty=cal_ql", f"algorithm.discount={discount}", "dataset.reward_bias=-2")
        configs.append(own[0])
        transitions = own[1]
        pools.append(build.as_pool(transitions, configs[-1:]))
    together = build.as_pool(transitions, configs)
    assert together.returns_to_go is not None
    assert together.returns_to_go.shape == (2, len(transitions))
    index = torch.arange(0, 100, 7)
    batch = together.take(index.expand(3, -1))
    for run, pool in enumerate(pools):
        expected = pool.take(index[None]).returns_to_go
        assert batch.returns_to_go is not None
        assert expected is not None
        assert torch.equal(batch.returns_to_go[run], expected[0])
    assert build.as_pool(transitions, [loaded(dataset)[0]]).returns_to_go is None  # nobody needs them


def test_rewards_by_the_range_of_returns(dataset: Path, tmp_path: Path) -> None:
    raw = data.load_d4rl(dataset)
    (_, plain), (_, normalised) = loaded(dataset), loaded(dataset, "dataset.normalise_rewards=true")
    factor = 1000 / np.ptp(raw.episode_returns)
    torch.testing.assert_close(normalised.rewards, plain.rewards * float(factor))
    assert normalised.reward_scale == pytest.approx(factor)
    one = write_dataset(tmp_path / "one.hdf5", n_episodes=1)
    with pytest.raises(data.DatasetError, match=r"set dataset\.normalise_rewards=false"):
        loaded(one, "dataset.normalise_rewards=true")


def test_actions_are_clipped_after_they_are_scaled(dataset: Path) -> None:
    (_, plain), (_, clipped) = loaded(dataset), loaded(dataset, "dataset.action_clip=0.5")
    assert float(plain.actions.abs().max()) > 0.9
    assert torch.equal(clipped.actions, plain.actions.clamp(-0.5, 0.5))
