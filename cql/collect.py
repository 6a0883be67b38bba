"""Behaviour policies rolled out into Minari datasets.

The package carries the weights of trained policies rather than the data they make, which are a hundred times larger:
:func:`ensure_embedded` makes a dataset on its first use, and any Minari user can read it from then on.

Axes: E environments stepped together, S state features, A action features.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cql.data import DatasetError, minari_folder, minari_root_set_to, new_dataset
from cql.envs import env_info, make_env, to_env_actions

log = logging.getLogger(__name__)

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the clamp the behaviour policies were trained with


class PolicyError(ValueError):
    """The weights of a behaviour policy are missing or have the wrong shapes."""


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
    def embedded(cls, name: str) -> NpzPolicy:
        """Read a policy of the package by its name, such as `halfcheetah/sac_125k`.

        Raises:
            PolicyError: there is none of that name; the message lists those there are.
        """
        folder = importlib.resources.files("cql") / "behaviour"
        with importlib.resources.as_file(folder) as root:
            if not root.joinpath(f"{name}.npz").is_file():
                names = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.npz"))
                raise PolicyError(f"no behaviour policy '{name}'; there are {', '.join(names)}")
            policy = cls.load(root / f"{name}.npz")
        policy.name = name
        return policy

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
    episodes: dict[int, Episode] = {}
    with tqdm(total=n_episodes, desc=env_id, unit="episode", mininterval=0.5, disable=not progress) as bar:
        if workers == 1:
            for index, episode in _episodes(env_id, parts, seed, range(n_episodes), n_envs):
                episodes[index] = episode
                bar.update()
        else:
            # Many small pieces, so that no process is long alone at the end.
            size = max(1, min(n_envs, n_episodes // (4 * workers)))
            pieces = [range(start, min(start + size, n_episodes)) for start in range(0, n_episodes, size)]
            # Not forked: a process that has threads must not be.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                try:
                    jobs = [pool.submit(_piece, env_id, parts, seed, piece, n_envs) for piece in pieces]
                    for job in as_completed(jobs):
                        made = job.result()
                        episodes.update(made)
                        bar.update(len(made))
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [episodes[index] for index in range(n_episodes)]


def _piece(env_id: str, parts: Sequence[Part], seed: int, indices: range, n_envs: int) -> dict[int, Episode]:
    """Some of the episodes, made in a process of their own."""
    return dict(_episodes(env_id, parts, seed, indices, n_envs))


def _episodes(
    env_id: str, parts: Sequence[Part], seed: int, indices: range, n_envs: int
) -> Iterator[tuple[int, Episode]]:
    """The episodes of these indices, each as soon as it has ended."""
    info = env_info(env_id)
    limit = info.max_episode_steps
    owner = np.repeat(np.arange(len(parts)), [part.n_episodes for part in parts])
    streams = np.random.SeedSequence(seed).spawn(len(owner))
    waiting = iter(indices)

    def begin(env: Any) -> _Slot | None:
        index = next(waiting, None)
        if index is None:
            return None
        stream, part = streams[index], parts[owner[index]]
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

    envs = [make_env(env_id) for _ in range(min(n_envs, len(indices)))]
    try:
        slots = [slot for slot in map(begin, envs) if slot is not None]
        while slots:
            # Behaviours act on their own rows, in one call.
            together: dict[tuple[int, bool], list[_Slot]] = {}
            for slot in slots:
                together.setdefault((id(slot.behaviour), slot.noise is None), []).append(slot)
            for group in together.values():
                states = np.stack([slot.episode.observations[slot.t] for slot in group])
                rows = [slot.noise[slot.t] for slot in group if slot.noise is not None]
                actions = group[0].behaviour(states, np.stack(rows) if rows else None)
                for slot, action in zip(
                    group, to_env_actions(actions, info.action_low, info.action_high), strict=True
                ):
                    slot.step(action)
            going = []
            for slot in slots:
                if not slot.ended:
                    going.append(slot)
                    continue
                _shorten(slot.episode, slot.t)
                yield slot.index, slot.episode
                following = begin(slot.env)
                if following is not None:
                    going.append(following)
            slots = going
    finally:
        for env in envs:
            env.close()


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
    author: str = "cql",
    exist_ok: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Roll behaviours out into a local Minari dataset, whole or not at all.

    An interrupted collection leaves nothing that passes for a dataset, and of two processes that collect the same one
    the second waits for the first (see `cql.data.new_dataset`).

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
        author: for the metadata.
        exist_ok: take an existing dataset of that id for the wanted one instead of refusing.
        overwrite: put the new dataset in the place of an existing one, once it is whole.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: the dataset exists already, or the id is malformed.
        PolicyError: a behaviour does not fit the environment.
    """
    with new_dataset(dataset_id, overwrite=overwrite) as hidden_root:
        if hidden_root is None:
            if exist_ok:
                return
            raise DatasetError(
                f"dataset '{dataset_id}' exists already: choose another id or `minari delete {dataset_id}`"
            )
        episodes = roll_out(env_id, parts, seed=seed, n_envs=n_envs, workers=workers, progress=progress)
        _write(hidden_root, dataset_id, env_id, episodes, parts, seed, reference, description, author)
    n_steps = sum(len(episode.rewards) for episode in episodes)
    log.info(
        "collected %s: %d episodes, %d transitions, in %s",
        dataset_id, len(episodes), n_steps, minari_folder(dataset_id),
    )  # fmt: skip


def _write(
    root: Path,
    dataset_id: str,
    env_id: str,
    episodes: list[Episode],
    parts: Sequence[Part],
    seed: int,
    reference: tuple[float, float] | None,
    description: str,
    author: str,
) -> None:
    """Write a Minari dataset below another root."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(id=index, options=None, infos={}, **dataclasses.asdict(episode))
        for index, episode in enumerate(episodes)
    ]
    scores = {} if reference is None else {"ref_min_score": reference[0], "ref_max_score": reference[1]}
    behaviours = [
        {"policy": part.behaviour.name, "n_episodes": part.n_episodes, "noise": part.noise} for part in parts
    ]
    names = ", ".join(f"{part.behaviour.name} ({part.n_episodes} episodes)" for part in parts)
    with minari_root_set_to(root), warnings.catch_warnings():
        # There is no address to give.
        warnings.filterwarnings("ignore", message="`(author_email|code_permalink)` is set to None")
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            env=env_id,
            eval_env=env_id,
            buffer=buffers,
            algorithm_name=names,
            author=author,
            description=f"{description} Behaviour: {names}; seed {seed}.".strip(),
            requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("gymnasium", "mujoco")],
            data_format="hdf5",
            **scores,
        )
        dataset.storage.update_metadata({"behaviours": json.dumps(behaviours), "collection_seed": seed})


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
    reference: tuple[float, float]
    seed: int = 0


_D4RL = {"HalfCheetah-v5": (-280.178953, 12135.0), "Hopper-v5": (-20.272305, 3234.3)}
_EARLY = ("sac_025k", "sac_050k", "sac_075k", "sac_100k", "sac_125k")  # up to the one called medium


def _embedded(env_id: str, quality: str, *parts: tuple[str, int]) -> Embedded:
    name = env_id.split("-")[0].lower()
    own = tuple((policy if policy == "random" else f"{name}/{policy}", n_episodes) for policy, n_episodes in parts)
    return Embedded(f"cql/{name}/{quality}-v0", env_id, own, _D4RL[env_id])


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
            exist_ok=True,
            progress=progress,
        )
    return made.dataset_id
