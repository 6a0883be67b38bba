"""Whole episodes with sampled actions, for training that continues in the environment.

An episode depends on the policy, on its run's seed and on its number alone: not on what was collected before, nor on
the other runs. So a simulator never has to be saved.
Axes: L steps, S state, A action.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cql.rollout.envs import EnvSpec
from cql.rollout.episodes import Environments

_SEED_STREAM, _NOISE_STREAM = 101, 102  # other numbers than those of cql.algorithm.sampling


SampledPolicy = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""From observations (R, E, S) and standard normal noise (R, E, A) to sampled actions (R, E, A) in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode as it was collected.

    Attributes:
        number: of the run's episodes, counted from 0.
        seed: that the environment was reset with.
        observations: (L + 1, S) float32, in the environment's units.
        actions: (L, A) float32 in [-1, 1].
        rewards: (L,) float64, the environment's.
        terminated: whether it ended in a terminal state, else by the time limit.
        success: whether the environment reported a success in any step; None if it reports none.
    """

    number: int
    seed: int
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: bool
    success: bool | None

    def __len__(self) -> int:
        return len(self.rewards)


class Collector:
    """R x E environments in which R runs collect episodes with sampled actions.

    Args:
        env: the environment.
        seeds: one per run.
        n_episodes: E, episodes that a run collects at once.
    """

    def __init__(self, env: str | EnvSpec, seeds: Sequence[int], n_episodes: int) -> None:
        self.n_episodes, self._seeds = n_episodes, list(seeds)
        self._environments = Environments(env, len(self._seeds), n_episodes)
        self.info = self._environments.info

    def collect(self, policy: SampledPolicy, first: Mapping[int, int]) -> dict[int, list[Episode] | str]:
        """Collect E episodes for some of the runs.

        Args:
            policy: of these runs, in the order of `first`.
            first: the number of its first episode, for each run that collects.

        Returns:
            The episodes of each run that collects, or why there are none: what the environment or the policy did wrong.
        """
        n_runs = len(self._seeds)
        numbers = [[first.get(run, 0) + e for e in range(self.n_episodes)] for run in range(n_runs)]
        seeds = np.array(
            [[_seed(own, number) for number in row] for own, row in zip(self._seeds, numbers, strict=True)], np.int64
        )
        shape, due = (self.info.max_episode_steps, self.info.action_size), list(first)
        noise = np.zeros((len(due), self.n_episodes, *shape), np.float32)
        for row, run in enumerate(due):
            for e, number in enumerate(numbers[run]):
                own = np.random.Generator(np.random.PCG64([self._seeds[run], _NOISE_STREAM, number]))
                noise[row, e] = own.standard_normal(shape, np.float32)
        watch = _Recording(n_runs * self.n_episodes)

        def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            actions = np.zeros((n_runs, self.n_episodes, shape[1]), np.float32)
            actions[due] = policy(observations[due], noise[:, :, watch.n_calls])
            watch.act(actions.reshape(-1, shape[1]))
            return actions

        results = self._environments.run(act, seeds, [run in due for run in range(n_runs)], watch)
        found: dict[int, list[Episode] | str] = {}
        for run in due:
            problem = results.problem(run)
            if problem is not None:
                found[run] = f"{problem.reason}, while online episode {numbers[run][0]} and on were collected"
                continue
            found[run] = [
                watch.episode(run * self.n_episodes + e, number, int(seeds[run, e]), results.success[run, e])
                for e, number in enumerate(numbers[run])
            ]
        return found

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


def _seed(run_seed: int, number: int) -> int:
    """The seed of an episode; neighbouring runs and episodes have unrelated ones."""
    return int(np.random.SeedSequence([run_seed, _SEED_STREAM, number]).generate_state(1)[0] >> 1)


class _Recording:
    """What :class:`Environments` tells of its episodes."""

    def __init__(self, n_episodes: int) -> None:
        self.n_calls = 0
        self._actions: NDArray[np.float32] = np.zeros((n_episodes, 0), np.float32)
        self._observations: list[list[NDArray[np.float32]]] = [[] for _ in range(n_episodes)]
        self._taken: list[list[NDArray[np.float32]]] = [[] for _ in range(n_episodes)]
        self._rewards: list[list[float]] = [[] for _ in range(n_episodes)]
        self._terminated = [False] * n_episodes

    def act(self, actions: NDArray[np.float32]) -> None:
        """The policy has given actions (R E, A) for the next step of all episodes."""
        self._actions = actions
        self.n_calls += 1

    def __call__(self, index: int, observation: NDArray[np.float32], reward: float | None, terminated: bool) -> None:
        self._observations[index].append(observation.copy())
        if reward is None:
            return
        self._taken[index].append(self._actions[index])
        self._rewards[index].append(reward)
        self._terminated[index] = terminated

    def episode(self, index: int, number: int, seed: int, success: float) -> Episode:
        """One of the episodes, at its end; `success` is as in :class:`EpisodeResults`."""
        return Episode(
            number=number,
            seed=seed,
            observations=np.array(self._observations[index], np.float32),
            actions=np.array(self._taken[index], np.float32),
            rewards=np.array(self._rewards[index], np.float64),
            terminated=self._terminated[index],
            success=None if math.isnan(success) else bool(success),
        )
