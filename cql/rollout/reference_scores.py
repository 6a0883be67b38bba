"""Reference scores: the returns of an environment that stand for 0 and 100 on the normalised scale.

The constants are D4RL's (Fu et al. 2020; `d4rl/infos.py` of Farama-Foundation/D4RL, the same for its datasets v0, v1
and v2). On the robots of Gymnasium and on the Adroit hand they are the return of a random policy and of an expert; D4RL
measured them on older versions, and by custom they score later ones too. AntMaze's return is 1 at the goal, and
FrankaKitchen's is the number of tasks done, of four. On this program's own mazes 100 is the return of its planner
(`cql.data.wander.Planner`), over the seeds 1000 to 1049.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

AUTO = "auto"
"""The setting that takes an environment's own reference scores, if it has any."""


def _is_plain(kwargs: Mapping[str, Any], limit: int | None) -> bool:
    return not kwargs and limit is None


def _is_short(kwargs: Mapping[str, Any], limit: int | None) -> bool:
    """As long as D4RL's pen, whose return grows with the steps; gymnasium-robotics has 200."""
    return not kwargs and limit == 100


def _ends_at_goal(kwargs: Mapping[str, Any], limit: int | None) -> bool:
    """Otherwise every step at the goal pays 1."""
    return dict(kwargs) == {"continuing_task": False} and limit is None


def _has_four_tasks(kwargs: Mapping[str, Any], limit: int | None) -> bool:
    tasks = kwargs.get("tasks_to_complete")
    return len(kwargs) == 1 and isinstance(tasks, list | tuple) and len(set(tasks)) == 4 and limit is None


_ROBOTICS = "(gymnasium_robotics:)?"
_KNOWN: Mapping[str, tuple[tuple[float, float], Callable[[Mapping[str, Any], int | None], bool]]] = {
    "HalfCheetah-v[2-5]": ((-280.178953, 12135.0), _is_plain),
    "Hopper-v[2-5]": ((-20.272305, 3234.3), _is_plain),
    "Walker2d-v[2-5]": ((1.629008, 4592.3), _is_plain),
    "Ant-v[2-5]": ((-325.6, 3879.7), _is_plain),
    _ROBOTICS + "AdroitHandPen-v[12]": ((96.262799, 3076.8331), _is_short),
    _ROBOTICS + "AdroitHandDoor-v[12]": ((-56.512833, 2880.5693), _is_plain),
    _ROBOTICS + "AdroitHandHammer-v[12]": ((-274.856578, 12794.1348), _is_plain),
    _ROBOTICS + "AdroitHandRelocate-v[12]": ((-6.425911, 4233.8778), _is_plain),
    _ROBOTICS + "AntMaze_(UMaze|(Medium|Large)(_Diverse_GR?)?)-v[3-5]": ((0.0, 1.0), _ends_at_goal),
    _ROBOTICS + "FrankaKitchen-v1": ((0.0, 4.0), _has_four_tasks),
    "cql/UMaze-v0": ((0.0, 60.0), _is_plain),
    "cql/MediumMaze-v0": ((0.0, 144.2), _is_plain),
}
"""By patterns of ids: the returns, and whether an environment made in this way has them."""


def known_scores(
    env_id: str, kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
) -> tuple[float, float] | None:
    """The reference scores of an environment, for most D4RL's constants.

    Args:
        env_id: Gymnasium's id, such as "Hopper-v5". Of ids with a module, those of "gymnasium_robotics" are known.
        kwargs: Arguments that it is made with, besides those of its registration. AntMaze is known with
            `continuing_task: false`, FrankaKitchen with four `tasks_to_complete`, all others without any.
        max_episode_steps: Time limit; None for the environment's own. AdroitHandPen is known with 100, all others
            with their own.

    Returns:
        The returns that score 0 and 100, or None if there are none for this environment made in this way.
    """
    for pattern, (scores, is_made_so) in _KNOWN.items():
        if re.fullmatch(pattern, env_id):
            return scores if is_made_so(kwargs or {}, max_episode_steps) else None
    return None


def reference_scores(
    env_id: str, reference: Any, kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
) -> tuple[float, float] | None:
    """The reference scores that `env.reference` asks for.

    Args:
        env_id: Gymnasium's id.
        reference: "auto", None or two returns. Also the form of older run folders: a mapping with `min_score` and
            `max_score`.
        kwargs: Arguments that the environment is made with; see :func:`known_scores`.
        max_episode_steps: Its time limit, None for its own.

    Returns:
        The returns that score 0 and 100, or None if returns are to stay raw.

    Raises:
        ValueError: `reference` has another form.
    """
    if reference is None:
        return None
    if reference == AUTO:
        return known_scores(env_id, kwargs, max_episode_steps)
    if isinstance(reference, Mapping):
        reference = [reference.get("min_score"), reference.get("max_score")]
    if isinstance(reference, Sequence) and [type(each) in (int, float) for each in reference] == [True, True]:
        return float(reference[0]), float(reference[1])
    raise ValueError(f"{reference!r} is neither auto, nor null, nor two returns [MIN, MAX]")


def scores_name(
    env_id: str,
    scores: tuple[float, float],
    kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
) -> str:
    """Whose constants these are: "D4RL", "planner" for those of a maze of this program, or "own" for the user's."""
    if scores != known_scores(env_id, kwargs, max_episode_steps):
        return "own"
    return "planner" if env_id.startswith("cql/") else "D4RL"


def with_scores(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config of any version in which `env.reference` holds the scores that it means: [MIN, MAX] or None."""
    env = plain.get("env")
    if not isinstance(env, Mapping) or "reference" not in env:
        return dict(plain)
    scores = reference_scores(str(env.get("id")), env["reference"], env.get("kwargs"), env.get("max_episode_steps"))
    return {**plain, "env": {**env, "reference": None if scores is None else list(scores)}}
