"""`scripts/train_behaviour.py`: what it saves acts as what was trained, is measured, and is whole."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from entry_points import load_script

from cql.data import train_behaviour
from cql.data.collect import Part, roll_out
from cql.data.policies import NpzPolicy, PolicyError
from cql.rollout.envs import env_info, make_env, to_env_actions

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="needs the `behaviour` extra")

PENDULUM = "InvertedPendulum-v5"  # S = 4, A = 1, actions in [-3, 3]
TINY = ("--steps", "60", "--learning-starts", "20", "--batch-size", "16", "--width", "16", "--episodes", "2")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("train_behaviour")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the script in this process: exit code, stdout, stderr."""

    def run(out: Path, *arguments: str, env: str = PENDULUM) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train_behaviour.py", "--env", env, "--out", str(out), *arguments])
        try:
            code = script.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


class Lopsided(gymnasium.Env[Any, Any]):
    """Two actions with bounds of their own, and nothing to do."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(np.array([-1, 2], np.float32), np.array([5, 2.5], np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.np_random.standard_normal(3), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.standard_normal(3), float(action.sum()), False, False, {}


@pytest.fixture
def lopsided() -> Iterator[str]:
    gymnasium.register("Lopsided-v0", Lopsided, max_episode_steps=5)
    yield "Lopsided-v0"
    del gymnasium.registry["Lopsided-v0"]


@pytest.mark.parametrize("name", [PENDULUM, "lopsided"])
def test_what_is_saved_acts_as_what_was_trained(
    script: ModuleType, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    env_id = request.getfixturevalue(name) if name == "lopsided" else name
    env = make_env(env_id)
    model = stable_baselines3.SAC("MlpPolicy", env, seed=1, device="cpu", policy_kwargs={"net_arch": [16, 16]})
    with torch.no_grad():  # far from the middle, and with log standard deviations beyond the clamp
        model.actor.mu.weight *= 20
        model.actor.log_std.weight *= 20
    np.savez(tmp_path / "own.npz", **train_behaviour.actor_weights(model))
    policy, info = NpzPolicy.load(tmp_path / "own.npz"), env_info(env_id)
    observations = np.random.default_rng(0).standard_normal((50, info.observation_size)) * 3
    theirs, _ = model.predict(observations, deterministic=True)
    ours = to_env_actions(policy(observations), info.action_low, info.action_high)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (np.ptp(theirs, axis=0) > 0.3).all()

    mean, log_std, _ = model.actor.get_action_dist_params(torch.tensor(observations, dtype=torch.float32))
    assert (log_std == 2.0).any()
    noise = np.random.default_rng(1).standard_normal(mean.shape).astype(np.float32)
    sampled = torch.tanh(mean + log_std.exp() * torch.from_numpy(noise)).detach().numpy()
    np.testing.assert_allclose(policy(observations, noise), sampled, atol=1e-5)


def test_a_training_is_saved_and_measured_on_its_way(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "one"
    code, out, err = call(folder, *TINY, "--save-every", "25", "--seed", "3")
    assert code == 0, err
    names = [f"sac_{step:07d}.npz" for step in (25, 50, 60)]
    assert {path.name for path in folder.iterdir()} == {*names, "returns.csv", "training.json"}
    assert f"--env {PENDULUM} --policy {folder} " in out
    with (folder / "returns.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["file"], row["episodes"]) for row in rows] == [
        (str(step), name, "2") for step, name in zip((25, 50, 60), names, strict=True)
    ]
    policies = [NpzPolicy.load(folder / name) for name in names]
    for kind, noise in (("sampled", 1.0), ("deterministic", 0.0)):
        returns = [episode.rewards.sum() for episode in roll_out(PENDULUM, [Part(policies[1], 2, noise)], seed=3)]
        assert float(rows[1][f"{kind}_mean"]) == np.mean(returns)
        assert float(rows[1][f"{kind}_std"]) == np.std(returns)
    training = json.loads((folder / "training.json").read_text())
    assert (training["env"], training["seed"], training["settings"]["batch_size"]) == (PENDULUM, 3, 16)

    # Saving and measuring leave no trace in the training, which is the plain one of stable-baselines3.
    model = stable_baselines3.SAC(
        "MlpPolicy", PENDULUM, seed=3, device="cpu", learning_starts=20, batch_size=16,
        policy_kwargs={"net_arch": [16, 16]},
    )  # fmt: skip
    start = model.actor.mu.weight.detach().numpy().copy()
    model.learn(60)
    plain = model.actor.mu.weight.detach().numpy()
    assert (plain != start).any()
    with np.load(folder / names[-1]) as saved:
        np.testing.assert_array_equal(saved["mean.weight"], plain)

    assert call(tmp_path / "two", *TINY, "--save-every", "60", "--seed", "3")[0] == 0
    assert (tmp_path / "two" / names[-1]).read_bytes() == (folder / names[-1]).read_bytes()


def test_random_steps_come_first_and_are_at_most_a_tenth(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, expected in (("3000", 300), ("100000", 10_000), ("350000", 10_000)):
        monkeypatch.setattr(sys, "argv", ["x", "--env", "E", "--steps", steps, "--save-every", "9", "--out", "o"])
        assert script.arguments().learning_starts == expected


def test_a_folder_that_is_taken_is_left_as_it_is(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    assert call(folder, *TINY, "--save-every", "20", env=PENDULUM)[0] == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, _, err = call(folder, *TINY, "--save-every", "30")
    assert code == 2
    assert f"--out {folder}: holds a training already" in err
    assert "--overwrite" in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert call(folder, *TINY, "--save-every", "30", "--overwrite")[0] == 0
    assert sorted(path.name for path in folder.glob("*.npz")) == ["sac_0000030.npz", "sac_0000060.npz"]
    (folder / "notes.txt").touch()
    code, _, err = call(folder, *TINY, "--save-every", "30", "--overwrite")
    assert (code, "holds notes.txt" in err) == (2, True)
    assert len(list(folder.glob("*.npz"))) == 2


def test_ctrl_c_keeps_what_is_saved(
    call: Call, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train_behaviour.actor_weights
    models: list[Any] = []

    def interrupted(model: Any) -> Any:
        models.append(model)
        if len(models) == 2:
            raise KeyboardInterrupt
        return original(model)

    monkeypatch.setattr(train_behaviour, "actor_weights", interrupted)
    code, _, err = call(tmp_path / "cut", *TINY, "--save-every", "25")
    assert code == 130
    assert "keeps 1 saved policies" in err
    assert [path.name for path in (tmp_path / "cut").glob("*.npz")] == ["sac_0000025.npz"]
    assert NpzPolicy.load(tmp_path / "cut" / "sac_0000025.npz").observation_size == 4
    assert len((tmp_path / "cut" / "returns.csv").read_text().splitlines()) == 2


def test_a_policy_that_has_become_no_number_is_not_saved(
    call: Call, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train_behaviour.actor_weights
    monkeypatch.setattr(
        train_behaviour, "actor_weights", lambda model: {k: v * np.nan for k, v in original(model).items()}
    )
    code, _, err = call(tmp_path / "nan", *TINY, "--save-every", "25")
    assert code == 2
    assert "holds values that are not finite" in err
    assert not list((tmp_path / "nan").glob("*.npz*"))
    with pytest.raises(PolicyError):
        NpzPolicy.sequence(tmp_path / "nan")


def test_a_missing_extra_is_named(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    code, _, err = call(tmp_path / "none", *TINY, "--save-every", "25")
    assert (code, err) == (2, "stable-baselines3 is not installed: pip install -e '.[behaviour]'\n")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("Nothing-v0", (), "cannot make 'Nothing-v0'"),
        ("CartPole-v1", (), "the action space of 'CartPole-v1'"),
        (PENDULUM, ("--save-every", "0"), "argument --save-every: 0 is out of range: at least 1"),
        (PENDULUM, ("--learning-rate", "0"), "argument --learning-rate: 0 is out of range: more than 0"),
        (PENDULUM, ("--gamma", "1.5"), "argument --gamma: 1.5 is out of range: at least 0, at most 1"),
        (PENDULUM, ("--algorithm", "PPO"), "invalid choice: 'PPO'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    call: Call, tmp_path: Path, env: str, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = call(tmp_path / "none", *TINY, "--save-every", "25", *arguments, env=env)
    assert code == 2
    assert message in err
    assert not (tmp_path / "none").exists()
