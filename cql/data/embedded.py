"""The embedded datasets: made on first use from policies that come with the package.

The package holds the weights of the policies instead of their data, which are a hundred times larger.
"""

from __future__ import annotations

import dataclasses
import logging

from cql.data.collect import Part, collect_dataset
from cql.data.local import minari_folder
from cql.data.policies import Behaviour, NpzPolicy, RandomPolicy
from cql.data.raw import DatasetError
from cql.rollout.envs import env_info
from cql.rollout.reference_scores import known_scores

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """How an embedded dataset is made.

    Attributes:
        dataset_id: its Minari id.
        env_id: the environment.
        parts: policies of the package, ``random`` or ``wanderer``, and how many episodes each has.
        reference: returns that score 0 and 100: D4RL's constants, None where it has none.
        seed: of the collection.
        max_steps: after which an episode is truncated; None for the environment's own limit.
    """

    dataset_id: str
    env_id: str
    parts: tuple[tuple[str, int], ...]
    reference: tuple[float, float] | None
    seed: int = 0
    max_steps: int | None = None


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
    # One and a half seconds of wandering an episode, too short for the way from the start to the goal.
    "pointmaze_umaze": Embedded("cql/pointmaze/umaze-v0", "cql/UMaze-v0", (("wanderer", 3300),), None, max_steps=30),
    "pointmaze_medium": Embedded(
        "cql/pointmaze/medium-v0", "cql/MediumMaze-v0", (("wanderer", 6600),), None, max_steps=30
    ),
}


def ensure_embedded(name: str, *, progress: bool = True) -> str:
    """Return the Minari id of an embedded dataset, made first if it is absent (100,000 transitions, about 15 s).

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
        collect_dataset(
            made.dataset_id,
            made.env_id,
            [
                Part(_behaviour(policy, made.env_id), n_episodes, max_steps=made.max_steps)
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


def _behaviour(name: str, env_id: str) -> Behaviour:
    match name:
        case "random":
            info = env_info(env_id)
            return RandomPolicy(info.observation_size, info.action_size)
        case "wanderer":
            from cql.data.wander import Wanderer
            from cql.rollout.maze import maze_of

            return Wanderer(maze_of(env_id))
        case _:
            return NpzPolicy.embedded(name)
