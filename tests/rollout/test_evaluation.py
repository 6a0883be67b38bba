"""Rollouts: episodes that are the same at every evaluation, and pictures of them."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import breaking
import gymnasium
import numpy as np
import pytest

import cql
from cql.rollout import camera
from cql.rollout.envs import EnvSpec, make_env
from cql.rollout.evaluation import BrokenEpisodeError, Evaluator, Recorder, Rollouts, roll_out, steps_per_frame
from cql.rollout.rendering import RenderingError, choose_backend, write_gif


def behaviour_policy(*names: str):
    """The deterministic behaviour policies of `names`, one a run: (R, E, S) to (R, E, A)."""
    weights = []
    for name in names:
        with np.load(Path(cql.__file__).parent / "data" / "behaviour" / f"{name}.npz", allow_pickle=False) as file:
            weights.append({key: file[key] for key in file.files})

    def act(observations):
        actions = []
        for w, hidden in zip(weights, observations, strict=True):
            for layer in ("hidden_0", "hidden_1"):
                hidden = np.maximum(hidden @ w[f"{layer}.weight"].T + w[f"{layer}.bias"], 0.0)
            actions.append(np.tanh(hidden @ w["mean.weight"].T + w["mean.bias"]))
        return np.stack(actions)

    return act


def balance(observations):
    """Balances the pendulum: position, angle and their velocities to a force in units of the bound, (R, E, 1)."""
    return np.tanh(observations @ np.array([0.2, 5.0, 0.3, 1.0], np.float32)[:, None])


def rollout(env_id, act, seed, n_steps=1000):
    """The obvious loop, with `act` in the environment's own units."""
    env = gymnasium.make(env_id)
    observation, _ = env.reset(seed=seed)
    return_, length, ended = 0.0, 0, False
    while not ended and length < n_steps:
        observation, reward, terminated, truncated, _ = env.step(act(observation.astype(np.float32)))
        return_, length, ended = return_ + float(reward), length + 1, terminated or truncated
    env.close()
    return return_, length


def constant(value, action_size):
    return lambda observations: np.full((*observations.shape[:2], action_size), value, np.float32)


def test_actions_are_scaled_to_bounds_of_three_through_whole_episodes():
    evaluator = Evaluator("InvertedPendulum-v5", [[0, 1, 2]])
    for policy in (balance, constant(1.0, 1), constant(-0.4, 1)):
        results = evaluator.evaluate(policy)
        for episode, seed in enumerate([0, 1, 2]):
            expected = rollout("InvertedPendulum-v5", lambda o, p=policy: 3 * p(o[None, None])[0, 0], seed)
            assert (results.returns[0, episode], results.lengths[0, episode]) == expected
    # Unscaled, the same controller lets the pendulum fall: the scale matters.
    assert evaluator.evaluate(balance).lengths.tolist() == [[1000, 1000, 1000]]
    assert evaluator.evaluate(lambda o: balance(o) / 30).lengths.max() < 1000
    evaluator.close()


def test_results_have_one_row_a_run_and_one_column_an_episode():
    evaluator = Evaluator("InvertedPendulum-v5", [[5, 6, 7], [8, 9, 10]])
    seen = []

    def policy(observations):
        seen.append((observations.shape, observations.dtype))
        return constant(1.0, 1)(observations)

    results = evaluator.evaluate(policy)
    evaluator.close()
    assert set(seen) == {((2, 3, 4), np.dtype(np.float32))}
    assert results.returns.shape == results.lengths.shape == (2, 3)
    assert results.returns.dtype == np.float64
    assert results.lengths.dtype == np.int64
    np.testing.assert_array_equal(results.seeds, [[5, 6, 7], [8, 9, 10]])


def test_the_same_evaluation_twice_is_bitwise_equal():
    policy = behaviour_policy("hopper/sac_050k")
    evaluator = Evaluator("Hopper-v5", [[1000, 1001, 1002]])
    first = evaluator.evaluate(policy)
    other = evaluator.evaluate(constant(0.0, 3))
    again = evaluator.evaluate(policy)
    evaluator.close()
    np.testing.assert_array_equal(first.returns, again.returns)
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert (first.returns != other.returns).all()
    assert len(set(first.returns[0])) == 3  # three seeds, three episodes


def test_a_run_in_a_stack_is_bitwise_the_run_alone():
    names = ["hopper/sac_025k", "hopper/sac_050k", "hopper/sac_075k"]
    seeds = [[1000, 1001], [2000, 2001], [1000, 1001]]
    together = Evaluator("Hopper-v5", seeds)
    results = together.evaluate(behaviour_policy(*names))
    together.close()
    for run, name in enumerate(names):
        alone = Evaluator("Hopper-v5", [seeds[run]])
        expected = alone.evaluate(behaviour_policy(name))
        alone.close()
        np.testing.assert_array_equal(results.returns[run], expected.returns[0])
        np.testing.assert_array_equal(results.lengths[run], expected.lengths[0])


def test_runs_that_are_not_due_are_left_alone_and_change_nothing():
    names = ["hopper/sac_025k", "hopper/sac_050k", "hopper/sac_075k"]
    evaluator = Evaluator("Hopper-v5", [[1000, 1001], [2000, 2001], [1000, 1001]])
    everyone = evaluator.evaluate(behaviour_policy(*names))
    untouched, touched = evaluator._environments._envs[2:4], []

    class Watching(gymnasium.Wrapper):
        def reset(self, **options):
            touched.append("reset")
            return self.env.reset(**options)

        def step(self, action):
            touched.append("step")
            return self.env.step(action)

    evaluator._environments._envs[2:4] = [Watching(env) for env in untouched]
    shapes = set()

    def policy(observations):
        shapes.add(observations.shape)
        assert np.isfinite(observations).all()
        actions = behaviour_policy(*names)(observations)
        actions[1] = np.nan  # whatever is wrong with it
        return actions

    results = evaluator.evaluate(policy, [True, False, True])
    evaluator.close()
    assert shapes == {(3, 2, 11)}
    assert touched == []
    for run in (0, 2):
        np.testing.assert_array_equal(results.returns[run], everyone.returns[run])
        np.testing.assert_array_equal(results.lengths[run], everyone.lengths[run])
    assert np.isnan(results.returns[1]).all()
    assert results.lengths[1].tolist() == [0, 0]


def test_an_ended_episode_is_left_alone():
    evaluator = Evaluator("InvertedPendulum-v5", [[0, 1], [2, 3]])
    steps = np.zeros(4, int)

    class Counting(gymnasium.Wrapper):
        def __init__(self, env, index):
            super().__init__(env)
            self.index = index

        def step(self, action):
            steps[self.index] += 1
            return self.env.step(action)

    evaluator._environments._envs = [Counting(env, index) for index, env in enumerate(evaluator._environments._envs)]
    seen = []

    def policy(observations):
        seen.append(observations.copy())
        actions = constant(1.0, 1)(observations)
        actions[1] = constant(0.1, 1)(observations)[1]  # the second run's poles stand longer
        return actions

    results = evaluator.evaluate(policy)
    evaluator.close()
    np.testing.assert_array_equal(steps, results.lengths.ravel())
    assert results.lengths[1].min() > results.lengths[0].max()
    ended = results.lengths[0, 0]
    assert all((observations[0, 0] == seen[ended][0, 0]).all() for observations in seen[ended:])


def test_an_action_that_is_not_finite_ends_only_its_own_episode():
    evaluator = Evaluator("InvertedPendulum-v5", [[0, 1], [0, 1]])
    healthy = evaluator.evaluate(constant(0.5, 1))

    def policy(observations):
        actions = constant(0.5, 1)(observations)
        actions[0, 1] = np.nan
        return actions

    results = evaluator.evaluate(policy)
    evaluator.close()
    assert math.isnan(results.returns[0, 1])
    assert results.lengths[0, 1] == 0
    for run, episode in [(0, 0), (1, 0), (1, 1)]:
        assert results.returns[run, episode] == healthy.returns[run, episode]


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="R rows of E"):
        Evaluator("Hopper-v5", [[0, 1], [2]])
    with pytest.raises(ValueError, match="R rows of E"):
        Evaluator("Hopper-v5", [])
    evaluator = Evaluator("Hopper-v5", [[0, 1]])
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 2, 3\)"):
        evaluator.evaluate(lambda _: np.zeros((2, 3), np.float32))
    evaluator.close()
    evaluator.close()
    with pytest.raises(RuntimeError, match="closed"):
        evaluator.evaluate(constant(0.0, 3))


@pytest.mark.parametrize(
    ("env_id", "name", "mean", "std"),
    [("HalfCheetah-v5", "halfcheetah/sac_125k", 5355.0, 236.0), ("Hopper-v5", "hopper/sac_125k", 1298.0, 55.0)],
)
def test_the_behaviour_policies_reach_their_published_returns(env_id, name, mean, std):
    evaluator = Evaluator(env_id, [range(1000, 1007)])
    returns = evaluator.evaluate(behaviour_policy(name)).returns
    evaluator.close()
    # The median, because about one cheetah in twenty falls, and which one hangs on the last bit of a matrix product.
    assert abs(np.median(returns) - mean) < std


# Pictures


@pytest.fixture
def drawing():
    if choose_backend() is None:
        pytest.skip("nothing can draw here")


def robot(frame):
    """Where the robot is: its orange has more red than blue, floor and sky the other way round; bool (H, W)."""
    return frame[..., 0].astype(int) > frame[..., 2].astype(int) + 20


@pytest.mark.usefixtures("drawing")
def test_a_running_cheetah_is_filmed_in_real_time_and_stays_in_the_picture(tmp_path):
    policy = behaviour_policy("halfcheetah/sac_125k")
    recording = Recorder("HalfCheetah-v5").record(policy, seed=1000)
    assert recording.frames.shape == (120, 200, 200, 3)
    assert recording.frames.dtype == np.uint8
    assert recording.seconds_per_frame == pytest.approx(0.05)
    assert (recording.return_, recording.length) == rollout(
        "HalfCheetah-v5", lambda observation: policy(observation[None, None])[0, 0], 1000, n_steps=119
    )
    for frame in recording.frames:
        rows, columns = np.nonzero(robot(frame))
        assert 500 < len(rows) < 8000
        assert 80 < columns.mean() < 120
        assert 50 < rows.mean() < 150
    # The floor goes by, to the end.
    changes = np.abs(np.diff(recording.frames[:, 150:].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert changes[-20:].min() > 0.5
    write_gif(tmp_path / "cheetah.gif", recording.frames, recording.seconds_per_frame)
    assert (tmp_path / "cheetah.gif").stat().st_size < 700_000


@pytest.mark.usefixtures("drawing")
def test_recordings_of_two_environments_in_turn_do_not_disturb_each_other():
    pendulum = Recorder("InvertedPendulum-v5", width=64, height=48, seconds=0.2)
    hopper = Recorder("Hopper-v5", width=64, height=48, seconds=0.2)
    first = pendulum.record(balance, seed=0), hopper.record(constant(0.0, 3), seed=0)
    assert first[0].frames.shape == first[1].frames.shape == (5, 48, 64, 3)
    for _ in range(2):
        again = pendulum.record(balance, seed=0), hopper.record(constant(0.0, 3), seed=0)
        np.testing.assert_array_equal(first[0].frames, again[0].frames)
        np.testing.assert_array_equal(first[1].frames, again[1].frames)
    # A Recorder that is dropped, and environments that are evaluated and closed, leave the others alone.
    del pendulum
    evaluator = Evaluator("Hopper-v5", [[0]])
    evaluator.evaluate(constant(0.0, 3))
    evaluator.close()
    del evaluator
    np.testing.assert_array_equal(first[1].frames, hopper.record(constant(0.0, 3), seed=0).frames)
    fresh = Recorder("InvertedPendulum-v5", width=64, height=48, seconds=0.2).record(balance, seed=0)
    np.testing.assert_array_equal(first[0].frames, fresh.frames)


@pytest.mark.usefixtures("drawing")
def test_the_film_ends_with_the_episode():
    recording = Recorder("Hopper-v5", width=32, height=32, seconds=20.0).record(constant(1.0, 3), seed=0)
    expected = rollout("Hopper-v5", lambda _: np.ones(3, np.float32), 0)
    assert (recording.return_, recording.length) == expected
    assert recording.seconds_per_frame == pytest.approx(0.04)
    assert len(recording.frames) == 1 + math.ceil(recording.length / 5)


@pytest.mark.usefixtures("drawing")
def test_a_blank_picture_is_an_error(monkeypatch):
    recorder = Recorder("InvertedPendulum-v5", width=64, height=48, seconds=0.2)
    recorder.record(balance, seed=0)
    own = camera.camera(EnvSpec("InvertedPendulum-v5"), 64, 48)
    monkeypatch.setattr(own.env, "render", lambda: np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(RenderingError, match="blank"):
        recorder.record(balance, seed=0)


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(("kind", "step"), [("raise", 0), ("raise", 2), ("reward", 2), ("observation", 2), ("none", 2)])
def test_a_simulator_that_breaks_is_not_filmed_and_costs_no_other_video(kind, step, monkeypatch):
    monkeypatch.setitem(breaking.FAULTS, 5, (step, kind))
    recorder = Recorder(breaking.ENV, width=64, height=48, seconds=0.2)
    with pytest.raises(BrokenEpisodeError, match=f"the environment broke at step {step}: "):
        recorder.record(balance, seed=5)
    monkeypatch.delitem(breaking.FAULTS, 5)
    rollouts = Rollouts(balance, [True, True], {0: balance, 1: balance})
    evaluator = Evaluator(breaking.ENV, [[5], [6]])
    evaluate = evaluator.evaluate

    def evaluated(*given):
        results = evaluate(*given)
        breaking.FAULTS[5] = (step, kind)  # only in the video
        return results

    monkeypatch.setattr(evaluator, "evaluate", evaluated)
    rolled = roll_out(evaluator, recorder, rollouts)
    breaking.FAULTS.clear()
    assert isinstance(rolled.videos[0], BrokenEpisodeError)
    assert rolled.videos[1].startswith(b"GIF")
    assert rolled.undrawable is None


@pytest.mark.usefixtures("drawing")
def test_a_broken_policy_is_not_filmed():
    recorder = Recorder("InvertedPendulum-v5", width=64, height=48, seconds=0.2)
    with pytest.raises(ValueError, match=r"step 0 .* not finite"):
        recorder.record(constant(np.nan, 1), seed=0)


class _Undrawn(gymnasium.Env):
    """A point that stands still, and is drawn as it is told."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, picture, render_mode=None):
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
        self.picture, self.render_mode = picture, render_mode

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        return np.zeros(1, np.float32), {}

    def step(self, action):  # noqa: ARG002
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        return self.picture


@pytest.mark.parametrize("picture", [None, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_an_environment_that_cannot_be_drawn_is_named(picture):
    gymnasium.register(
        "cql-test/Undrawn-v0", lambda render_mode=None: _Undrawn(picture, render_mode), max_episode_steps=5
    )
    try:
        with pytest.raises(RenderingError, match=r"Undrawn-v0.*drawing failed: .*no picture, uint8"):
            Recorder(EnvSpec.of("cql-test/Undrawn-v0")).record(constant(0.0, 1), seed=0)
    finally:
        del gymnasium.registry["cql-test/Undrawn-v0"]
        camera._cameras.pop((EnvSpec("cql-test/Undrawn-v0"), 200, 200))  # the others stay: see camera.py


def test_what_mujoco_does_not_simulate_is_filmed_as_it_draws_itself():
    pytest.importorskip("pygame")
    recording = Recorder("Pendulum-v1", width=120, height=80, seconds=1.0).record(constant(1.0, 1), seed=0)
    assert recording.frames.shape == (21, 80, 120, 3) or recording.frames.shape == (20, 80, 120, 3)
    assert (recording.frames[0] != recording.frames[-1]).any()
    assert (recording.frames[:, :, :15] == 0).all()  # its own picture is a square


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("env_id", ["PointMaze_UMaze-v3", "AntMaze_UMaze-v4", "AdroitHandPen-v1", "FetchReach-v4"])
def test_environments_of_gymnasium_robotics_are_filmed(env_id):
    if find_spec("gymnasium_robotics") is None:
        pytest.skip("needs the extra robotics")
    recorder = Recorder(env_id, width=64, height=64, seconds=0.5)
    frames = recorder.record(constant(0.5, recorder.info.action_size), seed=0).frames
    assert frames.shape[1:] == (64, 64, 3)
    assert (frames[0] != frames[-1]).any()


def test_without_a_backend_recording_is_an_error_of_its_own(monkeypatch):
    monkeypatch.setattr(camera, "choose_backend", lambda: None)
    monkeypatch.setattr(camera, "_cameras", {})
    with pytest.raises(RenderingError, match="nothing can draw"):
        Recorder("Hopper-v5").record(constant(0.0, 3), seed=0)


@pytest.mark.parametrize(
    ("step_seconds", "frames_per_second", "expected"),
    [
        (0.05, 25, 1),  # HalfCheetah: 20 frames a second
        (0.008, 25, 5),  # Hopper: 0.04 s exactly
        (0.008, 20, 10),  # 7 steps are 0.056 s, which a GIF would play 7 % too slowly
        (0.04, 25, 1),
        (0.002, 50, 10),
        (0.05, 2, 10),
        (1 / 30, 25, 3),  # 0.0667 s would be played as 0.07 s; 0.1 s is exact
    ],
)
def test_a_frame_lasts_whole_steps_and_whole_hundredths_of_a_second(step_seconds, frames_per_second, expected):
    n_steps = steps_per_frame(step_seconds, frames_per_second)
    assert n_steps == expected
    assert n_steps * step_seconds >= 1 / frames_per_second - 1e-9


def test_drawing_leaves_the_physics_alone():
    """`make_env` with and without pictures runs the same episode, whatever the camera changes in the model."""
    plain, coloured = make_env("HalfCheetah-v5"), make_env("HalfCheetah-v5")
    camera._colour(coloured.unwrapped.model)
    plain.reset(seed=3), coloured.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        np.testing.assert_array_equal(plain.step(action)[0], coloured.step(action)[0])
    plain.close(), coloured.close()


@pytest.mark.parametrize(
    ("kind", "step", "said"),
    [
        ("reward", 3, "step 3 of BreakingPendulum-v0: the reward is not finite"),
        ("observation", 3, "step 3 of BreakingPendulum-v0: the observation is not finite"),
        ("large", 3, "step 3 of BreakingPendulum-v0: the observation is not finite"),  # in float32
        ("raise", 3, "step 3 of BreakingPendulum-v0: RuntimeError: the simulator has diverged"),
        ("shape", 3, "step 3 of BreakingPendulum-v0: ValueError: could not broadcast input array from shape (3,)"),
        ("none", 3, "step 3 of BreakingPendulum-v0: TypeError: float() argument must be"),
        ("raise", 0, "reset of BreakingPendulum-v0: RuntimeError: the simulator has diverged"),
        ("observation", 0, "step 0 of BreakingPendulum-v0: the observation is not finite"),
    ],
)
def test_a_simulator_that_breaks_is_named_and_costs_no_other_episode(kind, step, said, monkeypatch):
    seeds = [[1, 2, 3], [4, 5, 6]]
    clean = Evaluator(breaking.ENV, seeds).evaluate(balance)
    assert clean.problem(0) is None
    assert clean.problem(1) is None
    monkeypatch.setitem(breaking.FAULTS, 5, (step, kind))
    results = Evaluator(breaking.ENV, seeds).evaluate(balance)
    assert results.broken.keys() == {(1, 1)}
    assert results.broken[1, 1].startswith(said)
    assert np.isnan(results.returns[1, 1])
    assert results.lengths[1, 1] == step
    others = np.ones((2, 3), bool)
    others[1, 1] = False
    np.testing.assert_array_equal(results.returns[others], clean.returns[others])
    assert results.problem(0) is None
    reason = f"the environment broke in 1 of 3 episodes (episode 1, seed 5, {results.broken[1, 1]})"
    assert results.problem(1) == (reason, False)
    monkeypatch.setitem(breaking.FAULTS, 6, (step, kind))
    assert Evaluator(breaking.ENV, seeds).evaluate(balance).problem(1) == (reason.replace("1 of", "2 of"), True)


@pytest.mark.parametrize(
    ("robot", "is_flat", "moves_about"),
    [
        ("Swimmer", True, True), ("Reacher", True, False), ("Pusher", False, False), ("HalfCheetah", False, True),
        ("Hopper", False, True), ("Ant", False, True), ("InvertedPendulum", False, True), ("Humanoid", False, True),
    ],
)  # fmt: skip
def test_robots_of_the_plane_are_seen_from_above_and_arms_from_one_place(robot, is_flat, moves_about):
    env = make_env(f"{robot}-v5")
    assert (camera._is_flat(env.unwrapped.model), camera._moves_about(env.unwrapped.model)) == (
        is_flat, moves_about,
    )  # fmt: skip
    env.close()


def test_a_policy_that_is_not_finite_is_not_hidden_by_a_simulator_that_breaks(monkeypatch):
    monkeypatch.setitem(breaking.FAULTS, 1, (1, "raise"))

    def act(observations):
        return balance(observations) * np.array([1.0, np.nan, 1.0])[:, None]

    results = Evaluator(breaking.ENV, [[1, 2, 3]]).evaluate(act)
    assert results.broken.keys() == {(0, 0)}
    assert results.problem(0) == ("the policy's actions were not finite", True)
