"""Offline datasets: Minari and D4RL files become one set of tensors, kept once.

`load_minari` and `load_d4rl` read a file into `RawData`, in the environment's own units; `check` compares it with the
environment it is to be used with; `prepare` turns it into `Transitions`, the tensors that training gathers from.

Axes: M transitions, S state features, A action features.
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
from collections.abc import Iterable, Iterator
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
# Datasets in the making stand below this folder of Minari's own; Minari passes over names that begin with a dot.
WORK_FOLDER = ".cql-collecting"


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
        observations: (M, S) float32.
        actions: (M, A) float32, within the environment's bounds.
        rewards: (M,) float32.
        next_observations: (M, S) float32.
        terminated: (M,) bool, the episode ended in a terminal state: its return stops here.
        truncated: (M,) bool, the recording was cut here: the return would have gone on.
        episode: (M,) int64, 0 for the first episode, 1 for the second, and so on.
        name: the dataset's id or path, for messages.
        env_id: the environment the dataset says it was recorded in, None where it does not say.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode: NDArray[np.int64]
    name: str
    env_id: str | None = None

    def __len__(self) -> int:
        return len(self.rewards)

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
        observations: (M, S), normalised.
        actions: (M, A), scaled to [-1, 1].
        rewards: (M,), scaled and shifted.
        next_observations: (M, S), normalised.
        terminated: (M,), 1 where the return stops, else 0.
        normaliser: what was applied to the observations, for use on those of the environment.
        fingerprint: 16 hexadecimal digits that identify the raw data, whatever was made of them.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_observations: torch.Tensor
    terminated: torch.Tensor
    normaliser: Normaliser
    fingerprint: str

    def __len__(self) -> int:
        return self.rewards.shape[0]


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
        env_spec = metadata.get("env_spec")
        env_id = json.loads(env_spec)["id"] if env_spec else None
        if metadata.get("data_format", "hdf5") == "hdf5":
            return _join(_hdf5_episodes(folder / "data" / "main_data.hdf5", n_episodes), dataset_id, env_id)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"Minari dataset '{dataset_id}' in {folder} is incomplete or damaged ({type(error).__name__}: {error}): "
            "remove that folder and make or download the dataset again"
        ) from error
    return _join(_minari_episodes(dataset_id), dataset_id, env_id)


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


def _join(episodes: Iterable[_Episode], name: str, env_id: str | None) -> RawData:
    """Put episodes of T + 1 observations and T steps end to end."""
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    for index, episode in enumerate(episodes):
        observations, actions, rewards, terminations, truncations = episode
        for key, value, n_axes in (("observations", observations, 2), ("actions", actions, 2), ("rewards", rewards, 1)):
            if not isinstance(value, np.ndarray) or value.ndim != n_axes or value.dtype.kind not in "fiub":
                found = f"shape {value.shape}, {value.dtype}" if isinstance(value, np.ndarray) else "a composite space"
                wanted = "one vector of numbers" if n_axes == 2 else "one number"
                raise DatasetError(
                    f"dataset '{name}', episode {index}: {key} must hold {wanted} a step, found {found}; only "
                    "continuous control with flat observations and actions is supported"
                )
        steps = len(rewards)
        lengths = [len(value) for value in episode]
        if lengths != [steps + 1, steps, steps, steps, steps]:
            raise DatasetError(
                f"dataset '{name}', episode {index}: {steps} rewards go with {steps + 1} observations and {steps} "
                f"actions, terminations and truncations; found lengths {dict(zip(_EPISODE_KEYS, lengths, strict=True))}"
            )
        if steps == 0:
            continue
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and `check` names it
            for column, value in zip(columns[:3], episode[:3], strict=True):
                column.append(value.astype(np.float32, copy=False))
        columns[3].append(np.asarray(terminations, dtype=bool))
        columns[4].append(np.asarray(truncations, dtype=bool))
    observations, actions, rewards, terminations, truncations = columns
    if not rewards:
        raise _empty(name)
    for key, values in (("observations", observations), ("actions", actions)):
        sizes = sorted({value.shape[1] for value in values})
        if len(sizes) > 1:
            raise DatasetError(f"dataset '{name}': {key} differ in size between episodes: {sizes}")
    lengths = [len(values) for values in rewards]
    return _mark_ends(
        RawData(
            observations=np.concatenate([values[:-1] for values in observations]),
            actions=np.concatenate(actions),
            rewards=np.concatenate(rewards),
            next_observations=np.concatenate([values[1:] for values in observations]),
            terminated=np.concatenate(terminations),
            truncated=np.concatenate(truncations),
            episode=np.repeat(np.arange(len(lengths)), lengths),
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
def new_dataset(dataset_id: str) -> Iterator[Path | None]:
    """Bring a Minari dataset into being whole or not at all.

    The block writes the dataset below a hidden folder, which Minari passes over; at the block's end one rename moves it
    to its place. Neither an exception nor a kill leaves anything that passes for a dataset, and what a kill leaves in
    the hidden folder goes when the same dataset is next made. A process that comes second waits for the first.

    Args:
        dataset_id: the dataset's id.

    Yields:
        The root to write below, to be given to Minari with `minari_root_set_to`; None where the dataset exists by now.
    """
    import fcntl

    import minari.namespace

    target = minari_folder(dataset_id)
    hidden_root = minari_root() / WORK_FOLDER / dataset_id.replace("/", "--")
    hidden_root.parent.mkdir(exist_ok=True)
    with hidden_root.with_name(f"{hidden_root.name}.lock").open("w") as lock:
        try:  # the lock ends with the process, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is making %s; waiting for it", dataset_id)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
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
            hidden_root.joinpath(dataset_id).rename(target)
        finally:
            shutil.rmtree(hidden_root, ignore_errors=True)


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


def load_d4rl(path: str | Path) -> RawData:
    """Read a D4RL HDF5 file in the layout of the `-v2` gym datasets.

    An episode ends where `terminals` or `timeouts` is set; a step with both counts as terminal, and what follows the
    last end is an episode cut short. Files with `next_observations` keep every transition. Without them the next
    observation is the following row's, so the last step of an episode that was cut has none and is left out, as in
    D4RL's `qlearning_dataset`; that of a terminal step, which no return depends on, repeats its own observation.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetError: not an HDF5 file, a missing key, or arrays that do not fit together.
    """
    import h5py

    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(
            f"D4RL file '{path}' does not exist: set dataset.path to an HDF5 file, such as hopper_medium-v2.hdf5"
        )
    try:
        with h5py.File(path, "r") as file:
            arrays = {key: _d4rl_array(file, key, path) for key in ("observations", "actions", "rewards", "terminals")}
            if "timeouts" not in file:
                raise DatasetError(
                    f"D4RL file '{path}' has no 'timeouts': it is a -v0 file, which does not record where its episodes "
                    "were cut; use the -v2 file"
                )
            arrays["timeouts"] = _d4rl_array(file, "timeouts", path)
            if "next_observations" in file:
                arrays["next_observations"] = _d4rl_array(file, "next_observations", path)
    except OSError as error:
        raise DatasetError(
            f"'{path}' ({path.stat().st_size} bytes) cannot be read as HDF5 ({error}): download it again, and look "
            "whether the server sent an error page instead"
        ) from error
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"D4RL file '{path}': the arrays differ in length: {lengths}")
    if not lengths["rewards"]:
        raise _empty(str(path))

    terminated = arrays["terminals"].astype(bool)
    truncated = arrays["timeouts"].astype(bool) & ~terminated
    ends = terminated | truncated
    observations = arrays["observations"]
    keep = np.ones_like(ends)
    if "next_observations" in arrays:
        next_observations = arrays["next_observations"]
    else:
        next_observations = np.concatenate([observations[1:], observations[-1:]])
        next_observations[terminated] = observations[terminated]
        keep = ~truncated
        keep[-1] = terminated[-1]
    # The row behind an end begins the next episode.
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    kept = episode[keep]
    if not len(kept):
        raise _empty(str(path))
    return _mark_ends(
        RawData(
            observations=observations[keep],
            actions=arrays["actions"][keep],
            rewards=arrays["rewards"][keep],
            next_observations=next_observations[keep],
            terminated=terminated[keep],
            truncated=truncated[keep],
            episode=_consecutive(kept),
            name=str(path),
        )
    )


def _d4rl_array(file: Any, key: str, path: Path) -> NDArray[Any]:
    import h5py

    if key not in file:
        raise DatasetError(f"D4RL file '{path}' has no '{key}'; it holds {', '.join(sorted(file)) or 'nothing'}")
    member = file[key]
    n_axes = 2 if key in {"observations", "actions", "next_observations"} else 1
    if not isinstance(member, h5py.Dataset) or member.ndim != n_axes or member.dtype.kind not in "fiub":
        found = f"shape {member.shape}, {member.dtype}" if isinstance(member, h5py.Dataset) else "a group"
        shape = "(transitions, features)" if n_axes == 2 else "(transitions,)"
        raise DatasetError(f"D4RL file '{path}': '{key}' must be an array of numbers of shape {shape}, found {found}")
    array: NDArray[Any] = member[()]
    if key in {"terminals", "timeouts"}:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _consecutive(episode: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber ascending episode indices as 0, 1, 2, ..."""
    return np.concatenate([[0], np.cumsum(np.diff(episode) != 0)]).astype(np.int64)


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
    keep = chosen[raw.episode]
    return RawData(
        observations=raw.observations[keep],
        actions=raw.actions[keep],
        rewards=raw.rewards[keep],
        next_observations=raw.next_observations[keep],
        terminated=raw.terminated[keep],
        truncated=raw.truncated[keep],
        episode=_consecutive(raw.episode[keep]),
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
    if raw.env_id is not None and raw.env_id != env_id:
        raise DatasetError(
            f"dataset '{raw.name}' was recorded in {raw.env_id}, but the environment is {env_id}: set env={raw.env_id} "
            "or choose another dataset"
        )
    for key, array, wanted in (
        ("observations", raw.observations, observation_size),
        ("next_observations", raw.next_observations, observation_size),
        ("actions", raw.actions, action_size),
    ):
        if array.ndim == 2 and array.shape[1] != wanted:
            recorded = "does not say which environment it is from" if raw.env_id is None else f"is from {raw.env_id}"
            raise DatasetError(
                f"dataset '{raw.name}': {key} have {array.shape[1]} features, but {env_id} has {wanted}; the dataset "
                f"{recorded}: set env=... to the one it was recorded in"
            )
    m = len(raw)
    for key, shape, dtype in (
        ("observations", (m, observation_size), np.float32),
        ("actions", (m, action_size), np.float32),
        ("rewards", (m,), np.float32),
        ("next_observations", (m, observation_size), np.float32),
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
    for key in ("observations", "actions", "rewards", "next_observations"):
        array = getattr(raw, key).reshape(m, -1)
        wrong = ~np.isfinite(array)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            place = f", column {column}" if key != "rewards" else ""
            raise DatasetError(
                f"dataset '{raw.name}': {int(wrong.sum())} value(s) of {key} are NaN or infinite, the first is "
                f"{array[row, column]} in {_place(raw, row)}{place}: leave out such episodes or repair the file"
            )
    excess = np.maximum(action_low - raw.actions, raw.actions - action_high)
    beyond = excess > ACTION_TOLERANCE
    if beyond.any():
        row, column = np.unravel_index(np.argmax(excess), excess.shape)
        raise DatasetError(
            f"dataset '{raw.name}': {int(beyond.any(axis=1).sum())} of {m} actions lie outside the bounds of {env_id}, "
            f"the farthest with {raw.actions[row, column]:g} in column {column} ({_place(raw, row)}), where the bounds "
            f"are [{action_low[column]:g}, {action_high[column]:g}]: set env=... to the one it was recorded in"
        )


def _place(raw: RawData, row: Any) -> str:
    """Return "episode e, step t" of a transition."""
    episode = raw.episode[row]
    return f"episode {episode}, step {row - np.searchsorted(raw.episode, episode)}"


def _empty(name: str) -> DatasetError:
    return DatasetError(f"dataset '{name}' is empty: it holds no transition")


def fingerprint(raw: RawData) -> str:
    """Return 16 hexadecimal digits that identify the transitions: equal data have equal ones."""
    digest = hashlib.sha256()
    for field in ("observations", "actions", "rewards", "next_observations", "terminated", "truncated"):
        array = np.ascontiguousarray(getattr(raw, field))
        digest.update(f"{field} {array.dtype} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


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
) -> Transitions:
    """Turn a checked dataset into the tensors training reads.

    Args:
        raw: the dataset.
        action_low: (A,) lower bounds of the environment's actions, which become -1.
        action_high: (A,) upper bounds, which become 1.
        normalise_observations: subtract the mean and divide by the standard deviation + 1e-3, as CORL does; both are
            those of `observations` (not of `next_observations`).
        reward_scale: rewards become `reward * reward_scale + reward_bias`.
        reward_bias: see `reward_scale`.
        timeouts_as_terminals: let a truncated episode end the return too. This teaches the critic an end that is not
            there; it exists to compare with programs that do so.
        device: where the tensors are kept.
    """
    centre, half = (action_high + action_low) / 2, (action_high - action_low) / 2
    if normalise_observations:
        mean = raw.observations.mean(axis=0, dtype=np.float64)
        std = raw.observations.std(axis=0, dtype=np.float64) + STD_FLOOR
    else:
        mean, std = np.zeros(raw.observations.shape[1]), np.ones(raw.observations.shape[1])
    normaliser = Normaliser(_tensor(mean, device), _tensor(std, device))
    observations, next_observations = _tensor(raw.observations, device), _tensor(raw.next_observations, device)
    if normalise_observations:
        observations, next_observations = normaliser.apply(observations), normaliser.apply(next_observations)
    return Transitions(
        observations=observations,
        actions=_tensor(((raw.actions - centre) / half).clip(-1, 1), device),
        rewards=_tensor(raw.rewards * reward_scale + reward_bias, device),
        next_observations=next_observations,
        terminated=_tensor(raw.terminated | raw.truncated if timeouts_as_terminals else raw.terminated, device),
        normaliser=normaliser,
        fingerprint=fingerprint(raw),
    )


def _tensor(array: NDArray[Any], device: str | torch.device) -> torch.Tensor:
    """Copy an array into a contiguous float32 tensor of its own."""
    import torch

    return torch.tensor(array, dtype=torch.float32, device=device).contiguous()
