"""D4RL's HDF5 files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.data.boundary import reading, stored_here
from cql.data.raw import (
    Column,
    DatasetError,
    DatasetNotFoundError,
    RawData,
    as_flags,
    consecutive,
    each_once,
    empty_error,
    mark_ends,
    slices,
)

log = logging.getLogger(__name__)

# Steps after which the environments of D4RL's gym files truncate an episode.
TIME_LIMIT = 1000


def load_d4rl(path: str | Path, *, time_limit: int = TIME_LIMIT) -> RawData:
    """Read a D4RL HDF5 file in the layout of the gym datasets, `-v2` or older.

    An episode ends where `terminals` or `timeouts` is set; a step with both counts as terminal, and what follows the
    last end is an episode cut short. Files with `next_observations` keep every transition. Without them the next
    observation is the following row's, so the last step of an episode that was cut has none and is left out, as in
    D4RL's `qlearning_dataset`; that of a terminal step, which no return depends on, repeats its own observation.

    Files without `timeouts`, such as the first `-v0` ones, do not say where an episode was cut. By D4RL's rule it
    is cut when it reaches the time limit without a terminal step; a warning says so. (D4RL's own loop counts the
    episode behind a terminal step from 1, and so cuts it a step short of the limit; here all have their full length.)
    Rewards and flags may have the shape (transitions, 1).

    Args:
        path: of the file.
        time_limit: steps after which an episode is cut, at least 1, where the file has no `timeouts`; those of files
            that have them are left alone. The default is the limit of the gym environments.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetError: not an HDF5 file, a missing key, or arrays that do not fit together.
        ValueError: the time limit is below 1.
    """
    import h5py

    if time_limit < 1:
        raise ValueError(f"time_limit must be at least 1, got {time_limit}")

    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(
            f"D4RL file '{path}' does not exist: set dataset.path to an HDF5 file, such as hopper_medium-v2.hdf5"
        )
    remedy = "download it again, and look whether the server sent an error page instead"
    with (
        reading(f"'{path}' ({path.stat().st_size} bytes) cannot be read as HDF5", remedy),
        h5py.File(path, "r") as file,
    ):
        keys = ["observations", "actions", "rewards", "terminals"]
        members = {key: _d4rl_member(file, key, path) for key in keys}
        for key in ("timeouts", "next_observations"):
            if key in file:
                members[key] = _d4rl_member(file, key, path)
        return _d4rl_data(members, path, time_limit)


def _d4rl_data(members: Mapping[str, Any], path: Path, time_limit: int) -> RawData:
    lengths = {key: len(member) for key, member in members.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"D4RL file '{path}': the arrays differ in length: {lengths}")
    if not lengths["rewards"]:
        raise empty_error(str(path))
    observations, next_observations = members["observations"], members.get("next_observations")
    if next_observations is not None and next_observations.shape != observations.shape:
        raise DatasetError(
            f"D4RL file '{path}': observations have {observations.shape[1]} features, but next_observations "
            f"{next_observations.shape[1]}"
        )
    terminated = _flags(members["terminals"], "terminals", path)
    if "timeouts" in members:
        truncated = _flags(members["timeouts"], "timeouts", path) & ~terminated
    else:
        truncated = _at_time_limit(terminated, time_limit)
        log.warning(
            "'%s' has no timeouts, so they were derived: %d episode(s) taken to be cut at %d steps without an end",
            path, int(truncated.sum()), time_limit,
        )  # fmt: skip
    return of_columns(members, terminated, truncated, str(path))


def of_columns(
    members: Mapping[str, Any], terminated: NDArray[np.bool_], truncated: NDArray[np.bool_], name: str
) -> RawData:
    """Make transitions of rows that follow each other in time, by the rules of :func:`load_d4rl`.

    Args:
        members: arrays of M rows, of a file or in memory: ``observations``, ``actions``, ``rewards`` and, if each row
            has its own, ``next_observations``.
        terminated: (M,).
        truncated: (M,), set nowhere where an episode terminated.
        name: of the dataset.

    Raises:
        DatasetError: no transition is left.
    """
    observations, next_observations = members["observations"], members.get("next_observations")
    keep = np.ones_like(terminated)
    if next_observations is None:
        keep = ~truncated
        keep[-1] = terminated[-1]
        if not keep.any():
            raise empty_error(name)
    # The row behind an end begins the next episode.
    ends = terminated | truncated
    episode = consecutive(np.cumsum(ends) - ends, keep)
    actions, rewards = (_filled(members[key], keep) for key in ("actions", "rewards"))
    rows, row = each_once(
        _d4rl_pairs(observations, next_observations, terminated, keep), capacity=len(keep) + int(ends.sum()) + 1
    )
    return mark_ends(
        RawData(
            rows=rows,
            row=row,
            actions=actions,
            rewards=rewards.reshape(-1),
            terminated=terminated[keep],
            truncated=truncated[keep],
            episode=episode,
            name=name,
        )
    )


def _flags(member: Any, key: str, path: Path) -> NDArray[np.bool_]:
    return as_flags(member[()].reshape(-1), f"D4RL file '{path}': '{key}'")


def _at_time_limit(terminated: NDArray[np.bool_], limit: int) -> NDArray[np.bool_]:
    """Which steps (M,) end an episode by being its last within the limit; a terminal one ends it by itself."""
    index = np.arange(len(terminated))
    begins = np.append(True, terminated[:-1])  # behind a terminal step
    since = index - np.maximum.accumulate(np.where(begins, index, 0))
    return np.asarray((since % limit == limit - 1) & ~terminated)


def _d4rl_pairs(
    observations: Any, next_observations: Any | None, terminated: NDArray[np.bool_], keep: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Read observations and next observations part by part, of the transitions to be kept."""
    for part in _blocks(observations):
        chosen = keep[part]
        if next_observations is not None:
            here, following = _float32(observations[part]), _float32(next_observations[part])
        else:
            # One more, for what follows the part's last; what follows the file's last is not kept, or its own.
            beyond = _float32(observations[part.start : part.stop + 1])
            here, following = beyond[: len(chosen)], np.concatenate([beyond[1:], beyond[-1:]])[: len(chosen)]
            following[terminated[part]] = here[terminated[part]]
        yield (here, following) if chosen.all() else (here[chosen], following[chosen])


def _blocks(member: Any) -> Iterator[slice]:
    """Slices that cover an array and split no chunk of an HDF5 dataset, so that none is decompressed twice."""
    return slices(len(member), (getattr(member, "chunks", None) or (1,))[0])


def _filled(member: Any, keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Read an array of numbers as float32, of the transitions to be kept."""
    column = Column(np.float32, int(keep.sum()))
    for part in _blocks(member):
        values, chosen = _float32(member[part]), keep[part]
        column.extend(values if chosen.all() else values[chosen])
    return column.array()


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and `check` names it
        return values.astype(np.float32, copy=False)


def _d4rl_member(file: Any, key: str, path: Path) -> Any:
    """An array of a file, not yet read."""
    import h5py

    if key not in file:
        raise DatasetError(f"D4RL file '{path}' has no '{key}'; it holds {', '.join(sorted(file)) or 'nothing'}")
    if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
        raise DatasetError(f"D4RL file '{path}': '{key}' is a link to another file, which is not read")
    member = file[key]
    n_axes = 2 if key in {"observations", "actions", "next_observations"} else 1
    if (
        not isinstance(member, h5py.Dataset)
        or not (member.ndim == n_axes or (n_axes == 1 and member.shape[1:] == (1,)))
        or member.dtype.kind not in "fiub"
    ):
        found = f"shape {member.shape}, {member.dtype}" if isinstance(member, h5py.Dataset) else "a group"
        shape = "(transitions, features)" if n_axes == 2 else "(transitions,)"
        raise DatasetError(f"D4RL file '{path}': '{key}' must be an array of numbers of shape {shape}, found {found}")
    return stored_here(member, f"D4RL file '{path}': '{key}'")
