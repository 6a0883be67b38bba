"""Reference scores: the returns of an environment that stand for 0 and 100 on the normalised scale.

The constants are D4RL's (Fu et al. 2020; `d4rl/infos.py` of Farama-Foundation/D4RL, the same for its datasets v0, v1
and v2): the return of a random policy and of a trained SAC policy. D4RL measured them on version 2 of the robots; by
custom they score later versions too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

AUTO = "auto"
"""The setting that takes an environment's own reference scores, if it has any."""

_D4RL = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
_VERSIONS = ("v2", "v3", "v4", "v5")


def known_scores(env_id: str) -> tuple[float, float] | None:
    """D4RL's constants for an environment.

    Args:
        env_id: Gymnasium's id, such as "Hopper-v5". An id with a module, such as "my_package:Hopper-v5", is not known.

    Returns:
        The returns that score 0 and 100, or None if D4RL has none for this environment.
    """
    name, _, version = env_id.rpartition("-")
    return _D4RL.get(name) if version in _VERSIONS else None


def reference_scores(env_id: str, reference: Any, *, is_plain: bool = True) -> tuple[float, float] | None:
    """The reference scores that `env.reference` asks for.

    Args:
        env_id: Gymnasium's id.
        reference: "auto", None or two returns. Also the form of older run folders: a mapping with `min_score` and
            `max_score`.
        is_plain: Whether the environment is made as it was registered: the known scores are of no other.

    Returns:
        The returns that score 0 and 100, or None if returns are to stay raw.

    Raises:
        ValueError: `reference` has another form.
    """
    if reference is None:
        return None
    if reference == AUTO:
        return known_scores(env_id) if is_plain else None
    if isinstance(reference, Mapping):
        reference = [reference.get("min_score"), reference.get("max_score")]
    if isinstance(reference, Sequence) and [type(each) in (int, float) for each in reference] == [True, True]:
        return float(reference[0]), float(reference[1])
    raise ValueError(f"{reference!r} is neither auto, nor null, nor two returns [MIN, MAX]")


def scores_name(env_id: str, scores: tuple[float, float]) -> str:
    """Whose constants these are: "D4RL" for those of the environment, "own" for others."""
    return "D4RL" if scores == known_scores(env_id) else "own"


def with_scores(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config of any version in which `env.reference` holds the scores that it means: [MIN, MAX] or None."""
    env = plain.get("env")
    if not isinstance(env, Mapping) or "reference" not in env:
        return dict(plain)
    is_plain = not env.get("kwargs") and env.get("max_episode_steps") is None
    scores = reference_scores(str(env.get("id")), env["reference"], is_plain=is_plain)
    return {**plain, "env": {**env, "reference": None if scores is None else list(scores)}}
