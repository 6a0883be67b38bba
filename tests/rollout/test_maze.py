"""The maze, its wanderer and its planner."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cql.data.collect import Part, roll_out
from cql.data.policies import Behaviour, Remembering
from cql.data.wander import Planner, Wanderer
from cql.rollout.envs import env_info, make_env
from cql.rollout.evaluation import Evaluator, Recorder
from cql.rollout.maze import MEDIUM, UMAZE, Maze, PointMaze, cell_of, centre
from cql.rollout.reference_scores import known_scores, scores_name
from cql.rollout.rendering import choose_backend

LAYOUTS = {"cql/UMaze-v0": UMAZE, "cql/MediumMaze-v0": MEDIUM}


@pytest.mark.parametrize("env_id", LAYOUTS)
def test_it_is_what_we_say(env_id):
    info = env_info(env_id)
    assert (info.observation_size, info.action_size, info.step_seconds) == (4, 2, 0.05)
    env = make_env(env_id)
    maze = Maze(LAYOUTS[env_id])
    first, _ = env.reset(seed=0)
    assert cell_of(first[:2]) == maze.start
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(first, again)
    assert len({tuple(env.reset(seed=seed)[0]) for seed in range(5)}) == 5
    with pytest.raises(ValueError, match=r"no free cell \(0, 0\)"):
        env.reset(options={"cell": (0, 0)})


def test_cells_and_positions_belong_together():
    maze = Maze(MEDIUM)
    assert all(cell_of(centre(cell)) == cell for cell in maze.free)
    assert [cell_of(centre((2, 3)) + np.array(shift)) for shift in ((0.4, 0), (0, 0.4), (0, -0.6))] == [
        (2, 3),
        (2, 3),
        (3, 3),
    ]


def test_a_shortest_way_has_no_wall_and_no_jump():
    maze = Maze(UMAZE)
    assert maze.way(maze.start, maze.goal) == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    way = Maze(MEDIUM).way((1, 1), (6, 6))
    assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(way))
    assert not any(Maze(MEDIUM).walls[cell] for cell in way)


def test_walls_stop_the_point():
    env = PointMaze()
    env.reset(seed=0)
    for _ in range(60):
        observation, *_ = env.step(np.array([0.0, -1.0], np.float32))  # into the wall below the start
    assert cell_of(observation[:2]) == (1, 1)
    assert observation[1] == pytest.approx(-1.5 + 0.1, abs=0.02)  # half a cell, less the point's radius
    assert abs(observation[3]) < 1e-3


def test_each_step_near_the_goal_pays_and_none_ends_the_episode():
    env = PointMaze()
    env.reset(seed=0, options={"cell": (3, 1)})
    rewards = [env.step(np.zeros(2, np.float32))[1:] for _ in range(3)]
    assert rewards == [(1.0, False, False, {"success": True})] * 3
    episodic = PointMaze(continuing_task=False)
    episodic.reset(seed=0, options={"cell": (3, 1)})
    assert episodic.step(np.zeros(2, np.float32))[1:3] == (1.0, True)
    env.reset(seed=0, options={"cell": (3, 2)})
    assert env.step(np.zeros(2, np.float32))[1:] == (0.0, False, False, {"success": False})


@pytest.mark.parametrize(("env_id", "n_steps", "least"), [("cql/UMaze-v0", 45, 0.55), ("cql/MediumMaze-v0", 70, 0.65)])
def test_the_planner_heads_for_the_goal_and_stays(env_id, n_steps, least):
    evaluator = Evaluator(env_id, [list(range(1000, 1010))])
    results = evaluator.evaluate(Planner(Maze(LAYOUTS[env_id])))
    assert (results.returns >= least * evaluator.info.max_episode_steps).all()
    assert (results.returns >= results.lengths - n_steps).all()


@pytest.mark.parametrize("env_id", LAYOUTS)
def test_no_wandering_episode_has_the_whole_way_but_each_piece_of_it_is_walked(env_id):
    maze = Maze(LAYOUTS[env_id])
    episodes = roll_out(env_id, [Part(Wanderer(maze), 400, max_steps=30)], seed=0)
    visits = [[cell_of(state[:2]) for state in episode.observations] for episode in episodes]
    assert not any(maze.start in cells and maze.goal in cells for cells in visits)
    steps = {pair for cells in visits for pair in itertools.pairwise(cells)}
    way = maze.way(maze.start, maze.goal)
    assert set(itertools.pairwise(way)) <= steps
    assert set(itertools.pairwise(way[::-1])) <= steps  # and back
    assert all(
        len(episode.rewards) == 30 and episode.truncations.tolist() == [False] * 29 + [True] for episode in episodes
    )
    assert {cells[0] for cells in visits} == set(maze.free)


def test_wandering_depends_on_the_seed_alone():
    parts = [Part(Wanderer(Maze(UMAZE)), 6, max_steps=20)]
    one, other, two = (
        roll_out("cql/UMaze-v0", parts, seed=seed, n_envs=n_envs, workers=workers)
        for seed, n_envs, workers in ((0, 1, 1), (0, 3, 2), (1, 3, 1))
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert any((a.observations != b.observations).any() for a, b in zip(one, two, strict=True))


def test_a_wanderer_is_one_that_remembers():
    wanderer = Wanderer(Maze(UMAZE))
    assert isinstance(wanderer, Remembering)
    mine, options = wanderer.episode(np.random.default_rng(0))
    assert mine is not wanderer
    assert options["cell"] in wanderer.maze.free
    policy: Behaviour = mine
    np.testing.assert_array_equal(policy(np.zeros((1, 4))), policy(np.zeros((1, 4))))


@pytest.mark.skipif(choose_backend() is None, reason="nothing can draw here")
def test_a_maze_is_filmed_from_above():
    recording = Recorder("cql/UMaze-v0", width=100, height=100, seconds=1.0).record(Planner(Maze(UMAZE)), 1000)
    frames = recording.frames.astype(int)
    assert frames.shape == (21, 100, 100, 3) or len(frames) == 20
    moved = np.abs(frames[-1] - frames[0]).sum(axis=2) > 60
    columns = np.nonzero(moved)[1]
    assert 0.02 * moved.size > moved.sum() > 5  # the point alone, here and there
    assert np.ptp(columns) > 20  # it has gone to the right


@pytest.mark.parametrize("name", ["UMaze", "MediumMaze"])
def test_a_score_of_100_is_the_planners_return(name):
    evaluator = Evaluator(f"cql/{name}-v0", [list(range(1000, 1050))])
    returns = evaluator.evaluate(Planner(Maze(LAYOUTS[f"cql/{name}-v0"]))).returns
    assert known_scores(f"cql/{name}-v0") == (0.0, pytest.approx(returns.mean(), abs=0.3))
    assert known_scores(f"cql/{name}-v0", max_episode_steps=30) is None
    assert scores_name(f"cql/{name}-v0", known_scores(f"cql/{name}-v0")) == "planner"
