"""The picture of the maze: where the data, the planner and the learned policies go, and what the critics believe.

It shows in one look what CQL is for: cloning cannot join pieces of the way, and the values of a critic without a
penalty mean nothing, because it is never corrected where the data have no actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.data import DatasetError, load_minari
from cql.data.embedded import EMBEDDED, ensure_embedded
from cql.data.wander import Planner
from cql.results.groups import Group, Results
from cql.results.runs import ResultsError, Run
from cql.results.statistics import mean_estimate
from cql.rollout.envs import EnvSpec
from cql.rollout.episodes import Environments, Policy
from cql.rollout.maze import Cell, Maze, centre, maze_of
from cql.training.build import load_policy
from cql.training.checkpoint import CheckpointFolder
from cql.training.curves import INK, PALE, SERIES, saved
from cql.training.networks import load_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPACING = 0.1  # metres between two points of a map
_N_ACTIONS = 9  # in each direction
_N_EPISODES = 12
_N_OF_DATA = 60
_REWARD = 1.0  # the largest of a step
_OVER = "#b3202c"


class MazeRuns(NamedTuple):
    """The runs of a sweep in one maze.

    Attributes:
        env_id: of the maze.
        dataset: name of the embedded dataset.
        groups: one per arm, each with a finished run.
    """

    env_id: str
    dataset: str
    groups: tuple[Group, ...]


def maze_runs(results: Results) -> MazeRuns:
    """The finished runs of a sweep in a maze.

    Raises:
        ResultsError: no run has finished, or they are not runs on one embedded dataset of a maze.
    """
    groups = tuple(group for group in results.groups if group.ended)
    tasks = {(run.config.get("env.id"), run.config.get("dataset.name")) for group in groups for run in group.ended}
    if not tasks:
        raise ResultsError("no run has finished yet, so there is no policy to draw")
    (env_id, dataset), *others = tasks
    if others or not str(env_id).endswith("Maze-v0") or dataset not in EMBEDDED:
        listed = ", ".join(sorted(f"{dataset} in {env_id}" for env_id, dataset in tasks))
        raise ResultsError(f"the picture is of runs on one embedded dataset of a maze; these are on {listed}")
    own = sorted(run.name for group in groups for run in group.ended if _is_made_otherwise(run))
    if own:
        raise ResultsError(f"the picture is of the maze as it is registered; made otherwise: {', '.join(own)}")
    return MazeRuns(str(env_id), str(dataset), groups)


def _is_made_otherwise(run: Run) -> bool:
    limit = run.config.get("env.max_episode_steps")
    return limit is not None or any(key.startswith("env.kwargs.") for key in run.config)


def draw_maze(found: MazeRuns, path: Path) -> Path:
    """Draw trajectories of data, planner and arms into the maze, and below the values of each arm's critics.

    The pictures of an arm are of its first finished run, its numbers of all of them. All maps have one scale, from 0 to
    a tenth above the largest return that is possible; values above it are red.

    Args:
        found: the runs.
        path: of the PNG.

    Returns:
        The path.

    Raises:
        CheckpointError: a run has no checkpoint, or a damaged one.
        DatasetError: the dataset of the runs cannot be read.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    maze = maze_of(found.env_id)
    colours = colormaps["viridis"].with_extremes(over=_OVER)
    seeds = np.arange(1000, 1000 + _N_EPISODES)
    columns = len(found.groups) + 1
    figure = Figure(figsize=(2.8 * columns, 5.8), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr, call-arg]
    axes: NDArray[Any] = figure.subplots(2, columns, squeeze=False)
    _frame(axes[0, 0], maze, "data")
    _draw_data(axes[0, 0], found.dataset)
    _frame(axes[1, 0], maze, "planner")
    planned = _paths(found.env_id, Planner(maze), seeds)
    _draw_paths(axes[1, 0], planned.paths)
    axes[1, 0].set_xlabel(f"return {planned.returns.mean():.1f}", color=PALE)
    for column, group in enumerate(found.groups, start=1):
        run = group.ended[0]
        checkpoint = CheckpointFolder(run.directory / "checkpoints").find("last")
        policy, _, step = load_policy(checkpoint)
        _frame(axes[0, column], maze, group.arm)
        _draw_paths(axes[0, column], _paths(found.env_id, policy, seeds).paths)
        axes[0, column].set_xlabel(_numbers(group), color=PALE)
        _frame(axes[1, column], maze, "")
        possible = _REWARD / (1 - float(run.config["algorithm.discount"]))
        x, y, values = _values(maze, checkpoint, run)
        shown = axes[1, column].pcolormesh(x, y, values, cmap=colours, vmin=0.0, vmax=1.1 * possible, shading="nearest")
        axes[1, column].set_xlabel(f"{values.min():.3g} to {values.max():.3g} at step {step}", color=PALE)
    bar = figure.colorbar(shown, ax=axes[1, 1:], shrink=0.7, extend="max", pad=0.01)
    bar.set_label(f"max over actions of Q\n(at most {possible:.3g} is possible)", color=PALE)
    return saved(figure, path)


class _Paths(NamedTuple):
    paths: Sequence[NDArray[np.float32]]  # (T + 1, 2) each
    returns: NDArray[np.float64]


def _paths(env_id: str, policy: Policy, seeds: NDArray[np.int64]) -> _Paths:
    """Where a policy goes in one episode per seed."""
    positions: list[list[NDArray[np.float32]]] = [[] for _ in seeds]

    def watch(index: int, observation: NDArray[np.float32], reward: float | None, terminated: bool) -> None:
        del reward, terminated
        positions[index].append(observation[:2].copy())

    environments = Environments(EnvSpec(env_id), 1, len(seeds))
    results = environments.run(policy, seeds[None], watch=watch)
    environments.close()
    return _Paths([np.array(each) for each in positions], results.returns[0])


def _numbers(group: Group) -> str:
    estimate = mean_estimate(group.outcomes("last", scored=False))
    n = len(group.ended)
    if n < 3:
        return f"return {estimate.value:.1f} ({n} run{'s' if n > 1 else ''})"
    return f"return {estimate.value:.1f} ({estimate.low:.1f} to {estimate.high:.1f}, {n} seeds)"


def _frame(axes: Axes, maze: Maze, title: str) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = maze.walls.shape
    for row, column in zip(*np.nonzero(maze.walls), strict=True):
        x, y = centre((row, column))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color="#c9c9c9", linewidth=0, zorder=3))
    axes.set(xlim=(0, columns - 1), ylim=(1 - rows, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, color=INK, fontsize=10)
    for cell, mark in ((maze.start, "o"), (maze.goal, "*")):
        axes.plot(*centre(cell), mark, color=INK, markersize=9, markeredgecolor="white", zorder=5)


def _draw_data(axes: Axes, dataset: str) -> None:
    """Episodes of the data, spread over the dataset, each with a mark where it ends."""
    raw = load_minari(ensure_embedded(dataset))
    if not len(raw):
        raise DatasetError(f"dataset '{raw.name}' is empty")
    for episode in np.linspace(0, raw.n_episodes - 1, _N_OF_DATA).astype(int):
        mine = np.flatnonzero(raw.episode == episode)
        positions = raw.rows[raw.row[mine[0]] : raw.row[mine[-1]] + 2, :2]
        axes.plot(*positions.T, color=SERIES[0], linewidth=0.8, alpha=0.5)
        axes.plot(*positions[-1], ".", color=SERIES[0], markersize=4)
    axes.set_xlabel(f"{_N_OF_DATA} of {raw.n_episodes:,} episodes", color=PALE)


def _draw_paths(axes: Axes, paths: Sequence[NDArray[np.float32]]) -> None:
    for positions in paths:
        axes.plot(*positions.T, color=SERIES[1], linewidth=1.0, alpha=0.6)
        axes.plot(*positions[-1], ".", color=SERIES[3], markersize=6, zorder=4)


def _values(maze: Maze, checkpoint: Path, run: Run) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The highest value over actions of a point that stands still, in units of the discounted return.

    Returns:
        Coordinates x (X,) and y (Y,) in metres, and the values (Y, X), masked in walls.
    """
    rows, columns = maze.walls.shape
    x = np.arange(-0.5, columns - 0.5, _SPACING) + _SPACING / 2
    y = np.arange(0.5 - rows, 0.5, _SPACING) + _SPACING / 2
    positions = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    one = np.linspace(-1.0, 1.0, _N_ACTIONS)
    actions = np.stack(np.meshgrid(one, one), axis=-1).reshape(-1, 2)
    values = load_values(checkpoint)(np.concatenate([positions, np.zeros_like(positions)], axis=1), actions)
    scale = float(run.config.get("dataset.reward_scale", 1.0))
    best = values.max(axis=1).reshape(len(y), len(x)) / scale
    cells: list[Cell] = [(round(-b), round(a)) for a, b in positions]
    is_free = np.array([not maze.walls[cell] for cell in cells]).reshape(best.shape)
    return x, y, np.ma.masked_array(best, ~is_free)
