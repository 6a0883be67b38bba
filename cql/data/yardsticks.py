"""What recorded data say of values and actions: the numbers that a run's own are held against.

Axes: M transitions, E episodes, A action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.algorithm.scorers import action_distance, at_bounds
from cql.data.transitions import Transitions

_MOST_STATES, _MOST_COMPARED = 500, 10_000  # whose nearest state is looked for, and among how many


def yardsticks(transitions: Transitions, discount: float) -> dict[str, float]:
    """The yardsticks by name, of rewards as the critics see them and of actions scaled to [-1, 1].

    ``reward_min`` and ``reward_max``; ``return_min``, ``return_mean`` and ``return_max`` of the discounted returns to
    go, where an episode that a time limit cut is taken to continue at its mean reward; ``reward_scale`` and
    ``reward_bias``, unless datasets that were joined have their own; ``episode_return``, the mean return of an episode
    as the environment gave it, undiscounted, where the scale is known; ``episodes``; ``time_limit``, the length of the
    longest episode that was cut, if any was; ``action_size``; ``at_bounds``, the share of the actions' components at a
    bound; ``action_spread``, the mean distance of an action from the mean action; ``action_noise``, from that of the
    nearest state of another episode, if there is one.
    Six digits each, so that other machines find the same.

    Args:
        transitions: recorded data.
        discount: per step, below 1.
    """
    rewards = np.asarray(transitions.rewards.double().cpu().numpy(), np.float64)
    actions, lengths = transitions.actions.cpu().numpy(), transitions.episode_lengths
    ends = np.cumsum(lengths) - 1
    is_cut = transitions.terminated.cpu().numpy()[ends] == 0.0
    continued, means = rewards.copy(), np.add.reduceat(rewards, ends + 1 - lengths) / lengths
    continued[ends] += np.where(is_cut, discount * means / (1.0 - discount), 0.0)
    left = np.repeat(ends, lengths) - np.arange(len(rewards))
    returns = _to_go(continued, left, discount)
    scale, bias = transitions.reward_scale, transitions.reward_bias
    found = {
        "episodes": len(lengths),
        "episode_return": (rewards - bias).sum() / (scale * len(lengths)) if scale else np.nan,
        "time_limit": lengths[is_cut].max(initial=0) or np.nan,
        "reward_min": rewards.min(),
        "reward_max": rewards.max(),
        "return_min": returns.min(),
        "return_mean": returns.mean(),
        "return_max": returns.max(),
        "reward_scale": scale,
        "reward_bias": bias,
        "action_size": actions.shape[1],
        "at_bounds": at_bounds(actions),
        "action_spread": action_distance(actions, actions.mean(0)),
        "action_noise": _noise(transitions, actions, np.repeat(np.arange(len(lengths)), lengths)),
    }
    return {name: float(f"{value:.6g}") for name, value in found.items() if np.isfinite(value)}


def _to_go(rewards: NDArray[np.float64], left: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """Discounted returns (M,), each from two shorter ones: as many passes as the longest episode's length has bits.

    :func:`cql.data.returns.discounted_returns` is exact, but SciPy's filters take a second to import.
    """
    found, step = rewards.copy(), 1
    while step <= left.max() and discount**step > 1e-9:
        found[:-step] += discount**step * np.where(left[:-step] >= step, found[step:], 0.0)
        step *= 2
    return found


def _noise(transitions: Transitions, actions: NDArray[Any], episode: NDArray[np.int64]) -> float:
    """See :func:`yardsticks`; NaN if there is one episode alone."""
    if episode[-1] == 0:
        return np.nan
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(actions))[:_MOST_COMPARED]
    states = transitions.rows[transitions.row[chosen]].double().cpu().numpy()
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    few = slice(_MOST_STATES)
    distances = np.square(states).sum(1) - 2.0 * states[few] @ states.T  # but for a constant of each state
    distances[episode[chosen][few, None] == episode[chosen]] = np.inf
    nearest = chosen[distances.argmin(1)]
    return action_distance(actions[nearest], actions[chosen[few]])
