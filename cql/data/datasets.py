"""Offline datasets: Minari and D4RL files become one set of tensors, kept once.

`load_minari` and `load_d4rl` read a file into `RawData`, in the environment's own units; `check` compares it with the
environment it is to be used with; `prepare` turns it into `Transitions`, the tensors that training gathers from.

From the file to the tensors an observation stands in memory once: a transition has the number of its row, and its next
observation is the row behind that. Where a file says otherwise (an end of an episode, a transition left out), the next
observation has a row of its own, so that nothing is ever different from what two full arrays would hold.

Axes: M transitions, N rows of observations, S state features, A action features.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Actions are stored in float32, so one that lies on a bound may stand a rounding error beyond it.
ACTION_TOLERANCE = 1e-5
# Added to every standard deviation, as CORL and TD3+BC do, so that a constant feature does not divide by zero.
STD_FLOOR = 1e-3
# Seconds to wait for the dataset hub; its own client retries for over twenty before it gives up.
HUB_TIMEOUT = 5.0
# Transitions that are read, compared, checked or hashed at a time, so that what is made on the way stays small.
CHUNK = 65536
# Datasets in the making stand below this folder of Minari's own; Minari passes over names that begin with a dot.
WORK_FOLDER = ".cql-collecting"
# Steps after which the environments of D4RL's gym files cut an episode that has not come to a terminal state.
TIME_LIMIT = 1000


class DatasetError(ValueError):
    """A dataset that cannot be used as it is; the message names the array, the place and the remedy."""


class DatasetNotFoundError(DatasetError):
    """A dataset that is neither on this machine nor to be had from its hub."""


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """Transitions as recorded, in the environment's own units, grouped by episode.

    The transitions of an episode stand one after the other, and the last one of every episode is either terminated or
    truncated, never both and never neither: an episode that a file leaves unfinished counts as truncated, and a step
    flagged both ways counts as terminated.

    Attributes:
        rows: (N, S) float32, the observations of all episodes, those that end them included.
        row: (M,) int64, the row of a transition's observation; its next observation is the row behind.
        actions: (M, A) float32, within the environment's bounds.
        rewards: (M,) float32.
        terminated: (M,) bool, the episode ended in a terminal state: its return stops here.
        truncated: (M,) bool, the recording was cut here: the return would have gone on.
        episode: (M,) int64, 0 for the first episode, 1 for the second, and so on.
        name: the dataset's id or path, for messages.
        env_id: the environment the dataset says it was recorded in, None where it does not say.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Normaliser:
    """Shift and scale of observations; zeros and ones leave them as they are.

    Attributes:
        mean: (S,) float32.
        std: (S,) float32, its floor included.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def apply(self, observations: torch.Tensor) -> torch.Tensor:
        """Return `(observations - mean) / std`; (..., S) to (..., S)."""
        return (observations - self.mean) / self.std


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """What training reads: contiguous float32 tensors on one device, gathered by index.

    Attributes:
        rows: (N, S), the observations, normalised.
        row: (M,) int64, the row of a transition's observation; its next observation is the row behind.
        actions: (M, A), scaled to [-1, 1].
        rewards: (M,), scaled and shifted.
        terminated: (M,), 1 where the return stops, else 0.
        normaliser: what was applied to the observations, for use on those of the environment.
        fingerprint: 16 hexadecimal digits that identify the raw data, whatever was made of them.
    """

    rows: torch.Tensor
    row: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    normaliser: Normaliser
    fingerprint: str

    def __len__(self) -> int:
        return self.rewards.shape[0]

    @property
    def observations(self) -> torch.Tensor:
        """(M, S), gathered anew at each call."""
        return self.rows[self.row]

    @property
    def next_observations(self) -> torch.Tensor:
        """(M, S), gathered anew at each call."""
        return self.rows[self.row + 1]


class _Column:
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
        filled = self.make_room(len(values), values.shape[1:])
        filled[...] = values

    def make_room(self, length: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Make the column longer by so many values and return the part to fill."""
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
        The rows (N, S), and the row of each transition's observation (M,); the row behind is its next observation.
    """
    rows, row = _Column(np.float32, capacity), _Column(np.int64, capacity)
    for observations, next_observations in pairs:
        if not len(observations):
            continue
        goes_on = np.empty(len(observations), bool)  # from the transition before
        goes_on[0] = len(rows) > 0 and _same_bits(rows.last(), observations[0])
        goes_on[1:] = _same_bits(next_observations[:-1], observations[1:])
        begin = len(rows) - 1  # the row that the first one shares where it goes on
        offsets = np.cumsum(np.where(goes_on, 1, 2)) - 1  # counted from `begin`
        row.extend(begin + offsets)
        # Those that go on overwrite their row with the same bits.
        added = rows.make_room(int(offsets[-1]) + 1, observations.shape[1:])
        if goes_on[0]:
            added[offsets[1:] - 1] = observations[1:]
        else:
            added[offsets - 1] = observations
        ends = np.append(~goes_on[1:], True)
        added[offsets[ends]] = next_observations[ends]
    return rows.array(), row.array()


# ---------------------------------------------------------------------------------------------------------- Minari


def minari_root() -> Path:
    """Return the folder that holds Minari's datasets: `MINARI_DATASETS_PATH`, else `~/.minari/datasets`.

    Raises:
        DatasetError: the variable is set to nothing, or the folder cannot be made.
    """
    from minari.storage import get_dataset_path

    if os.environ.get("MINARI_DATASETS_PATH") == "":
        raise DatasetError("MINARI_DATASETS_PATH is set but empty: unset it or give it a folder")
    try:
        return Path(get_dataset_path())
    except OSError as error:
        raise DatasetError(
            f"Minari's folder of datasets cannot be made ({error}): set MINARI_DATASETS_PATH to one you can write to"
        ) from error


def minari_folder(dataset_id: str) -> Path:
    """Return where a Minari dataset stands, or would stand, on this machine.

    Raises:
        DatasetError: the id is not of Minari's form.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"'{dataset_id}' is not the id of a Minari dataset: ids look like mujoco/halfcheetah/medium-v0, "
            "a namespace of two letters or more, then a name with a version"
        ) from error
    return minari_root() / dataset_id


def load_minari(dataset_id: str, *, download: bool = True) -> RawData:
    """Read a Minari dataset, downloading it first where it is absent.

    HDF5 files are read directly, which takes a few seconds for a million transitions; other formats go through
    Minari. Each episode holds one observation more than it has steps; the last one is the next observation of its last
    transition.

    Args:
        dataset_id: such as `mujoco/halfcheetah/medium-v0`.
        download: whether an absent dataset may be fetched.

    Raises:
        DatasetNotFoundError: the dataset is not here, and may not or cannot be downloaded.
        DatasetError: its files are incomplete or do not hold vectors of observations and actions.
    """
    folder = minari_folder(dataset_id)
    if not folder.joinpath("data").is_dir():
        if not download:
            raise _not_found(dataset_id, "and dataset.download=false forbids fetching it")
        _download(dataset_id)
    try:
        metadata = json.loads(folder.joinpath("data", "metadata.json").read_text(encoding="utf-8"))
        n_episodes = int(metadata["total_episodes"])
        n_steps = max(0, int(metadata.get("total_steps", 0)))
        env_spec = metadata.get("env_spec")
        env_id = json.loads(env_spec)["id"] if env_spec else None
        if metadata.get("data_format", "hdf5") == "hdf5":
            episodes = _hdf5_episodes(folder / "data" / "main_data.hdf5", n_episodes)
            return _join(episodes, dataset_id, env_id, (n_steps, n_episodes))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"Minari dataset '{dataset_id}' in {folder} is incomplete or damaged ({type(error).__name__}: {error}): "
            "remove that folder and make or download the dataset again"
        ) from error
    return _join(_minari_episodes(dataset_id), dataset_id, env_id, (n_steps, n_episodes))


_Episode = tuple[Any, Any, Any, Any, Any]  # observations, actions, rewards, terminations, truncations
_EPISODE_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")


def _hdf5_episodes(path: Path, n_episodes: int) -> Iterator[_Episode]:
    import h5py

    with h5py.File(path, "r") as file:

        def read(name: str) -> NDArray[Any] | None:
            # h5py's own groups and slices take longer than the reading where episodes are short.
            try:
                member = h5py.h5d.open(file.id, name.encode())
            except KeyError:
                if isinstance(file.get(name), h5py.Group):
                    return None  # a composite space
                raise
            array = np.empty(member.shape, member.dtype)
            member.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
            return array

        for index in range(n_episodes):
            yield tuple(read(f"episode_{index}/{key}") for key in _EPISODE_KEYS)  # type: ignore[misc]


def _minari_episodes(dataset_id: str) -> Iterator[_Episode]:
    import minari

    try:
        dataset = minari.load_dataset(dataset_id)
    except ImportError as error:
        raise DatasetError(f"reading Minari dataset '{dataset_id}': {error}") from error
    for episode in dataset.iterate_episodes():
        yield tuple(getattr(episode, key) for key in _EPISODE_KEYS)


def _join(episodes: Iterable[_Episode], name: str, env_id: str | None, counts: tuple[int, int]) -> RawData:
    """Put episodes of T + 1 observations and T steps end to end.

    Args:
        episodes: of the file.
        name: of the dataset.
        env_id: of its environment.
        counts: how many steps and episodes there will be, as far as is known.
    """
    columns = [
        _Column(np.float32, sum(counts)),  # each episode has one observation more
        *(_Column(dtype, counts[0]) for dtype in (np.float32, np.float32, np.bool_, np.bool_)),
    ]
    lengths: list[int] = []
    sizes: tuple[set[int], set[int]] = (set(), set())
    for index, episode in enumerate(episodes):
        observations, actions, rewards, _, _ = episode
        for key, value, n_axes in (("observations", observations, 2), ("actions", actions, 2), ("rewards", rewards, 1)):
            if not isinstance(value, np.ndarray) or value.ndim != n_axes or value.dtype.kind not in "fiub":
                found = f"shape {value.shape}, {value.dtype}" if isinstance(value, np.ndarray) else "a composite space"
                wanted = "one vector of numbers" if n_axes == 2 else "one number"
                raise DatasetError(
                    f"dataset '{name}', episode {index}: {key} must hold {wanted} a step, found {found}; only "
                    "continuous control with flat observations and actions is supported"
                )
        steps = len(rewards)
        found_lengths = [len(value) for value in episode]
        if found_lengths != [steps + 1, steps, steps, steps, steps]:
            raise DatasetError(
                f"dataset '{name}', episode {index}: {steps} rewards go with {steps + 1} observations and {steps} "
                "actions, terminations and truncations; found lengths "
                f"{dict(zip(_EPISODE_KEYS, found_lengths, strict=True))}"
            )
        if steps == 0:
            continue
        lengths.append(steps)
        sizes[0].add(observations.shape[1])
        sizes[1].add(actions.shape[1])
        if len(sizes[0]) > 1 or len(sizes[1]) > 1:
            continue  # the other episodes may have worse to tell
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and `check` names it
            for column, value in zip(columns, episode, strict=True):
                column.extend(value)
    if not lengths:
        raise _empty(name)
    for key, found_sizes in zip(("observations", "actions"), sizes, strict=True):
        if len(found_sizes) > 1:
            raise DatasetError(f"dataset '{name}': {key} differ in size between episodes: {sorted(found_sizes)}")
    rows, actions, rewards, terminated, truncated = (column.array() for column in columns)
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    return _mark_ends(
        RawData(
            rows=rows,
            row=np.arange(len(rewards)) + episode_of,  # each episode before has one row more than steps
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episode=episode_of,
            name=name,
            env_id=env_id,
        )
    )


def _mark_ends(raw: RawData) -> RawData:
    """Make the last transition of each episode terminated or truncated, the former where it is flagged both ways."""
    last = np.append(raw.episode[1:] != raw.episode[:-1], True)
    return dataclasses.replace(raw, truncated=(raw.truncated | last) & ~raw.terminated)


def _not_found(dataset_id: str, reason: str) -> DatasetNotFoundError:
    import minari

    local = sorted(minari.list_local_datasets())
    return DatasetNotFoundError(
        f"Minari dataset '{dataset_id}' is not in {minari_root()}, {reason}. "
        f"There: {', '.join(local) if local else 'no dataset at all'}. "
        f'To fetch it where there is a network: pip install "minari[hf]" && minari download {dataset_id}; '
        "MINARI_DATASETS_PATH names the folder to look in"
    )


def _download(dataset_id: str) -> None:
    import minari

    remote = os.environ.get("MINARI_REMOTE", "hf://")
    if remote.startswith("hf://"):
        if find_spec("huggingface_hub") is None:
            raise _not_found(dataset_id, "and huggingface_hub, needed to fetch it, is not installed")
        if reason := _hub_unreachable():
            raise _not_found(dataset_id, f"and cannot be fetched: {reason}")
    with new_dataset(dataset_id) as hidden_root:
        if hidden_root is None:
            return
        log.info("downloading %s into %s", dataset_id, minari_root())
        try:
            with minari_root_set_to(hidden_root):
                minari.download_dataset(dataset_id)
        except (
            Exception
        ) as error:  # the clients of the remotes share no base class; whatever it was is told and chained
            raise _not_found(dataset_id, f"and could not be fetched: {type(error).__name__}: {error}") from error
        if not hidden_root.joinpath(dataset_id, "data").is_dir():
            raise _not_found(dataset_id, "and the download brought nothing")


def _hub_unreachable() -> str | None:
    """Say why the dataset hub cannot be reached, None where it can or where only a proxy could tell."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    if "https" in urllib.request.getproxies():
        return None
    url = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=HUB_TIMEOUT).close()
    except OSError as error:
        return f"no connection to {host} ({error})"
    return None


@contextlib.contextmanager
def new_dataset(dataset_id: str, *, overwrite: bool = False) -> Iterator[Path | None]:
    """Bring a Minari dataset into being whole or not at all.

    The block writes the dataset below a hidden folder, which Minari passes over; at the block's end one rename moves it
    to its place. Neither an exception nor a kill leaves anything that passes for a dataset, and what a kill leaves in
    the hidden folder goes when the same dataset is next made. A process that comes second waits for the first.

    A dataset that is replaced makes room by a rename of its own just before. Where the other rename fails it returns to
    its place at once; where a kill comes between the two it does so when this is next called for it.

    Args:
        dataset_id: the dataset's id.
        overwrite: at the block's end, put the dataset in the place of one that exists.

    Yields:
        The root to write below, to be given to Minari with `minari_root_set_to`; None where the dataset exists by now.
    """
    import fcntl

    import minari.namespace

    target = minari_folder(dataset_id)
    hidden_root = minari_root() / WORK_FOLDER / dataset_id.replace("/", "--")
    made, replaced = hidden_root / dataset_id, hidden_root / "replaced"
    hidden_root.parent.mkdir(exist_ok=True)
    with hidden_root.with_name(f"{hidden_root.name}.lock").open("w") as lock:
        try:  # the lock ends with the process, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is making %s; waiting for it", dataset_id)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _put_back(replaced, target, made)
        if target.exists() and not overwrite:
            yield None
            return
        shutil.rmtree(hidden_root, ignore_errors=True)
        hidden_root.mkdir()
        try:
            yield hidden_root
            namespace = dataset_id.rpartition("/")[0]
            if namespace and namespace not in minari.namespace.list_local_namespaces():
                with contextlib.suppress(ValueError):  # made meanwhile by a process that makes its neighbour
                    minari.namespace.create_namespace(namespace)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(replaced)  # a folder that holds something cannot be renamed over
            made.rename(target)
        finally:
            _put_back(replaced, target, made)  # where this fails too, nothing is deleted
            shutil.rmtree(hidden_root, ignore_errors=True)


def _put_back(replaced: Path, target: Path, made: Path) -> None:
    """Undo a replacement that came no further than its first rename.

    Once the second is done `made` is gone, and `replaced` only waits to be deleted, maybe in part already: whoever
    deletes the dataset then must not find the old one in its place.
    """
    if replaced.exists() and made.exists() and not target.exists():
        replaced.rename(target)
        log.info("put %s back, whose replacement was interrupted", target)


@contextlib.contextmanager
def minari_root_set_to(root: Path) -> Iterator[None]:
    """Let Minari write below another root, which it takes from nowhere but the environment variable."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


# ------------------------------------------------------------------------------------------------------------ D4RL


def load_d4rl(path: str | Path, *, time_limit: int = TIME_LIMIT) -> RawData:
    """Read a D4RL HDF5 file in the layout of the gym datasets, `-v2` or older.

    An episode ends where `terminals` or `timeouts` is set; a step with both counts as terminal, and what follows the
    last end is an episode cut short. Files with `next_observations` keep every transition. Without them the next
    observation is the following row's, so the last step of an episode that was cut has none and is left out, as in
    D4RL's `qlearning_dataset`; that of a terminal step, which no return depends on, repeats its own observation.

    Files without `timeouts`, as the `-v0` ones first were, do not say where an episode was cut. By D4RL's rule for them
    that is where it comes to the time limit without a terminal step, and the log says so. (D4RL's own loop counts the
    episode behind a terminal step from 1, and so cuts it a step short of the limit; here all have their full length.)
    Rewards and flags may stand in a column, (transitions, 1).

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
    try:
        with h5py.File(path, "r") as file:
            keys = ["observations", "actions", "rewards", "terminals"]
            members = {key: _d4rl_member(file, key, path) for key in keys}
            for key in ("timeouts", "next_observations"):
                if key in file:
                    members[key] = _d4rl_member(file, key, path)
            return _d4rl_data(members, path, time_limit)
    except OSError as error:
        raise DatasetError(
            f"'{path}' ({path.stat().st_size} bytes) cannot be read as HDF5 ({error}): download it again, and look "
            "whether the server sent an error page instead"
        ) from error


def _d4rl_data(members: Mapping[str, Any], path: Path, time_limit: int) -> RawData:
    lengths = {key: len(member) for key, member in members.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"D4RL file '{path}': the arrays differ in length: {lengths}")
    if not lengths["rewards"]:
        raise _empty(str(path))
    observations, next_observations = members["observations"], members.get("next_observations")
    if next_observations is not None and next_observations.shape != observations.shape:
        raise DatasetError(
            f"D4RL file '{path}': observations have {observations.shape[1]} features, but next_observations "
            f"{next_observations.shape[1]}"
        )
    terminated = members["terminals"][()].astype(bool).reshape(-1)
    if "timeouts" in members:
        truncated = members["timeouts"][()].astype(bool).reshape(-1) & ~terminated
    else:
        truncated = _at_time_limit(terminated, time_limit)
        log.warning(
            "'%s' has no timeouts, so they were derived: %d episode(s) taken to be cut at %d steps without an end",
            path, int(truncated.sum()), time_limit,
        )  # fmt: skip
    keep = np.ones_like(terminated)
    if next_observations is None:
        keep = ~truncated
        keep[-1] = terminated[-1]
        if not keep.any():
            raise _empty(str(path))
    # The row behind an end begins the next episode.
    ends = terminated | truncated
    episode = _consecutive(np.cumsum(ends) - ends, keep)
    actions, rewards = (_filled(members[key], keep) for key in ("actions", "rewards"))
    rows, row = each_once(
        _d4rl_pairs(observations, next_observations, terminated, keep), capacity=len(keep) + int(ends.sum()) + 1
    )
    return _mark_ends(
        RawData(
            rows=rows,
            row=row,
            actions=actions,
            rewards=rewards.reshape(-1),
            terminated=terminated[keep],
            truncated=truncated[keep],
            episode=episode,
            name=str(path),
        )
    )


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
    for part in _parts(observations):
        chosen = keep[part]
        if next_observations is not None:
            here, following = _float32(observations[part]), _float32(next_observations[part])
        else:
            # One more, for what follows the part's last; what follows the file's last is not kept, or its own.
            beyond = _float32(observations[part.start : part.stop + 1])
            here, following = beyond[: len(chosen)], np.concatenate([beyond[1:], beyond[-1:]])[: len(chosen)]
            following[terminated[part]] = here[terminated[part]]
        yield (here, following) if chosen.all() else (here[chosen], following[chosen])


def _filled(member: Any, keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Read an array of numbers as float32, of the transitions to be kept."""
    column = _Column(np.float32, int(keep.sum()))
    for part in _parts(member):
        values, chosen = _float32(member[part]), keep[part]
        column.extend(values if chosen.all() else values[chosen])
    return column.array()


def _parts(member: Any) -> Iterator[slice]:
    """Slices of some :data:`CHUNK` rows that together are an HDF5 dataset, none of whose blocks is unpacked twice."""
    block = member.chunks[0] if member.chunks else 1
    step = -(-CHUNK // block) * block
    return (slice(start, start + step) for start in range(0, len(member), step))


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and `check` names it
        return values.astype(np.float32, copy=False)


def _d4rl_member(file: Any, key: str, path: Path) -> Any:
    """An array of a file, not yet read."""
    import h5py

    if key not in file:
        raise DatasetError(f"D4RL file '{path}' has no '{key}'; it holds {', '.join(sorted(file)) or 'nothing'}")
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
    return member


def _consecutive(episode: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ascending episode indices of the transitions that are kept, renumbered as 0, 1, 2, ..."""
    kept = episode if keep.all() else episode[keep]
    new = np.empty(len(kept), bool)
    new[0], new[1:] = False, kept[1:] != kept[:-1]
    return np.cumsum(new, dtype=np.int64)


# ------------------------------------------------------------------------------------------- choice, checks, tensors


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
    if chosen.all():
        return raw
    keep = chosen[raw.episode]
    row = raw.row[keep]
    used = np.zeros(len(raw.rows), dtype=bool)
    used[row] = used[row + 1] = True
    return RawData(
        rows=raw.rows[used],
        row=(np.cumsum(used) - 1)[row],
        actions=raw.actions[keep],
        rewards=raw.rewards[keep],
        terminated=raw.terminated[keep],
        truncated=raw.truncated[keep],
        episode=_consecutive(raw.episode, keep),
        name=raw.name,
        env_id=raw.env_id,
    )


def check(
    raw: RawData,
    *,
    observation_size: int,
    action_size: int,
    action_low: NDArray[np.float32],
    action_high: NDArray[np.float32],
    env_id: str,
) -> None:
    """Refuse a dataset that does not fit its environment or holds impossible values.

    Args:
        raw: the dataset.
        observation_size: S of the environment.
        action_size: A of the environment.
        action_low: (A,) lower bounds of its actions.
        action_high: (A,) upper bounds of its actions.
        env_id: the environment the policy will be evaluated in.

    Raises:
        DatasetError: the dataset is empty; it was recorded in another environment; its sizes, shapes or dtypes do not
            fit; a value is NaN or infinite; an action lies outside the bounds. The message says where.
    """
    if not len(raw):
        raise _empty(raw.name)
    # A dataset does not record the module of PACKAGE:ID.
    if raw.env_id is not None and raw.env_id != env_id.rpartition(":")[2]:
        raise DatasetError(
            f"dataset '{raw.name}' was recorded in {raw.env_id}, but the environment is {env_id}: "
            f"set env.id={raw.env_id} or choose another dataset"
        )
    for key, array, wanted in (
        ("observations", raw.rows, observation_size),
        ("actions", raw.actions, action_size),
    ):
        if array.ndim == 2 and array.shape[1] != wanted:
            recorded = "does not say which environment it is from" if raw.env_id is None else f"is from {raw.env_id}"
            raise DatasetError(
                f"dataset '{raw.name}': {key} have {array.shape[1]} features, but {env_id} has {wanted}; the dataset "
                f"{recorded}: set env.id=... to the one it was recorded in"
            )
    m = len(raw)
    for key, shape, dtype in (
        ("rows", (len(raw.rows), observation_size), np.float32),
        ("row", (m,), np.int64),
        ("actions", (m, action_size), np.float32),
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
        if all(np.isfinite(stored[part]).all() for part in _slices(len(stored))):
            continue
        # Rows are those of observations or of next observations, so here is what is wrong with one of them.
        for named in (key,) if key != "observations" else ("observations", "next_observations"):
            _refuse_non_finite(raw, named)
    if any((_excess(raw.actions[part], action_low, action_high) > ACTION_TOLERANCE).any() for part in _slices(m)):
        excess = _excess(raw.actions, action_low, action_high)
        beyond = excess > ACTION_TOLERANCE
        row, column = np.unravel_index(np.argmax(excess), excess.shape)
        raise DatasetError(
            f"dataset '{raw.name}': {int(beyond.any(axis=1).sum())} of {m} actions lie outside the bounds of {env_id}, "
            f"the farthest with {raw.actions[row, column]:g} in column {column} ({_place(raw, row)}), where the bounds "
            f"are [{action_low[column]:g}, {action_high[column]:g}]: set env.id=... to the one it was recorded in"
        )


def _slices(length: int) -> Iterator[slice]:
    """Slices of :data:`CHUNK` that together are the whole."""
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))


def _refuse_non_finite(raw: RawData, key: str) -> None:
    array = getattr(raw, key).reshape(len(raw), -1)
    wrong = ~np.isfinite(array)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        place = f", column {column}" if key != "rewards" else ""
        raise DatasetError(
            f"dataset '{raw.name}': {int(wrong.sum())} value(s) of {key} are NaN or infinite, the first is "
            f"{array[row, column]} in {_place(raw, row)}{place}: leave out such episodes or repair the file"
        )


def _excess(actions: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[Any]:
    """How far actions lie beyond their bounds, (..., A); negative within them."""
    excess: NDArray[Any] = np.maximum(low - actions, actions - high)
    return excess


def _place(raw: RawData, row: Any) -> str:
    """Return "episode e, step t" of a transition."""
    episode = raw.episode[row]
    return f"episode {episode}, step {row - np.searchsorted(raw.episode, episode)}"


def _empty(name: str) -> DatasetError:
    return DatasetError(f"dataset '{name}' is empty: it holds no transition")


def fingerprint(raw: RawData) -> str:
    """Return 16 hexadecimal digits that identify the transitions: equal data have equal ones."""
    m = len(raw)
    digest = hashlib.sha256()
    for field in ("observations", "actions", "rewards", "next_observations", "terminated", "truncated"):
        if field.endswith("observations"):
            # As if the array had been gathered whole: the fingerprints in checkpoints know nothing of rows.
            shift, shape = int(field == "next_observations"), (m, *raw.rows.shape[1:])
            parts = (raw.rows[raw.row[part] + shift] for part in _slices(m))
            dtype = raw.rows.dtype
        else:
            array = np.ascontiguousarray(getattr(raw, field))
            parts, shape, dtype = (array[part] for part in _slices(m)), array.shape, array.dtype
        digest.update(f"{field} {dtype} {shape} ".encode())
        for values in parts:
            digest.update(values.data)
    return digest.hexdigest()[:16]


def _moments(raw: RawData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the observations, (S,) each, as NumPy's own but without arrays of their size.

    Row is added to row in float64, as NumPy does it, so the sums are the same to the last bit.
    """

    def total(deviations_from: NDArray[np.float64] | None) -> NDArray[np.float64]:
        so_far = np.empty((0, raw.rows.shape[1]))
        for part in _slices(len(raw)):
            values = raw.rows[raw.row[part]].astype(np.float64)
            if deviations_from is not None:
                values -= deviations_from
                values *= values
            so_far = np.add.reduce(np.concatenate([so_far, values]), axis=0, keepdims=True)
        return np.asarray(so_far[0])

    mean = total(None) / len(raw)
    return mean, np.sqrt(total(mean) / len(raw))


def prepare(
    raw: RawData,
    *,
    action_low: NDArray[np.float32],
    action_high: NDArray[np.float32],
    normalise_observations: bool = False,
    reward_scale: float = 1.0,
    reward_bias: float = 0.0,
    timeouts_as_terminals: bool = False,
    device: str | torch.device = "cpu",
    in_place: bool = False,
) -> Transitions:
    """Turn a checked dataset into the tensors training reads.

    Args:
        raw: the dataset. With `in_place` it is used up.
        action_low: (A,) lower bounds of the environment's actions, which become -1.
        action_high: (A,) upper bounds, which become 1.
        normalise_observations: subtract the mean and divide by the standard deviation + 1e-3, as CORL does; both are
            those of `observations` (not of `next_observations`).
        reward_scale: rewards become `reward * reward_scale + reward_bias`.
        reward_bias: see `reward_scale`.
        timeouts_as_terminals: let a truncated episode end the return too. This teaches the critic an end that is not
            there; it exists to compare with programs that do so.
        device: where the tensors are kept.
        in_place: let the tensors take over the memory of `raw` and change it; without it they get their own.
    """
    import torch

    identity = fingerprint(raw)
    centre, half = (action_high + action_low) / 2, (action_high - action_low) / 2
    if normalise_observations:
        mean, std = _moments(raw)
        std += STD_FLOOR
    else:
        mean, std = np.zeros(raw.rows.shape[1]), np.ones(raw.rows.shape[1])
    normaliser = Normaliser(_tensor(mean, device), _tensor(std, device))
    rows, row, actions = raw.rows, raw.row, raw.actions
    if not in_place:
        rows, row, actions = rows.copy(), row.copy(), actions.copy()
    for part in _slices(len(actions)):
        actions[part] = ((actions[part] - centre) / half).clip(-1, 1)
    observations = torch.from_numpy(rows).to(device)
    if normalise_observations:
        for part in _slices(len(rows)):
            observations[part] = normaliser.apply(observations[part])
    return Transitions(
        rows=observations,
        row=torch.from_numpy(row).to(device),
        actions=torch.from_numpy(actions).to(device),
        rewards=_tensor(raw.rewards * reward_scale + reward_bias, device),
        terminated=_tensor(raw.terminated | raw.truncated if timeouts_as_terminals else raw.terminated, device),
        normaliser=normaliser,
        fingerprint=identity,
    )


def _tensor(array: NDArray[Any], device: str | torch.device) -> torch.Tensor:
    """Copy an array into a contiguous float32 tensor of its own."""
    import torch

    return torch.tensor(array, dtype=torch.float32, device=device).contiguous()
