"""Behaviour policies rolled out into Minari datasets.

The package carries the weights of trained policies rather than the data they make, which are a hundred times larger:
:func:`ensure_embedded` makes a dataset on its first use, and any Minari user can read it from then on.

Axes: E environments stepped together, S state features, A action features.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.resources
import json
import logging
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cql.algorithm import networks
from cql.algorithm.networks import Mlp, Parameters
from cql.data.datasets import DatasetError, minari_folder, minari_root_set_to, new_dataset
from cql.rollout.envs import env_info, make_env, to_env_actions
from cql.rollout.reference_scores import known_scores
from cql.rollout.worker import Worker

log = logging.getLogger(__name__)

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the clamp the behaviour policies were trained with


class PolicyError(ValueError):
    """A behaviour policy is missing, has the wrong shapes, or acts with what is no number."""


class Behaviour(Protocol):
    """What acts in a collection. It is pickled for other processes, and treats each row as if it were alone.

    Attributes:
        name: for messages and metadata.
        observation_size: S.
        action_size: A.
    """

    name: str
    observation_size: int
    action_size: int

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions in [-1, 1], (E, A), for observations (E, S) and standard normal noise (E, A).

        Without noise it acts as it would when it is evaluated.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """The episodes of one behaviour in a dataset.

    Attributes:
        behaviour: what acts.
        n_episodes: how many episodes.
        noise: the standard deviations of its actions are multiplied by it: 1 acts as it was trained, 0 with the mean.
    """

    behaviour: Behaviour
    n_episodes: int
    noise: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.n_episodes < 1:
            raise DatasetError(f"n_episodes must be at least 1, got {self.n_episodes} for '{self.behaviour.name}'")
        if not 0.0 <= self.noise < np.inf:
            raise DatasetError(f"noise must be 0 or more, got {self.noise} for '{self.behaviour.name}'")
        if isinstance(self.behaviour, RandomPolicy) and self.noise != 1.0:
            raise DatasetError(f"noise {self.noise:g} for 'random', which has no standard deviation to scale")


class RandomPolicy:
    """Actions drawn uniformly from [-1, 1].

    Attributes:
        name: ``random``.
        observation_size: S.
        action_size: A.
    """

    name = "random"

    def __init__(self, observation_size: int, action_size: int) -> None:
        self.observation_size, self.action_size = observation_size, action_size

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions (E, A): the normal noise through its own distribution function. None gives zeros."""
        from scipy.special import erf

        if noise is None:
            return np.zeros((len(observations), self.action_size), np.float32)
        uniform: NDArray[np.float32] = erf(noise / np.float32(np.sqrt(2.0))).astype(np.float32)
        return uniform


class NpzPolicy:
    """A tanh-squashed Gaussian policy with two relu layers, in numpy.

    Attributes:
        name: where the weights came from, for messages and metadata.
        observation_size: S.
        action_size: A.
    """

    def __init__(self, weights: dict[str, NDArray[Any]], name: str) -> None:
        """Check the weights and keep them.

        Args:
            weights: `hidden_0`, `hidden_1`, `mean` and `log_std`, each with `.weight` (out, in) and `.bias` (out,).
            name: where they came from.

        Raises:
            PolicyError: an array is missing or left over, its shape does not fit, or it is not finite.
        """
        layers = ("hidden_0", "hidden_1", "mean", "log_std")
        wanted = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        if set(weights) != wanted:
            raise PolicyError(f"policy '{name}' must hold {sorted(wanted)}, found {sorted(weights)}")
        first, head = weights["hidden_0.weight"], weights["mean.weight"]
        if first.ndim != 2 or head.ndim != 2:
            raise PolicyError(f"policy '{name}': weights must have two axes, found {first.shape} and {head.shape}")
        width_1, self.observation_size = first.shape
        self.action_size, width_2 = head.shape
        sizes = {
            "hidden_0": (width_1, self.observation_size),
            "hidden_1": (width_2, width_1),
            "mean": (self.action_size, width_2),
            "log_std": (self.action_size, width_2),
        }
        for layer, (n_out, n_in) in sizes.items():
            for key, shape in ((f"{layer}.weight", (n_out, n_in)), (f"{layer}.bias", (n_out,))):
                if weights[key].shape != shape or weights[key].dtype != np.float32:
                    raise PolicyError(
                        f"policy '{name}': {key} must be float32 of shape {shape}, found {weights[key].dtype} of shape "
                        f"{weights[key].shape}"
                    )
                if not np.isfinite(weights[key]).all():
                    raise PolicyError(f"policy '{name}': {key} holds values that are not finite")
        self.name = name
        self._layers = {layer: (weights[f"{layer}.weight"].T, weights[f"{layer}.bias"]) for layer in layers}

    @classmethod
    def load(cls, path: str | Path) -> NpzPolicy:
        """Read a policy's weights from an `.npz` file; pickled objects in it are refused.

        Raises:
            PolicyError: the file is missing, is no `.npz` of plain arrays, or holds the wrong ones.
        """
        path = Path(path)
        if not path.is_file():
            raise PolicyError(f"policy file '{path}' does not exist")
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls({key: file[key] for key in file.files}, str(path))
        except PolicyError:
            raise
        except (OSError, ValueError, AttributeError) as error:
            raise PolicyError(f"policy file '{path}' is not an .npz of plain arrays: {error}") from error

    @classmethod
    def sequence(cls, folder: str | Path) -> list[NpzPolicy]:
        """Read all policies of a folder, in the order of the numbers in their names: of a training, that of its steps.

        Raises:
            PolicyError: the folder holds no `.npz`, or one of them is not a policy's.
        """
        paths = sorted(Path(folder).glob("*.npz"), key=_by_numbers)
        if not paths:
            raise PolicyError(f"folder '{folder}' holds no .npz")
        return [cls.load(path) for path in paths]

    @classmethod
    def embedded(cls, name: str) -> NpzPolicy:
        """Read a policy of the package by its name, such as `halfcheetah/sac_125k`.

        Raises:
            PolicyError: there is none of that name; the message lists those there are.
        """
        names = cls.embedded_names()
        if name not in names:
            raise PolicyError(f"no behaviour policy '{name}'; there are {', '.join(names)}")
        with importlib.resources.as_file(importlib.resources.files("cql.data") / "behaviour" / f"{name}.npz") as path:
            policy = cls.load(path)
        policy.name = name
        return policy

    @staticmethod
    def embedded_names() -> list[str]:
        """The names of the package's policies, in order."""
        with importlib.resources.as_file(importlib.resources.files("cql.data") / "behaviour") as root:
            return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.npz"))

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions in [-1, 1], (E, A), for observations (E, S).

        Args:
            observations: (E, S).
            noise: (E, A), standard normal; None acts with the mean.
        """
        # One matrix product per row: the product of a whole batch rounds differently with its size, and an action
        # that differs in the last bit becomes another episode.
        hidden = observations.astype(np.float32)[:, None, :]
        for layer in ("hidden_0", "hidden_1"):
            hidden = np.maximum(self._linear(layer, hidden), 0)
        action = self._linear("mean", hidden)[:, 0]
        if noise is not None:
            log_std = self._linear("log_std", hidden)[:, 0].clip(LOG_STD_MIN, LOG_STD_MAX)
            action = action + np.exp(log_std) * noise
        return np.tanh(action)

    def _linear(self, layer: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        weight, bias = self._layers[layer]
        outputs: NDArray[np.float32] = inputs @ weight + bias
        return outputs


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A key that sorts `sac_9` before `sac_10`: digits by their value, the rest as text."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", path.stem)]


class ActorPolicy:
    """The actor of a run trained here, with its normalisation of observations.

    Attributes:
        name: where it came from, for messages and metadata.
        observation_size: S.
        action_size: A.
    """

    def __init__(
        self,
        name: str,
        mlp: Mlp,
        parameters: Parameters,
        *,
        mean: torch.Tensor,
        std: torch.Tensor,
        log_std_min: float,
        log_std_max: float,
    ) -> None:
        """Keep the actor.

        Args:
            name: where it came from.
            mlp: shape of the network.
            parameters: of one actor, without the axis of runs.
            mean: of the observations, (S,).
            std: of the observations, (S,).
            log_std_min: the log standard deviation is clamped to at least this
            log_std_max: and at most this.
        """
        self.name = name
        self.observation_size = len(mean)
        self.action_size = len(parameters[f"{mlp.depth}.bias"]) // 2
        self._mlp = mlp
        self._parameters = {key: tensor.detach().unsqueeze(0) for key, tensor in parameters.items()}
        self._mean, self._std = mean, std
        self._clamp = log_std_min, log_std_max

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions in [-1, 1], (E, A).

        Args:
            observations: (E, S).
            noise: (E, A), standard normal; None acts with the mean.
        """
        # One product per row, on one thread, as in `NpzPolicy`.
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                inputs = (torch.from_numpy(observations.astype(np.float32)) - self._mean) / self._std
                rows = [networks.actor(self._mlp, self._parameters, row.view(1, 1, -1), *self._clamp) for row in inputs]
                action = torch.cat([mean[0] for mean, _ in rows])
                if noise is not None:
                    action += torch.cat([log_std[0] for _, log_std in rows]).exp() * torch.from_numpy(noise)
                actions: NDArray[np.float32] = action.tanh().numpy()
                return actions
        finally:
            torch.set_num_threads(n_threads)


@dataclasses.dataclass(eq=False)
class Episode:
    """One recorded episode of T steps.

    Attributes:
        seed: the seed the environment was reset with.
        observations: (T + 1, S) float64.
        actions: (T, A) float32, in the environment's units.
        rewards: (T,) float64.
        terminations: (T,) bool.
        truncations: (T,) bool.
    """

    seed: int
    observations: NDArray[np.float64]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]


def roll_out(
    env_id: str, parts: Sequence[Part], *, seed: int, n_envs: int = 10, workers: int = 1, progress: bool = False
) -> list[Episode]:
    """Record episodes of behaviours, several environments stepped with one call of a behaviour.

    Episode e draws its reset seed and its noise from the e-th child of `seed` alone, so that the data depend neither on
    the number of environments or processes nor on the episodes behind it.

    Args:
        env_id: the environment.
        parts: the behaviours and how many episodes each has, one after the other.
        seed: the one seed of all randomness.
        n_envs: environments stepped together in a process, E.
        workers: processes.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a number is below 1.
        PolicyError: a behaviour's sizes are not the environment's.
    """
    from tqdm import tqdm

    if n_envs < 1 or workers < 1:
        raise DatasetError(f"n_envs and workers must be at least 1, got {n_envs} and {workers}")
    if not parts:
        raise DatasetError("a dataset needs at least one behaviour")
    info = env_info(env_id)
    for part in parts:
        own = part.behaviour
        if (own.observation_size, own.action_size) != (info.observation_size, info.action_size):
            raise PolicyError(
                f"policy '{own.name}' maps {own.observation_size} features to {own.action_size} actions, but "
                f"{env_id} has {info.observation_size} and {info.action_size}"
            )
    n_episodes = sum(part.n_episodes for part in parts)
    build = functools.partial(_Recorder, env_id, tuple(parts), seed, n_envs)
    episodes: dict[int, Episode] = {}
    with tqdm(total=n_episodes, desc=env_id, unit="episode", mininterval=0.5, disable=not progress) as bar:
        if workers == 1:
            made: Iterable[tuple[int, Episode]] = build().record(range(n_episodes))
        else:
            # Many small pieces, so that no process is long alone at the end.
            size = max(1, min(n_envs, n_episodes // (4 * workers)))
            pieces = [range(start, min(start + size, n_episodes)) for start in range(0, n_episodes, size)]
            made = _recorded(build, pieces, min(workers, len(pieces)))
        for index, episode in made:
            episodes[index] = episode
            bar.update()
    return [episodes[index] for index in range(n_episodes)]


def _recorded(build: Callable[[], _Recorder], pieces: Sequence[range], n_workers: int) -> Iterator[tuple[int, Episode]]:
    """The episodes of all pieces, made in processes of their own, as they come; the processes end with this one."""
    here = build()  # it makes its environments when a process has died and there is work for it
    workers = [Worker(build, name=f"collecting process {number}") for number in range(n_workers)]
    waiting, busy = iter(pieces), set[Worker]()
    try:
        while True:
            for worker in workers:
                if worker not in busy and (piece := next(waiting, None)) is not None:
                    worker.submit(piece)
                    busy.add(worker)
            if not busy:
                return
            while not (done := [worker for worker in busy if worker.done]):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            for worker in done:
                yield from worker.result(here)
                busy.remove(worker)
    finally:
        for worker in workers:
            worker.close()
        here.close()


_SECONDS_BETWEEN_LOOKS = 0.005


class _Recorder:
    """Records episodes in environments that it makes once.

    Args:
        env_id: the environment.
        parts: as for :func:`roll_out`.
        seed: of all randomness.
        n_envs: environments stepped together.
    """

    def __init__(self, env_id: str, parts: Sequence[Part], seed: int, n_envs: int) -> None:
        self._parts, self._seed, self._n_envs = parts, seed, n_envs
        self._info = env_info(env_id)
        self._last = np.cumsum([part.n_episodes for part in parts])
        self._envs: list[Any] = []

    def __call__(self, indices: range) -> list[tuple[int, Episode]]:
        """Some of the episodes, with their indices."""
        return list(self._episodes(indices))

    def record(self, indices: range) -> Iterator[tuple[int, Episode]]:
        """The same, each as soon as it has ended, and no more after them."""
        try:
            yield from self._episodes(indices)
        finally:
            self.close()

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
        self._envs = []

    def _begin(self, env: Any, index: int) -> _Slot:
        part, info = self._parts[int(np.searchsorted(self._last, index, side="right"))], self._info
        limit = info.max_episode_steps
        stream = np.random.SeedSequence(self._seed, spawn_key=(index,))  # the child that `spawn` would give
        episode = Episode(
            seed=int(stream.generate_state(1)[0]),
            observations=np.empty((limit + 1, info.observation_size)),
            actions=np.empty((limit, info.action_size), np.float32),
            rewards=np.empty(limit),
            terminations=np.zeros(limit, bool),
            truncations=np.zeros(limit, bool),
        )
        noise = None
        if part.noise > 0.0:
            generator = np.random.Generator(np.random.PCG64(stream))
            noise = generator.standard_normal((limit, info.action_size), dtype=np.float32) * np.float32(part.noise)
        episode.observations[0] = env.reset(seed=episode.seed)[0]
        return _Slot(env, index, part.behaviour, noise, episode)

    def _episodes(self, indices: range) -> Iterator[tuple[int, Episode]]:
        waiting = iter(indices)
        n_envs = min(self._n_envs, len(indices))
        while len(self._envs) < n_envs:
            self._envs.append(make_env(self._info.env_id))
        slots = [self._begin(env, index) for env, index in zip(self._envs, waiting, strict=False)]
        while slots:
            # Behaviours act on their own rows, in one call.
            together: dict[tuple[int, bool], list[_Slot]] = {}
            for slot in slots:
                together.setdefault((id(slot.behaviour), slot.noise is None), []).append(slot)
            for group in together.values():
                self._step(group)
            going = []
            for slot in slots:
                if not slot.ended:
                    going.append(slot)
                    continue
                _shorten(slot.episode, slot.t)
                yield slot.index, slot.episode
                index = next(waiting, None)
                if index is not None:
                    going.append(self._begin(slot.env, index))
            slots = going

    def _step(self, group: Sequence[_Slot]) -> None:
        """One step of environments that the same behaviour acts in."""
        behaviour = group[0].behaviour
        states = np.stack([slot.episode.observations[slot.t] for slot in group])
        rows = [slot.noise[slot.t] for slot in group if slot.noise is not None]
        actions = behaviour(states, np.stack(rows) if rows else None)
        if not np.isfinite(actions).all():
            raise PolicyError(f"policy '{behaviour.name}' acts with what is no number: it cannot be collected from")
        for slot, action in zip(
            group, to_env_actions(actions, self._info.action_low, self._info.action_high), strict=True
        ):
            slot.step(action)


@dataclasses.dataclass(eq=False)
class _Slot:
    """An environment and the episode it is in."""

    env: Any
    index: int
    behaviour: Behaviour
    noise: NDArray[np.float32] | None  # (T, A)
    episode: Episode
    t: int = 0
    ended: bool = False

    def step(self, action: NDArray[np.float32]) -> None:
        episode, t = self.episode, self.t
        state, reward, terminated, truncated, _ = self.env.step(action)
        episode.actions[t], episode.rewards[t], episode.observations[t + 1] = action, reward, state
        episode.terminations[t], episode.truncations[t] = terminated, truncated
        self.t, self.ended = t + 1, terminated or truncated


def _shorten(episode: Episode, steps: int) -> None:
    """Keep the first `steps` steps and the memory they need."""
    episode.observations = episode.observations[: steps + 1].copy()
    for key in ("actions", "rewards", "terminations", "truncations"):
        setattr(episode, key, getattr(episode, key)[:steps].copy())


def collect_dataset(
    dataset_id: str,
    env_id: str,
    parts: Sequence[Part],
    *,
    seed: int,
    n_envs: int = 10,
    workers: int = 1,
    reference: tuple[float, float] | None = None,
    description: str = "",
    author: str | None = None,
    exist_ok: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Episode] | None:
    """Roll behaviours out into a local Minari dataset, whole or not at all.

    An interrupted collection leaves nothing that passes for a dataset, and of two processes that collect the same one
    the second waits for the first (see `cql.data.datasets.new_dataset`).

    Observations and rewards are stored in float64, as the environment gives them and its observation space declares;
    actions in float32, as the action space does. The metadata hold the behaviours, the seed, the versions and the
    reference scores, and nothing that would differ in a second collection of the same.

    Args:
        dataset_id: Minari id, such as `cql/hopper/medium-v0`.
        env_id: the environment.
        parts: the behaviours.
        seed: the one seed of all randomness.
        n_envs: environments stepped together in a process; it changes the speed, not the data.
        workers: processes; likewise.
        reference: returns that score 0 and 100, kept in the metadata.
        description: a sentence for the metadata.
        author: for the metadata, which go without where it is None.
        exist_ok: take an existing dataset of that id for the wanted one instead of refusing.
        overwrite: put the new dataset in the place of an existing one, once it is whole.
        progress: whether to show a progress bar.

    Returns:
        The episodes, None where an existing dataset is taken.

    Raises:
        DatasetError: the dataset exists already, or the id is malformed.
        PolicyError: a behaviour does not fit the environment, or its actions are no numbers.
    """
    with new_dataset(dataset_id, overwrite=overwrite) as hidden_root:
        if hidden_root is None:
            if exist_ok:
                return None
            raise DatasetError(
                f"dataset '{dataset_id}' exists already: choose another id, overwrite it (--overwrite), or "
                f"`minari delete {dataset_id}`"
            )
        episodes = roll_out(env_id, parts, seed=seed, n_envs=n_envs, workers=workers, progress=progress)
        _write(hidden_root, dataset_id, env_id, episodes, parts, seed, reference, description, author)
    n_steps = sum(len(episode.rewards) for episode in episodes)
    log.info(
        "collected %s: %d episodes, %d transitions, in %s",
        dataset_id, len(episodes), n_steps, minari_folder(dataset_id),
    )  # fmt: skip
    return episodes


def _write(
    root: Path,
    dataset_id: str,
    env_id: str,
    episodes: list[Episode],
    parts: Sequence[Part],
    seed: int,
    reference: tuple[float, float] | None,
    description: str,
    author: str | None,
) -> None:
    """Write a Minari dataset below another root."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(id=index, options=None, infos={}, **vars(episode)) for index, episode in enumerate(episodes)
    ]
    scores = {} if reference is None else {"ref_min_score": reference[0], "ref_max_score": reference[1]}
    behaviours = [{"policy": part.behaviour.name, "n_episodes": part.n_episodes, "noise": part.noise} for part in parts]
    names = ", ".join(f"{part.behaviour.name} ({part.n_episodes} episodes)" for part in parts)
    with minari_root_set_to(root), warnings.catch_warnings():
        # There is no address to give.
        warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink)` is set to None")
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            # Minari looks ids up without importing the module of PACKAGE:ID; the recording has imported it.
            env=env_id.rpartition(":")[2],
            eval_env=env_id.rpartition(":")[2],
            buffer=buffers,
            algorithm_name=names,
            author=author,
            description=f"{description} Behaviour: {names}; seed {seed}.".strip(),
            requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("gymnasium", "mujoco")],
            data_format="hdf5",
            **scores,
        )
        dataset.storage.update_metadata(
            {"behaviours": json.dumps(behaviours), "collection_seed": seed, "versions": json.dumps(_versions())}
        )


def _versions() -> dict[str, str]:
    """Versions of what the data depend on."""
    packages = ("cql", "gymnasium", "minari", "mujoco", "numpy", "torch")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


@dataclasses.dataclass(frozen=True)
class Embedded:
    """How an embedded dataset is made.

    Attributes:
        dataset_id: its Minari id.
        env_id: the environment.
        parts: policies of the package, or ``random``, and how many episodes each has.
        reference: returns that score 0 and 100: D4RL's constants.
        seed: of the collection.
    """

    dataset_id: str
    env_id: str
    parts: tuple[tuple[str, int], ...]
    reference: tuple[float, float] | None
    seed: int = 0


_EARLY = ("sac_025k", "sac_050k", "sac_075k", "sac_100k", "sac_125k")  # up to the one called medium


def _embedded(env_id: str, quality: str, *parts: tuple[str, int]) -> Embedded:
    name = env_id.split("-")[0].lower()
    own = tuple((policy if policy == "random" else f"{name}/{policy}", n_episodes) for policy, n_episodes in parts)
    return Embedded(f"cql/{name}/{quality}-v0", env_id, own, known_scores(env_id))


# About 100,000 transitions each. HalfCheetah's episodes all have a thousand; Hopper's end when it falls.
EMBEDDED = {
    "halfcheetah_random": _embedded("HalfCheetah-v5", "random", ("random", 100)),
    "halfcheetah_medium": _embedded("HalfCheetah-v5", "medium", ("sac_125k", 100)),
    "halfcheetah_medium_replay": _embedded("HalfCheetah-v5", "medium-replay", *((name, 20) for name in _EARLY)),
    "halfcheetah_medium_expert": _embedded("HalfCheetah-v5", "medium-expert", ("sac_125k", 50), ("sac_350k", 50)),
    "hopper_random": _embedded("Hopper-v5", "random", ("random", 4400)),
    "hopper_medium": _embedded("Hopper-v5", "medium", ("sac_125k", 260)),
    "hopper_medium_replay": _embedded("Hopper-v5", "medium-replay", *((name, 93) for name in _EARLY)),
    "hopper_medium_expert": _embedded("Hopper-v5", "medium-expert", ("sac_125k", 130), ("sac_150k", 62)),
}


def ensure_embedded(name: str, *, progress: bool = True) -> str:
    """Return the Minari id of an embedded dataset, made first where it is absent (100,000 transitions, some 15 s).

    Args:
        name: one of :data:`EMBEDDED`, such as `halfcheetah_medium`.
        progress: whether to show a progress bar while it is made.

    Raises:
        DatasetError: there is no embedded dataset of that name.
    """
    if name not in EMBEDDED:
        raise DatasetError(f"no embedded dataset '{name}'; there are {', '.join(sorted(EMBEDDED))}")
    made = EMBEDDED[name]
    if not minari_folder(made.dataset_id).exists():
        log.info("making %s from %s, once", made.dataset_id, ", ".join(policy for policy, _ in made.parts))
        info = env_info(made.env_id)
        random = RandomPolicy(info.observation_size, info.action_size)
        collect_dataset(
            made.dataset_id,
            made.env_id,
            [
                Part(random if policy == "random" else NpzPolicy.embedded(policy), n_episodes)
                for policy, n_episodes in made.parts
            ],
            seed=made.seed,
            reference=made.reference,
            description=f"Embedded dataset {name} of the cql package.",
            author="cql",
            exist_ok=True,
            progress=progress,
        )
    return made.dataset_id
