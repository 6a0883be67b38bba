"""Rollouts: returns of whole episodes, and pictures of the beginning of one.

For policies see :mod:`cql.rollout.episodes`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cql.rollout.camera import camera as camera_of
from cql.rollout.envs import EnvInfo, EnvSpec, env_info
from cql.rollout.episodes import Environments, EpisodeResults, Policy, ask
from cql.rollout.rendering import RenderingError, encode_gif


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
    """Records the beginning of an episode in real time, with a camera that follows the robot where it moves about.

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
        camera = camera_of(self.info.spec, self._width, self._height)
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
