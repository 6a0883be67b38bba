"""Whole episodes of R runs, in environments that are stepped together.

A policy here is a function from float32 observations (R, E, S) to actions (R, E, A) in [-1, 1], for R runs and E
episodes per run, in NumPy. It normalises observations if it was trained on normalised ones; scaling actions to the
environment's bounds is done here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.rollout.envs import EnvInfo, EnvSpec, env_info, make_env, to_env_actions

if TYPE_CHECKING:
    import gymnasium

Policy = Callable[[NDArray[np.float32]], NDArray[np.floating]]

_SUCCESS_KEYS = ("success", "is_success", "goal_achieved")

Watch = Callable[[int, NDArray[np.float32], float | None, bool], None]
"""Who is told of every step: the episode's index, the observation (S,) that it led to, the reward, and whether the
episode was terminated. A reset has no reward. The observation is valid during the call."""


@dataclass(frozen=True, eq=False)
class EpisodeResults:
    """What an evaluation measured.

    Attributes:
        returns: Undiscounted sum of each episode's rewards, float64 (R, E); NaN where the policy's actions became
            non-finite or the environment broke, and for runs that were not evaluated.
        lengths: Steps of each episode, int64 (R, E).
        seeds: The seed that each episode was reset with, int64 (R, E).
        success: Whether the environment reported a success in any step, 1 or 0, float64 (R, E); NaN where it reports
            none, and for runs that were not evaluated.
        broken: What the environment did wrong in an episode, by run and episode.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64]
    success: NDArray[np.float64]
    broken: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def success_rate(self, run: int) -> float | None:
        """The share of a run's episodes that succeeded; None if the environment does not report it."""
        return None if np.isnan(self.success[run]).any() else float(self.success[run].mean())

    def problem(self, run: int) -> Problem | None:
        """Why the episodes of a run that was evaluated make no evaluation; None if they make one.

        A simulator that breaks in fewer than half of the episodes costs this evaluation, one that breaks more often the
        run: the next evaluations would hardly be better.
        """
        broken = {episode: text for (each, episode), text in self.broken.items() if each == run}
        n_episodes = self.seeds.shape[1]
        if np.isnan(self.returns[run]).sum() > len(broken):
            return Problem("the policy's actions were not finite", True)
        if broken:
            episode, text = next(iter(broken.items()))
            where = f"episode {episode}, seed {self.seeds[run, episode]}, {text}"
            return Problem(
                f"the environment broke in {len(broken)} of {n_episodes} episodes ({where})",
                2 * len(broken) >= n_episodes,
            )
        return None


class Problem(NamedTuple):
    """Why there is no evaluation.

    Attributes:
        reason: For the log.
        is_fatal: The run cannot go on.
    """

    reason: str
    is_fatal: bool


class Environments:
    """R x E environments that are stepped together, with one call of the policy a step.

    Physics takes about 50 microseconds a step, so one process with a list of environments beats worker processes, and
    no autoreset convention is involved: each environment is left alone after its own end. The policy always sees all
    R x E rows, those of ended episodes frozen at their last observation: in batches of one shape the rounding of matrix
    products does not depend on what the other episodes do. (It does depend on the shape: with another E the same seed
    soon gives another episode, because physics with contacts is chaotic.)

    The environments are made when they are first needed.

    Args:
        env: Gymnasium's id, or an environment with arguments.
        n_runs: R.
        n_episodes: E, of each run.

    Raises:
        EnvError: The environment cannot be used (see :func:`cql.rollout.envs.env_info`).
    """

    def __init__(self, env: str | EnvSpec, n_runs: int, n_episodes: int) -> None:
        self.info: EnvInfo = env_info(env)
        self.shape = n_runs, n_episodes

    @functools.cached_property
    def _envs(self) -> list[gymnasium.Env[Any, Any]]:
        return [make_env(self.info.spec) for _ in range(math.prod(self.shape))]

    @np.errstate(over="ignore")  # an observation beyond float32 is infinite then, and told as such
    def run(
        self,
        policy: Policy,
        seeds: NDArray[np.int64],
        due: Sequence[bool] | None = None,
        watch: Watch | None = None,
    ) -> EpisodeResults:
        """Run every episode of the runs that are due to its end.

        An episode whose action is not finite, or whose environment breaks, ends there with the return NaN, so that one
        broken run does not stop its neighbours.

        Args:
            policy: From observations (R, E, S) to actions (R, E, A) in [-1, 1].
            seeds: One per episode, (R, E).
            due: Which of the R runs take part; None is all of them. The policy sees rows for the others too, whose
                observations mean nothing.
            watch: Is told of every step.

        Returns:
            Returns and lengths of the R x E episodes; NaN and 0 for runs that are not due.

        Raises:
            ValueError: The policy returned another shape.
            RuntimeError: The environments are closed.
        """
        if not self._envs:
            raise RuntimeError("the environments are closed")
        n_runs, n_episodes = seeds.shape
        observations = np.zeros((len(self._envs), self.info.observation_size), np.float32)
        returns, lengths = [math.nan] * len(self._envs), [0] * len(self._envs)
        success = [math.nan] * len(self._envs)
        running = [index for index in range(len(self._envs)) if due is None or due[index // n_episodes]]
        broken: dict[int, str] = {}
        for index in running:
            returns[index] = 0.0
            try:
                observations[index] = self._envs[index].reset(seed=int(seeds.flat[index]))[0]
            except Exception as error:  # noqa: BLE001  whatever a simulator raises, the other episodes go on
                broken[index] = f"reset of {self.info.env_id}: {type(error).__name__}: {error}"
            if watch is not None:
                watch(index, observations[index], None, False)
        broken |= self._not_finite(running, observations, returns, lengths)
        running = [index for index in running if index not in broken]
        while running:
            actions = ask(policy, observations.reshape(n_runs, n_episodes, -1), self.info)
            finite = np.all(np.isfinite(actions), axis=1)
            stepped, still_running = [], []
            for index in running:
                if not finite[index]:
                    returns[index] = math.nan
                    continue
                lengths[index] += 1
                try:
                    observation, reward, terminated, truncated, info = self._envs[index].step(actions[index])
                    observations[index] = observation
                    returns[index] += float(reward)
                    reported = succeeded(info)
                    if reported is not None and not success[index] >= reported:
                        success[index] = float(reported)
                    if watch is not None:
                        watch(index, observations[index], float(reward), bool(terminated))
                except Exception as error:  # noqa: BLE001
                    broken[index] = f"step {lengths[index]} of {self.info.env_id}: {type(error).__name__}: {error}"
                    continue
                stepped.append(index)
                if not (terminated or truncated):
                    still_running.append(index)
            broken |= self._not_finite(stepped, observations, returns, lengths)
            running = [index for index in still_running if index not in broken] if broken else still_running
        for index in broken:
            returns[index] = math.nan
        return EpisodeResults(
            returns=np.array(returns, np.float64).reshape(seeds.shape),
            lengths=np.array(lengths, np.int64).reshape(seeds.shape),
            seeds=seeds.copy(),
            broken={(index // n_episodes, index % n_episodes): text for index, text in sorted(broken.items())},
            success=np.array(success, np.float64).reshape(seeds.shape),
        )

    def _not_finite(
        self,
        indices: Sequence[int],
        observations: NDArray[np.float32],
        returns: Sequence[float],
        lengths: Sequence[int],
    ) -> dict[int, str]:
        """Which of some episodes got a reward or an observation that is not finite; their observations become 0."""
        if np.isfinite(observations).all() and all(math.isfinite(returns[index]) for index in indices):
            return {}
        found = {}
        for index in indices:
            is_blind = not np.isfinite(observations[index]).all()
            if is_blind or not math.isfinite(returns[index]):
                what = "observation" if is_blind else "reward"
                found[index] = f"step {lengths[index]} of {self.info.env_id}: the {what} is not finite"
                observations[index] = 0.0
        return found

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        for env in self.__dict__.get("_envs", ()):
            env.close()
        self._envs = []


def succeeded(info: Mapping[str, Any]) -> bool | None:
    """Whether an environment's info tells of a success; None if it tells neither."""
    return next((bool(info[key]) for key in _SUCCESS_KEYS if key in info), None)


def ask(policy: Policy, observations: NDArray[np.float32], info: EnvInfo) -> NDArray[np.float32]:
    """Ask the policy, check the shape, and scale to the bounds: (R, E, S) to (R * E, A)."""
    actions = policy(observations)
    expected = (*observations.shape[:2], info.action_size)
    if actions.shape != expected:
        raise ValueError(
            f"the policy returned actions of shape {actions.shape} for observations {observations.shape} of "
            f"{info.env_id}; (R, E, A) = {expected} is needed"
        )
    return to_env_actions(actions.reshape(-1, info.action_size), info.action_low, info.action_high)
