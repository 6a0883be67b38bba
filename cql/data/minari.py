"""Minari datasets, read from this machine or downloaded from the hub."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cql.data.boundary import reading, regular
from cql.data.local import minari_folder, minari_root, minari_root_set_to, new_dataset
from cql.data.raw import Column, DatasetError, DatasetNotFoundError, RawData, as_flags, empty_error, mark_ends
from cql.rollout.observations import default_keys, flat, leaves, which_keys

log = logging.getLogger(__name__)

# Seconds to wait for the dataset hub; its own client retries for more than twenty.
HUB_TIMEOUT = 5.0

_MANY_EPISODES = 50_000  # take longer than ten seconds

_Episode = tuple[Any, Any, Any, Any, Any]  # observations, actions, rewards, terminations, truncations
_EPISODE_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")


def load_minari(
    dataset_id: str, *, download: bool = True, keys: Sequence[str] | None = None, with_success: bool = False
) -> RawData:
    """Read a Minari dataset; download it first if it is absent.

    HDF5 files are read directly, which takes a few seconds for a million transitions; other formats go through
    Minari. Each episode holds one observation more than it has steps; the last one is the next observation of its last
    transition.

    Args:
        dataset_id: such as `mujoco/halfcheetah/medium-v0`.
        download: whether an absent dataset may be downloaded.
        keys: which parts of Dict observations to put side by side, in their order; None for the default (see
            :func:`cql.rollout.observations.default_keys`). Datasets of vectors are read as they are.
        with_success: whether to read `infos/success`, if the dataset has it.

    Raises:
        DatasetNotFoundError: the dataset is not found, locally or on the hub.
        DatasetError: its files are incomplete, or do not hold observations that are vectors, or can be made such, and
            actions that are.
    """
    folder = minari_folder(dataset_id)
    if not folder.joinpath("data").is_dir():
        if not download:
            raise _not_found(dataset_id, "and dataset.download=false forbids fetching it")
        _download(dataset_id)
    remedy = "remove that folder and make or download the dataset again"
    with reading(f"Minari dataset '{dataset_id}' in {folder} is incomplete or damaged", remedy):
        metadata = json.loads(regular(folder / "data" / "metadata.json").read_text(encoding="utf-8"))
        n_episodes = int(metadata["total_episodes"])
        n_steps = max(0, int(metadata.get("total_steps", 0)))
        env_spec = metadata.get("env_spec")
        spec = json.loads(env_spec) if env_spec else {"id": None}
        env_id, env_kwargs, limit = spec["id"], dict(spec.get("kwargs") or {}), spec.get("max_episode_steps")
        if not (isinstance(env_id, str | None) and isinstance(limit, int | None)):
            raise TypeError(f"env_spec has the id {env_id!r} and max_episode_steps {limit!r}")
        own_keys = metadata.get("observation_keys")  # of a dataset that was collected here
        reader = _Reader(dataset_id, keys, with_success)
        episodes = (
            reader.hdf5_episodes(regular(folder / "data" / "main_data.hdf5"), n_episodes)
            if metadata.get("data_format", "hdf5") == "hdf5"
            else reader.minari_episodes()
        )
        if n_episodes >= _MANY_EPISODES:
            log.info("reading %s episodes of %s", f"{n_episodes:,}", dataset_id)
        shown = tqdm(episodes, dataset_id, n_episodes, unit="episode", delay=3.0, leave=False, disable=None)
        raw = _join(shown, dataset_id, (n_steps, n_episodes))
        if own_keys is not None:
            reader.keys = tuple(json.loads(own_keys))
    success = [each for each in reader.success if each is not None]
    return dataclasses.replace(
        raw,
        env_id=env_id,
        env_kwargs=env_kwargs,
        max_episode_steps=limit,
        observation_keys=reader.keys,
        success=np.concatenate(success) if success else None,
    )


class _Reader:
    """Reads the episodes of a dataset, with Dict observations put side by side.

    Args:
        name: of the dataset.
        keys: which parts of Dict observations; None for the default.
        with_success: whether to read whether each step was a success.

    Attributes:
        keys: those that were used; None if observations are vectors.
        success: of each episode so far, (T,) bool; None for all of them if the dataset has none.
    """

    def __init__(self, name: str, keys: Sequence[str] | None, with_success: bool) -> None:
        self.keys: tuple[str, ...] | None = None
        self.success: list[NDArray[np.bool_] | None] = []
        self._name, self._wanted, self._with_success = name, keys or None, with_success

    def hdf5_episodes(self, path: Path, n_episodes: int) -> Iterator[_Episode]:
        """The episodes of Minari's HDF5 file."""
        import h5py

        with h5py.File(path, "r") as file:

            def read(name: str) -> Any:
                # h5py's own groups and slices take longer than the reading if episodes are short.
                try:
                    member = h5py.h5d.open(file.id, name.encode())
                except KeyError:
                    group = file.get(name)
                    if isinstance(group, h5py.Group):
                        return {key: read(f"{name}/{key}") for key in group}
                    raise
                array = np.empty(member.shape, member.dtype)
                member.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
                return array

            for index in range(n_episodes):
                found = [read(f"episode_{index}/{key}") for key in _EPISODE_KEYS]
                infos = None
                if self._with_success and f"episode_{index}/infos/success" in file:
                    infos = {"success": read(f"episode_{index}/infos/success")}
                yield self._episode(index, found, infos)

    def minari_episodes(self) -> Iterator[_Episode]:
        """The episodes of a dataset in another format, by Minari's own reader."""
        import minari

        try:
            dataset = minari.load_dataset(self._name)
        except ImportError as error:
            raise DatasetError(f"reading Minari dataset '{self._name}': {error}") from error
        for index, episode in enumerate(dataset.iterate_episodes()):
            yield self._episode(index, [getattr(episode, key) for key in _EPISODE_KEYS], episode.infos)

    def _episode(self, index: int, found: list[Any], infos: Any) -> _Episode:
        where = f"dataset '{self._name}', episode {index}"
        if isinstance(found[0], Mapping):
            found[0] = self._flat(found[0], where)
        elif isinstance(found[0], np.ndarray) and found[0].ndim > 2:
            found[0] = flat(found[0], (), n_axes=1)
        n_steps = len(found[2])
        if n_steps and self._with_success:
            self._note_success(infos.get("success") if isinstance(infos, Mapping) else None, n_steps, where)
        return tuple(found)

    def _note_success(self, given: Any, n_steps: int, where: str) -> None:
        flags = None if given is None else np.asarray(given).reshape(-1)
        if flags is not None and len(flags) not in (n_steps, n_steps + 1):
            raise DatasetError(f"{where}: infos/success has {len(flags)} values for {n_steps} steps")
        if self.success and (flags is None) != (self.success[-1] is None):
            raise DatasetError(f"{where}: some episodes have infos/success, others have not: leave these out")
        # With one more, the first is the reset's.
        self.success.append(None if flags is None else as_flags(flags[-n_steps:], f"{where}: infos/success"))

    def _flat(self, observations: Mapping[str, Any], where: str) -> NDArray[Any]:
        present = {key: np.ndim(array) > 1 for key, array in leaves(observations).items()}
        if self.keys is None:
            keys = self._wanted or default_keys(present)
            if keys is None:
                raise DatasetError(
                    f"{where}: observations are a Dict of {', '.join(present)}: "
                    + which_keys([key for key, is_vector in present.items() if is_vector])
                )
            self.keys = tuple(keys)
        missing = [key for key in self.keys if key not in present]
        if missing:
            raise DatasetError(
                f"{where}: observations have no '{missing[0]}', but a Dict of {', '.join(present)}: is this a dataset "
                "of the environment? env.observation_keys says which of them are used"
            )
        return flat(observations, self.keys, n_axes=1)


def _join(episodes: Iterable[_Episode], name: str, counts: tuple[int, int]) -> RawData:
    """Put episodes of T + 1 observations and T steps end to end.

    Args:
        episodes: of the file.
        name: of the dataset.
        counts: how many steps and episodes there will be, if known.
    """
    columns = [
        Column(np.float32, sum(counts)),  # each episode has one observation more
        *(Column(dtype, counts[0]) for dtype in (np.float32, np.float32, np.bool_, np.bool_)),
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
        for key, flags in zip(_EPISODE_KEYS[3:], episode[3:], strict=True):
            if flags.dtype != np.bool_:
                as_flags(flags, f"dataset '{name}', episode {index}: {key}")
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
        raise empty_error(name)
    for key, found_sizes in zip(("observations", "actions"), sizes, strict=True):
        if len(found_sizes) > 1:
            raise DatasetError(f"dataset '{name}': {key} differ in size between episodes: {sorted(found_sizes)}")
    rows, actions, rewards, terminated, truncated = (column.array() for column in columns)
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    return mark_ends(
        RawData(
            rows=rows,
            row=np.arange(len(rewards)) + episode_of,  # each episode before has one row more than steps
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episode=episode_of,
            name=name,
        )
    )


def _not_found(dataset_id: str, reason: str) -> DatasetNotFoundError:
    import minari

    local = sorted(minari.list_local_datasets())
    return DatasetNotFoundError(
        f"Minari dataset '{dataset_id}' is not in {minari_root()}, {reason}. "
        f"Local datasets: {', '.join(local) if local else 'none'}. "
        f"To fetch it: pip install -e '.[hub]' && minari download {dataset_id}; "
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
        except Exception as error:  # the clients of the remotes share no base class
            raise _not_found(dataset_id, f"and could not be fetched: {type(error).__name__}: {error}") from error
        if not hidden_root.joinpath(dataset_id, "data").is_dir():
            raise _not_found(dataset_id, "and the download brought nothing")


def _hub_unreachable() -> str | None:
    """Why the dataset hub cannot be reached; None if it can, or if only a proxy could tell."""
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
