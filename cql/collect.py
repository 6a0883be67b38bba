"""Behaviour policies rolled out into Minari datasets.

The package carries the weights of trained policies rather than the data they make, which are a hundred times larger:
:func:`ensure_embedded` makes a dataset on its first use, and any Minari user can read it from then on.

Axes: E environments stepped together, S state features, A action features.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.data import DatasetError, minari_folder, minari_root_set_to, new_dataset
from cql.envs import env_info, make_env, to_env_actions

log = logging.getLogger(__name__)

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the clamp the behaviour policies were trained with


class PolicyError(ValueError):
    """The weights of a behaviour policy are missing or have the wrong shapes."""


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
    env_id: str, policy: NpzPolicy, *, n_episodes: int, seed: int, n_envs: int = 10, progress: bool = False
) -> list[Episode]:
    """Record episodes of a policy with sampled actions, several environments stepped with one call of the policy.

    Episode e draws its reset seed and its noise from the e-th child of `seed` alone, so that the data depend neither on
    the number of environments nor on the number of episodes.

    Args:
        env_id: the environment.
        policy: the policy.
        n_episodes: how many episodes.
        seed: the one seed of all randomness.
        n_envs: environments stepped together, E.
        progress: whether to show a progress bar.

    Raises:
        PolicyError: the policy's sizes are not the environment's.
    """
    from tqdm import tqdm

    info = env_info(env_id)
    if (policy.observation_size, policy.action_size) != (info.observation_size, info.action_size):
        raise PolicyError(
            f"policy '{policy.name}' maps {policy.observation_size} features to {policy.action_size} actions, but "
            f"{env_id} has {info.observation_size} and {info.action_size}"
        )
    limit = info.max_episode_steps
    streams = np.random.SeedSequence(seed).spawn(n_episodes)
    envs = [make_env(env_id) for _ in range(min(n_envs, n_episodes))]
    # A slot is an environment, the episode it is in, that episode's noise and the steps taken.
    episodes: list[Episode] = []
    slots: list[list[Any]] = []

    def begin(env: Any) -> list[Any]:
        stream = streams[len(episodes)]
        episode = Episode(
            seed=int(stream.generate_state(1)[0]),
            observations=np.empty((limit + 1, info.observation_size)),
            actions=np.empty((limit, info.action_size), np.float32),
            rewards=np.empty(limit),
            terminations=np.zeros(limit, bool),
            truncations=np.zeros(limit, bool),
        )
        generator = np.random.Generator(np.random.PCG64(stream))
        noise = generator.standard_normal((limit, info.action_size), dtype=np.float32)
        episode.observations[0] = env.reset(seed=episode.seed)[0]
        episodes.append(episode)
        return [env, episode, noise, 0]

    try:
        with tqdm(
            total=n_episodes * limit, desc=env_id, unit="step", unit_scale=True, mininterval=0.5, disable=not progress
        ) as bar:
            slots = [begin(env) for env in envs]
            while slots:
                states = np.stack([episode.observations[t] for _, episode, _, t in slots])
                actions = policy(states, np.stack([noise[t] for _, _, noise, t in slots]))
                actions = to_env_actions(actions, info.action_low, info.action_high)
                bar.update(len(slots))
                going = []
                for slot, action in zip(slots, actions, strict=True):
                    env, episode, _, t = slot
                    state, reward, terminated, truncated, _ = env.step(action)
                    episode.actions[t], episode.rewards[t], episode.observations[t + 1] = action, reward, state
                    episode.terminations[t], episode.truncations[t] = terminated, truncated
                    slot[3] = t + 1
                    if not (terminated or truncated):
                        going.append(slot)
                        continue
                    _shorten(episode, t + 1)
                    bar.total -= limit - (t + 1)  # so that the time left comes nearer to the truth
                    if len(episodes) < n_episodes:
                        going.append(begin(env))
                slots = going
    finally:
        for env in envs:
            env.close()
    return episodes


def _shorten(episode: Episode, steps: int) -> None:
    """Keep the first `steps` steps and the memory they need."""
    episode.observations = episode.observations[: steps + 1].copy()
    for key in ("actions", "rewards", "terminations", "truncations"):
        setattr(episode, key, getattr(episode, key)[:steps].copy())


def collect_dataset(
    dataset_id: str,
    env_id: str,
    policy: NpzPolicy,
    *,
    n_episodes: int,
    seed: int,
    n_envs: int = 10,
    reference: tuple[float, float] | None = None,
    description: str = "",
    exist_ok: bool = False,
    progress: bool = False,
) -> None:
    """Roll a policy out into a local Minari dataset, whole or not at all.

    An interrupted collection leaves nothing that passes for a dataset, and of two processes that collect the same one
    the second waits for the first (see `cql.data.new_dataset`).

    Observations and rewards are stored in float64, as the environment gives them and its observation space declares;
    actions in float32, as the action space does.

    Args:
        dataset_id: Minari id, such as `cql/hopper/medium-v0`.
        env_id: the environment.
        policy: the policy, which acts with sampled actions.
        n_episodes: how many episodes.
        seed: the one seed of all randomness.
        n_envs: environments stepped together; it changes the speed, not the data.
        reference: returns that score 0 and 100, kept in the metadata.
        description: a sentence for the metadata.
        exist_ok: take an existing dataset of that id for the wanted one instead of refusing.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: the dataset exists already, or the id is malformed.
        PolicyError: the policy does not fit the environment.
    """
    if n_episodes < 1 or n_envs < 1:
        raise DatasetError(f"n_episodes and n_envs must be at least 1, got {n_episodes} and {n_envs}")
    with new_dataset(dataset_id) as hidden_root:
        if hidden_root is None:
            if exist_ok:
                return
            raise DatasetError(
                f"dataset '{dataset_id}' exists already: choose another id or `minari delete {dataset_id}`"
            )
        episodes = roll_out(env_id, policy, n_episodes=n_episodes, seed=seed, n_envs=n_envs, progress=progress)
        _write(hidden_root, dataset_id, env_id, episodes, policy, seed, reference, description)
    n_steps = sum(len(episode.rewards) for episode in episodes)
    log.info(
        "collected %s: %d episodes, %d transitions, in %s", dataset_id, n_episodes, n_steps, minari_folder(dataset_id)
    )


def _write(
    root: Path,
    dataset_id: str,
    env_id: str,
    episodes: list[Episode],
    policy: NpzPolicy,
    seed: int,
    reference: tuple[float, float] | None,
    description: str,
) -> None:
    """Write a Minari dataset below another root."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(id=index, options=None, infos={}, **dataclasses.asdict(episode))
        for index, episode in enumerate(episodes)
    ]
    scores = {} if reference is None else {"ref_min_score": reference[0], "ref_max_score": reference[1]}
    with minari_root_set_to(root), warnings.catch_warnings():
        # There is no address to give.
        warnings.filterwarnings("ignore", message="`(author_email|code_permalink)` is set to None")
        minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            env=env_id,
            eval_env=env_id,
            buffer=buffers,
            algorithm_name="SAC, sampled actions",
            author="cql",
            description=f"{description} Behaviour policy {policy.name}, seed {seed}.".strip(),
            requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("gymnasium", "mujoco")],
            data_format="hdf5",
            **scores,
        )


@dataclasses.dataclass(frozen=True)
class Embedded:
    """How an embedded dataset is made."""

    dataset_id: str
    env_id: str
    policy: str
    n_episodes: int
    reference: tuple[float, float]  # D4RL's constants
    seed: int = 0


# Hopper's policy falls after about 380 steps: 260 episodes make the 100,000 transitions of HalfCheetah's 100.
EMBEDDED = {
    "halfcheetah_medium": Embedded(
        "cql/halfcheetah/medium-v0", "HalfCheetah-v5", "halfcheetah/sac_125k", 100, (-280.178953, 12135.0)
    ),
    "hopper_medium": Embedded("cql/hopper/medium-v0", "Hopper-v5", "hopper/sac_125k", 260, (-20.272305, 3234.3)),
}


def ensure_embedded(name: str, *, progress: bool = True) -> str:
    """Return the Minari id of an embedded dataset, made first where it is absent (100,000 transitions, some 15 s).

    Args:
        name: `halfcheetah_medium` or `hopper_medium`.
        progress: whether to show a progress bar while it is made.

    Raises:
        DatasetError: there is no embedded dataset of that name.
    """
    if name not in EMBEDDED:
        raise DatasetError(f"no embedded dataset '{name}'; there are {', '.join(sorted(EMBEDDED))}")
    made = EMBEDDED[name]
    if not minari_folder(made.dataset_id).exists():
        log.info("making %s from the policy %s, once", made.dataset_id, made.policy)
        collect_dataset(
            made.dataset_id,
            made.env_id,
            NpzPolicy.embedded(made.policy),
            n_episodes=made.n_episodes,
            seed=made.seed,
            reference=made.reference,
            description="Medium dataset of the cql package.",
            exist_ok=True,
            progress=progress,
        )
    return made.dataset_id
