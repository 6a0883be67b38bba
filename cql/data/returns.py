"""Discounted returns of recorded episodes.

Axes: M transitions, E episodes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def discounted_returns(rewards: NDArray[Any], lengths: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """The discounted return from each transition to the end of its episode, (M,) float64.

    G_i = r_i + discount G_{i+1}, and nothing follows the last transition, whether it was terminated or truncated.

    Args:
        rewards: (M,), episode after episode.
        lengths: (E,) of the episodes.
        discount: per step.
    """
    from scipy.signal import lfilter

    parts = np.split(rewards.astype(np.float64)[::-1], np.cumsum(lengths[::-1])[:-1])
    return np.concatenate([lfilter([1.0], [1.0, -discount], part) for part in parts])[::-1].copy()


def returns_to_go(
    rewards: NDArray[Any],
    lengths: NDArray[np.int64],
    discount: float,
    *,
    failure: float | None = None,
    by_last: bool = False,
) -> NDArray[np.float64]:
    """What Cal-QL takes as the value of the data: :func:`discounted_returns`, and a rule for sparse tasks.

    A sum that a time limit cuts is too low where rewards are positive, so that the floor is loose, and too high where
    they are negative, as in a task that costs something until it succeeds. There, an episode that never succeeds is
    taken to fail for ever, as in the code published with Cal-QL.

    Args:
        rewards: (M,), episode after episode, as the critics see them.
        lengths: (E,) of the episodes.
        discount: per step, below 1.
        failure: the reward of a failure. Episodes without any other reward have the return failure / (1 - discount)
            throughout. None for no such rule.
        by_last: apply the rule to all episodes whose last reward is that of a failure, as CORL does.
    """
    found = discounted_returns(rewards, lengths, discount)
    if failure is not None:
        ends = np.cumsum(lengths)
        other = rewards != failure
        succeeded = other[ends - 1] if by_last else np.logical_or.reduceat(other, ends - lengths)
        found[np.repeat(~succeeded, lengths)] = failure / (1.0 - discount)
    return found
