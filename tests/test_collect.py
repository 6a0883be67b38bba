"""Behaviour policies and the datasets they make: the same data every time, whole or not at all."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest

from cql import collect
from cql.collect import EMBEDDED, NpzPolicy, PolicyError, collect_dataset, ensure_embedded, roll_out
from cql.data import WORK_FOLDER, DatasetError, check, load_minari
from cql.envs import env_info

PENDULUM = "InvertedPendulum-v5"  # S = 4, A = 1, actions in [-3, 3]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def make_weights(s=4, a=1, width_1=5, width_2=7, seed=0):
    generator = np.random.default_rng(seed)
    sizes = {"hidden_0": (width_1, s), "hidden_1": (width_2, width_1), "mean": (a, width_2), "log_std": (a, width_2)}
    weights = {}
    for layer, (n_out, n_in) in sizes.items():
        weights[f"{layer}.weight"] = (generator.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)
        weights[f"{layer}.bias"] = generator.standard_normal(n_out).astype(np.float32) / 10
    return weights


@pytest.fixture
def policy():
    return NpzPolicy(make_weights(), "made up")


def leftovers(root):
    """Return what stands in the folder for datasets in the making, locks apart."""
    return [path.name for path in root.joinpath(WORK_FOLDER).glob("*") if path.is_dir()]


# --------------------------------------------------------------------------------------------------------- policies


def test_the_policy_is_what_its_weights_say():
    weights = make_weights(s=3, a=2)
    weights["log_std.bias"][1] = 40  # beyond the clamp
    generator = np.random.default_rng(1)
    observations = generator.standard_normal((4, 3))
    noise = generator.standard_normal((4, 2)).astype(np.float32) / 10
    policy = NpzPolicy(weights, "made up")
    w = {key: array.astype(float) for key, array in weights.items()}
    for row in range(4):
        x = observations[row]
        for layer in ("hidden_0", "hidden_1"):
            x = np.array([max(0.0, w[f"{layer}.weight"][i] @ x + b) for i, b in enumerate(w[f"{layer}.bias"])])
        mean = w["mean.weight"] @ x + w["mean.bias"]
        std = np.exp(np.minimum(np.maximum(w["log_std.weight"] @ x + w["log_std.bias"], -20), 2))
        np.testing.assert_allclose(policy(observations)[row], np.tanh(mean), atol=1e-6)
        np.testing.assert_allclose(policy(observations, noise)[row], np.tanh(mean + std * noise[row]), atol=1e-6)
    assert policy(observations).dtype == np.float32


def test_an_action_does_not_depend_on_its_neighbours():
    policy = NpzPolicy.embedded("halfcheetah/sac_125k")
    observations = np.random.default_rng(0).standard_normal((10, 17))
    together = policy(observations)
    for size in (1, 3, 7):
        np.testing.assert_array_equal(policy(observations[:size]), together[:size])


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5"])
def test_every_policy_of_the_package_fits_its_environment(env_id):
    info = env_info(env_id)
    name = env_id.split("-")[0].lower()
    folder = Path(collect.__file__).parent / "behaviour" / name
    names = sorted(path.stem for path in folder.glob("*.npz"))
    assert "sac_125k" in names
    for stem in names:
        policy = NpzPolicy.embedded(f"{name}/{stem}")
        assert (policy.observation_size, policy.action_size) == (info.observation_size, info.action_size)


def test_unfit_weights_are_refused(tmp_path):
    weights = make_weights()
    for changes, message in (
        ({"mean.bias": np.zeros(2, np.float32)}, r"mean.bias must be float32 of shape \(1,\), found float32"),
        ({"hidden_1.weight": np.zeros((7, 6), np.float32)}, r"hidden_1.weight must be float32 of shape \(7, 5\)"),
        ({"hidden_0.bias": np.zeros(5)}, "hidden_0.bias must be float32 .* found float64"),
        ({"log_std.bias": np.full(1, np.nan, np.float32)}, "log_std.bias holds values that are not finite"),
        ({"value.bias": np.zeros(1, np.float32)}, "must hold .* found .*value.bias"),
    ):
        with pytest.raises(PolicyError, match=message):
            NpzPolicy({**weights, **changes}, "made up")
    with pytest.raises(PolicyError, match="does not exist"):
        NpzPolicy.load(tmp_path / "nowhere.npz")
    with pytest.raises(PolicyError, match=r"no behaviour policy 'hopper/sac_999k'; there are .*hopper/sac_125k"):
        NpzPolicy.embedded("hopper/sac_999k")
    np.savez(tmp_path / "pickled.npz", **{**weights, "mean.bias": np.array([print], dtype=object)})
    with pytest.raises(PolicyError, match=r"not an \.npz of plain arrays"):
        NpzPolicy.load(tmp_path / "pickled.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(PolicyError, match=r"not an \.npz of plain arrays"):
        NpzPolicy.load(tmp_path / "text.npz")


def test_a_policy_for_another_environment_is_refused(policy):
    with pytest.raises(PolicyError, match="maps 4 features to 1 actions, but Hopper-v5 has 11 and 3"):
        roll_out("Hopper-v5", policy, n_episodes=1, seed=0)


# -------------------------------------------------------------------------------------------------------- roll-outs


def test_the_data_depend_on_the_seed_alone(policy):
    one = roll_out(PENDULUM, policy, n_episodes=7, seed=3, n_envs=3)
    for other in (
        roll_out(PENDULUM, policy, n_episodes=7, seed=3, n_envs=1),
        roll_out(PENDULUM, policy, n_episodes=12, seed=3, n_envs=10)[:7],
    ):
        for a, b in zip(one, other, strict=True):
            assert a.seed == b.seed
            for key in ("observations", "actions", "rewards", "terminations", "truncations"):
                np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
    assert len({episode.seed for episode in one}) == 7
    assert one[0].seed != roll_out(PENDULUM, policy, n_episodes=1, seed=4)[0].seed


def test_an_episode_can_be_replayed_from_its_seed_and_actions(policy):
    env = gymnasium.make(PENDULUM)
    episodes = roll_out(PENDULUM, policy, n_episodes=4, seed=0, n_envs=2)
    for episode in episodes:
        steps = len(episode.rewards)
        np.testing.assert_array_equal(env.reset(seed=episode.seed)[0], episode.observations[0])
        for t in range(steps):
            state, reward, terminated, truncated, _ = env.step(episode.actions[t])
            np.testing.assert_array_equal(state, episode.observations[t + 1])
            assert reward == episode.rewards[t]
            assert (terminated, truncated) == (episode.terminations[t], episode.truncations[t])
        assert terminated or truncated
        assert not (episode.terminations | episode.truncations)[:-1].any()
    env.close()
    actions = np.concatenate([episode.actions for episode in episodes])
    assert 1 < np.abs(actions).max() <= 3  # in the environment's own units


# --------------------------------------------------------------------------------------------------------- datasets


def test_any_minari_user_can_read_the_dataset(policy, root):
    collect_dataset(
        "tests/pendulum/wild-v0", PENDULUM, policy, n_episodes=5, seed=1, reference=(0, 1000), description="A test."
    )
    dataset = minari.load_dataset("tests/pendulum/wild-v0")
    assert dataset.total_episodes == 5
    assert dataset.spec.env_spec.id == PENDULUM
    metadata = dataset.storage.metadata
    assert metadata["description"] == "A test. Behaviour policy made up, seed 1."
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (0, 1000)
    assert [requirement.split("==")[0] for requirement in metadata["requirements"]] == ["gymnasium", "mujoco"]
    assert [item["seed"] for item in dataset.storage.get_episode_metadata(range(5))] == [
        episode.seed for episode in roll_out(PENDULUM, policy, n_episodes=5, seed=1)
    ]
    assert next(dataset.iterate_episodes()).observations.dtype == np.float64
    listed = subprocess.run(
        [Path(sys.executable).with_name("minari"), "list", "local"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "tests/pendulum/wild-v0" in listed.stdout
    raw = load_minari("tests/pendulum/wild-v0")
    low = np.array([-3], np.float32)
    check(raw, observation_size=4, action_size=1, action_low=low, action_high=-low, env_id=PENDULUM)
    assert raw.n_episodes == 5
    assert not leftovers(root)


def test_an_existing_dataset_is_not_touched(policy):
    collect_dataset("tests/taken-v0", PENDULUM, policy, n_episodes=2, seed=0)
    with pytest.raises(DatasetError, match=r"'tests/taken-v0' exists already: .* `minari delete tests/taken-v0`"):
        collect_dataset("tests/taken-v0", PENDULUM, policy, n_episodes=1, seed=0)
    collect_dataset("tests/taken-v0", PENDULUM, policy, n_episodes=1, seed=0, exist_ok=True)
    assert load_minari("tests/taken-v0").n_episodes == 2


def test_an_exception_leaves_nothing(policy, monkeypatch, root):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(minari.dataset._storages.hdf5_storage.HDF5Storage, "update_episodes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect_dataset("tests/cut-v0", PENDULUM, policy, n_episodes=1, seed=0)
    assert not minari.list_local_datasets()
    assert not leftovers(root)
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


# A process that waits for the file named by its second argument, collects, and stops before the step named by its first
# one until a file called "go" appears.
WORKER = """
import logging, pathlib, sys, time
from minari.dataset._storages.hdf5_storage import HDF5Storage
from cql.collect import NpzPolicy, collect_dataset

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
owner, name = {"writing": (HDF5Storage, "update_metadata"), "moving": (pathlib.Path, "rename")}[sys.argv[1]]
original = getattr(owner, name)

def wait(self, argument):
    if name == "rename" or "total_steps" in argument:
        print("arrived", flush=True)
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
    return original(self, argument)

setattr(owner, name, wait)
policy = NpzPolicy.embedded("hopper/sac_025k")
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.01)
collect_dataset("tests/raced-v0", "Hopper-v5", policy, n_episodes=2, seed=0, exist_ok=True)
print("done", flush=True)
"""


def start_worker(stop_before, folder, wait_for="."):
    command = [sys.executable, "-c", WORKER, stop_before, wait_for]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)


def read_until(worker, text):
    lines = []
    for line in worker.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"the worker ended without '{text}': {lines}")


@pytest.mark.parametrize(
    ("stop_before", "sent"),
    [
        ("writing", signal.SIGKILL),
        ("moving", signal.SIGKILL),
        ("writing", signal.SIGINT),
        pytest.param("writing", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_killed_collection_leaves_no_dataset(stop_before, sent, tmp_path, root):
    worker = start_worker(stop_before, tmp_path)
    read_until(worker, "arrived")
    assert leftovers(root) == ["tests--raced-v0"]
    worker.send_signal(sent)
    worker.communicate(timeout=20)
    assert worker.returncode != 0
    assert not minari.list_local_datasets()
    with pytest.raises(DatasetError, match="'tests/raced-v0' is not in"):
        load_minari("tests/raced-v0", download=False)
    # SIGINT is an exception to Python and cleans up at once; the others leave it to the next collection.
    assert leftovers(root) == ([] if sent == signal.SIGINT else ["tests--raced-v0"])
    policy = NpzPolicy.embedded("hopper/sac_025k")
    collect_dataset("tests/raced-v0", "Hopper-v5", policy, n_episodes=2, seed=0)
    assert load_minari("tests/raced-v0").n_episodes == 2
    assert not leftovers(root)


def test_of_two_processes_the_second_uses_what_the_first_makes(tmp_path, root):
    first, second = start_worker("moving", tmp_path), start_worker("moving", tmp_path, "second may begin")
    read_until(first, "arrived")
    (tmp_path / "second may begin").touch()
    read_until(second, "another process is making tests/raced-v0; waiting for it")
    (tmp_path / "go").touch()
    assert "collected tests/raced-v0" in first.communicate(timeout=20)[0]
    assert second.communicate(timeout=20)[0] == "done\n"  # neither "arrived" nor "collected"
    assert (first.returncode, second.returncode) == (0, 0)
    assert list(minari.list_local_datasets()) == ["tests/raced-v0"]


# --------------------------------------------------------------------------------------------------------- embedded


def test_an_embedded_dataset_is_made_once(monkeypatch):
    monkeypatch.setitem(EMBEDDED, "hopper_medium", dataclasses.replace(EMBEDDED["hopper_medium"], n_episodes=4))
    assert ensure_embedded("hopper_medium", progress=False) == "cql/hopper/medium-v0"
    raw = load_minari("cql/hopper/medium-v0", download=False)
    assert raw.env_id == "Hopper-v5"
    assert 1000 < raw.episode_returns.mean() < 1600
    monkeypatch.setattr(collect, "roll_out", None)
    assert ensure_embedded("hopper_medium", progress=False) == "cql/hopper/medium-v0"


def test_unknown_embedded_datasets_are_refused():
    with pytest.raises(DatasetError, match="no embedded dataset 'ant'; there are halfcheetah_medium, hopper_medium"):
        ensure_embedded("ant")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), [("halfcheetah_medium", 4800, 5400), ("hopper_medium", 1200, 1300)])
def test_the_embedded_datasets_are_of_medium_quality(name, low, high):
    start = time.perf_counter()
    raw = load_minari(ensure_embedded(name, progress=False))
    assert time.perf_counter() - start < 120
    assert 95_000 < len(raw) < 105_000
    assert low < raw.episode_returns.mean() < high
