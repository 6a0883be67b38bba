"""What recorded data alone tell of an environment, for training without a simulator."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.config.schema import NO_SIMULATOR
from cql.data.checks import refuse_non_finite
from cql.data.raw import DatasetError, RawData, empty_error
from cql.rollout.envs import EnvInfo, EnvSpec

log = logging.getLogger(__name__)


def recorded_info(
    raws: Iterable[RawData], *, action_low: Any = None, action_high: Any = None, max_episode_steps: int | None = None
) -> EnvInfo:
    """Sizes, bounds of the actions and time limit of the environment that data were recorded in.

    Args:
        raws: the dataset, or those of a mixture.
        action_low: lower bounds, one number or A of them; None for the lowest action of the data in each column.
        action_high: upper bounds; None for the highest.
        max_episode_steps: time limit; None for that which the data name, or else the length of the longest episode.

    Raises:
        DatasetError: a dataset is empty or has other sizes than the first, bounds have another length than an action,
            or an action has no range.
    """
    lows, highs, limits, sizes = [], [], [], []
    for raw in raws:
        if not len(raw):
            raise empty_error(raw.name)
        refuse_non_finite(raw, "actions")
        keys = raw.observation_keys or ()
        own = f"{raw.rows.shape[1]} observation and {raw.actions.shape[1]} action features {'+'.join(keys)}".strip()
        sizes.append(own)
        if own != sizes[0]:
            raise DatasetError(f"dataset '{raw.name}' has {own}, but the first one {sizes[0]}: leave one of them out")
        lows.append(raw.actions.min(axis=0))
        highs.append(raw.actions.max(axis=0))
        limits.append(raw.max_episode_steps or int(raw.episode_lengths.max()))
    low = _bounds(action_low, "action_low", np.min(lows, axis=0))
    high = _bounds(action_high, "action_high", np.max(highs, axis=0))
    without_range = np.flatnonzero(~(low < high))
    if len(without_range):
        index = int(without_range[0])
        raise DatasetError(
            f"action {index} (counted from 0) has the bounds {low[index]:g} and {high[index]:g}, by the data where "
            "none are given: leave it out of the actions, or give env.action_low=[...] and env.action_high=[...]"
        )
    limit = max_episode_steps or max(limits)
    log.info(
        "no simulator: %s, actions from %s to %s (env.action_low, env.action_high), episodes of up to %d steps "
        "(env.max_episode_steps)", sizes[0], _listed(low), _listed(high), limit,
    )  # fmt: skip
    # A dataset does not tell the sizes of the parts that its observations were put together of.
    parts = tuple((key, 0) for key in keys)
    return EnvInfo(EnvSpec(NO_SIMULATOR), raw.rows.shape[1], len(low), low, high, limit, 1.0, parts)


def _bounds(given: Any, name: str, found: NDArray[np.float32]) -> NDArray[np.float32]:
    if given is None:
        return found
    bounds = np.asarray(given, np.float32)
    if bounds.ndim and len(bounds) != len(found):
        raise DatasetError(f"env.{name} has {len(bounds)} numbers, but an action of the dataset has {len(found)}")
    return np.broadcast_to(bounds, found.shape).copy()


def _listed(bounds: NDArray[np.float32]) -> str:
    return f"[{', '.join(f'{each:.4g}' for each in bounds)}]"
