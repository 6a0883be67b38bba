"""Transitions as a file holds them, in the environment's units, with each observation stored once.

An observation is one row of an array. A transition stores the index of its row, and its next observation is the row
after that. If a file says otherwise (the end of an episode, a transition that was left out), the next observation has a
row of its own, so the arrays hold exactly what two full arrays would hold.

Axes: M transitions, N rows of observations, S state features, A action features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Transitions that are read, compared, checked or hashed at a time, which bounds the temporary memory.
CHUNK = 65536


class DatasetError(ValueError):
    """A dataset cannot be used; the message names the array, the place and what to do."""


class DatasetNotFoundError(DatasetError):
    """A dataset was not found, locally or on the hub."""


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """Transitions as recorded, in the environment's own units, grouped by episode.

    The last transition of every episode is either terminated or truncated, and no other one is. An episode that a file
    leaves unfinished counts as truncated; a step with both flags counts as terminated.

    Attributes:
        rows: (N, S) float32, the observations of all episodes, including the last ones.
        row: (M,) int64, the row of a transition's observation; its next observation is the row after that.
        actions: (M, A) float32, within the environment's bounds.
        rewards: (M,) float32.
        terminated: (M,) bool, the episode ended in a terminal state: its return stops here.
        truncated: (M,) bool, the recording was cut here: the return would have gone on.
        episode: (M,) int64, 0 for the first episode, 1 for the second, and so on.
        name: the dataset's id or path, for messages.
        env_id: the environment it was recorded in, None if the dataset does not name it.
        env_kwargs: its arguments, as far as the dataset names them.
        max_episode_steps: its time limit, None if the dataset does not name it.
        observation_keys: the parts of a Dict observation that the rows were made of, in their order; None if the
            dataset holds vectors and does not name any.
        success: (M,) bool, whether the environment reported a success in a step; None if the dataset does not say.
    """

    rows: NDArray[np.float32]
    row: NDArray[np.int64]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode: NDArray[np.int64]
    name: str
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: int | None = None
    observation_keys: tuple[str, ...] | None = None
    success: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def observations(self) -> NDArray[np.float32]:
        """(M, S) float32, gathered anew at each call."""
        return self.rows[self.row]

    @property
    def next_observations(self) -> NDArray[np.float32]:
        """(M, S) float32, gathered anew at each call."""
        return self.rows[self.row + 1]

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return int(self.episode[-1]) + 1 if len(self) else 0

    @property
    def episode_returns(self) -> NDArray[Any]:
        """Undiscounted return of each episode, (n_episodes,)."""
        return np.bincount(self.episode, weights=self.rewards, minlength=self.n_episodes)

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """Number of transitions of each episode, (n_episodes,)."""
        return np.bincount(self.episode, minlength=self.n_episodes).astype(np.int64)


def empty_error(name: str) -> DatasetError:
    """The error for a dataset without transitions."""
    return DatasetError(f"dataset '{name}' is empty: it holds no transitions")


def slices(length: int, block: int = 1) -> Iterator[slice]:
    """Consecutive slices of about :data:`CHUNK` rows that cover an array; each begins at a multiple of ``block``."""
    step = -(-CHUNK // block) * block
    return (slice(start, start + step) for start in range(0, length, step))


def as_flags(values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Flags as truth values; NumPy would make one of any text or number.

    Args:
        values: (M,).
        name: of the column, for the message.

    Raises:
        DatasetError: they are not numbers, or others than 0 and 1.
    """
    if values.dtype.kind not in "biuf":
        raise DatasetError(f"{name} must hold flags, found {values.dtype}")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetError(f"{name} is {values[row]} in row {row}; a flag is 0 or 1")
    return np.asarray(values, np.bool_)


class Column:
    """An array that is filled from its beginning.

    Args:
        dtype: of the values, whatever comes in.
        capacity: how many there will be, as far as is known. Memory that is never written is never taken, so that
            guessing too high costs nothing; guessing too low costs a copy.
    """

    def __init__(self, dtype: type[np.generic], capacity: int) -> None:
        self._dtype, self._capacity = dtype, capacity
        self._values: NDArray[Any] | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: NDArray[Any]) -> None:
        """Add values behind those there are; all of one shape but for the first axis."""
        filled = self.extended(len(values), values.shape[1:])
        filled[...] = values

    def extended(self, length: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Lengthen the column by ``length`` values and return the part to fill."""
        before, self._length = self._length, self._length + length
        if self._values is None:
            self._values = np.empty((max(self._capacity, self._length), *shape), self._dtype)
        elif self._length > len(self._values):
            larger = np.empty((2 * self._length, *shape), self._dtype)
            larger[:before] = self._values[:before]
            self._values = larger
        return self._values[before : self._length]

    def last(self) -> NDArray[Any]:
        """The last value."""
        assert self._values is not None
        value: NDArray[Any] = self._values[self._length - 1]
        return value

    def array(self) -> NDArray[Any]:
        """All values, in just the memory they need; the column is not to be used any more."""
        assert self._values is not None
        values, self._values = self._values, None
        values.resize((self._length, *values.shape[1:]), refcheck=False)  # cuts the end off, without a copy
        return values


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which vectors of two arrays (..., S) are the same bit for bit, (...)."""
    return np.asarray((a.view(np.uint32) == b.view(np.uint32)).all(axis=-1))


def each_once(
    pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], capacity: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Store the observations of successive transitions once.

    Where the next observation of a transition is bit for bit the observation of the following one, the two share a row.

    Args:
        pairs: observations and next observations in parts of any length, each (n, S) and in memory without gaps.
        capacity: how many rows and how many transitions there will be, as far as is known.

    Returns:
        The rows (N, S), and the row of each transition's observation (M,); the row after that is its next observation.
    """
    rows, row = Column(np.float32, capacity), Column(np.int64, capacity)
    for observations, next_observations in pairs:
        if not len(observations):
            continue
        continues = np.empty(len(observations), bool)  # from the transition before
        continues[0] = len(rows) > 0 and _same_bits(rows.last(), observations[0])
        continues[1:] = _same_bits(next_observations[:-1], observations[1:])
        begin = len(rows) - 1  # the row that the first one shares if it continues
        offsets = np.cumsum(np.where(continues, 1, 2)) - 1  # counted from `begin`
        row.extend(begin + offsets)
        # A transition that continues overwrites its row with the same bits.
        added = rows.extended(int(offsets[-1]) + 1, observations.shape[1:])
        if continues[0]:
            added[offsets[1:] - 1] = observations[1:]
        else:
            added[offsets - 1] = observations
        ends = np.append(~continues[1:], True)
        added[offsets[ends]] = next_observations[ends]
    return rows.array(), row.array()


def mark_ends(raw: RawData) -> RawData:
    """Make the last transition of each episode terminated or truncated; a step with both flags is terminated."""
    last = np.append(raw.episode[1:] != raw.episode[:-1], True)
    return dataclasses.replace(raw, truncated=(raw.truncated | last) & ~raw.terminated)


def consecutive(episode: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ascending episode indices of the transitions that are kept, renumbered as 0, 1, 2, ..."""
    kept = episode if keep.all() else episode[keep]
    new = np.empty(len(kept), bool)
    new[0], new[1:] = False, kept[1:] != kept[:-1]
    return np.cumsum(new, dtype=np.int64)


def select_episodes(
    raw: RawData, *, n_episodes: int | None = None, fraction: float | None = None, seed: int = 0
) -> RawData:
    """Choose whole episodes at random, without replacement, and keep them in their order.

    With one seed a smaller choice is part of every larger one, so that an experiment over sizes adds data as it goes.

    Args:
        raw: the dataset.
        n_episodes: how many episodes, or None.
        fraction: which part of the episodes in (0, 1], at least one episode, or None. With neither, all are kept.
        seed: seed of the choice.

    Raises:
        DatasetError: both are given, or more is asked for than there is.
    """
    if n_episodes is None and fraction is None:
        return raw
    if n_episodes is not None and fraction is not None:
        raise DatasetError("dataset.n_episodes and dataset.fraction exclude each other: set one of them to null")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise DatasetError(f"dataset.fraction must be in (0, 1], got {fraction}")
        n_episodes = max(1, round(fraction * raw.n_episodes))
    assert n_episodes is not None
    if not 0 < n_episodes <= raw.n_episodes:
        raise DatasetError(f"dataset.n_episodes={n_episodes}, but '{raw.name}' has episodes 1 to {raw.n_episodes}")
    chosen = np.zeros(raw.n_episodes, dtype=bool)
    chosen[np.random.Generator(np.random.PCG64(seed)).permutation(raw.n_episodes)[:n_episodes]] = True
    return raw if chosen.all() else _kept(raw, chosen[raw.episode])


def hold_out(raw: RawData, fraction: float, seed: int = 0) -> tuple[RawData, RawData | None]:
    """Divide a dataset into episodes to train on and episodes that are held out, both in their order.

    Args:
        raw: the dataset.
        fraction: share of the episodes to hold out, at least one episode; 0 holds out none.
        seed: of the choice, which is another one than :func:`select_episodes` makes.

    Raises:
        DatasetError: no episode would be left to train on.
    """
    if not fraction:
        return raw, None
    n_held = max(1, round(fraction * raw.n_episodes))
    if n_held >= raw.n_episodes:
        raise DatasetError(
            f"dataset '{raw.name}': dataset.validation_fraction={fraction:g} holds out {n_held} of {raw.n_episodes} "
            "episodes and leaves none to train on: set it to 0, or use more episodes"
        )
    held = np.zeros(raw.n_episodes, dtype=bool)
    held[np.random.Generator(np.random.PCG64([seed, 1])).permutation(raw.n_episodes)[:n_held]] = True
    return _kept(raw, ~held[raw.episode]), _kept(raw, held[raw.episode])


def end_at_success(raw: RawData, *, ends_there: bool = True) -> RawData:
    """Cut each episode behind its first success, and make that step terminal.

    For datasets of tasks that end at the goal whose recording went on, as Minari's AntMaze: there each later step at
    the goal is rewarded too, so a return counts how long a policy stayed.

    Args:
        raw: the dataset. A step is a success if the dataset says so; or else if its reward is 1, where all rewards
            are 0 or 1.
        ends_there: whether the environment is known to end there; otherwise a warning says that it is not.

    Raises:
        DatasetError: the dataset does not say when an episode succeeded.
    """
    success = raw.success
    if success is None:
        other = raw.rewards[(raw.rewards != 0) & (raw.rewards != 1)]
        if len(other):
            raise DatasetError(
                f"dataset '{raw.name}' does not say when an episode succeeds: it has no infos/success, and rewards "
                f"other than 0 and 1, such as {other[0]:g}: set dataset.end_at_success=false"
            )
        success = raw.rewards == 1
    n_successful = len(np.unique(raw.episode[success]))
    log.log(
        logging.INFO if n_successful else logging.WARNING,
        "'%s': %d of %d episodes are cut at their first success", raw.name, n_successful, raw.n_episodes,
    )  # fmt: skip
    if not ends_there:
        log.warning("whether the environment ends at a success cannot be told; data and evaluation may differ in it")
    if not n_successful:
        return raw
    n_before = np.cumsum(success) - success  # successes before each step, since the dataset's beginning
    starts = np.searchsorted(raw.episode, np.arange(raw.n_episodes))
    keep = n_before == n_before[starts][raw.episode]
    cut = dataclasses.replace(raw, terminated=raw.terminated | success, truncated=raw.truncated & ~success)
    return mark_ends(_kept(cut, keep))


def _kept(raw: RawData, keep: NDArray[np.bool_]) -> RawData:
    """Some of the transitions (M,), with the observations that they need."""
    row = raw.row[keep]
    used = np.zeros(len(raw.rows), dtype=bool)
    used[row] = used[row + 1] = True
    return dataclasses.replace(
        raw,
        rows=raw.rows[used],
        row=(np.cumsum(used) - 1)[row],
        actions=raw.actions[keep],
        rewards=raw.rewards[keep],
        terminated=raw.terminated[keep],
        truncated=raw.truncated[keep],
        episode=consecutive(raw.episode, keep),
        success=None if raw.success is None else raw.success[keep],
    )


def fingerprint(raw: RawData) -> str:
    """Return 16 hexadecimal digits that identify the transitions: equal data have equal ones."""
    m = len(raw)
    digest = hashlib.sha256()
    for field in ("observations", "actions", "rewards", "next_observations", "terminated", "truncated"):
        if field.endswith("observations"):
            # As if the array had been gathered whole: the fingerprints in checkpoints know nothing of rows.
            shift, shape = int(field == "next_observations"), (m, *raw.rows.shape[1:])
            parts = (raw.rows[raw.row[part] + shift] for part in slices(m))
            dtype = raw.rows.dtype
        else:
            array = np.ascontiguousarray(getattr(raw, field))
            parts, shape, dtype = (array[part] for part in slices(m)), array.shape, array.dtype
        digest.update(f"{field} {dtype} {shape} ".encode())
        for values in parts:
            digest.update(values.data)
    return digest.hexdigest()[:16]
