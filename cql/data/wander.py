"""Controllers of a point in a maze: one wanders, to collect from, and one heads for the goal, to compare with.

Axes: E environments stepped together, S = 4 state features, A = 2 action features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.rollout.maze import Cell, Maze, cell_of, centre

_GAIN, _DAMPING = 2.0, 0.3
_NEAR = 0.4  # metres from a waypoint
_NOISE = 1.4  # standard deviation before the action is squashed


class Wanderer:
    """Walks from cell to neighbouring cell at random, with noise; each episode begins in another cell.

    So the data hold every piece of the best way, in both directions alike.

    Args:
        maze: in which it walks.
    """

    name, observation_size, action_size = "wanderer", 4, 2

    def __init__(self, maze: Maze) -> None:
        self.maze = maze
        self._aim: Cell | None = None
        self._generator = np.random.default_rng(0)

    def episode(self, generator: np.random.Generator) -> tuple[Wanderer, dict[str, Any]]:
        """A wanderer for one episode, and the options of its reset: where it begins."""
        own = Wanderer(self.maze)
        own._generator = generator
        own._aim = self.maze.free[generator.integers(len(self.maze.free))]
        return own, {"cell": own._aim}

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Act in one environment: (1, S) to (1, A)."""
        (state,) = observations
        if self._aim is None or np.linalg.norm(state[:2] - centre(self._aim)) < _NEAR:
            beside = self.maze.neighbours(cell_of(state[:2]))
            self._aim = beside[self._generator.integers(len(beside))]
        action = _towards(state, centre(self._aim))
        if noise is not None:
            action = action + _NOISE * noise[0]
        return np.tanh(action).astype(np.float32)[None]


class Planner:
    """Heads for the goal on a shortest way, and stays there: a policy for an evaluation.

    Args:
        maze: in which it walks.
    """

    def __init__(self, maze: Maze) -> None:
        self.maze = maze

    def __call__(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Actions (..., A) for observations (..., S)."""
        states = observations.reshape(-1, observations.shape[-1])
        actions = [_towards(state, self._waypoint(state[:2])) for state in states]
        return np.tanh(np.array(actions, np.float32)).reshape(*observations.shape[:-1], 2)

    def _waypoint(self, position: NDArray[Any]) -> NDArray[np.float64]:
        way = self.maze.way(cell_of(position), self.maze.goal)
        return centre(way[min(1, len(way) - 1)])


def _towards(state: NDArray[Any], aim: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_GAIN * (aim - state[:2]) - _DAMPING * state[2:], np.float64)
