"""Rollouts: returns of whole episodes, and pictures of the beginning of one.

For policies see :mod:`cql.rollout.episodes`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.rollout.envs import EnvInfo, EnvSpec, env_info, make_env
from cql.rollout.episodes import Environments, EpisodeResults, Policy, ask
from cql.rollout.rendering import MIN_FRAME_STD, RenderingError, choose_backend, encode_gif


class BrokenEpisodeError(RuntimeError):
    """An environment raised an error, or gave a reward or an observation that is not finite."""


class Evaluator:
    """R x E episodes from seeds that stay the same, so that two evaluations differ by the policy only.

    Args:
        env: Gymnasium's id, or an environment with arguments.
        seeds: One seed per episode, E in each of R rows.

    Raises:
        ValueError: The seeds are not R rows of E.
        EnvError: The environment cannot be used (see :func:`cql.rollout.envs.env_info`).
    """

    def __init__(self, env: str | EnvSpec, seeds: Sequence[Sequence[int]]) -> None:
        lengths = {len(row) for row in seeds}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"seeds must be R rows of E seeds each, with R and E at least 1; got {list(seeds)}")
        self.seeds: NDArray[np.int64] = np.array(seeds, dtype=np.int64)
        self._environments = Environments(env, *self.seeds.shape)
        self.info = self._environments.info

    def evaluate(self, policy: Policy, due: Sequence[bool] | None = None) -> EpisodeResults:
        """Run the episodes of the runs that are due: :meth:`cql.rollout.episodes.Environments.run`."""
        return self._environments.run(policy, self.seeds, due)

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._environments.close()


@dataclass(frozen=True, eq=False)
class Recording:
    """The pictures of the beginning of an episode.

    Attributes:
        frames: uint8 (T, height, width, 3).
        seconds_per_frame: Simulated seconds between two frames, so that playing them at this pace is real time.
        return_: Sum of the rewards of the recorded steps.
        length: Recorded steps.
    """

    frames: NDArray[np.uint8]
    seconds_per_frame: float
    return_: float
    length: int


class Recorder:
    """Records the beginning of an episode in real time, with a camera that follows the robot.

    Args:
        env: Gymnasium's id, or an environment with arguments.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        seconds: Simulated time to record at most.
        frames_per_second: The most pictures per simulated second. The actual number is the nearest below for which a
            frame lasts whole steps and (nearly) whole hundredths of a second, which is how GIF files count: 20 for
            HalfCheetah (steps of 0.05 s), 25 for Hopper (every fifth step of 0.008 s).
    """

    def __init__(
        self,
        env: str | EnvSpec,
        width: int = 200,
        height: int = 200,
        seconds: float = 6.0,
        frames_per_second: float = 25.0,
    ) -> None:
        self.info: EnvInfo = env_info(env)
        self.steps_per_frame = steps_per_frame(self.info.step_seconds, frames_per_second)
        self.seconds_per_frame = self.steps_per_frame * self.info.step_seconds
        self._n_frames = max(1, round(seconds / self.seconds_per_frame))
        self._width, self._height = width, height

    def record(self, policy: Policy, seed: int) -> Recording:
        """Record one episode from its reset on, until it ends or the time is up.

        Args:
            policy: From observations (1, 1, S) to actions (1, 1, A) in [-1, 1].
            seed: The episode's seed; an :class:`Evaluator` with the same seed starts from the same state.

        Returns:
            The pictures, at least one.

        Raises:
            RenderingError: Nothing can draw here, drawing failed, or the pictures are blank.
            BrokenEpisodeError: The environment broke in this episode.
            ValueError: The policy returned another shape, or an action that is not finite.
        """
        camera = _camera(self.info.spec, self._width, self._height)
        with _named(0):
            observation, _ = camera.env.reset(seed=seed)
        camera.aim()
        frames = [camera.shoot()]
        return_, length, ended = 0.0, 0, False
        while not ended and len(frames) < self._n_frames:
            for _ in range(self.steps_per_frame):
                observations = np.asarray(observation, np.float32).reshape(1, 1, -1)
                action = ask(policy, observations, self.info)[0]
                if not np.isfinite(action).all():
                    raise ValueError(f"the policy's action at step {length} of the recording is not finite: {action}")
                length += 1
                with _named(length):
                    observation, reward, terminated, truncated, _ = camera.env.step(action)
                    return_ += float(reward)
                    if not (math.isfinite(return_) and np.isfinite(np.asarray(observation, np.float32)).all()):
                        raise ValueError("a reward or an observation is not finite")
                ended = terminated or truncated
                if ended:
                    break
            frames.append(camera.shoot())
        return Recording(np.stack(frames), self.seconds_per_frame, return_, length)


@contextlib.contextmanager
def _named(step: int) -> Iterator[None]:
    """Make a BrokenEpisodeError of whatever a simulator does wrong in a step, 0 for its reset."""
    try:
        with np.errstate(over="ignore"):
            yield
    except Exception as error:
        raise BrokenEpisodeError(f"the environment broke at step {step}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, eq=False)
class Rollouts:
    """What is to be rolled out at one moment of training.

    Attributes:
        policy: Of all R runs.
        due: Which of them to evaluate.
        videos: The runs to record, each with its own policy, of R = 1.
    """

    policy: Policy
    due: Sequence[bool]
    videos: Mapping[int, Policy]


@dataclass(frozen=True, eq=False)
class RolledOut:
    """What came of :class:`Rollouts`.

    Attributes:
        results: Of the episodes.
        videos: The GIF file of each run that was to be recorded, or why there is none. Runs without an evaluation are
            left out, and so is what came after `undrawable`.
        undrawable: Why no more pictures can be drawn.
    """

    results: EpisodeResults
    videos: Mapping[int, bytes | Exception]
    undrawable: RenderingError | None = None


def roll_out(evaluator: Evaluator, recorder: Recorder | None, rollouts: Rollouts) -> RolledOut:
    """Evaluate and record.

    Args:
        evaluator: Of all R runs.
        recorder: Needed if there is something to record; a video starts from the seed of its run's first episode.
        rollouts: What is to be done.

    Returns:
        The episodes' results and the videos, which are not written to disk.
    """
    results = evaluator.evaluate(rollouts.policy, rollouts.due)
    videos: dict[int, bytes | Exception] = {}
    for run, policy in rollouts.videos.items():
        if results.problem(run) is not None:
            continue
        assert recorder is not None
        try:
            recording = recorder.record(policy, int(evaluator.seeds[run, 0]))
        except RenderingError as error:
            return RolledOut(results, videos, error)
        except (OSError, ValueError, BrokenEpisodeError) as error:
            videos[run] = error
            continue
        try:
            videos[run] = encode_gif(recording.frames, recording.seconds_per_frame)
        except RenderingError as error:
            videos[run] = error
    return RolledOut(results, videos)


def rolling_out(
    env: str | EnvSpec, seeds: Sequence[Sequence[int]], *, size: int, seconds: float
) -> Callable[[Rollouts], RolledOut]:
    """:func:`roll_out` with an evaluator and a recorder of its own, for another process.

    Args:
        env: Gymnasium's id, or an environment with arguments.
        seeds: One seed per episode, E in each of R rows.
        size: Width and height of the videos.
        seconds: Their length.
    """
    evaluator, recorder = Evaluator(env, seeds), Recorder(env, width=size, height=size, seconds=seconds)
    return functools.partial(roll_out, evaluator, recorder)


def steps_per_frame(step_seconds: float, frames_per_second: float) -> int:
    """Choose how many steps a frame of a real-time GIF lasts.

    Args:
        step_seconds: Simulated seconds per step.
        frames_per_second: The most frames per second.

    Returns:
        The smallest number of steps that keeps to `frames_per_second` and lasts hundredths of a second to within 2 %,
        where there is one below twice the smallest; else the one of these that comes nearest.
    """
    least = max(1, math.ceil(1.0 / frames_per_second / step_seconds - 1e-9))

    def error(n_steps: int) -> float:
        ticks = 100.0 * n_steps * step_seconds
        return abs(max(2, round(ticks)) - ticks) / ticks

    candidates = range(least, 2 * least + 1)
    return next((n_steps for n_steps in candidates if error(n_steps) < 0.02), min(candidates, key=error))


class _Camera:
    """A MuJoCo environment that is drawn, made ready for small pictures in real time.

    Reflections and the 4096 x 4096 shadow map cost four fifths of the time of a small picture and tell little in it, so
    both are off. The models' black and white floor and grey sky become two calm pairs of colours, which compress
    better and set the robots' orange off, with squares of one size for all. The floor is made ten times as large,
    because a good cheetah runs off its 40 metres within six seconds. None of this touches the physics.
    """

    def __init__(self, env: EnvSpec, width: int, height: int) -> None:
        import mujoco

        self.env = make_env(env, render=True, width=width, height=height)
        unwrapped: Any = self.env.unwrapped
        self._model, self._data = unwrapped.model, unwrapped.data
        self._model.vis.quality.shadowsize = 0
        self._model.vis.headlight.ambient[:] = 0.3
        self._model.vis.headlight.diffuse[:] = 0.5
        _colour(self._model)
        # -1 is the free camera, which `shoot` moves. The models' own "track" cameras stand too far away, bob with the
        # body, and are not what every gymnasium version picks.
        unwrapped.mujoco_renderer.camera_id = -1
        self.env.reset(seed=0)
        self.env.render()  # makes the viewer
        self._viewer = unwrapped.mujoco_renderer.viewer
        self._viewer.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._follows, is_flat = _moves_about(self._model), _is_flat(self._model)
        self._viewer.cam.azimuth, self._viewer.cam.elevation = 90.0, -90.0 if is_flat else -12.0

    def aim(self) -> None:
        """Choose the distance, and what the camera looks at, from the robot as it is now.

        A robot that moves about fills three fifths of the picture. An arm is seen with all that it can reach.
        """
        low, high = _extent(self._model, self._data, np.flatnonzero(self._model.geom_bodyid > 0))
        middle, size, share = (low + high) / 2, float((high - low).max()), 0.6
        if not self._follows:
            arm = np.flatnonzero(self._model.body_rootid[self._model.geom_bodyid] == 1)
            low, high = _extent(self._model, self._data, arm)
            middle, share = self._data.xpos[1], 0.9
            size = 2 * float(np.maximum(abs(low - middle), abs(high - middle)).max())
        self._viewer.cam.lookat[:] = middle
        visible_per_distance = 2 * math.tan(math.radians(float(self._model.vis.global_.fovy)) / 2)
        self._viewer.cam.distance = size / visible_per_distance / share

    def shoot(self) -> NDArray[np.uint8]:
        """Take a picture, with the centre of mass of a robot that moves about in the middle: uint8 (H, W, 3)."""
        try:
            if self._follows:
                self._viewer.cam.lookat[:2] = self._data.subtree_com[1, :2]
            # gymnasium leaves the context of the environment that was made last current; another environment's
            # picture would be drawn with its textures.
            self._viewer.make_context_current()
            frame: NDArray[np.uint8] = np.ascontiguousarray(self.env.render())
        except Exception as error:
            raise RenderingError(f"{self.env.spec}: drawing failed: {error!r}") from error
        if not frame.std() > MIN_FRAME_STD:
            raise RenderingError(
                "the picture is blank: the OpenGL context was lost, perhaps because another rendering environment of "
                "this process was closed"
            )
        return frame


#: Rendering environments, kept until the process ends. With gymnasium 1.4 and MuJoCo 4, collecting a closed rendering
#: environment turns every other one's pictures black, silently and for good; so none is ever closed before the end.
_cameras: dict[tuple[EnvSpec, int, int], _Camera] = {}


def _camera(env: EnvSpec, width: int, height: int) -> _Camera:
    """Get the one camera for this environment and size, making it if there is none yet."""
    key = (env, width, height)
    if key not in _cameras:
        if choose_backend() is None:
            raise RenderingError("nothing can draw here; the log says why and what to install")
        try:
            _cameras[key] = _Camera(env, width, height)
        except Exception as error:  # a missing or broken OpenGL shows in many ways, AttributeError among them
            raise RenderingError(f"{env.id} cannot be drawn: {error!r}") from error
    return _cameras[key]


@atexit.register
def _close_cameras() -> None:
    """Close them while PyOpenGL still works: its destructors fail noisily when the interpreter is half gone."""
    for camera in _cameras.values():
        camera.env.close()
    _cameras.clear()


_TILE_METRES = 1.5  # two squares of the floor, in each direction
_FLOOR = ((38, 54, 74), (54, 75, 100))  # dark and light squares
_SKY = ((35, 50, 70), (150, 175, 205))  # below and above


def _colour(model: Any) -> None:
    """Give the floor and the sky of a MuJoCo model calm colours, and enlarge the floor; before the first picture."""
    import mujoco

    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        material = model.geom_matid[geom]
        model.geom_size[geom, :2] *= 10
        model.geom_size[geom, 2] = model.geom_size[geom, :2].max()  # one quadrangle; Hopper's 40,000 take half the time
        if material < 0:
            continue
        model.mat_texrepeat[material] = 2 * model.geom_size[geom, :2] / _TILE_METRES
        model.geom_rgba[geom] = 1
        texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
        if texture >= 0:
            _repaint(model, texture, *_FLOOR)
    for sky in np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX):
        _repaint(model, int(sky), *_SKY)


def _repaint(model: Any, texture: int, dark: tuple[int, int, int], light: tuple[int, int, int]) -> None:
    """Replace a texture's shades from darkest to lightest by those between two colours."""
    n_channels = model.tex_nchannel[texture]
    start = model.tex_adr[texture]
    size = model.tex_width[texture] * model.tex_height[texture] * n_channels
    pixels = model.tex_data[start : start + size].reshape(-1, n_channels)
    shade = pixels[:, :3].mean(axis=1, keepdims=True)
    shade = (shade - shade.min()) / max(1.0, float(np.ptp(shade)))
    pixels[:, :3] = np.round((1 - shade) * np.array(dark) + shade * np.array(light))


def _moves_about(model: Any) -> bool:
    """Whether the robot's first body can leave its place; that of an arm cannot."""
    import mujoco

    first = model.jnt_type[model.jnt_bodyid == 1]
    return bool(np.isin(first, (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE)).any())


def _is_flat(model: Any) -> bool:
    """Whether everything moves in the horizontal plane, so that it is seen from above."""
    import mujoco

    upright = np.abs(model.jnt_axis[:, 2])
    hinges = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (upright > 0.99)
    slides = (model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE) & (upright < 0.01)
    return bool((hinges | slides).all())


def _extent(model: Any, data: Any, geoms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner of the box around some geoms, in metres: two arrays (3,)."""
    rotations = data.geom_xmat[geoms].reshape(-1, 3, 3)
    centres, halves = model.geom_aabb[geoms, :3], model.geom_aabb[geoms, 3:]
    positions = data.geom_xpos[geoms] + np.einsum("gij,gj->gi", rotations, centres)
    halves = np.einsum("gij,gj->gi", np.abs(rotations), halves)
    return (positions - halves).min(axis=0), (positions + halves).max(axis=0)
