"""A point in a maze: an environment in which learning from wandering data has to beat imitating it.

The task is that of D4RL's maze2d, in a simulation of our own with 20 actions a second. (gymnasium-robotics' PointMaze
has 100, so that one action hardly changes a value, and a way of six cells takes 130 steps.) Importing this module
registers the environments `cql/UMaze-v0` and `cql/MediumMaze-v0`.

Cells are counted as (row, column) from the top left; the centre of a cell is at x = column, y = -row, in metres.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from numpy.typing import NDArray

Cell = tuple[int, int]

UMAZE = (
    "#####",
    "#S..#",
    "###.#",
    "#G..#",
    "#####",
)
# The walls of D4RL's medium maze. With the goal in the corner opposite to the start, a point that pushes that way
# without looking slides there along the walls; here it has to go down and up again.
MEDIUM = (
    "########",
    "#S.##.G#",
    "#..#...#",
    "##...###",
    "#..#...#",
    "#.#..#.#",
    "#...#..#",
    "########",
)

GOAL_RADIUS = 0.5  # metres
_PHYSICS_STEPS, _PHYSICS_SECONDS = 5, 0.01
_START_NOISE = 0.25  # metres, in each direction

_MODEL = """
<mujoco>
  <option timestep="{seconds}" gravity="0 0 0"/>
  <default><geom condim="1"/></default>
  <asset>
    <texture name="floor" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".25 .35 .45" width="64" height="64"/>
    <material name="floor" texture="floor"/>
  </asset>
  <worldbody>
    <geom type="plane" size="10 10 .1" pos="0 0 -.1" material="floor" contype="0" conaffinity="0"/>
    {walls}
    <site name="goal" type="cylinder" size="{radius} .01" pos="{goal} 0" rgba=".9 .3 .2 .5"/>
    <body name="point">
      <joint name="x" type="slide" axis="1 0 0" damping="2.5"/>
      <joint name="y" type="slide" axis="0 1 0" damping="2.5"/>
      <geom type="sphere" size=".1" mass=".5"/>
      <site name="marker" type="sphere" size=".17" rgba="1 .8 .3 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" gear="10" ctrlrange="-1 1" ctrllimited="true"/>
    <motor joint="y" gear="10" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
</mujoco>
"""
_WALL = '<geom type="box" size=".5 .5 .2" pos="{x} {y} .2" rgba=".45 .5 .55 1"/>'


class Maze:
    """A plan of walls, with a start and a goal.

    Args:
        layout: rows of text; `#` is a wall, `S` the start, `G` the goal.

    Attributes:
        walls: bool (rows, columns).
        start: the cell in which episodes begin.
        goal: the cell to go to.
        free: all cells without a wall.
    """

    def __init__(self, layout: tuple[str, ...]) -> None:
        cells = np.array([list(row) for row in layout])
        self.walls: NDArray[np.bool_] = cells == "#"
        (self.start,), (self.goal,) = (_cells(cells == mark) for mark in "SG")
        self.free = _cells(~self.walls)

    def neighbours(self, cell: Cell) -> list[Cell]:
        """The free cells beside a cell."""
        steps = ((1, 0), (-1, 0), (0, 1), (0, -1))
        return [(r, c) for r, c in ((cell[0] + dr, cell[1] + dc) for dr, dc in steps) if not self.walls[r, c]]

    def way(self, start: Cell, end: Cell) -> list[Cell]:
        """The cells of a shortest way, both ends included."""
        before: dict[Cell, Cell | None] = {start: None}
        queue = collections.deque([start])
        while end not in before:
            cell = queue.popleft()
            for beside in self.neighbours(cell):
                if beside not in before:
                    before[beside] = cell
                    queue.append(beside)
        way: list[Cell] = []
        here: Cell | None = end
        while here is not None:
            way.append(here)
            here = before[here]
        return way[::-1]


def centre(cell: Cell) -> NDArray[np.float64]:
    """Where the centre of a cell is, (2,) in metres."""
    return np.array([cell[1], -cell[0]], np.float64)


def cell_of(position: NDArray[np.floating[Any]]) -> Cell:
    """The cell of a position (2,) in metres."""
    return round(-float(position[1])), round(float(position[0]))


def _cells(mask: NDArray[np.bool_]) -> list[Cell]:
    return [(int(row), int(column)) for row, column in np.argwhere(mask)]


class PointMaze(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A point that is pushed through a maze.

    Observations are x, y (metres) and their velocities (metres a second), float64 (4,); actions are the forces in both
    directions, in [-1, 1]. The reward is 1 in each step that ends within half a metre of the centre of the goal's cell,
    else 0; an episode does not end there, so a return counts how long the point stayed. `info["success"]` is
    whether it is there. An episode begins in the maze's start, or in `options["cell"]`.

    Args:
        layout: as for :class:`Maze`.
        continuing_task: whether an episode goes on at the goal; otherwise it terminates there.
        render_mode: "rgb_array" or None.
        width: of pictures in pixels.
        height: likewise.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  as gymnasium declares it

    def __init__(
        self,
        layout: tuple[str, ...] = UMAZE,
        continuing_task: bool = True,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        self.maze, self.render_mode = Maze(tuple(layout)), render_mode
        self._continues = continuing_task
        walls = (centre(cell) for cell in _cells(self.maze.walls))
        self._goal = centre(self.maze.goal)
        self.model = mujoco.MjModel.from_xml_string(
            _MODEL.format(
                seconds=_PHYSICS_SECONDS,
                walls="\n".join(_WALL.format(x=x, y=y) for x, y in walls),
                radius=GOAL_RADIUS,
                goal=f"{self._goal[0]} {self._goal[1]}",
            )
        )
        self.data = mujoco.MjData(self.model)
        self.dt = _PHYSICS_STEPS * _PHYSICS_SECONDS
        self.mujoco_renderer = MujocoRenderer(self.model, self.data, width=width, height=height)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        cell = tuple((options or {}).get("cell", self.maze.start))
        if cell not in self.maze.free:
            raise ValueError(f"there is no free cell {cell} to begin in; there are {self.maze.free}")
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = centre(cell) + self.np_random.uniform(-_START_NOISE, _START_NOISE, 2)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Push for a twentieth of a second; see :class:`gymnasium.Env`."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=_PHYSICS_STEPS)
        is_there = bool(np.linalg.norm(self.data.qpos - self._goal) <= GOAL_RADIUS)
        return self._observation(), float(is_there), is_there and not self._continues, False, {"success": is_there}

    def render(self) -> Any:
        """A picture, uint8 (height, width, 3)."""
        return self.mujoco_renderer.render(self.render_mode)

    def close(self) -> None:
        """Free the renderer."""
        self.mujoco_renderer.close()  # type: ignore[no-untyped-call]

    def _observation(self) -> NDArray[np.float64]:
        return np.concatenate([self.data.qpos, self.data.qvel])


_CLASS = "cql.rollout.maze:PointMaze"  # a text, so that a dataset's metadata can name it
gymnasium.register("cql/UMaze-v0", _CLASS, max_episode_steps=100)
gymnasium.register("cql/MediumMaze-v0", _CLASS, max_episode_steps=200, kwargs={"layout": MEDIUM})


def maze_of(env_id: str) -> Maze:
    """The maze of a registered environment of this module."""
    return Maze(gymnasium.spec(env_id).kwargs.get("layout", UMAZE))
