"""A look at a dataset before one trains on it: its numbers, and what of them deserves a warning.

:func:`read_minari` and :func:`read_d4rl` read a dataset with what else its file says, and :func:`inspect` counts. A
warning is a :class:`Check` that says when it would appear, what was found and what to do, so that those that found
nothing can be told too. :mod:`cql.results.inspection_page` makes a page of it.

Axes: M transitions, E episodes, S state features, A action features. Standard deviations are those of the population,
as the normalisation of observations takes them. What is NaN or infinite is counted and else left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.data import (
    ACTION_TOLERANCE,
    STD_FLOOR,
    DatasetError,
    DatasetNotFoundError,
    RawData,
    fingerprint,
    load_d4rl,
    load_minari,
    minari_folder,
)
from cql.rollout.envs import EnvInfo, normalised_score

Level = Literal["refused", "warning", "note"]

ENDS = ("terminated", "cut at the time limit", "cut otherwise")
"""How an episode ends."""
TERMINATED, AT_LIMIT, CUT = range(3)

NEVER_TERMINATE = ("HalfCheetah", "HumanoidStandup", "Pendulum", "Pusher", "Reacher", "Swimmer")
"""Gymnasium's continuous environments whose `step` never says `terminated`, without their versions."""

NEAR = 0.01
"""Part of the range between the bounds; an action closer to one of them counts as near it."""

BINS = 100
"""Of the histograms of actions, so that the outermost ones hold what is near a bound."""

AT_BOUND = 1e-6
"""Half-widths of the range; where a likelihood of the data is needed, closer actions are taken as this far."""

EXPLAINED = 0.95
"""The part of the variance that counts as nearly all of it."""

# When a check finds something.
_REWARD_LOW, _REWARD_HIGH = 0.1, 10.0  # root mean square of the rewards other than 0
_FEW_EPISODES = 10
_FLAT = 0.02  # standard deviation of the returns, of their mean
_EXCELLENT_RANGES, _EXCELLENT_SHARE, _EXCELLENT_LEAST = 5.0, 0.05, 20  # interquartile ranges, of episodes, episodes
_MOST_AT_BOUND = 0.01  # of transitions
_MOST_REPEATED = 0.001  # of transitions
_MOST_SHARED_STARTS = 0.1  # of episodes
_MOST_FALSE_ENDS = 0.1  # of episodes as long as the limit
_SCALES = 10.0  # largest by smallest standard deviation
_ROUNDED = 1e-3  # of a standard deviation

_ELEMENTS = 2**20  # numbers that are worked on at a time, so that what is made on the way stays small
_UNKNOWN = 0.05  # weight of the rewards behind a cut
_CELLS = 56  # of the plane, across


# Reading --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A dataset and what its file says besides.

    Attributes:
        raw: the transitions.
        metadata: plain values by their names, as the file has them.
        time_limit: steps after which the file says that an episode is truncated, None where it does not say.
        lost_steps: steps at the end of a truncated episode that the format cannot keep: 1 for D4RL's without next
            observations, else 0.
        rounding: of each array that the file keeps in float64, how far the farthest of its values moves in float32,
            by column and in standard deviations of that column.
    """

    raw: RawData
    metadata: Mapping[str, Any]
    time_limit: int | None = None
    lost_steps: int = 0
    rounding: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    @property
    def has_reference(self) -> bool:
        """Whether the metadata hold returns that score 0 and 100."""
        return {"ref_min_score", "ref_max_score"} <= self.metadata.keys()


def read_minari(dataset_id: str) -> Source:
    """Read a Minari dataset of this machine.

    Raises:
        DatasetNotFoundError: it is not here.
        DatasetError: the id is malformed, or the dataset is damaged or not of flat vectors.
    """
    folder = minari_folder(dataset_id) / "data"
    if not folder.is_dir():
        raise DatasetNotFoundError(
            f"Minari dataset '{dataset_id}' is not at {folder.parent}: `minari list local` shows those that are here, "
            f"`minari download {dataset_id}` fetches it, and MINARI_DATASETS_PATH names the folder to look in"
        )
    raw = load_minari(dataset_id, download=False)
    metadata = json.loads(folder.joinpath("metadata.json").read_text(encoding="utf-8"))
    known = {key: _decoded(value) for key, value in metadata.items() if not key.endswith("_space")}
    spec = known.pop("env_spec", None) or {}
    known.pop("eval_env_spec", None)
    limit = spec.get("max_episode_steps")
    rounding = _minari_rounding(dataset_id, folder, metadata)
    return Source(raw, known, None if limit is None else int(limit), 0, rounding)


def read_d4rl(path: str | Path, env_id: str) -> Source:
    """Read a D4RL file.

    Args:
        path: of the HDF5 file.
        env_id: the environment it was recorded in, which it does not say.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetError: it is not in the layout of D4RL's `-v2` files.
    """
    import h5py

    path = Path(path).expanduser()
    raw = dataclasses.replace(load_d4rl(path), env_id=env_id)
    with h5py.File(path, "r") as file:
        known: dict[str, Any] = {}
        if isinstance(file.get("metadata"), h5py.Group):
            file["metadata"].visititems(lambda name, member: _keep_scalar(known, name, member))
        rounding = {
            key: loss
            for key in ("observations", "actions", "rewards")
            if file[key].dtype == np.float64
            and (loss := _rounding(file[key][part] for part in _slices(len(file[key]), math.prod(file[key].shape[1:]))))
            is not None
        }
        return Source(raw, known, None, 0 if "next_observations" in file else 1, rounding)


def _decoded(value: Any) -> Any:
    """JSON inside of JSON as what it says."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _keep_scalar(known: dict[str, Any], name: str, member: Any) -> None:
    if getattr(member, "size", 0) != 1:  # weights, or a group
        return
    value = np.asarray(member[()]).reshape(-1)[0]
    known[name] = (
        value.decode(errors="replace") if isinstance(value, bytes) else getattr(value, "item", lambda: value)()
    )


def _minari_rounding(dataset_id: str, folder: Path, metadata: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    import h5py
    import minari

    n_episodes = int(metadata["total_episodes"])

    def episodes(key: str) -> Iterator[NDArray[Any]]:
        if metadata.get("data_format", "hdf5") == "hdf5":
            with h5py.File(folder / "main_data.hdf5", "r") as file:
                for index in range(n_episodes):
                    # h5py's own groups take longer than the reading where episodes are short.
                    member = h5py.h5d.open(file.id, f"episode_{index}/{key}".encode())
                    values = np.empty(member.shape, member.dtype)
                    member.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
                    yield values
        else:
            for episode in minari.load_dataset(dataset_id).iterate_episodes():
                yield getattr(episode, key)

    found = {}
    for key in ("observations", "actions", "rewards"):
        first = next(episodes(key))
        if first.dtype == np.float64:
            width = max(1, math.prod(first.shape[1:]))
            loss = _rounding(_together(episodes(key), _ELEMENTS // width))
            if loss is not None:
                found[key] = loss
    return found


def _together(parts: Iterable[NDArray[Any]], length: int) -> Iterator[NDArray[Any]]:
    """Short arrays joined to such of some length."""
    waiting: list[NDArray[Any]] = []
    waits = 0
    for part in parts:
        waiting.append(part)
        waits += len(part)
        if waits >= length:
            yield np.concatenate(waiting)
            waiting, waits = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _rounding(parts: Iterable[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """How far the farthest value moves in float32, by column and in standard deviations; None without values."""
    n, origin, total, squares, farthest = 0, None, 0.0, 0.0, 0.0
    for part in parts:
        values = part.reshape(len(part), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.abs(values - values.astype(np.float32))
        sound = np.isfinite(moved).all(axis=1)
        values, moved = values[sound], moved[sound]
        if not len(values):
            continue
        if origin is None:
            origin = values[0].copy()  # a sum of squares far from 0 would lose what is looked for
        deviations = values - origin
        n += len(values)
        total = total + deviations.sum(axis=0)
        squares = squares + np.square(deviations).sum(axis=0)
        farthest = np.maximum(farthest, moved.max(axis=0))
    if origin is None:
        return None
    std = np.sqrt(np.maximum(np.asarray(squares) / n - np.square(np.asarray(total) / n), 0.0))
    return np.divide(farthest, std, out=np.zeros_like(std), where=std > 0.0)


def _slices(length: int, width: int) -> Iterator[slice]:
    """Slices of a (length, width) array that hold a bounded number of elements and are the whole together."""
    step = max(1, _ELEMENTS // max(1, width))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


# Numbers --------------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """How values spread; NaN where there are none.

    Attributes:
        n: how many there are.
        mean: of them.
        std: of the population.
        min: the smallest.
        q25: a quarter lies below it.
        median: half lies below it.
        q75: three quarters lie below it.
        max: the largest.
    """

    n: int
    mean: float
    std: float
    min: float
    q25: float
    median: float
    q75: float
    max: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """That of the finite ones among values (n,)."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(0, *[math.nan] * 7)
        q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75])
        mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        numbers = (mean, std, values.min(), q25, median, q75, values.max())
        return cls(len(values), *map(float, numbers))


class Histogram(NamedTuple):
    """Counts between edges.

    Attributes:
        counts: (n,) int64.
        edges: (n + 1,).
        outside: values that lie below the first or above the last edge.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    outside: int


class NonFinite(NamedTuple):
    """Values of an array that are NaN or infinite.

    Attributes:
        key: name of the array.
        nan: how many are NaN.
        infinite: how many are infinite.
        columns: in which columns, in order; empty for an array without any.
        where: the first of them, in words.
    """

    key: str
    nan: int
    infinite: int
    columns: tuple[int, ...]
    where: str


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Features of the observations or the actions, (n,) each.

    Attributes:
        mean: of each.
        std: of each.
        min: the smallest.
        max: the largest.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]

    @property
    def constant(self) -> list[int]:
        """Those with one value."""
        return [int(index) for index in np.flatnonzero(self.min == self.max)]


@dataclasses.dataclass(frozen=True, eq=False)
class Coverage:
    """How many directions the observations spread in, each feature on its own scale.

    Attributes:
        explained: (n,) share of the variance in the first 1, 2, ... principal directions of the n features that vary.
        n_directions: how many it takes for 95 % of the variance.
        participation: (sum of the variances)^2 / sum of their squares: n where all are alike, 1 where one is all.
        plane: counts over the first two directions, or None with fewer.
        extent: of the plane: left, right, bottom, top, in standard deviations of the features.
    """

    explained: NDArray[np.float64]
    n_directions: int
    participation: float
    plane: NDArray[np.float64] | None
    extent: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Check:
    """One of the things that a dataset is looked at for.

    Attributes:
        code: short name.
        level: what it means where it finds something: training refuses the data, a warning, or a note.
        title: what is wrong where it finds something.
        threshold: when that is.
        found: what there is, found or not.
        advice: what to do.
        fired: whether it found something.
    """

    code: str
    level: Level
    title: str
    threshold: str
    found: str
    advice: str
    fired: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """All that is known of a dataset.

    Attributes:
        name: its id or path.
        env_id: the environment.
        fingerprint: of the data, as checkpoints keep it.
        metadata: of its file.
        time_limit: steps of the longest episode that the environment allows.
        reference: returns that score 0 and 100, or None.
        n_transitions: M.
        n_episodes: E.
        behaviours: names and numbers of episodes of those that acted one after the other, where the metadata say so.
        returns: (E,) undiscounted; NaN where a reward is no number.
        lengths: (E,) steps.
        ends: (E,) how each ended: 0 terminated, 1 at the time limit, 2 cut otherwise.
        order_correlation: rank correlation of the returns with their order, NaN where it has none.
        rewards: of all transitions.
        reward_size: root of the mean square of the rewards other than 0; NaN where all are 0.
        n_zero_rewards: how many are 0.
        reward_histogram: of all transitions.
        discount: of `discounted`.
        discounted: discounted return of the data from each transition to its episode's end. Where the episode was cut
            so soon that what would have followed weighs more than a twentieth, the transition is left out, unless that
            leaves none.
        cut_short: whether it leaves none: then all are in it, and lower than what they stand for.
        discounted_starts: the same from the first transition of each episode.
        discounted_histogram: of all transitions.
        actions: features of the actions.
        action_low: (A,) bounds.
        action_high: (A,) bounds.
        action_counts: (A, 100) histograms between the bounds.
        near_bound: (A,) share within 1 % of the range from a bound.
        at_bound: share of transitions with a feature at a bound.
        n_outside: transitions with a feature outside the bounds.
        observations: features of the observations.
        coverage: of the observations.
        n_repeated: transitions that repeat an earlier one bit for bit.
        n_repeated_episodes: episodes of nothing but such.
        n_shared_starts: episodes that begin in the very state of an earlier one.
        non_finite: arrays with NaN or infinite values.
        rounding: as in `Source`.
        checks: all of them, those that found nothing included.
    """

    name: str
    env_id: str
    fingerprint: str
    metadata: Mapping[str, Any]
    time_limit: int
    reference: tuple[float, float] | None
    n_transitions: int
    n_episodes: int
    behaviours: Sequence[tuple[str, int]]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ends: NDArray[np.int64]
    order_correlation: float
    rewards: Spread
    reward_size: float
    n_zero_rewards: int
    reward_histogram: Histogram
    discount: float
    discounted: Spread
    cut_short: bool
    discounted_starts: Spread
    discounted_histogram: Histogram
    actions: Columns
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    action_counts: NDArray[np.int64]
    near_bound: NDArray[np.float64]
    at_bound: float
    n_outside: int
    observations: Columns
    coverage: Coverage
    n_repeated: int
    n_repeated_episodes: int
    n_shared_starts: int
    non_finite: Sequence[NonFinite]
    rounding: Mapping[str, NDArray[np.float64]]
    checks: Sequence[Check] = ()

    @property
    def warnings(self) -> list[Check]:
        """The checks that found something, the gravest first."""
        order: list[Level] = ["refused", "warning", "note"]
        return sorted((check for check in self.checks if check.fired), key=lambda check: order.index(check.level))

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """(E,) normalised scores, None without reference returns."""
        return None if self.reference is None else normalised_score(self.returns, *self.reference)


def inspect(
    source: Source, info: EnvInfo, *, reference: tuple[float, float] | None = None, discount: float = 0.99
) -> Inspection:
    """Count everything.

    Args:
        source: the dataset.
        info: of the environment it was recorded in.
        reference: returns that score 0 and 100; None takes those of the metadata where there are such.
        discount: of the discounted returns.

    Raises:
        DatasetError: the dataset is another environment's, or has no observation or no action of finite numbers.
        ValueError: the reference returns are not in order, or the discount is not between 0 and 1.
    """
    raw = source.raw
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount {discount:g}: at least 0 and less than 1")
    _must_fit(raw, info)
    if reference is None and source.has_reference:
        reference = float(source.metadata["ref_min_score"]), float(source.metadata["ref_max_score"])
    if reference is not None:
        normalised_score(0.0, *reference)
    limit = source.time_limit or info.max_episode_steps
    n_episodes, lengths = raw.n_episodes, raw.episode_lengths
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    returns = raw.episode_returns
    returns[~np.isfinite(returns)] = math.nan
    terminated = raw.terminated[starts + lengths - 1]
    ends = np.where(terminated, TERMINATED, np.where(lengths >= limit - source.lost_steps, AT_LIMIT, CUT))
    rewards = raw.rewards[np.isfinite(raw.rewards)].astype(np.float64)
    given = rewards[rewards != 0.0]
    discounted = discounted_returns(raw.rewards, lengths, discount)
    steps_left = (starts + lengths)[raw.episode] - np.arange(len(raw))
    known = (discount**steps_left <= _UNKNOWN) | (ends == TERMINATED)[raw.episode]
    if known.any():
        discounted[~known] = math.nan
    observations, correlation = _moments(raw.rows, raw.row, "observations", raw.name)
    actions, _ = _moments(raw.actions, np.arange(len(raw)), "actions", raw.name)
    counts, near, at_bound, n_outside = _against_bounds(raw.actions, info.action_low, info.action_high)
    repeated = repeated_transitions(raw)
    first_states = np.ascontiguousarray(raw.rows[raw.row[starts]])
    found = Inspection(
        name=raw.name,
        env_id=info.env_id,
        fingerprint=fingerprint(raw),
        metadata=source.metadata,
        time_limit=limit,
        reference=reference,
        n_transitions=len(raw),
        n_episodes=n_episodes,
        behaviours=_behaviours(source.metadata, n_episodes),
        returns=returns,
        lengths=lengths,
        ends=ends,
        order_correlation=_rank_correlation(returns[np.isfinite(returns)]),
        rewards=Spread.of(rewards),
        reward_size=float(np.sqrt(np.square(given).mean())) if len(given) else math.nan,
        n_zero_rewards=len(rewards) - len(given),
        reward_histogram=_histogram(rewards),
        discount=discount,
        discounted=Spread.of(discounted),
        cut_short=not known.any(),
        discounted_starts=Spread.of(discounted[starts]),
        discounted_histogram=_histogram(discounted),
        actions=actions,
        action_low=info.action_low,
        action_high=info.action_high,
        action_counts=counts,
        near_bound=near,
        at_bound=at_bound,
        n_outside=n_outside,
        observations=observations,
        coverage=_coverage(raw, observations, correlation),
        n_repeated=int(repeated.sum()),
        n_repeated_episodes=int((np.bincount(raw.episode, weights=repeated) == lengths).sum()),
        n_shared_starts=n_episodes - len(np.unique(first_states.view(np.uint32), axis=0)),
        non_finite=[entry for key in ("observations", "actions", "rewards") for entry in _non_finite(raw, key)],
        rounding=source.rounding,
    )
    return dataclasses.replace(found, checks=tuple(_checks(found, source.lost_steps)))


def _must_fit(raw: RawData, info: EnvInfo) -> None:
    if raw.env_id is not None and raw.env_id != info.env_id.rpartition(":")[2]:
        raise DatasetError(f"dataset '{raw.name}' was recorded in {raw.env_id}, not in {info.env_id}")
    for key, array, wanted in (
        ("observations", raw.rows, info.observation_size),
        ("actions", raw.actions, info.action_size),
    ):
        if array.shape[1] != wanted:
            raise DatasetError(
                f"dataset '{raw.name}': {key} have {array.shape[1]} features, but {info.env_id} has {wanted}: name the "
                "environment it was recorded in (--env)"
            )


def _behaviours(metadata: Mapping[str, Any], n_episodes: int) -> list[tuple[str, int]]:
    """What acted one after the other, where the metadata say so and their numbers add up."""
    listed = metadata.get("behaviours")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        return []
    found = [(str(each.get("policy", "?")), int(each.get("n_episodes", 0))) for each in listed]
    return found if sum(count for _, count in found) == n_episodes else []


def discounted_returns(rewards: NDArray[Any], lengths: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """The discounted return from each transition to the end of its episode, (M,) float64.

    Args:
        rewards: (M,), those of an episode one after the other.
        lengths: (E,) of the episodes.
        discount: of a step.
    """
    found = rewards.astype(np.float64)
    starts = np.cumsum(lengths) - lengths
    longest_first = np.argsort(-lengths, kind="stable")
    starts, sorted_lengths = starts[longest_first], lengths[longest_first]
    # All episodes at once, from the longest one's last step but one backwards.
    with np.errstate(invalid="ignore", over="ignore"):
        for t in range(int(sorted_lengths[0]) - 2, -1, -1):
            at = starts[: np.searchsorted(-sorted_lengths, -(t + 1), side="left")] + t
            found[at] += discount * found[at + 1]
    return found


def repeated_transitions(raw: RawData) -> NDArray[np.bool_]:
    """Which transitions repeat an earlier one bit for bit, (M,): observations, action, reward and whether it ends."""
    m, n_features = len(raw), raw.rows.shape[1]
    width = 2 * n_features + raw.actions.shape[1] + 2

    def bits(chosen: slice | NDArray[np.int64]) -> NDArray[np.uint32]:
        row = raw.row[chosen]
        parts = (raw.rows[row], raw.rows[row + 1], raw.actions[chosen], raw.rewards[chosen, None])
        columns = [np.ascontiguousarray(part).view(np.uint32) for part in parts]
        return np.concatenate([*columns, raw.terminated[chosen, None].astype(np.uint32)], axis=1)

    generator = np.random.Generator(np.random.PCG64(0))
    factors = generator.integers(2**63, size=(2, width), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(m, np.uint64)
    for part in _slices(m, width):
        mixed = (bits(part) + factors[0]) * factors[1]
        mixed ^= mixed >> np.uint64(32)
        hashes[part] = (mixed * factors[0]).sum(axis=1, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    # Of two neighbours with one hash the second stands later in the data.
    later = 1 + np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    found = np.zeros(m, bool)
    for part in _slices(len(later), 2 * width):
        a, b = order[later[part]], order[later[part] - 1]
        found[a] = (bits(a) == bits(b)).all(axis=1)
    return found


def _moments(
    rows: NDArray[np.float32], row: NDArray[np.int64], key: str, name: str
) -> tuple[Columns, NDArray[np.float64]]:
    """Of the rows that are finite: moments of each feature, and the correlations of those features that vary."""
    n_features = rows.shape[1]
    n, total = 0, np.zeros(n_features)
    low, high = np.full(n_features, np.inf), np.full(n_features, -np.inf)
    for values in _finite(rows, row):
        n, total = n + len(values), total + values.sum(axis=0)
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    if not n:
        raise DatasetError(f"dataset '{name}': not one of its {len(row)} {key} is finite, so there is nothing to show")
    mean, products = total / n, np.zeros((n_features, n_features))
    for values in _finite(rows, row):
        values -= mean
        products += values.T @ values
    std = np.sqrt(products.diagonal() / n)
    std[low == high] = 0.0
    varies = std > 0.0
    correlation = (products / n)[np.ix_(varies, varies)] / np.outer(std[varies], std[varies])
    return Columns(mean, std, low, high), correlation


def _finite(rows: NDArray[np.float32], row: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Rows by their numbers, part by part and in float64, without those that hold NaN or infinity."""
    for part in _slices(len(row), rows.shape[1]):
        values = rows[row[part]]
        sound = np.isfinite(values).all(axis=1)
        if sound.any():
            yield values[sound].astype(np.float64)


def _against_bounds(
    actions: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float, int]:
    """Histograms (A, 100), shares near a bound (A,), share of actions at a bound, and number of those outside."""
    n_features = actions.shape[1]
    counts, near = np.zeros((n_features, BINS), np.int64), np.zeros(n_features)
    n, at_bound, n_outside = 0, 0, 0
    for values in _finite(actions, np.arange(len(actions))):
        n += len(values)
        outside = np.maximum(low - values, values - high) > ACTION_TOLERANCE
        n_outside += int(outside.any(axis=1).sum())
        place = (values - low) / (high - low).astype(np.float64)
        inner = np.minimum(place, 1.0 - place)  # of the range; the half-width is half of it
        near += ((inner <= NEAR) & ~outside).sum(axis=0)
        at_bound += int(((2.0 * inner <= AT_BOUND) & ~outside).any(axis=1).sum())
        bins = np.clip((place * BINS).astype(np.int64), 0, BINS - 1) + BINS * np.arange(n_features)
        counts += np.bincount(bins.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts, near / n, at_bound / n, n_outside


def _coverage(raw: RawData, columns: Columns, correlation: NDArray[np.float64]) -> Coverage:
    if not len(correlation):
        return Coverage(np.zeros(0), 0, 0.0, None, (0.0, 0.0, 0.0, 0.0))
    variances, directions = np.linalg.eigh(correlation)
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    explained = np.cumsum(variances) / variances.sum()
    n_directions = int(np.searchsorted(explained, EXPLAINED - 1e-9)) + 1
    participation = float(variances.sum() ** 2 / np.square(variances).sum())
    if len(variances) < 2:
        return Coverage(explained, n_directions, participation, None, (0.0, 0.0, 0.0, 0.0))
    # An eigenvector's sign is arbitrary: its largest part is made positive.
    axes = directions[:, :2] * np.sign(directions[np.abs(directions[:, :2]).argmax(axis=0), [0, 1]])
    varies = columns.std > 0.0
    shift, scale = columns.mean[varies], columns.std[varies]
    projected = [
        (((values[:, varies] - shift) / scale) @ axes).astype(np.float32) for values in _finite(raw.rows, raw.row)
    ]
    places = np.concatenate(projected)
    (left, bottom), (right, top) = np.quantile(places, [0.001, 0.999], axis=0).astype(float)
    extent = left, max(right, left + 1e-6), bottom, max(top, bottom + 1e-6)
    plane, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=_CELLS, range=(extent[:2], extent[2:]))
    return Coverage(explained, n_directions, participation, plane, extent)


def _non_finite(raw: RawData, key: str) -> Iterator[NonFinite]:
    """What is NaN or infinite in an array: each stored observation counts once, whoever shares it."""
    array = raw.rows if key == "observations" else getattr(raw, key)
    columns, n_nan, n_infinite, first = set[int](), 0, 0, None
    flat = array.reshape(len(array), -1)
    for part in _slices(*flat.shape):
        wrong = ~np.isfinite(flat[part])
        if wrong.any():
            n_nan += int(np.isnan(flat[part]).sum())
            n_infinite += int(np.isinf(flat[part]).sum())
            columns |= {int(column) for column in np.flatnonzero(wrong.any(axis=0))}
            if first is None:
                first = part.start + int(np.argmax(wrong.any(axis=1)))
    if first is None:
        return
    transition, note = first, ""
    if key == "observations":
        transition = int(np.searchsorted(raw.row, first, side="right")) - 1
        note = "" if raw.row[transition] == first else ", in the observation behind it"
    episode = int(raw.episode[transition])
    step = transition - int(np.searchsorted(raw.episode, episode))
    yield NonFinite(
        key,
        n_nan,
        n_infinite,
        tuple(sorted(columns)) if array.ndim == 2 else (),
        f"episode {episode}, step {step}{note}",
    )


def _rank_correlation(values: NDArray[np.float64]) -> float:
    """Spearman's, of values with their order; those alike keep it."""
    if len(values) < 3 or values.min() == values.max():
        return math.nan
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def _histogram(values: NDArray[np.float64], bins: int = 60) -> Histogram:
    """Between the quantiles that leave a thousandth out at each side, so that a few far ones do not hide the rest."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Histogram(np.zeros(1, np.int64), np.array([0.0, 1.0]), 0)
    low, high = (float(x) for x in np.quantile(values, [0.001, 0.999]))
    lowest, highest = float(values.min()), float(values.max())
    if highest - lowest < 1.5 * (high - low):
        low, high = lowest, highest
    if not high > low:
        low, high = low - 0.5 * max(abs(low), 1.0), low + 0.5 * max(abs(low), 1.0)
    counts, edges = np.histogram(values, bins, (low, high))
    return Histogram(counts.astype(np.int64), edges, len(values) - int(counts.sum()))


# Checks ---------------------------------------------------------------------------------------------------------------


def _checks(found: Inspection, lost_steps: int) -> Iterator[Check]:
    yield _check_finite(found)
    yield Check(
        "actions_outside",
        "refused",
        "Actions lie outside the bounds",
        f"any beyond a bound by more than {ACTION_TOLERANCE:g}",
        share_of(found.n_outside, found.n_transitions, "transitions"),
        f"Are they {found.env_id}'s, in its own units rather than in [-1, 1]? Name the environment it was recorded in.",
        found.n_outside > 0,
    )
    yield from _check_ends(found, lost_steps)
    yield from _check_rewards(found)
    yield from _check_returns(found)
    yield from _check_actions(found)
    yield from _check_observations(found)
    yield from _check_repeats(found)


def _check_finite(found: Inspection) -> Check:
    listed = []
    for entry in found.non_finite:
        kinds = [f"{n} {kind}" for n, kind in ((entry.nan, "NaN"), (entry.infinite, "infinite")) if n]
        columns = f" in {_listed(entry.columns)}" if entry.columns else ""
        listed.append(f"{entry.key}: {' and '.join(kinds)}{columns}, first in {entry.where}")
    return Check(
        "non_finite",
        "refused",
        "Values are NaN or infinite",
        "any observation, action or reward",
        "; ".join(listed) or "none",
        "Leave such episodes out or repair the file. What overflows float32 becomes infinite: is a column in the right "
        "unit? All other numbers here are of the finite values.",
        bool(found.non_finite),
    )


def _check_ends(found: Inspection, lost_steps: int) -> Iterator[Check]:
    # A terminal step is never lost.
    as_long = (found.lengths >= found.time_limit - lost_steps * (found.ends != TERMINATED)).nonzero()[0]
    n_false = int((found.ends[as_long] == TERMINATED).sum())
    yield Check(
        "terminals_at_limit",
        "warning",
        "Time limits look like terminal states",
        f"more than {percent(_MOST_FALSE_ENDS)} of the episodes that have all {found.time_limit:,} steps of the limit "
        "are marked as terminated",
        share_of(n_false, len(as_long), "such episodes"),
        "The return stops at a terminal, so the critics would learn an end that is not there. Mark these steps as "
        "truncated (Minari) or in `timeouts` rather than `terminals` (D4RL).",
        n_false > _MOST_FALSE_ENDS * len(as_long),
    )
    n_terminated = int((found.ends == TERMINATED).sum())
    family = found.env_id.rpartition("/")[2].rpartition("-v")[0]
    never = family in NEVER_TERMINATE
    yield Check(
        "never_terminates",
        "warning",
        "Terminal states where there are none",
        f"any terminated episode in an environment that never terminates ({', '.join(NEVER_TERMINATE)})",
        f"{share_of(n_terminated, found.n_episodes, 'episodes')} terminated; {found.env_id} "
        + ("never terminates" if never else "may terminate"),
        "The ends of the recording were taken for terminal states: mark them as truncated or as timeouts.",
        never and n_terminated > 0,
    )
    n_short = int((found.lengths == 1).sum())
    yield Check(
        "single_steps",
        "warning",
        "Episodes of one step",
        "any such episode",
        share_of(n_short, found.n_episodes, "episodes"),
        "Look at the flags of the ends: an end marked twice, or at every step, leaves such episodes behind.",
        n_short > 0,
    )
    yield Check(
        "few_episodes",
        "warning",
        "Few episodes",
        f"fewer than {_FEW_EPISODES}",
        f"{found.n_episodes:,}",
        "What the policy learns depends on a handful of trajectories: judge it over several seeds, and collect more "
        "where that is possible.",
        found.n_episodes < _FEW_EPISODES,
    )


def _check_rewards(found: Inspection) -> Iterator[Check]:
    size = found.reward_size
    none = math.isnan(size)
    yield Check(
        "no_rewards",
        "warning",
        "All rewards are zero",
        "no reward other than 0",
        f"{share_of(found.n_zero_rewards, found.rewards.n, 'rewards')} are 0",
        "There is nothing to tell good actions from bad ones: is the reward written to the file?",
        none,
    )
    scale = 0.0 if none else float(f"{1.0 / size:.1g}")
    yield Check(
        "reward_scale",
        "warning",
        "Rewards on a scale that the defaults do not suit",
        f"root mean square of the rewards other than 0 below {_REWARD_LOW:g} or above {_REWARD_HIGH:g}",
        "no reward other than 0" if none else f"a root mean square of {number(size)}",
        f"alpha_cql, its thresholds and the learning rates are made for rewards of the order of 1: "
        f"`dataset.reward_scale={scale:g}` brings them there. Returns and scores of evaluations stay in the "
        "environment's units.",
        not none and not _REWARD_LOW <= size <= _REWARD_HIGH,
    )


def _check_returns(found: Inspection) -> Iterator[Check]:
    spread = Spread.of(found.returns)
    relative = spread.std / abs(spread.mean) if spread.n and spread.mean else math.inf if spread.std else 0.0
    yield Check(
        "flat_returns",
        "warning",
        "Returns have almost no spread",
        f"standard deviation below {percent(_FLAT)} of the mean, with more than one episode and a reward other than 0",
        f"{percent(relative)} of the mean" if math.isfinite(relative) else "a mean of 0",
        "The episodes are equally good, so that there is little to choose from: cloning (`+arm=bc`) is the baseline to "
        "beat here, and a mixture with other data may teach more.",
        spread.n > 1 and relative < _FLAT and not math.isnan(found.reward_size),
    )
    border = spread.median + max(_EXCELLENT_RANGES * (spread.q75 - spread.q25), 0.1 * abs(spread.median))
    n_best = int((found.returns > border).sum())
    enough = spread.n >= _EXCELLENT_LEAST
    yield Check(
        "few_excellent",
        "warning",
        "A few episodes are far better than the rest",
        f"from one episode to {percent(_EXCELLENT_SHARE)} of them more than {_EXCELLENT_RANGES:g} interquartile ranges "
        f"(and a tenth of the median) above the median, of {_EXCELLENT_LEAST} episodes or more",
        f"{share_of(n_best, found.n_episodes, 'episodes')} above {number(border)}"
        if spread.n
        else "no return is finite",
        "Results hang on how often these are drawn: use all data (`dataset.fraction=null`), train several seeds, and "
        "read the best return against the mean.",
        enough and 0 < n_best <= _EXCELLENT_SHARE * found.n_episodes,
    )


def _check_actions(found: Inspection) -> Iterator[Check]:
    yield Check(
        "actions_at_bound",
        "warning",
        "Actions at the very bound",
        f"more than {percent(_MOST_AT_BOUND)} of transitions with a feature within {AT_BOUND:g} half-widths of a bound",
        f"{percent(found.at_bound)} of transitions",
        "A tanh policy has no finite log-likelihood there. Here such actions are taken as 1 - 1e-6 wherever a "
        "likelihood of the data is needed, which is in cloning alone (`algorithm.bc_steps`, `+arm=bc`): it is then "
        "drawn to the bounds. Critics and the conservative term take them as they are.",
        found.at_bound > _MOST_AT_BOUND,
    )
    constant = found.actions.constant
    yield Check(
        "constant_actions",
        "warning",
        "Constant actions",
        "any feature of the actions with one value",
        _listed(constant) or "none",
        "Data say nothing of other values there: the critics are free to invent them, and only the conservative term "
        "holds the policy back.",
        bool(constant),
    )


def _check_observations(found: Inspection) -> Iterator[Check]:
    columns = found.observations
    constant = columns.constant
    yield Check(
        "constant_columns",
        "warning",
        "Constant observations",
        "any feature of the observations with one value",
        _listed(constant) or "none",
        f"With `dataset.normalise_observations=true` they are divided by {STD_FLOOR:g} alone: a difference of 0.1 in "
        f"an evaluation reaches the networks as {0.1 / STD_FLOOR:g}. Leave these features out, or do not normalise.",
        bool(constant),
    )
    std = columns.std[columns.std > 0.0]
    ratio = float(std.max() / std.min()) if len(std) else 1.0
    yield Check(
        "observation_scales",
        "note",
        "Observations on different scales",
        f"largest standard deviation more than {_SCALES:g} times the smallest, constants left out",
        f"{number(ratio)} times" if len(std) else "no feature varies",
        "Set `dataset.normalise_observations=true` (off by default), or small features are hardly seen at first.",
        ratio > _SCALES,
    )
    worst = {key: int(np.argmax(loss)) for key, loss in found.rounding.items()}
    key = max(worst, key=lambda key: found.rounding[key][worst[key]], default=None)
    loss = 0.0 if key is None else float(found.rounding[key][worst[key]])
    where = "" if key is None or key == "rewards" else f", column {worst[key]}"
    yield Check(
        "float64_precision",
        "warning",
        "Float64 that float32 cannot hold",
        f"a value moves by more than {_ROUNDED:g} standard deviations of its column when it becomes float32",
        "no array is float64" if key is None else f"{number(loss)} at most ({key}{where})",
        "Such a column is small changes on a large offset, as of a clock or a position far out: take the offset away "
        "where the data are recorded.",
        loss > _ROUNDED,
    )


def _check_repeats(found: Inspection) -> Iterator[Check]:
    share = found.n_repeated / found.n_transitions
    episodes = (
        f", among them {found.n_repeated_episodes:,} whole episode{'s' * (found.n_repeated_episodes != 1)}"
        if found.n_repeated_episodes
        else ""
    )
    yield Check(
        "repeated_transitions",
        "warning",
        "Transitions are repeated",
        f"more than {percent(_MOST_REPEATED)} of transitions repeat an earlier one bit for bit",
        share_of(found.n_repeated, found.n_transitions, "transitions") + episodes,
        "They weigh more than others, and a part held out would not be new: was a file joined twice, or an environment "
        "reset with the same seed?",
        share > _MOST_REPEATED,
    )
    yield Check(
        "shared_starts",
        "note",
        "Episodes share their initial states",
        f"more than {percent(_MOST_SHARED_STARTS)} of episodes begin in the very state of an earlier one",
        share_of(found.n_shared_starts, found.n_episodes, "episodes"),
        "Where the environment draws initial states at random, evaluations begin elsewhere than the data: were the "
        "resets seeded alike?",
        found.n_shared_starts > _MOST_SHARED_STARTS * found.n_episodes,
    )


def share_of(n: int, total: int, what: str) -> str:
    """So many of so many, and what share that is."""
    return f"{n:,} of {total:,} {what}" + (f" ({percent(n / total)})" if 0 < n < total else "")


def percent(share: float) -> str:
    """A share in %, with two figures that count."""
    shown = 100.0 * share
    if 0.0 < shown < 0.01:
        return "less than 0.01 %"
    return f"{shown:.0f} %" if shown >= 10.0 else f"{shown:.2g} %"


def _listed(columns: Sequence[int], most: int = 8) -> str:
    """Column 3; columns 1, 2 and so on."""
    if not columns:
        return ""
    shown = ", ".join(map(str, columns[:most])) + (f" and {len(columns) - most} more" if len(columns) > most else "")
    return f"column{'s' * (len(columns) > 1)} {shown}"


def number(value: float) -> str:
    """Three or four figures that count, without exponents where they can be had."""
    size = abs(value)
    if not math.isfinite(value):
        return "–"
    if size >= 1e7 or 0.0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 1000.0 else f"{value:.4g}" if size >= 100.0 else f"{value:.3g}"


# What is written ------------------------------------------------------------------------------------------------------


def summary(found: Inspection) -> dict[str, Any]:
    """Everything but the figures, as JSON takes it; what is no number is None."""
    scores = found.scores
    columns = {
        key: {**{name: _plain(value) for name, value in vars(own).items()}, "constant": own.constant}
        for key, own in (("observations", found.observations), ("actions", found.actions))
    }
    plain = {
        "id": found.name,
        "env": found.env_id,
        "fingerprint": found.fingerprint,
        "transitions": found.n_transitions,
        "episodes": found.n_episodes,
        "time_limit": found.time_limit,
        "reference": None if found.reference is None else dict(zip(("min", "max"), found.reference, strict=True)),
        "metadata": dict(found.metadata),
        "returns": {**Spread.of(found.returns)._asdict(), "order_correlation": found.order_correlation},
        "scores": None if scores is None else Spread.of(scores)._asdict(),
        "behaviours": [
            {"policy": name, "episodes": count, "returns": Spread.of(own)._asdict()}
            for name, count, own in by_behaviour(found, found.returns)
        ],
        "lengths": Spread.of(found.lengths)._asdict(),
        "ends": {name: int((found.ends == code).sum()) for code, name in enumerate(ENDS)},
        "rewards": {**found.rewards._asdict(), "size": found.reward_size, "zero": found.n_zero_rewards,
                    "histogram": found.reward_histogram._asdict()},
        "discounted_returns": {
            "discount": found.discount, "cut_short": found.cut_short, "transitions": found.discounted._asdict(),
            "episode_starts": found.discounted_starts._asdict(), "histogram": found.discounted_histogram._asdict(),
        },
        "actions": {
            **columns["actions"], "low": found.action_low, "high": found.action_high, "near_bound": found.near_bound,
            "near_bound_all": found.near_bound.mean(), "transitions_at_bound": found.at_bound,
            "transitions_outside": found.n_outside, "histograms": found.action_counts,
        },
        "observations": columns["observations"],
        "coverage": {
            "explained": found.coverage.explained, "directions_95": found.coverage.n_directions,
            "participation": found.coverage.participation,
        },
        "repeated": {
            "transitions": found.n_repeated, "episodes": found.n_repeated_episodes,
            "initial_states": found.n_shared_starts,
        },
        "non_finite": [entry._asdict() for entry in found.non_finite],
        "float64_rounding": dict(found.rounding),
        "warnings": [dataclasses.asdict(check) for check in found.warnings],
        "checks": {check.code: check.fired for check in found.checks},
    }  # fmt: skip
    result: dict[str, Any] = _plain(plain)
    return result


def _plain(value: Any) -> Any:
    """Values as JSON has them; NaN and infinity, which it has not, are None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(found: Inspection, width: int = 100) -> str:
    """The dataset in a few lines, and its warnings.

    Args:
        found: what is known.
        width: of a line, in characters.
    """
    lines = [f"{found.name}: {found.env_id}, {found.n_episodes:,} episodes, {found.n_transitions:,} transitions"]
    lines += [f"  {label:<14}{said}" for label, said in _in_short(found)]
    warnings = found.warnings
    for check in warnings:
        lines += ["", f"{check.level}: {check.title}: {check.found}"]
        lines += textwrap.wrap(check.advice.replace("`", ""), width, initial_indent="  ", subsequent_indent="  ")
        lines += textwrap.wrap(f"(when: {check.threshold})", width, initial_indent="  ", subsequent_indent="  ")
    lines += ["", f"{len(found.checks)} checks, {len(warnings) or 'none'} with something to say"]
    return "\n".join(lines)


def _in_short(found: Inspection) -> list[tuple[str, str]]:
    returns, scores, lengths = Spread.of(found.returns), found.scores, Spread.of(found.lengths)
    scored = "" if scores is None else f"; score {number(float(np.nanmean(scores)))}" if returns.n else ""
    ends = [f"{int((found.ends == code).sum()):,} {name}" for code, name in enumerate(ENDS)]
    std, near = found.observations.std, float(found.near_bound.mean())
    return [
        ("return", f"{_mean_and_range(returns)}{scored}"),
        ("length", f"{_mean_and_range(lengths)}; {', '.join(ends)}"),
        ("reward", _mean_and_range(found.rewards)),
        (
            "discounted",
            f"{_mean_and_range(found.discounted)} at {found.discount:g}: what Q of the data should be about",
        ),
        (
            "observations",
            f"{len(std)} features, standard deviations {number(float(std.min()))} to {number(float(std.max()))}; "
            f"{percent(EXPLAINED)} of their variance in {found.coverage.n_directions} directions",
        ),
        (
            "actions",
            f"{len(found.near_bound)} features, {percent(near)} within {percent(NEAR)} of a bound",
        ),
        ("fingerprint", found.fingerprint),
    ]


def _mean_and_range(spread: Spread) -> str:
    if not spread.n:
        return "none is finite"
    if spread.min == spread.max:
        return f"{number(spread.mean)}, all alike"
    low, high = number(spread.min), number(spread.max)
    return f"{number(spread.mean)} ± {number(spread.std)}, from {low} to {high}"


def by_behaviour(found: Inspection, values: NDArray[Any]) -> list[tuple[str, int, NDArray[Any]]]:
    """Names, numbers of episodes and values (E,) of those that acted one after the other."""
    splits = list(itertools.accumulate(count for _, count in found.behaviours))[:-1]
    parts = np.split(values, splits) if found.behaviours else []
    return [(name, count, own) for (name, count), own in zip(found.behaviours, parts, strict=True)]
