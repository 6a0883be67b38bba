"""Observations as one vector: Dict observations and boxes of more dimensions are flattened.

The same keys in the same order are used for data, evaluation and collection.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.spaces import Space

GOAL_KEYS = ("achieved_goal", "observation", "desired_goal")
"""Of goal environments, in the order of D4RL's AntMaze with the goal behind. An ant's position is in `achieved_goal`
alone."""


class ObservationError(ValueError):
    """An observation is not one vector of numbers, nor can be made one."""


def flattened(
    env: gymnasium.Env[Any, Any], keys: Sequence[str] | None
) -> tuple[gymnasium.Env[Any, Any], tuple[tuple[str, int], ...]]:
    """An environment whose observations are one vector (S,), and the parts that these consist of.

    Args:
        env: the environment.
        keys: of its Dict observation, in their order; None for the default. See :func:`parts_of`.

    Raises:
        ObservationError: its observations cannot be made vectors.
    """
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation

    parts = parts_of(env.observation_space, keys)
    shape = env.observation_space.shape or ()
    if not parts and len(shape) == 1:
        return env, ()
    size = sum(size for _, size in parts) if parts else int(np.prod(shape))
    to_vector = functools.partial(flat, keys=[key for key, _ in parts], n_axes=0)
    return TransformObservation(env, to_vector, Box(-np.inf, np.inf, (size,), np.float64)), parts


def flat(observation: Any, keys: Sequence[str], n_axes: int) -> NDArray[Any]:
    """Arrays of a Dict observation side by side.

    Args:
        observation: nested mappings of arrays, each (..., its own shape); or one array, if there are no keys.
        keys: which arrays, in their order; `outer/inner` is inside a Dict of a Dict.
        n_axes: how many axes `...` has: 0 of an observation, 1 of an episode's.

    Returns:
        (..., S).
    """
    arrays = [np.asarray(at(observation, key)) for key in keys] if keys else [np.asarray(observation)]
    return np.concatenate([array.reshape(*array.shape[:n_axes], -1) for array in arrays], axis=-1)


def at(nested: Any, key: str) -> Any:
    """A member of nested mappings; raises KeyError if there is none."""
    for part in key.split("/"):
        nested = nested[part]
    return nested


def parts_of(space: Space[Any], keys: Sequence[str] | None) -> tuple[tuple[str, int], ...]:
    """Which parts of an observation are used, in their order, and how many numbers each has.

    Args:
        space: of the observations.
        keys: of a Dict, as the user gave them; None for the default: those of :data:`GOAL_KEYS` that are boxes in a
            goal environment, or the only one.

    Returns:
        Pairs of key and size; none for a box.

    Raises:
        ObservationError: the space is neither a Box of numbers nor a Dict with such boxes, keys are given for a box, or
            a key is not in the Dict, or is given twice, or is needed.
    """
    from gymnasium.spaces import Dict

    if not isinstance(space, Dict):
        if keys is not None:
            raise ObservationError(
                f"the observation space is {_named(space)}, which has no keys: leave out env.observation_keys"
            )
        _check_box(space, "the observation space")
        return ()
    present = leaves(space)
    listed = ", ".join(present)
    if keys is None:
        usable = {key: _why_unusable(each) is None for key, each in present.items()}
        keys = default_keys(usable)
        if keys is None:
            raise ObservationError(
                f"the observation space is a Dict of {listed}: " + which_keys([key for key in present if usable[key]])
            )
    for key in keys:
        if key not in present:
            raise ObservationError(
                f"env.observation_keys: '{key}' is not in the observation space, which is a Dict of {listed}"
            )
        if list(keys).count(key) > 1:
            raise ObservationError(f"env.observation_keys has '{key}' twice: leave one out")
        _check_box(present[key], f"'{key}' of the observation space")
    if not keys:
        raise ObservationError(f"env.observation_keys is empty: choose from {listed}, or write null for the default")
    return tuple((key, int(np.prod(present[key].shape))) for key in keys)


def default_keys(present: Mapping[str, bool]) -> list[str] | None:
    """Which parts of a Dict observation are used if nobody says: those of a goal environment, or the only one.

    A goal may be a Dict itself, as that of FrankaKitchen, and is left out then.

    Args:
        present: the keys of all parts, and whether each can be used.
    """
    if present.get("observation") and any(key.partition("/")[0] == "desired_goal" for key in present):
        return [key for key in GOAL_KEYS if present.get(key)]
    return list(present) if len(present) == 1 and all(present.values()) else None


def which_keys(usable: Sequence[str]) -> str:
    """The remedy for a Dict without a default."""
    if not usable:
        return "none of them is a vector of numbers"
    example = ",".join(usable)
    return (
        f"say which of them the policy sees, and in what order, e.g. env.observation_keys=[{example}] "
        f"(of a script: --observation-keys {example})"
    )


def leaves(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What nested mappings hold, arrays or spaces, by its keys, `outer/inner` inside another mapping."""
    found: dict[str, Any] = {}
    for key, each in nested.items():
        if "/" in key:
            raise ObservationError(f"the observation space has the key '{key}'; one with a stroke cannot be chosen")
        found |= leaves(each, f"{prefix}{key}/") if isinstance(each, Mapping) else {f"{prefix}{key}": each}
    return found


def _why_unusable(space: Any) -> str | None:
    from gymnasium.spaces import Box

    if not isinstance(space, Box):
        return f"is {_named(space)}; a Box of numbers is needed"
    if space.dtype == np.uint8 and len(space.shape) > 1:
        return f"is {_named(space)}, a picture, for which there is no network here; a Box of numbers is needed"
    return None


def _check_box(space: Any, name: str) -> None:
    reason = _why_unusable(space)
    if reason is not None:
        raise ObservationError(f"{name} {reason}")


def _named(space: Any) -> str:
    return f"{type(space).__name__}{space.shape}" if type(space).__name__ == "Box" else str(space)
