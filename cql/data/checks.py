"""Checks of a dataset against the environment it is used with."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.commands import command, override
from cql.config.keys import env_option
from cql.config.schema import NO_SIMULATOR
from cql.data.raw import DatasetError, RawData, empty_error, slices
from cql.rollout.envs import EnvInfo, EnvSpec, env_differences, own_argument, same_env

log = logging.getLogger(__name__)

# Actions are stored in float32, so an action on a bound may exceed it by a rounding error.
ACTION_TOLERANCE = 1e-5

_ENV_ID = "env.id="
_CONTINUES = "continuing_task"  # gymnasium-robotics' mazes: whether an episode goes on at the goal


def check(raw: RawData, env: EnvInfo, *, ends_at_success: bool = False) -> None:
    """Refuse a dataset that does not fit its environment or holds impossible values.

    Args:
        raw: the dataset.
        env: the environment the policy will be evaluated in.
        ends_at_success: whether the episodes will be cut at their first success, so that the environment has to end
            there too, whatever that of the recording did.

    Raises:
        DatasetError: the dataset is empty; it was recorded in another environment; its sizes, shapes or dtypes do not
            fit; a value is NaN or infinite; an action lies outside the bounds. The message says where.
    """
    if not len(raw):
        raise empty_error(raw.name)
    check_source(raw, env, ends_at_success=ends_at_success)
    m, action_low, action_high = len(raw), env.action_low, env.action_high
    for key, shape, dtype in (
        ("rows", (len(raw.rows), env.observation_size), np.float32),
        ("row", (m,), np.int64),
        ("actions", (m, env.action_size), np.float32),
        ("rewards", (m,), np.float32),
        ("terminated", (m,), np.bool_),
        ("truncated", (m,), np.bool_),
        ("episode", (m,), np.int64),
    ):
        array = getattr(raw, key)
        if array.shape != shape or array.dtype != dtype:
            raise DatasetError(
                f"dataset '{raw.name}': {key} must be {np.dtype(dtype)} of shape {shape}, found {array.dtype} of shape "
                f"{array.shape}"
            )
    first, last = int(raw.row.min()), int(raw.row.max())
    if first < 0 or last > len(raw.rows) - 2:
        raise DatasetError(
            f"dataset '{raw.name}': row counts from {first} to {last}, but there are {len(raw.rows)} rows, and a next "
            "observation behind each is needed"
        )
    for key, stored in (("observations", raw.rows), ("actions", raw.actions), ("rewards", raw.rewards)):
        if all(np.isfinite(stored[part]).all() for part in slices(len(stored))):
            continue
        # Rows are those of observations or of next observations, so here is what is wrong with one of them.
        for named in (key,) if key != "observations" else ("observations", "next_observations"):
            refuse_non_finite(raw, named)
    if any((_excess(raw.actions[part], action_low, action_high) > ACTION_TOLERANCE).any() for part in slices(m)):
        excess = _excess(raw.actions, action_low, action_high)
        beyond = excess > ACTION_TOLERANCE
        row, column = np.unravel_index(np.argmax(excess), excess.shape)
        own = "env.action_low and env.action_high" if env.env_id == NO_SIMULATOR else ""
        raise DatasetError(
            f"dataset '{raw.name}': {int(beyond.any(axis=1).sum())} of {m} actions lie outside the bounds of "
            f"{own or env.env_id}, the farthest with {raw.actions[row, column]:g} in column {column} "
            f"({place(raw, row)}), where the bounds are [{action_low[column]:g}, {action_high[column]:g}]: clip them "
            "in the file"
            + (f", or change {own}" if own else "")
            + ("" if own or raw.env_id is not None else ", or set env.id=... to the environment of the recording")
        )


def check_source(raw: RawData, env: EnvInfo, option: str = _ENV_ID, *, ends_at_success: bool = False) -> None:
    """Refuse a dataset from another environment.

    Args:
        raw: the dataset.
        env: the environment.
        option: how a user names the environment.
        ends_at_success: as in :func:`check`.

    Raises:
        DatasetError: the dataset names another environment, or has other sizes.
    """
    env_id = env.env_id
    if env_id == NO_SIMULATOR:  # all that is known of it is what the data say
        return
    if raw.env_id is not None and not same_env(raw.env_id, env_id):
        advice = f"{option}{raw.env_id}"
        # Without a file of its own, the present environment was chosen by env.id, which would win over env=OPTION.
        if option == _ENV_ID and env_option(env_id) is not None and (name := env_option(raw.env_id)) is not None:
            advice = f"env={name}"
        raise DatasetError(
            f"dataset '{raw.name}' was recorded in {raw.env_id}, but the environment is {env_id}: "
            f"set {advice} or choose another dataset"
        )
    recorded_kwargs = dict(raw.env_kwargs)
    if ends_at_success and own_argument(env.spec, _CONTINUES) is not None:
        if own_argument(env.spec, _CONTINUES):
            raise DatasetError(
                f"dataset.end_at_success=true makes the goal the end of an episode, but {env_id} goes on there and "
                f"rewards each step: set env.kwargs={{{_CONTINUES}:false}}"
            )
        recorded_kwargs[_CONTINUES] = False
    recorded_with = EnvSpec.of("", recorded_kwargs, raw.max_episode_steps)
    if raw.env_id is not None and (others := env_differences(recorded_with, env.spec)):
        changed = [line.partition("=")[0] for line in others]
        own = {key: value for key, value in recorded_with.kwargs.items() if key in {*changed, *env.spec.kwargs}}
        settings = [override("env.kwargs", own or None)] if own or env.spec.kwargs else []
        settings += [f"env.max_episode_steps={raw.max_episode_steps}"] if "max_episode_steps" in others[-1] else []
        raise DatasetError(
            f"dataset '{raw.name}' was recorded in {raw.env_id} with {', '.join(others)}: "
            f"set {command(*settings)} or choose another dataset"
            + ("; or cut its episodes by dataset.end_at_success=true" if _CONTINUES in changed else "")
        )
    if raw.observation_keys is not None and raw.observation_keys != env.observation_keys:
        raise DatasetError(
            f"dataset '{raw.name}' holds {'+'.join(raw.observation_keys)} of a Dict observation, but the policy sees "
            + (f"{'+'.join(env.observation_keys)} of {env_id}: " if env.observation_keys else f"all of {env_id}, ")
            + (
                f"set {override('env.observation_keys', list(raw.observation_keys))}"
                if env.observation_keys
                else f"which is no Dict: set {option}... to the environment of the recording"
            )
        )
    if raw.env_id is None and "AntMaze_" in env_id:
        log.warning(
            "'%s' does not say where it was recorded. If it is one of D4RL's, %s is another maze: there the origin is "
            "the start and y points the other way, so a policy learned from it cannot be judged here", raw.name, env_id,
        )  # fmt: skip
    for key, array, wanted in (
        ("observations", raw.rows, env.observation_size),
        ("actions", raw.actions, env.action_size),
    ):
        if array.ndim == 2 and array.shape[1] != wanted:
            remedy = (
                f"the dataset does not say which environment it is from: set {option}... to that one"
                if raw.env_id is None
                else "the file says that it was recorded there: record it again, or get another copy of it"
            )
            raise DatasetError(
                f"dataset '{raw.name}': {key} have {array.shape[1]} features, but {env_id} has {wanted}; {remedy}"
            )


def refuse_non_finite(raw: RawData, key: str) -> None:
    """Refuse NaN and infinite values of an array.

    Raises:
        DatasetError: there are some; the message names the first.
    """
    array = getattr(raw, key).reshape(len(raw), -1)
    wrong = ~np.isfinite(array)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f", column {column}" if key != "rewards" else ""
        raise DatasetError(
            f"dataset '{raw.name}': {int(wrong.sum())} value(s) of {key} are NaN or infinite, the first is "
            f"{array[row, column]} in {place(raw, row)}{where}: leave out such episodes or repair the file"
        )


def _excess(actions: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[Any]:
    """How far actions lie beyond their bounds, (..., A); negative within them."""
    excess: NDArray[Any] = np.maximum(low - actions, actions - high)
    return excess


def place(raw: RawData, row: Any) -> str:
    """Return "episode e, step t" of a transition."""
    episode = raw.episode[row]
    return f"episode {episode}, step {row - np.searchsorted(raw.episode, episode)}"
