"""Observations as vectors: Dicts and boxes of more dimensions, for evaluation and for what is refused."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from cql.rollout.envs import EnvError, EnvSpec, env_info, make_env, refuse_foreign_package
from cql.rollout.episodes import Environments
from cql.rollout.evaluation import Evaluator
from cql.rollout.observations import default_keys, flat, parts_of

BOX = Box(-1.0, 1.0, (2,), np.float64)


class Seen(gymnasium.Env):
    """Its observation is drawn from a space; it succeeds in a step that it is told."""

    action_space = BOX

    def __init__(self, space, success_at=None, key="success"):
        self.observation_space, self._success_at, self._key = space, success_at, key

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        self.seen = self.observation_space.sample()
        return self.seen, {}

    def step(self, action):  # noqa: ARG002
        self.t += 1
        self.seen = self.observation_space.sample()
        info = {} if self._success_at is None else {self._key: self.t == self._success_at}
        return self.seen, 1.0, False, False, info


@pytest.fixture
def registered():
    ids = []

    def register(space, **options):
        name = f"cql-test/Seen{len(ids)}-v0"
        gymnasium.register(name, lambda: Seen(space, **options), max_episode_steps=5)
        ids.append(name)
        return name

    yield register
    for name in ids:
        del gymnasium.registry[name]


def test_a_dict_is_put_side_by_side_in_the_order_of_its_keys(registered):
    inner = Dict({"left": Box(-1, 1, (1,)), "right": Box(-1, 1, (2, 2))})
    name = registered(Dict({"a": BOX, "b": Box(-5, 5, (3,)), "inner": inner}))
    spec = EnvSpec.of(name, observation_keys=["b", "inner/right", "a"])
    info = env_info(spec)
    assert info.observation_parts == (("b", 3), ("inner/right", 4), ("a", 2))
    assert (info.observation_keys, info.observation_size) == (("b", "inner/right", "a"), 9)
    env = make_env(spec)
    for take in (lambda: env.reset(seed=3), lambda: env.step(np.zeros(2))):
        observation, seen = take()[0], env.unwrapped.seen
        wanted = np.concatenate([seen["b"], seen["inner"]["right"].ravel(), seen["a"]])
        np.testing.assert_array_equal(observation, wanted)
        assert env.observation_space.contains(observation)


def test_boxes_of_more_dimensions_are_flattened(registered):
    name = registered(Box(-1.0, 1.0, (2, 3)))
    env = make_env(name)
    assert env_info(name).observation_size == 6
    np.testing.assert_array_equal(env.reset(seed=0)[0], env.unwrapped.seen.ravel())


def test_goal_environments_have_a_default(registered):
    goals = {"achieved_goal": BOX, "desired_goal": BOX, "observation": Box(-1, 1, (4,))}
    assert env_info(registered(Dict(goals))).observation_keys == ("achieved_goal", "observation", "desired_goal")
    of_dicts = {"achieved_goal": Dict({"door": BOX}), "desired_goal": Dict({"door": BOX}), "observation": BOX}
    assert env_info(registered(Dict(of_dicts))).observation_keys == ("observation",)
    assert env_info(registered(Dict({"state": BOX}))).observation_keys == ("state",)
    assert default_keys({"goal": True, "observation": True}) is None
    assert default_keys({"goal": False, "observation": True}) is None


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (Discrete(3), None, r"observation space is Discrete\(3\); a Box of numbers is needed"),
        (Tuple((BOX, BOX)), None, r"observation space is Tuple\(.*; a Box of numbers is needed"),
        (Box(0, 255, (8, 8, 3), np.uint8), None, r"Box\(8, 8, 3\), a picture, for which there is no network here"),
        (BOX, ["a"], r"is Box\(2,\), which has no keys: leave out env.observation_keys"),
        (Dict({"a": BOX, "b": BOX}), None, r"a Dict of a, b: say which .* e\.g\. env\.observation_keys=\[a,b\]"),
        (Dict({"a": BOX, "p": Box(0, 1, (4, 4), np.uint8)}), ["a", "p"], r"'p' of the observation space is Box.*pict"),
        (Dict({"a": BOX, "n": Discrete(2)}), ["n"], r"'n' of the observation space is Discrete\(2\)"),
        (Dict({"a": BOX}), ["b"], r"env\.observation_keys: 'b' is not in .* a Dict of a"),
        (Dict({"a": BOX}), ["a", "a"], r"env\.observation_keys has 'a' twice: leave one out"),
        (Dict({"a/b": BOX}), None, r"has the key 'a/b'; one with a stroke cannot be chosen"),
        (Dict({"n": Discrete(2), "m": Discrete(2)}), None, r"a Dict of m, n: none of them is a vector of numbers"),
        (Dict({"a": BOX}), [], r"env\.observation_keys is empty: choose from a, or write null"),
    ],
)
def test_other_observations_are_refused_by_name(space, keys, message, registered):
    name = registered(space)
    with pytest.raises(EnvError, match=rf"env: '{name}': .*{message}"):
        env_info(EnvSpec.of(name, observation_keys=keys))


def test_the_keys_that_a_message_proposes_work():
    space = Dict({"a": BOX, "n": Discrete(2), "b": BOX})
    with pytest.raises(ValueError, match=r"observation_keys=\[a,b\]"):
        parts_of(space, None)
    assert parts_of(space, ["a", "b"]) == (("a", 2), ("b", 2))


def test_episodes_are_flattened_alike():
    observations = {"a": np.arange(6.0).reshape(3, 2), "b": np.arange(12.0).reshape(3, 2, 2)}
    rows = flat(observations, ["b", "a"], n_axes=1)
    assert rows.shape == (3, 6)
    np.testing.assert_array_equal(rows[1], [4, 5, 6, 7, 2, 3])
    for t in range(3):
        one = {key: value[t] for key, value in observations.items()}
        np.testing.assert_array_equal(flat(one, ["b", "a"], n_axes=0), rows[t])


@pytest.mark.parametrize("key", ["success", "is_success", "goal_achieved"])
def test_a_success_in_any_step_counts(key, registered):
    def rate(success_at):
        evaluator = Evaluator(registered(BOX, success_at=success_at, key=key), [[0, 1], [2, 3]])
        results = evaluator.evaluate(lambda observations: np.zeros((*observations.shape[:2], 2), np.float32))
        return results.success_rate(0), results.success_rate(1)

    assert rate(2) == (1.0, 1.0)  # and not in the steps behind it
    assert rate(99) == (0.0, 0.0)
    assert rate(None) == (None, None)


def test_a_run_that_is_not_evaluated_has_no_success_rate(registered):
    environments = Environments(registered(BOX, success_at=1), 2, 1)
    seeds = np.array([[0], [1]])
    results = environments.run(lambda obs: np.zeros((*obs.shape[:2], 2), np.float32), seeds, due=[False, True])
    assert (results.success_rate(0), results.success_rate(1)) == (None, 1.0)


# gymnasium-robotics ---------------------------------------------------------------------------------------------------


needs_robotics = pytest.mark.skipif(find_spec("gymnasium_robotics") is None, reason="needs the extra robotics")


@needs_robotics
@pytest.mark.parametrize(
    ("env_id", "kwargs", "keys", "sizes"),
    [
        ("PointMaze_UMaze-v3", {}, ("achieved_goal", "observation", "desired_goal"), (8, 2)),
        ("gymnasium_robotics:PointMaze_UMaze-v3", {}, ("achieved_goal", "observation", "desired_goal"), (8, 2)),
        ("AntMaze_UMaze-v4", {"continuing_task": False}, ("achieved_goal", "observation", "desired_goal"), (31, 8)),
        ("AdroitHandPen-v1", {}, (), (45, 24)),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["microwave", "kettle"]}, ("observation",), (59, 9)),
    ],
)
def test_the_families_of_gymnasium_robotics_work_by_their_ids(env_id, kwargs, keys, sizes, capfd):
    info = env_info(EnvSpec.of(env_id, kwargs))
    assert (info.observation_keys, (info.observation_size, info.action_size)) == (keys, sizes)
    evaluator = Evaluator(EnvSpec.of(env_id, kwargs, 3), [[0]])
    results = evaluator.evaluate(lambda obs: np.zeros((*obs.shape[:2], sizes[1]), np.float32))
    assert results.lengths.tolist() == [[3]]
    assert results.success_rate(0) == (None if "Kitchen" in env_id else 0.0)
    assert capfd.readouterr() == ("", "")


@needs_robotics
def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_env("PointMaze_UMaze-v3").close()
    assert list(tmp_path.iterdir()) == []


@needs_robotics
def test_the_ants_position_is_seen():
    env = make_env("AntMaze_UMaze-v4")
    observation = env.reset(seed=0)[0]
    np.testing.assert_allclose(observation[:2], env.unwrapped.ant_env.data.qpos[:2])
    np.testing.assert_allclose(observation[29:], env.unwrapped.goal)
    env.close()


def test_an_environment_of_the_extra_that_is_not_installed_is_named_with_it(monkeypatch):
    from cql.rollout import robotics

    monkeypatch.setattr(robotics, "find_spec", lambda _: None)
    monkeypatch.setattr(gymnasium, "registry", {})
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    with pytest.raises(EnvError, match=r"cannot make 'AntMaze_UMaze-v4' .*pip install gymnasium-robotics"):
        env_info("AntMaze_UMaze-v4")


def test_a_file_may_name_gymnasium_robotics_but_no_other_package():
    refuse_foreign_package("gymnasium_robotics:PointMaze_UMaze-v3", "a file", None, "--env")
    with pytest.raises(EnvError, match="would run code of the package 'evil'"):
        refuse_foreign_package("evil:PointMaze_UMaze-v3", "a file", None, "--env")
