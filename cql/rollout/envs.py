"""Environments of Gymnasium: their description, the scaling of actions and the normalised score.

The rest of the program acts in [-1, 1]; only :func:`to_env_actions` knows an environment's own units. Gymnasium and
MuJoCo are imported inside the functions, so that importing this module costs nothing and
:func:`cql.rollout.rendering.choose_backend` can still run before MuJoCo is loaded.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cql.rollout import robotics
from cql.rollout.observations import ObservationError, flattened

if TYPE_CHECKING:
    import gymnasium

logger = logging.getLogger(__name__)

Returns = TypeVar("Returns", float, NDArray[np.float64])


class EnvError(ValueError):
    """An environment does not exist, or is not one that CQL as written here can act in."""


@dataclass(frozen=True)
class EnvSpec:
    """An environment: its id, and how it is made.

    Attributes:
        id: Gymnasium's id, or PACKAGE:ID.
        arguments: of the environment, as JSON; those that are not given are as it was registered.
        max_episode_steps: the time limit; None for the one that it was registered with.
        observation_keys: which parts of a Dict observation are used, in their order; None for the default (see
            :func:`cql.rollout.observations.parts_of`).
    """

    id: str
    arguments: str = "{}"
    max_episode_steps: int | None = None
    observation_keys: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        observation_keys: Sequence[str] | None = None,
    ) -> EnvSpec:
        """From arguments as a mapping. Those that only concern pictures are left out."""
        own = {key: value for key, value in sorted((kwargs or {}).items()) if key not in _OF_PICTURES}
        keys = None if observation_keys is None else tuple(observation_keys)
        return cls(id, json.dumps(own, sort_keys=True, default=str), max_episode_steps, keys)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments."""
        return dict(json.loads(self.arguments))


# Arguments of Gymnasium's environments that do not change their task.
_OF_PICTURES = (
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom", "visual_options",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class EnvInfo:
    """What the program needs to know of an environment.

    Attributes:
        spec: The environment.
        observation_size: S, the length of an observation.
        action_size: A, the length of an action.
        action_low: Lower bounds of the actions in the environment's own units, float32 (A,).
        action_high: Upper bounds, float32 (A,).
        max_episode_steps: Steps after which an episode is truncated.
        step_seconds: Simulated seconds per step.
        observation_parts: What an observation consists of, with their sizes, if the environment gives a Dict.
    """

    spec: EnvSpec
    observation_size: int
    action_size: int
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    max_episode_steps: int
    step_seconds: float
    observation_parts: tuple[tuple[str, int], ...] = ()

    @property
    def env_id(self) -> str:
        """Gymnasium's id."""
        return self.spec.id

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """Of the parts of an observation; none if the environment gives a vector."""
        return tuple(key for key, _ in self.observation_parts)


def env_info(env: str | EnvSpec) -> EnvInfo:
    """Make the environment once, read its sizes, bounds and clock, and close it.

    Args:
        env: Gymnasium's id, such as "HalfCheetah-v5", or an environment with arguments.

    Returns:
        The environment's description.

    Raises:
        EnvError: The id is unknown, observations are not vectors of numbers nor can be made such, actions are not
            vectors of real numbers with finite bounds, or episodes have no time limit.
    """
    spec = as_spec(env)
    made, parts = _make(spec, {})
    try:
        return _describe(spec, made, parts)
    finally:
        made.close()


def as_spec(env: str | EnvSpec) -> EnvSpec:
    """An environment by its id alone is made as it was registered."""
    return EnvSpec(env) if isinstance(env, str) else env


def make_env(
    env: str | EnvSpec, *, render: bool = False, width: int = 480, height: int = 480, **options: Any
) -> gymnasium.Env[Any, Any]:
    """Make an environment, quietly.

    Args:
        env: Gymnasium's id, or an environment with arguments.
        render: Whether `env.render()` shall return pictures, uint8 (height, width, 3) where the environment lets that
            be chosen.
        width: Width of the pictures in pixels; without `render` it is not used.
        height: Height of the pictures in pixels; without `render` it is not used.
        options: Further keyword arguments of the environment.

    Returns:
        The environment with its time limit and with observations that are vectors, not yet reset.

    Raises:
        EnvError: Gymnasium does not know the id, its module cannot be imported, or it misses what the environment
            depends on; or its observations cannot be made vectors.
    """
    if render:
        sized = {"render_mode": "rgb_array", "width": width, "height": height, **options}
        with contextlib.suppress(EnvError):  # one that draws in a size of its own does not know these arguments
            return _make(as_spec(env), sized)[0]
        options = {"render_mode": "rgb_array", **options}
    return _make(as_spec(env), options)[0]


def _make(spec: EnvSpec, options: Mapping[str, Any]) -> tuple[gymnasium.Env[Any, Any], tuple[tuple[str, int], ...]]:
    """An environment with vectors as observations, and the parts of these: :func:`make_env`."""
    import gymnasium

    _log_mujoco_warnings()
    env_id, options = spec.id, {**spec.kwargs, **options}
    if spec.max_episode_steps is not None:
        options["max_episode_steps"] = spec.max_episode_steps
    _register(env_id)
    try:
        # The checker walks over every observation of every step; `env_info` and the tests have looked at the spaces.
        with warnings.catch_warnings():  # the data say which version it has to be
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            made = gymnasium.make(env_id, disable_env_checker=True, **options)
    except Exception as error:  # a package's own code runs here
        reason = f"{type(error).__name__}: {error}"
        package = env_id.partition(":")[0] if ":" in env_id else ""
        remedy = (
            f"Install the package {package!r}, or put its folder on PYTHONPATH, or give another env.id."
            if package and isinstance(error, ModuleNotFoundError)
            else "Give the id of an environment that is installed, such as HalfCheetah-v5; the id of one that a "
            "package registers is written PACKAGE:ID."
        )
        raise EnvError(
            f"env: gymnasium cannot make {env_id!r}{_with_arguments(spec)} ({reason}). "
            + ("Check the arguments (env.kwargs). " if spec.kwargs else "")
            + remedy
            + robotics.hint(env_id)
        ) from error
    robotics.tidy(made)
    try:
        return flattened(made, spec.observation_keys)
    except ObservationError as error:
        made.close()
        raise EnvError(f"env: {env_id!r}: {error}") from error


def _register(env_id: str) -> None:
    """Let gymnasium know our own environments and those of gymnasium-robotics by their ids alone."""
    if env_id.startswith("cql/"):
        import cql.rollout.maze  # noqa: F401
    robotics.register(env_id)


def _with_arguments(spec: EnvSpec) -> str:
    given = ", ".join(f"{key}={value}" for key, value in spec.kwargs.items())
    return f" with {given}" if given else ""


def env_differences(recorded: EnvSpec, own: EnvSpec) -> list[str]:
    """In what two environments of one id differ, what their registration says included; one line each.

    A time limit that the user has set is meant to be another, and is no difference.
    """
    import gymnasium

    try:
        registered = gymnasium.spec(own.id.rpartition(":")[2])  # its package was imported to make it
    except (gymnasium.error.Error, ImportError, ValueError):  # whoever makes it says so
        return []
    usual = _usual(registered)
    theirs, ours = ({**usual, **each.kwargs} for each in (recorded, own))
    lines = [
        f"{key}={_shown(theirs, key)} (here {_shown(ours, key)})"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    ]
    limit = registered.max_episode_steps
    if own.max_episode_steps is None and recorded.max_episode_steps not in (None, limit):
        lines.append(f"max_episode_steps={recorded.max_episode_steps} (here {limit})")
    return lines


def own_argument(spec: EnvSpec, name: str) -> Any:
    """An argument that an environment is made with, by its registration or by default; None if it has none so named."""
    import gymnasium

    return {**_usual(gymnasium.spec(spec.id.rpartition(":")[2])), **spec.kwargs}.get(name)


def _usual(registered: Any) -> dict[str, Any]:
    """The arguments of an environment as it was registered, as JSON has them.

    They include the defaults of its constructor, as far as these can be read.
    """
    from gymnasium.envs.registration import load_env_creator

    try:
        made_by = registered.entry_point
        creator = made_by if callable(made_by) else load_env_creator(made_by)
        parameters = inspect.signature(creator).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    except (ImportError, AttributeError, TypeError, ValueError):
        defaults = {}
    return EnvSpec.of("", {**defaults, **registered.kwargs}).kwargs


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "its default"


def same_env(one: str, other: str) -> bool:
    """Whether two ids name the same environment; the package of PACKAGE:ID is only where it is registered."""
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def refuse_foreign_package(env_id: str, source: str, allowed: str | None, option: str) -> None:
    """Refuse an id of the form PACKAGE:ID that a file names: to make the environment would import and run the package.

    Args:
        env_id: as the file has it.
        source: the file, for the message.
        allowed: the id that the user gave, if any.
        option: with which a user gives it.

    Raises:
        EnvError: the id names a package, and the user did not give it.
    """
    if ":" in env_id and env_id != allowed and not env_id.startswith(f"{robotics.PACKAGE}:"):
        raise EnvError(
            f"{source} names the environment {env_id!r}, and to make it would run code of the package "
            f"{env_id.partition(':')[0]!r}. If you trust it: {option} {env_id}"
        )


def to_env_actions(
    actions: NDArray[np.floating], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scale actions from [-1, 1] to an environment's bounds.

    The centre and the half-width are used rather than `low + (a + 1) / 2 * (high - low)`, because that way bounds of
    exactly [-1, 1] leave every action bit for bit as it was.

    Args:
        actions: Actions in [-1, 1], (..., A); what lies outside is clipped.
        low: Lower bounds, (A,).
        high: Upper bounds, (A,).

    Returns:
        Actions in the environment's units, float32 (..., A), never outside the bounds.
    """
    centre, half_width = (high + low) / 2, (high - low) / 2
    scaled: NDArray[np.float32] = np.clip(centre + half_width * actions, low, high).astype(np.float32)
    return scaled


def from_env_actions(
    actions: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The inverse of :func:`to_env_actions`, (..., A) to [-1, 1]; what lies outside the bounds is clipped."""
    return ((actions - (high + low) / 2) / ((high - low) / 2)).clip(-1.0, 1.0)


def normalised_score(returns: Returns, reference_min: float, reference_max: float) -> Returns:
    """Scale returns so that the two reference returns become 0 and 100 (D4RL, Fu et al. 2020, section 5).

    Args:
        returns: One return or an array of them.
        reference_min: The return that scores 0 (in D4RL a random policy's).
        reference_max: The return that scores 100 (in D4RL a fully trained SAC policy's).

    Returns:
        100 (return - min) / (max - min), in the form of `returns`.

    Raises:
        ValueError: The references are not in order.
    """
    if not reference_max > reference_min:
        raise ValueError(f"reference_max ({reference_max}) must be greater than reference_min ({reference_min})")
    return 100.0 * (returns - reference_min) / (reference_max - reference_min)


def _describe(spec: EnvSpec, env: gymnasium.Env[Any, Any], parts: tuple[tuple[str, int], ...]) -> EnvInfo:
    from gymnasium.spaces import Box

    env_id, action_space = spec.id, env.action_space
    if not isinstance(action_space, Box) or len(action_space.shape) != 1:
        raise EnvError(f"env: the action space of {env_id!r} is {action_space}; a Box with one dimension is needed.")
    if action_space.dtype is None or action_space.dtype.kind != "f":
        raise EnvError(f"env: the actions of {env_id!r} are of type {action_space.dtype}; real numbers are needed.")
    low, high = action_space.low.astype(np.float32), action_space.high.astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise EnvError(
            f"env: the action bounds of {env_id!r} are {low} to {high}; finite bounds with low < high are needed, "
            "because policies act in [-1, 1] and are scaled to them."
        )
    max_episode_steps = env.spec.max_episode_steps if env.spec is not None else None
    if max_episode_steps is None:
        raise EnvError(
            f"env: {env_id!r} has no time limit, so that an evaluation might never end: give one, such as "
            "env.max_episode_steps=1000"
        )
    low.setflags(write=False)
    high.setflags(write=False)
    return EnvInfo(
        spec=spec,
        observation_size=int((env.observation_space.shape or ())[0]),
        action_size=int(action_space.shape[0]),
        action_low=low,
        action_high=high,
        max_episode_steps=int(max_episode_steps),
        step_seconds=_step_seconds(env),
        observation_parts=parts,
    )


def _step_seconds(env: gymnasium.Env[Any, Any]) -> float:
    step_seconds = getattr(simulator_of(env), "dt", None)
    if step_seconds is not None:
        return float(step_seconds)
    return 1.0 / float(env.metadata.get("render_fps", 20))


def simulator_of(env: gymnasium.Env[Any, Any]) -> Any:
    """What simulates: the environment itself without wrappers, or the MuJoCo environment that it holds, as a maze does.

    A MuJoCo environment has a `mujoco_renderer`.
    """
    own: Any = env.unwrapped
    return next((each for each in (own, *vars(own).values()) if hasattr(each, "mujoco_renderer")), own)


def _log_mujoco_warnings() -> None:
    """Send MuJoCo's warnings to our log.

    Left alone, MuJoCo prints them and appends them to MUJOCO_LOG.TXT in the working directory; it does so for every
    HalfCheetah-v5 made, whose model file has an attribute that MuJoCo 4 calls deprecated.
    """
    try:
        import mujoco
    except ImportError:  # an environment of another kind; gymnasium says so where MuJoCo is really needed
        return
    mujoco.set_mju_user_warning(_log_mujoco_warning)


def _log_mujoco_warning(message: str) -> None:
    logger.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message)
