"""Episodes of behaviour policies, recorded into Minari datasets.

Axes: E environments stepped together, S state features, A action features.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import json
import logging
import platform
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.data.local import minari_folder, minari_root_set_to, new_dataset
from cql.data.policies import Behaviour, PolicyError, RandomPolicy, Remembering
from cql.data.raw import DatasetError
from cql.rollout.envs import EnvSpec, as_spec, env_info, make_env, to_env_actions
from cql.rollout.episodes import succeeded
from cql.rollout.worker import do, exit_code, how_it_ended, started_pool

log = logging.getLogger(__name__)


class CollectionError(RuntimeError):
    """A collecting process died."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The episodes of one behaviour in a dataset.

    Attributes:
        behaviour: what acts.
        n_episodes: how many episodes.
        noise: the standard deviations of its actions are multiplied by it: 1 acts as it was trained, 0 with the mean.
        max_steps: after which an episode is truncated, if that is before the environment's limit; None for that.
    """

    behaviour: Behaviour
    n_episodes: int
    noise: float = 1.0
    max_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.n_episodes < 1:
            raise DatasetError(f"n_episodes must be at least 1, got {self.n_episodes} for '{self.behaviour.name}'")
        if not 0.0 <= self.noise < np.inf:
            raise DatasetError(f"noise must be 0 or more, got {self.noise} for '{self.behaviour.name}'")
        if isinstance(self.behaviour, RandomPolicy) and self.noise != 1.0:
            raise DatasetError(f"noise {self.noise:g} for 'random', which has no standard deviation to scale")


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
        success: (T,) bool, whether the environment reported a success; None if it does not report it.
    """

    seed: int
    observations: NDArray[np.float64]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    success: NDArray[np.bool_] | None = None


def roll_out(
    env: str | EnvSpec,
    parts: Sequence[Part],
    *,
    seed: int,
    n_envs: int = 10,
    workers: int = 1,
    progress: bool = False,
) -> list[Episode]:
    """Record episodes of behaviours, several environments stepped with one call of a behaviour.

    Episode e draws its reset seed and its noise from the e-th child of `seed` alone, so that the data depend neither on
    the number of environments or processes nor on the episodes behind it.

    Args:
        env: Gymnasium's id, or an environment with arguments.
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
    info = env_info(env)
    for part in parts:
        own = part.behaviour
        if (own.observation_size, own.action_size) != (info.observation_size, info.action_size):
            raise PolicyError(
                f"policy '{own.name}' maps {own.observation_size} features to {own.action_size} actions, but "
                f"{info.env_id} has {info.observation_size} and {info.action_size}"
            )
    n_episodes = sum(part.n_episodes for part in parts)
    build = functools.partial(_Recorder, info.spec, tuple(parts), seed, n_envs)
    episodes: dict[int, Episode] = {}
    with tqdm(total=n_episodes, desc=info.env_id, unit="episode", mininterval=0.5, disable=not progress) as bar:
        if workers == 1:
            made: Iterable[tuple[int, Episode]] = build().record(range(n_episodes))
        else:
            # Many small pieces, so that no process is long alone at the end.
            size = max(1, min(n_envs, n_episodes // (4 * workers)))
            pieces = [range(start, min(start + size, n_episodes)) for start in range(0, n_episodes, size)]
            made = _in_processes(build, pieces, min(workers, len(pieces)))
        for index, episode in made:
            episodes[index] = episode
            bar.update()
    return [episodes[index] for index in range(n_episodes)]


def _in_processes(
    build: Callable[[], _Recorder], pieces: Sequence[range], n_workers: int
) -> Iterator[tuple[int, Episode]]:
    """The episodes of all pieces as they come, recorded in processes that end with this generator."""
    pool, processes = started_pool(build, n_workers)
    try:
        for future in as_completed([pool.submit(do, piece) for piece in pieces]):
            episodes, warned = future.result()
            for logger, level, text in warned:
                logging.getLogger(logger).log(level, "%s", text)
            yield from episodes
    except BrokenProcessPool as error:
        # The pool ends the others by SIGTERM, upon which they exit with 0.
        codes = {process: exit_code(process) for process in processes}
        dead = next((each for each, code in codes.items() if code not in (0, -signal.SIGTERM)), processes[0])
        raise CollectionError(
            f"collecting process {dead.pid} {how_it_ended(codes[dead])}, so nothing was written: "
            "is there too little memory? Fewer workers (--workers) need less"
        ) from error
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


class _Recorder:
    """Records episodes in environments that it makes once.

    Args:
        env: the environment.
        parts: as for :func:`roll_out`.
        seed: of all randomness.
        n_envs: environments stepped together.
    """

    def __init__(self, env: EnvSpec, parts: Sequence[Part], seed: int, n_envs: int) -> None:
        self._parts, self._seed, self._n_envs = parts, seed, n_envs
        self._info = env_info(env)
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
        limit = min(info.max_episode_steps, part.max_steps or info.max_episode_steps)
        stream = np.random.SeedSequence(self._seed, spawn_key=(index,))  # the child that `spawn` would give
        episode = Episode(
            seed=int(stream.generate_state(1)[0]),
            observations=np.empty((limit + 1, info.observation_size)),
            actions=np.empty((limit, info.action_size), np.float32),
            rewards=np.empty(limit),
            terminations=np.zeros(limit, bool),
            truncations=np.zeros(limit, bool),
        )
        noise, options, behaviour = None, None, part.behaviour
        generator = np.random.Generator(np.random.PCG64(stream))
        if part.noise > 0.0:
            noise = generator.standard_normal((limit, info.action_size), dtype=np.float32) * np.float32(part.noise)
        if isinstance(behaviour, Remembering):
            behaviour, options = behaviour.episode(generator)
        episode.observations[0] = env.reset(seed=episode.seed, options=options)[0]
        return _Slot(env, index, behaviour, noise, episode)

    def _episodes(self, indices: range) -> Iterator[tuple[int, Episode]]:
        waiting = iter(indices)
        n_envs = min(self._n_envs, len(indices))
        while len(self._envs) < n_envs:
            self._envs.append(make_env(self._info.spec))
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
            raise PolicyError(f"policy '{behaviour.name}' returned NaN or infinite actions")
        low, high = self._info.action_low, self._info.action_high
        own = getattr(behaviour, "bounds", None) or (low, high)
        for slot, action in zip(group, to_env_actions(actions, *own).clip(low, high), strict=True):
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
        try:
            state, reward, terminated, truncated, info = self.env.step(action)
            with np.errstate(over="ignore"):  # what training cannot use is told
                if not np.isfinite(np.float32(reward)):
                    raise ValueError("the reward is not finite")
                if not np.isfinite(np.asarray(state, np.float32)).all():
                    raise ValueError("the observation is not finite")
        except Exception as error:
            raise CollectionError(
                f"{self.env.spec.id} broke at step {t + 1} of episode {self.index} (seed {episode.seed}): "
                f"{type(error).__name__}: {error}. Nothing was written: mend the environment, or choose another --seed"
            ) from error
        episode.actions[t], episode.rewards[t], episode.observations[t + 1] = action, reward, state
        reported = succeeded(info)
        if reported is not None:
            if episode.success is None:
                episode.success = np.zeros(len(episode.rewards), bool)
            episode.success[t] = reported
        truncated = truncated or (t + 1 == len(episode.rewards) and not terminated)
        episode.terminations[t], episode.truncations[t] = terminated, truncated
        self.t, self.ended = t + 1, terminated or truncated


def _shorten(episode: Episode, steps: int) -> None:
    """Keep the first `steps` steps and the memory they need."""
    episode.observations = episode.observations[: steps + 1].copy()
    for key in ("actions", "rewards", "terminations", "truncations", "success"):
        if getattr(episode, key) is not None:
            setattr(episode, key, getattr(episode, key)[:steps].copy())


def collect_dataset(
    dataset_id: str,
    env: str | EnvSpec,
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
    """Roll behaviours out into a local Minari dataset, complete or not at all.

    An interrupted collection leaves nothing that passes for a dataset, and of two processes that collect the same one
    the second waits for the first (see `cql.data.local.new_dataset`).

    Observations and rewards are stored in float64, as the environment gives them and its observation space declares;
    actions in float32, as the action space does. Dict observations are stored flat; their keys are in the metadata, and
    `infos/success` is there where the environment reports it. The metadata hold the behaviours, the seed, the versions
    and the reference scores, and nothing that would differ in a second collection of the same.

    Args:
        dataset_id: Minari id, such as `cql/hopper/medium-v0`.
        env: Gymnasium's id, or an environment with arguments.
        parts: the behaviours.
        seed: the one seed of all randomness.
        n_envs: environments stepped together in a process; it changes the speed, not the data.
        workers: processes; likewise.
        reference: returns that score 0 and 100, kept in the metadata.
        description: a sentence for the metadata.
        author: for the metadata, or None.
        exist_ok: use an existing dataset of that id instead of raising.
        overwrite: replace an existing dataset once the new one is complete.
        progress: whether to show a progress bar.

    Returns:
        The episodes, None if an existing dataset is used.

    Raises:
        DatasetError: the dataset exists already, or the id is malformed.
        PolicyError: a behaviour does not fit the environment, or returns NaN or infinite actions.
    """
    with new_dataset(dataset_id, overwrite=overwrite) as hidden_root:
        if hidden_root is None:
            if exist_ok:
                return None
            raise DatasetError(
                f"dataset '{dataset_id}' exists already: choose another id, overwrite it (--overwrite), or "
                f"`minari delete {dataset_id}`"
            )
        episodes = roll_out(env, parts, seed=seed, n_envs=n_envs, workers=workers, progress=progress)
        _write(hidden_root, dataset_id, as_spec(env), episodes, parts, seed, reference, description, author)
    n_steps = sum(len(episode.rewards) for episode in episodes)
    log.info(
        "collected %s: %d episodes, %d transitions, in %s",
        dataset_id, len(episodes), n_steps, minari_folder(dataset_id),
    )  # fmt: skip
    return episodes


def _write(
    root: Path,
    dataset_id: str,
    env: EnvSpec,
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

    info, made = env_info(env), make_env(env)
    recorded, flat_space = copy.deepcopy(made.unwrapped.spec), made.observation_space
    made.close()
    assert recorded is not None
    recorded.max_episode_steps = info.max_episode_steps
    buffers = [
        EpisodeBuffer(
            id=index,
            options=None,
            infos={} if episode.success is None else {"success": episode.success},
            **{key: value for key, value in vars(episode).items() if key != "success"},
        )
        for index, episode in enumerate(episodes)
    ]
    scores = {} if reference is None else {"ref_min_score": reference[0], "ref_max_score": reference[1]}
    behaviours = [{"policy": part.behaviour.name, "n_episodes": part.n_episodes, "noise": part.noise} for part in parts]
    names = ", ".join(f"{part.behaviour.name} ({part.n_episodes} episodes)" for part in parts)
    with minari_root_set_to(root), warnings.catch_warnings():
        # There is no address to give.
        warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink)` is set to None")
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            env=recorded,
            eval_env=recorded,
            observation_space=flat_space if info.observation_keys else None,
            buffer=buffers,
            algorithm_name=names,
            author=author,
            description=f"{description} Behaviour: {names}; seed {seed}.".strip(),
            requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("gymnasium", "mujoco")],
            data_format="hdf5",
            **scores,
        )
        used = versions("cql", "gymnasium", "minari", "mujoco", "numpy", "torch")
        dataset.storage.update_metadata(
            ({"observation_keys": json.dumps(info.observation_keys)} if info.observation_keys else {})
            | {"behaviours": json.dumps(behaviours), "collection_seed": seed, "versions": json.dumps(used)}
        )


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of some packages."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
