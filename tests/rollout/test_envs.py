"""Environments: their descriptions, the scaling of actions, scores, and what is refused."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from cql.rollout.envs import (
    EnvError,
    EnvSpec,
    env_differences,
    env_info,
    make_env,
    normalised_score,
    refuse_foreign_package,
    same_env,
    to_env_actions,
)


@pytest.mark.parametrize(
    ("env_id", "observation_size", "action_size", "bound", "step_seconds"),
    [
        ("HalfCheetah-v5", 17, 6, 1.0, 0.05),
        ("Hopper-v5", 11, 3, 1.0, 0.008),
        ("Walker2d-v5", 17, 6, 1.0, 0.008),
        ("Ant-v5", 105, 8, 1.0, 0.05),
        ("InvertedPendulum-v5", 4, 1, 3.0, 0.04),
    ],
)
def test_the_supported_environments_are_what_we_say(env_id, observation_size, action_size, bound, step_seconds):
    info = env_info(env_id)
    assert (info.env_id, info.observation_size, info.action_size) == (env_id, observation_size, action_size)
    np.testing.assert_array_equal(info.action_low, np.full(action_size, -bound, np.float32))
    np.testing.assert_array_equal(info.action_high, np.full(action_size, bound, np.float32))
    assert info.action_low.dtype == info.action_high.dtype == np.float32
    assert info.max_episode_steps == 1000
    assert info.step_seconds == pytest.approx(step_seconds)


def test_scaling_reaches_the_bounds_and_comes_back():
    low, high = np.array([-3.0, 0.0, -0.4], np.float32), np.array([3.0, 10.0, 0.4], np.float32)
    np.testing.assert_array_equal(to_env_actions(-np.ones(3), low, high), low)
    np.testing.assert_array_equal(to_env_actions(np.ones(3), low, high), high)
    np.testing.assert_allclose(to_env_actions(np.zeros(3), low, high), [0.0, 5.0, 0.0])
    actions = np.random.default_rng(0).uniform(-1, 1, size=(4, 5, 3)).astype(np.float32)
    scaled = to_env_actions(actions, low, high)
    assert scaled.shape == actions.shape
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(2 * (scaled - low) / (high - low) - 1, actions, atol=1e-6)


def test_unit_bounds_leave_actions_bit_for_bit():
    actions = np.random.default_rng(0).uniform(-1, 1, size=(1000, 6)).astype(np.float32)
    actions[0] = [1e-9, -1e-9, 1.0, -1.0, 0.0, 3e-20]
    one = np.ones(6, np.float32)
    np.testing.assert_array_equal(to_env_actions(actions, -one, one), actions)


def test_scaled_actions_never_leave_the_bounds():
    rng = np.random.default_rng(1)
    low = rng.normal(size=1000).astype(np.float32)
    high = low + rng.uniform(0.1, 3.0, size=1000).astype(np.float32)
    for value in (-1.0, 1.0, -1.5, 1.5):
        scaled = to_env_actions(np.full(1000, value, np.float32), low, high)
        assert ((scaled >= low) & (scaled <= high)).all()


def test_normalised_score():
    assert normalised_score(5.0, 0.0, 10.0) == 50.0
    np.testing.assert_allclose(normalised_score(np.array([-280.178953, 12135.0]), -280.178953, 12135.0), [0.0, 100.0])
    with pytest.raises(ValueError, match="reference_max"):
        normalised_score(5.0, 10.0, 10.0)


def test_an_unknown_id_is_named():
    with pytest.raises(EnvError, match=r"HalfCheeta-v5.*HalfCheetah-v5"):
        env_info("HalfCheeta-v5")


def test_an_id_with_a_module_imports_what_registers_it(tmp_path: Path, monkeypatch):
    (tmp_path / "somebodys_robots.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gymnasium.register('Mine-v3', entry_point=PendulumEnv, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError, match=r"cannot make 'Mine-v3' .*PACKAGE:ID"):
        env_info("Mine-v3")
    try:
        info = env_info("somebodys_robots:Mine-v3")
        assert (info.env_id, info.max_episode_steps) == ("somebodys_robots:Mine-v3", 7)
    finally:
        gymnasium.registry.pop("Mine-v3", None)
    with pytest.raises(
        EnvError, match=r"cannot make 'no_such_package:Mine-v3' .*Install the package 'no_such_package'"
    ):
        env_info("no_such_package:Mine-v3")


def test_discrete_actions_are_refused():
    with pytest.raises(EnvError, match=r"action space of 'CartPole-v1' is Discrete"):
        env_info("CartPole-v1")


@contextlib.contextmanager
def registered(env_id, entry_point, max_episode_steps):
    gymnasium.register(env_id, entry_point, max_episode_steps=max_episode_steps)
    try:
        yield
    finally:
        del gymnasium.registry[env_id]


class _Unfit(gymnasium.Env):
    def __init__(self, bound: float = 1.0, shape: tuple[int, ...] = (3,), dtype: type = np.float32):
        self.observation_space = gymnasium.spaces.Box(0, 1, shape, dtype)
        self.action_space = gymnasium.spaces.Box(-bound, bound, (2,))


@pytest.mark.parametrize(
    ("options", "max_episode_steps", "message"),
    [
        ({"bound": np.inf}, 10, "action bounds"),
        ({"shape": (3, 3), "dtype": np.uint8}, 10, "observation space"),
        ({}, None, "max_episode_steps"),
    ],
)
def test_unfit_environments_are_refused(options, max_episode_steps, message):
    unfit = registered("cql-test/Unfit-v0", lambda: _Unfit(**options), max_episode_steps)
    with unfit, pytest.raises(EnvError, match=message):
        env_info("cql-test/Unfit-v0")


def test_an_environment_without_a_clock_uses_its_frame_rate():
    info = env_info("Pendulum-v1")
    assert info.step_seconds == pytest.approx(0.05)  # `unwrapped.dt`
    assert (info.action_low[0], info.action_high[0]) == (-2.0, 2.0)


def test_mujoco_leaves_no_litter_and_its_warnings_are_logged(tmp_path: Path, monkeypatch, caplog, capfd):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG, logger="cql.rollout.envs"):
        make_env("HalfCheetah-v5").close()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert all(record.levelno == logging.DEBUG for record in caplog.records)

    import mujoco

    caplog.clear()
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    env.unwrapped.data.qpos[0] = np.nan
    mujoco.mj_step(env.unwrapped.model, env.unwrapped.data)
    env.close()
    assert any(record.levelno == logging.WARNING and "MuJoCo" in record.message for record in caplog.records)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env_id", ["a:b:c", "", "../x", "json:NoSuch-v0", "Hopper-v2", "no_such_package:X-v0"])
def test_ids_that_gymnasium_cannot_make_are_named(env_id):
    with pytest.raises(EnvError, match=f"cannot make {env_id!r}"):
        env_info(env_id)


def test_what_a_package_raises_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_robots.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError, match="RuntimeError: no licence"):
        env_info("broken_robots:Robot-v0")


def test_a_package_is_imported_only_if_the_user_gives_it():
    refuse_foreign_package("Hopper-v5", "data.hdf5", None, "--env")
    refuse_foreign_package("robots:Arm-v0", "data.hdf5", "robots:Arm-v0", "--env")
    with pytest.raises(EnvError, match=r"data.hdf5 names .* If you trust it: --env robots:Arm-v0"):
        refuse_foreign_package("robots:Arm-v0", "data.hdf5", None, "--env")


def test_a_package_is_no_part_of_what_an_environment_is():
    assert same_env("robots:Arm-v0", "Arm-v0")
    assert not same_env("robots:Arm-v0", "Arm-v1")


def test_an_environment_with_arguments_and_a_time_limit():
    spec = EnvSpec.of("Hopper-v5", {"terminate_when_unhealthy": False, "render_mode": "rgb_array"}, 50)
    assert spec.kwargs == {"terminate_when_unhealthy": False}  # pictures make no other environment
    assert env_info(spec).max_episode_steps == 50
    env = make_env(spec)
    env.reset(seed=0)
    ends = [env.step(env.action_space.low)[2:4] for _ in range(50)]
    env.close()
    assert ends == [(False, False)] * 49 + [(False, True)]


def test_arguments_that_the_environment_does_not_take_are_named():
    with pytest.raises(
        EnvError, match=r"cannot make 'Hopper-v5' with no_such=1 \(TypeError.*Check the arguments \(env"
    ):
        env_info(EnvSpec.of("Hopper-v5", {"no_such": 1}))


@pytest.mark.parametrize(
    ("recorded", "own", "lines"),
    [
        ({}, {}, []),
        ({"healthy_reward": 100.0}, {"healthy_reward": 100.0}, []),
        ({"healthy_reward": 100.0}, {}, ["healthy_reward=100.0 (here 1.0)"]),
        ({}, {"healthy_reward": 2.0}, ["healthy_reward=1.0 (here 2.0)"]),
    ],
)
def test_arguments_are_compared(recorded, own, lines):
    assert env_differences(EnvSpec.of("", recorded), EnvSpec.of("Hopper-v5", own)) == lines


def test_a_recorded_time_limit_is_compared_unless_the_user_gives_one():
    assert env_differences(EnvSpec("", "{}", 50), EnvSpec("Hopper-v5")) == ["max_episode_steps=50 (here 1000)"]
    assert env_differences(EnvSpec("", "{}", 50), EnvSpec("Hopper-v5", "{}", 1000)) == []
    assert env_differences(EnvSpec("", "{}", 1000), EnvSpec("Hopper-v5")) == []


def test_an_environment_of_whole_numbers_is_refused():
    class Whole(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(0, 5, (2,), np.int64)

    with registered("Whole-v0", Whole, 10), pytest.raises(EnvError, match="int64; real numbers are needed"):
        env_info("Whole-v0")


def test_an_environment_without_a_time_limit_is_told_how_to_have_one():
    class Endless(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

    with registered("Endless-v0", Endless, None):
        with pytest.raises(EnvError, match=r"env\.max_episode_steps=1000"):
            env_info("Endless-v0")
        assert env_info(EnvSpec("Endless-v0", "{}", 30)).max_episode_steps == 30


def test_an_environment_of_a_package_is_compared_by_its_registration_too():
    class Arm(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

    with registered("Arm-v0", Arm, 10):  # as the import of its package does
        own = EnvSpec("robots:Arm-v0")
        assert env_differences(EnvSpec.of("", {"speed": 2}, 10), own) == ["speed=2 (here its default)"]
        assert env_differences(EnvSpec("", "{}", 50), own) == ["max_episode_steps=50 (here 10)"]
