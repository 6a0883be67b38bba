"""The yardsticks of recorded data against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cql.data import RawData, prepare
from cql.data.yardsticks import yardsticks

RNG = np.random.default_rng(0)
LENGTHS = (3, 40, 1, 6)
CUT = (False, True, False, True)  # by a time limit
M = sum(LENGTHS)


def transitions(actions: np.ndarray, states: np.ndarray | None = None, **given: float):
    ends = np.cumsum(LENGTHS) - 1
    terminated, truncated = np.zeros(M, bool), np.zeros(M, bool)
    for end, is_cut in zip(ends, CUT, strict=True):
        (truncated if is_cut else terminated)[end] = True
    rewards = np.random.default_rng(1).standard_normal(M).astype(np.float32)
    rows = np.zeros((M + len(LENGTHS), 2), np.float32)
    row = np.arange(M) + np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    rows[row] = RNG.standard_normal((M, 2)) if states is None else states
    raw = RawData(
        name="x",
        episode=np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        rows=rows,
        row=row,
        actions=actions.astype(np.float32),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
    )
    bound = np.ones(actions.shape[1], np.float32)
    return prepare(raw, action_low=-bound, action_high=bound, **given), rewards


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99])
def test_returns_are_discounted_and_cut_episodes_go_on(discount: float) -> None:
    data, rewards = transitions(RNG.uniform(-1, 1, (M, 1)), reward_scale=2.0, reward_bias=0.5)
    rewards, returns = 2.0 * rewards.astype(np.float64) + 0.5, []
    for end, length, is_cut in zip(np.cumsum(LENGTHS), LENGTHS, CUT, strict=True):
        own = rewards[end - length : end]
        value = own.mean() / (1.0 - discount) if is_cut else 0.0
        for reward in own[::-1]:
            value = reward + discount * value
            returns.append(value)
    found = yardsticks(data, discount)
    wanted = {"return_min": min(returns), "return_mean": np.mean(returns), "return_max": max(returns),
              "reward_min": rewards.min(), "reward_max": rewards.max()}  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert (found["episodes"], found["time_limit"]) == (4, 40)
    assert (found["reward_scale"], found["reward_bias"], found["action_size"]) == (2.0, 0.5, 1)


def test_noise_is_the_distance_of_actions_at_neighbouring_states_of_other_episodes() -> None:
    states = RNG.standard_normal((M, 2))
    smooth = yardsticks(transitions(0.3 * states[:, :1], states)[0], 0.9)
    random = yardsticks(transitions(RNG.uniform(-0.5, 0.5, (M, 1)), states)[0], 0.9)
    assert smooth["action_noise"] < 0.7 * smooth["action_spread"]
    assert random["action_noise"] > random["action_spread"]
    # The nearest episodes are those before and after: the second one for the first and the third, and the first for it.
    apart = np.repeat([-0.4, 0.4, -0.4, -0.4], LENGTHS)[:, None]
    far = np.repeat([0.0, 5.0, 100.0, 200.0], LENGTHS)[:, None] * np.ones((1, 2))
    found = yardsticks(transitions(apart, far)[0], 0.9)
    assert found["action_noise"] == pytest.approx((3 + 40 + 1) * 0.8 / M, rel=1e-5)


def test_the_share_at_the_bounds_counts_components() -> None:
    actions = np.zeros((M, 2))
    actions[:10] = [-1.0, 0.98]
    assert yardsticks(transitions(actions)[0], 0.9)["at_bounds"] == pytest.approx(10 / (2 * M), rel=1e-5)
