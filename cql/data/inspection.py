"""Statistics and checks of a dataset before training on it.

:func:`find` reads a dataset and its metadata, :func:`inspect` counts and checks.
:mod:`cql.results.inspection_page` makes a page of the result.

Axes: M transitions, E episodes, S state features, A action features. Standard deviations are those of the population.
NaN and infinite values are counted, and left out of all other numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.config.schema import NO_SIMULATOR
from cql.data.checks import ACTION_TOLERANCE, check_source, place
from cql.data.d4rl import load_d4rl
from cql.data.inspection_checks import (
    AT_BOUND,
    AT_LIMIT,
    CUT,
    ENDS,
    TERMINATED,
    Check,
    Level,
    NonFinite,
    all_checks,
    number,
    percent,
)
from cql.data.local import minari_folder
from cql.data.minari import load_minari
from cql.data.raw import DatasetError, DatasetNotFoundError, RawData, fingerprint
from cql.data.returns import discounted_returns
from cql.data.table import SUFFIXES, load_table
from cql.rollout.envs import EnvInfo, normalised_score
from cql.rollout.reference_scores import known_scores

HDF5 = (".hdf5", ".h5")
NEAR = 0.01
"""An action closer to a bound than this part of the range counts as near it."""

_UNKNOWN = 0.05  # largest weight of the rewards after a cut in a discounted return that counts


# Reading --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A dataset and the metadata of its file.

    Attributes:
        raw: the transitions.
        metadata: plain values by name.
        time_limit: steps after which the file says that an episode is truncated, or None.
        lost_steps: steps at the end of a truncated episode that the format cannot keep: 1 for D4RL files without next
            observations, else 0.
    """

    raw: RawData
    metadata: Mapping[str, Any]
    time_limit: int | None = None
    lost_steps: int = 0


def find(
    text: str,
    env_id: str | None = None,
    keys: Sequence[str] | None = None,
    columns: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, Source]:
    """Read a dataset by what a user calls it.

    Args:
        text: name of an embedded dataset, id of a Minari dataset, or path of a D4RL file or a table.
        env_id: the environment of a D4RL file.
        keys: which parts of Dict observations; None for the default.
        columns: of a table, the arguments of :func:`cql.data.load_table`.

    Returns:
        A short name, and the dataset.

    Raises:
        DatasetError: the dataset is not found or cannot be read, or a D4RL file comes without an environment.
    """
    path, name = Path(text).expanduser(), text.removeprefix("embedded/")
    if path.suffix in HDF5:
        if not path.is_file():
            raise DatasetNotFoundError(f"{text} does not exist")
        if env_id is None:
            raise DatasetError(f"{text}: a D4RL file does not name its environment: add --env, such as --env Hopper-v5")
        return path.stem, read_d4rl(path, env_id)
    if path.name.lower().endswith(SUFFIXES):
        for key in ("observation_columns", "action_columns"):
            if not columns.get(key):
                raise DatasetError(f"{text}: a table needs its {key}: add --{key.replace('_', '-')} NAME,...")
        n_lost = 0 if columns.get("next_observation_columns") else 1
        return path.stem, Source(load_table(path, **columns), {}, None, n_lost)
    if path.is_file():
        raise DatasetError(f"{text} is neither an HDF5 file ({', '.join(HDF5)}) nor a table ({', '.join(SUFFIXES)})")
    from cql.data.embedded import EMBEDDED, ensure_embedded

    if name in EMBEDDED:
        return name, read_minari(ensure_embedded(name, progress=sys.stderr.isatty()))
    if "/" not in name or name != text:
        raise DatasetNotFoundError(
            f"{text} is neither a file, nor the id of a Minari dataset such as mujoco/hopper/medium-v0, nor an "
            f"embedded dataset: {', '.join(EMBEDDED)}"
        )
    return text, read_minari(text, keys)


def read_minari(dataset_id: str, keys: Sequence[str] | None = None) -> Source:
    """Read a Minari dataset of this machine; `keys` are as in :func:`find`.

    Raises:
        DatasetNotFoundError: it is not on this machine.
        DatasetError: the id is malformed, or the dataset is damaged or does not hold flat vectors.
    """
    folder = minari_folder(dataset_id) / "data"
    if not folder.is_dir():
        raise DatasetNotFoundError(
            f"Minari dataset '{dataset_id}' is not in {folder.parent}: `minari list local` lists the local datasets, "
            f"`minari download {dataset_id}` fetches it, and MINARI_DATASETS_PATH names another folder"
        )
    raw = load_minari(dataset_id, download=False, keys=keys)
    metadata = json.loads(folder.joinpath("metadata.json").read_text(encoding="utf-8"))
    known = {key: _decoded(value) for key, value in metadata.items() if not key.endswith("_space")}
    known.pop("env_spec", None)
    known.pop("eval_env_spec", None)
    return Source(raw, known, raw.max_episode_steps)


def read_d4rl(path: str | Path, env_id: str) -> Source:
    """Read a D4RL file.

    Args:
        path: of the HDF5 file.
        env_id: the environment it was recorded in, which the file does not name.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it is not in the layout of D4RL's `-v2` files.
    """
    import h5py

    path = Path(path).expanduser()
    raw = dataclasses.replace(load_d4rl(path), env_id=env_id)
    known: dict[str, Any] = {}

    def keep(name: str, member: Any) -> None:
        if getattr(member, "size", 0) == 1:  # neither weights nor a group
            value = np.asarray(member[()]).reshape(-1)[0]
            known[name] = value.decode(errors="replace") if isinstance(value, bytes) else value.item()

    with h5py.File(path, "r") as file:
        if isinstance(file.get("metadata"), h5py.Group):
            file["metadata"].visititems(keep)
        return Source(raw, known, None, 0 if "next_observations" in file else 1)


def _decoded(value: Any) -> Any:
    """Decode JSON inside JSON."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


# Numbers --------------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """Number, moments and quantiles of values; NaN if there are none."""

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
        """Of the finite ones among values (n,)."""
        values = values[np.isfinite(values)].astype(np.float64)
        if not len(values):
            return cls(0, *[math.nan] * 7)
        low, q25, median, q75, high = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
        return cls(len(values), *map(float, (values.mean(), values.std(), low, q25, median, q75, high)))


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Mean, std, min and max of each feature, (n,) each, over the rows that are finite."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Columns:
        """Of the rows of (M, n)."""
        low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
        std = values.std(axis=0, dtype=np.float64)
        return cls(values.mean(axis=0, dtype=np.float64), np.where(low == high, 0.0, std), low, high)

    @property
    def constant(self) -> list[int]:
        """Features with a single value."""
        return [int(index) for index in np.flatnonzero(self.min == self.max)]


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """Statistics of a dataset.

    Attributes:
        raw: the transitions.
        env_id: the environment.
        fingerprint: of the data, as in checkpoints.
        metadata: of the file.
        time_limit: steps of the longest episode that the environment allows.
        reference: returns that score 0 and 100, or None.
        behaviours: names and numbers of episodes of the policies that acted one after the other, from the metadata.
        returns: (E,) undiscounted; NaN if a reward is not finite.
        lengths: (E,) steps.
        ends: (E,) indices into :data:`ENDS`.
        rewards: of all transitions.
        reward_size: root mean square of the rewards other than 0; NaN if all are 0.
        n_zero_rewards: how many are 0.
        discount: of `discounted`.
        discounted: (M,) discounted return from each transition to the end of its episode. NaN if the episode was cut so
            soon that the rewards after the cut would weigh more than 5 %, unless that leaves none.
        cut_short: whether it leaves none; then all values are in `discounted`, and too low.
        actions: statistics of each action feature.
        action_low: (A,) bounds.
        action_high: (A,) bounds.
        near_bound: (A,) share of actions within 1 % of the range from a bound.
        at_bound: share of transitions with an action feature at a bound.
        n_outside: transitions with an action feature outside the bounds.
        observations: statistics of each observation feature.
        n_repeated: transitions that repeat an earlier one bit for bit.
        n_repeated_episodes: episodes that consist of such transitions.
        n_shared_starts: episodes that begin in the same state as an earlier one.
        non_finite: arrays with NaN or infinite values.
        checks: all of them, fired or not.
    """

    raw: RawData
    env_id: str
    fingerprint: str
    metadata: Mapping[str, Any]
    time_limit: int
    reference: tuple[float, float] | None
    behaviours: Sequence[tuple[str, int]]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ends: NDArray[np.int64]
    rewards: Spread
    reward_size: float
    n_zero_rewards: int
    discount: float
    discounted: NDArray[np.float64]
    cut_short: bool
    actions: Columns
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    near_bound: NDArray[np.float64]
    at_bound: float
    n_outside: int
    observations: Columns
    n_repeated: int
    n_repeated_episodes: int
    n_shared_starts: int
    non_finite: Sequence[NonFinite]
    checks: Sequence[Check] = ()

    @property
    def warnings(self) -> list[Check]:
        """The checks that fired, the most severe first."""
        order: list[Level] = ["refused", "warning", "note"]
        return sorted((check for check in self.checks if check.fired), key=lambda check: order.index(check.level))

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """(E,) normalised scores, None without reference returns."""
        return None if self.reference is None else normalised_score(self.returns, *self.reference)


def inspect(
    source: Source, info: EnvInfo, *, reference: tuple[float, float] | None = None, discount: float = 0.99
) -> Inspection:
    """Compute all statistics and checks.

    Args:
        source: the dataset.
        info: of the environment it was recorded in.
        reference: returns that score 0 and 100; None takes those of the metadata, else those of the environment.
        discount: of the discounted returns, in [0, 1).

    Raises:
        DatasetError: the dataset is from another environment, or no observation or no action is finite.
        ValueError: the reference returns are not in order, or the discount is out of range.
    """
    raw = source.raw
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount must be in [0, 1), got {discount:g}")
    check_source(raw, info, option="--env ")
    if reference is None and {"ref_min_score", "ref_max_score"} <= source.metadata.keys():
        reference = float(source.metadata["ref_min_score"]), float(source.metadata["ref_max_score"])
    reference = reference or known_scores(info.env_id, info.spec.kwargs, info.spec.max_episode_steps)
    if reference is not None:
        normalised_score(0.0, *reference)  # refuses returns that are not in order
    limit, lengths = source.time_limit or info.max_episode_steps, raw.episode_lengths
    if info.env_id == NO_SIMULATOR and raw.max_episode_steps is None:
        limit = int(lengths.max()) + 1  # the longest episode says nothing of a limit
    starts = np.cumsum(lengths) - lengths
    returns = raw.episode_returns
    returns[~np.isfinite(returns)] = math.nan
    terminated = raw.terminated[starts + lengths - 1]
    ends = np.where(terminated, TERMINATED, np.where(lengths >= limit - source.lost_steps, AT_LIMIT, CUT))
    given = raw.rewards[np.isfinite(raw.rewards) & (raw.rewards != 0.0)].astype(np.float64)
    discounted = discounted_returns(raw.rewards, lengths, discount)
    steps_left = (starts + lengths)[raw.episode] - np.arange(len(raw))
    known = (discount**steps_left <= _UNKNOWN) | (ends == TERMINATED)[raw.episode]
    if known.any():
        discounted[~known] = math.nan
    actions = _finite(raw.actions, "actions", raw.name)
    span = info.action_high.astype(np.float64) - info.action_low
    outside = np.maximum(info.action_low - actions, actions - info.action_high) > ACTION_TOLERANCE
    margin = np.minimum(actions - info.action_low, info.action_high - actions) / span
    repeated = repeated_rows(_bits(raw))
    found = Inspection(
        raw=raw,
        env_id="no simulator" if info.env_id == NO_SIMULATOR else info.env_id,
        fingerprint=fingerprint(raw),
        metadata=source.metadata,
        time_limit=limit,
        reference=reference,
        behaviours=_behaviours(source.metadata, raw.n_episodes),
        returns=returns,
        lengths=lengths,
        ends=ends,
        rewards=Spread.of(raw.rewards),
        reward_size=float(np.sqrt(np.square(given).mean())) if len(given) else math.nan,
        n_zero_rewards=int((raw.rewards == 0.0).sum()),
        discount=discount,
        discounted=discounted,
        cut_short=not known.any(),
        actions=Columns.of(actions),
        action_low=info.action_low,
        action_high=info.action_high,
        near_bound=((margin <= NEAR) & ~outside).mean(axis=0),
        at_bound=float(((2.0 * margin <= AT_BOUND) & ~outside).any(axis=1).mean()),
        n_outside=int(outside.any(axis=1).sum()),
        observations=Columns.of(_finite(raw.observations, "observations", raw.name)),
        n_repeated=int(repeated.sum()),
        n_repeated_episodes=int((np.bincount(raw.episode, weights=repeated) == lengths).sum()),
        n_shared_starts=int(repeated_rows(raw.rows[raw.row[starts]]).sum()),
        non_finite=[entry for key in ("observations", "actions", "rewards") for entry in _non_finite(raw, key)],
    )
    return dataclasses.replace(found, checks=tuple(all_checks(found, source.lost_steps)))


def _behaviours(metadata: Mapping[str, Any], n_episodes: int) -> list[tuple[str, int]]:
    listed = metadata.get("behaviours")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        return []
    found = [(str(each.get("policy", "?")), int(each.get("n_episodes", 0))) for each in listed]
    return found if sum(count for _, count in found) == n_episodes else []


def repeated_rows(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of (M, n) repeat an earlier one bit for bit, (M,)."""
    rows = np.ascontiguousarray(rows)
    whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    found = np.ones(len(rows), bool)
    found[np.unique(whole, return_index=True)[1]] = False
    return found


def _bits(raw: RawData) -> NDArray[np.float32]:
    """All of a transition in a row: (M, 2 S + A + 2)."""
    parts = (raw.observations, raw.next_observations, raw.actions, raw.rewards[:, None], raw.terminated[:, None])
    return np.concatenate([part.astype(np.float32, copy=False) for part in parts], axis=1)


def _finite(values: NDArray[np.float32], key: str, name: str) -> NDArray[np.float32]:
    sound = np.isfinite(values).all(axis=1)
    if not sound.any():
        raise DatasetError(f"dataset '{name}': none of its {len(values)} {key} is finite")
    return values if sound.all() else values[sound]


def _non_finite(raw: RawData, key: str) -> Iterator[NonFinite]:
    """NaN and infinite values of an array. A stored observation counts once, however many transitions share it."""
    array = raw.rows if key == "observations" else getattr(raw, key).reshape(len(raw), -1)
    rows, columns = np.nonzero(~np.isfinite(array))
    if not len(rows):
        return
    transition, note = int(rows[0]), ""
    if key == "observations":
        transition = int(np.searchsorted(raw.row, rows[0], side="right")) - 1
        note = "" if raw.row[transition] == rows[0] else ", in the next observation"
    n_nan = int(np.isnan(array).sum())
    named = () if key == "rewards" else tuple(int(column) for column in np.unique(columns))
    yield NonFinite(key, n_nan, len(rows) - n_nan, named, place(raw, transition) + note)


# Output ---------------------------------------------------------------------------------------------------------------


def summary(found: Inspection) -> dict[str, Any]:
    """All numbers as JSON takes them; NaN and infinity are None."""
    raw, scores = found.raw, found.scores
    columns = {
        key: {**vars(own), "constant": own.constant}
        for key, own in (("observations", found.observations), ("actions", found.actions))
    }
    starts = np.cumsum(found.lengths) - found.lengths
    plain = {
        "id": raw.name, "env": found.env_id, "fingerprint": found.fingerprint,
        "transitions": len(raw), "episodes": raw.n_episodes, "time_limit": found.time_limit,
        "reference": None if found.reference is None else dict(zip(("min", "max"), found.reference, strict=True)),
        "metadata": dict(found.metadata),
        "returns": Spread.of(found.returns)._asdict(),
        "scores": None if scores is None else Spread.of(scores)._asdict(),
        "behaviours": [
            {"policy": name, "episodes": len(own), "returns": Spread.of(own)._asdict()}
            for name, own in by_behaviour(found)
        ],
        "lengths": Spread.of(found.lengths)._asdict(),
        "ends": {name: int((found.ends == code).sum()) for code, name in enumerate(ENDS)},
        "rewards": {**found.rewards._asdict(), "size": found.reward_size, "zero": found.n_zero_rewards},
        "discounted_returns": {
            "discount": found.discount, "cut_short": found.cut_short,
            "transitions": Spread.of(found.discounted)._asdict(),
            "episode_starts": Spread.of(found.discounted[starts])._asdict(),
        },
        "actions": {
            **columns["actions"], "low": found.action_low, "high": found.action_high, "near_bound": found.near_bound,
            "near_bound_all": found.near_bound.mean(), "transitions_at_bound": found.at_bound,
            "transitions_outside": found.n_outside,
        },
        "observations": columns["observations"],
        "repeated": {
            "transitions": found.n_repeated, "episodes": found.n_repeated_episodes,
            "initial_states": found.n_shared_starts,
        },
        "non_finite": [entry._asdict() for entry in found.non_finite],
        "warnings": [dataclasses.asdict(check) for check in found.warnings],
        "checks": {check.code: check.fired for check in found.checks},
    }  # fmt: skip
    result: dict[str, Any] = _plain(plain)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(found: Inspection, width: int = 100) -> str:
    """The dataset in a few lines of at most `width` characters, and its warnings."""
    raw, scores, std = found.raw, found.scores, found.observations.std
    scored = "" if scores is None else f"; score {number(Spread.of(scores).mean)}"
    ends = ", ".join(f"{int((found.ends == code).sum()):,} {name}" for code, name in enumerate(ENDS))
    short = {
        "return": mean_and_range(Spread.of(found.returns)) + scored,
        "length": f"{mean_and_range(Spread.of(found.lengths))}; {ends}",
        "reward": mean_and_range(found.rewards),
        "discounted": f"{mean_and_range(Spread.of(found.discounted))} at {found.discount:g}, to the episode's end",
        "q_data": "grows towards that mean over tens of thousands of steps; conservative values stay below it",
        "observations": f"{len(std)} features, standard deviations {number(std.min())} to {number(std.max())}",
        "actions": f"{len(found.near_bound)} features, {percent(found.near_bound.mean())} within {percent(NEAR)} of a "
        "bound",
        "fingerprint": found.fingerprint,
    }
    lines = [f"{raw.name}: {found.env_id}, {raw.n_episodes:,} episodes, {len(raw):,} transitions"]
    lines += [f"  {label:<14}{said}" for label, said in short.items()]
    for check in found.warnings:
        lines += ["", f"{check.level}: {check.title}: {check.found}"]
        for part in (check.advice.replace("`", ""), f"(when: {check.threshold})"):
            lines += textwrap.wrap(part, width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", f"{len(found.checks)} checks, {len(found.warnings) or 'none'} fired"])


def mean_and_range(spread: Spread) -> str:
    """Mean, standard deviation and range in words."""
    if not spread.n:
        return "none is finite"
    if spread.min == spread.max:
        return f"{number(spread.mean)}, all equal"
    return f"{number(spread.mean)} ± {number(spread.std)}, from {number(spread.min)} to {number(spread.max)}"


def by_behaviour(found: Inspection) -> list[tuple[str, NDArray[np.float64]]]:
    """Names and returns of the policies that acted one after the other."""
    splits = list(itertools.accumulate(count for _, count in found.behaviours))[:-1]
    parts = np.split(found.returns, splits) if found.behaviours else []
    return [(name, own) for (name, _), own in zip(found.behaviours, parts, strict=True)]
