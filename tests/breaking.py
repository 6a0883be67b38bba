"""A pendulum whose simulator breaks in some episodes, as simulators do."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

FAULTS: dict[int, tuple[int, str]] = {}
"""By the seed of an episode: the step at which it breaks, 0 for its reset, and how."""
ENV = "BreakingPendulum-v0"


class Breaking(InvertedPendulumEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed, options=options)
        self._fault, self._t = FAULTS.get(seed if seed is not None else -1, (-1, "")), 0
        return self._spoiled(observation, 1.0)[0], info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self._t += 1
        observation, reward = self._spoiled(observation, reward)
        return observation, reward, terminated, truncated, info

    def _spoiled(self, observation: Any, reward: Any) -> tuple[Any, Any]:
        step, kind = self._fault
        if self._t != step:
            return observation, reward
        if kind == "raise":
            raise RuntimeError("the simulator has diverged")
        if kind == "shape":
            return observation[:3], reward
        if kind == "none":
            return observation, None
        value = 1e39 if kind == "large" else np.nan
        return (observation, value) if kind == "reward" else (observation * 0 + value, reward)


if ENV not in gymnasium.registry:
    gymnasium.register(ENV, entry_point=Breaking, max_episode_steps=1000)
