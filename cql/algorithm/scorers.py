"""Scorers: numbers that judge a policy by recorded data alone, without an environment.

Functions of arrays: values come from the critics that were trained with the policy, so they cost a few passes. Axes: M
transitions, E episodes, A action. Fitted Q evaluation, which trains critics of its own, is in :mod:`cql.algorithm.fqe`.

Sources:
    - [Fu] Fu et al., Benchmarks for Deep Off-Policy Evaluation, 2021.
    - [Irpan] Irpan et al., Off-Policy Evaluation via Off-Policy Classification, 2019.
    - [Paine] Paine et al., Hyperparameter Selection for Offline Reinforcement Learning, 2020.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class Scored(NamedTuple):
    """Whole episodes of recorded data, with a policy's actions and its critics' lowest values.

    Attributes:
        rewards: (M,), as the critics see them.
        terminated: (M,), 1 if the episode truly ended.
        actions: recorded, (M, A) in [-1, 1].
        policy_actions: of the deterministic policy at the same states, (M, A).
        q_data: values of the recorded actions, (M,).
        q_policy: of the policy's, (M,).
        q_next: of the policy's at the next states, (M,).
        lengths: transitions of each episode, in their order, (E,).
        initial_values: of the policy's actions in initial states, of these or of more episodes.
    """

    rewards: Floats
    terminated: Floats
    actions: Floats
    policy_actions: Floats
    q_data: Floats
    q_policy: Floats
    q_next: Floats
    lengths: NDArray[np.int64]
    initial_values: Floats


def scores(scored: Scored, discount: float) -> dict[str, float]:
    """All scorers of one policy, by their names; those that are not defined are left out."""
    found = {
        "td_error": td_error(scored.q_data, scored.rewards, scored.terminated, scored.q_next, discount),
        "q_data": float(scored.q_data.mean()),
        "q_policy": float(scored.q_policy.mean()),
        "advantage": float((scored.q_policy - scored.q_data).mean()),
        "soft_opc": soft_opc(scored.q_data, scored.rewards, scored.lengths),
        "action_distance": action_distance(scored.policy_actions, scored.actions),
        "initial_value": float(scored.initial_values.mean()),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def td_error(q_data: Floats, rewards: Floats, terminated: Floats, q_next: Floats, discount: float) -> float:
    """mean_M (Q(s, a) - r - discount (1 - terminated) Q(s', pi(s')))^2; on held-out episodes, a measure of overfitting.

    It says how well the critics fit, not how good the policy is [Paine].
    """
    target = rewards + discount * (1.0 - terminated) * q_next
    return float(np.square(q_data - target).mean())


def soft_opc(q_data: Floats, rewards: Floats, lengths: NDArray[np.int64]) -> float:
    """Mean value of the actions of good episodes less that of all [Irpan, section 4].

    Good are the episodes whose return is above the median, or that have the largest one if none is above. NaN if all
    have the same return.
    """
    starts = np.cumsum(lengths) - lengths
    returns = np.add.reduceat(rewards, starts)
    good = returns > np.median(returns)
    if not good.any():
        good = returns == returns.max()
    if good.all():
        return math.nan
    return float(q_data[np.repeat(good, lengths)].mean() - q_data.mean())


def action_distance(policy_actions: Floats, actions: Floats) -> float:
    """Mean Euclidean distance of the policy's action from the recorded one, in actions scaled to [-1, 1]."""
    return float(np.linalg.norm(policy_actions - actions, axis=-1).mean())


def at_bounds(actions: Floats) -> float:
    """The share of the components of actions, scaled to [-1, 1], that are within 0.01 of a bound."""
    return float((np.abs(actions) > 0.99).mean())
