"""Behaviour policies and the datasets they make: the same data every time, whole or not at all."""

import dataclasses
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import minari
import minari.cli
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cql.algorithm import agent, networks
from cql.data import WORK_FOLDER, DatasetError, check, collect, load_minari
from cql.data.collect import CollectionError, Part, collect_dataset, roll_out
from cql.data.embedded import EMBEDDED, ensure_embedded
from cql.data.policies import ActorPolicy, NpzPolicy, PolicyError, RandomPolicy
from cql.rollout.envs import env_info

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


def make_parameters(mlp, s=4, a=1):
    """Of one actor, whose log standard deviations lie within its clamp and beyond it."""
    stack = networks.actor_parameters(mlp, s, a, [torch.Generator().manual_seed(0)])
    parameters = {key: tensor[0] for key, tensor in stack.items()}
    parameters[f"{mlp.depth}.bias"][a:] -= torch.arange(a) + 1.0
    return parameters


def make_actor(mlp, s=4, a=1):
    mean, std = torch.arange(s) / 10.0, torch.full((s,), 2.0)
    parameters = make_parameters(mlp, s, a)
    return ActorPolicy("made up", mlp, parameters, mean=mean, std=std, log_std_min=-1.2, log_std_max=0.0)


def same(one, other):
    """Whether two lists of episodes are equal in every bit."""
    keys = ("observations", "actions", "rewards", "terminations", "truncations")
    return len(one) == len(other) and all(
        a.seed == b.seed and all(getattr(a, key).tobytes() == getattr(b, key).tobytes() for key in keys)
        for a, b in zip(one, other, strict=True)
    )


def hdf5_bytes(root, dataset_id):
    return (root / dataset_id / "data" / "main_data.hdf5").read_bytes()


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
        roll_out("Hopper-v5", [Part(policy, 1)], seed=0)


def test_a_folder_is_a_sequence_in_the_order_of_its_numbers(tmp_path):
    for name in ("sac_9", "sac_10", "sac_100k", "other_2"):
        np.savez(tmp_path / f"{name}.npz", **make_weights())
    names = [Path(policy.name).stem for policy in NpzPolicy.sequence(tmp_path)]
    assert names == ["other_2", "sac_9", "sac_10", "sac_100k"]
    with pytest.raises(PolicyError, match=r"holds no \.npz"):
        NpzPolicy.sequence(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "mlp", [networks.Mlp(width=8), networks.Mlp(width=8, depth=3, activation="elu", layer_norm=True)]
)
def test_an_actor_acts_as_in_its_training(mlp):
    policy = make_actor(mlp, s=3, a=2)
    own = pickle.loads(pickle.dumps(policy))
    generator = np.random.default_rng(0)
    observations, noise = generator.standard_normal((5, 3)), generator.standard_normal((5, 2)).astype(np.float32)
    parameters = {key: tensor.unsqueeze(0) for key, tensor in make_parameters(mlp, 3, 2).items()}
    mean, std = torch.tensor([0.0, 0.1, 0.2]), torch.full((3,), 2.0)
    evaluated = agent.Policy(mlp, parameters, mean, std)(observations[None].astype(np.float32))[0]
    np.testing.assert_allclose(own(observations), evaluated, atol=1e-6)
    inputs = (torch.tensor(observations[None], dtype=torch.float32) - mean) / std
    with torch.no_grad():
        centre, log_std = networks.actor(mlp, parameters, inputs, -math.inf, math.inf)
    assert (log_std < -1.2).any()
    assert (log_std > -1.2).any()
    expected = np.tanh(centre[0].numpy() + np.exp(np.clip(log_std[0].numpy(), -1.2, 0.0)) * noise)
    np.testing.assert_allclose(own(observations, noise), expected, atol=1e-6)
    assert own(observations, noise).dtype == np.float32
    assert (own.observation_size, own.action_size, own.name) == (3, 2, "made up")


def test_an_actor_treats_each_row_as_if_it_were_alone():
    policy = make_actor(networks.Mlp(), s=17, a=6)
    generator = np.random.default_rng(0)
    observations, noise = generator.standard_normal((10, 17)), generator.standard_normal((10, 6)).astype(np.float32)
    together = policy(observations, noise)
    for rows in (slice(0, 1), slice(0, 3), slice(4, 10), slice(9, 10)):
        np.testing.assert_array_equal(policy(observations[rows], noise[rows]), together[rows])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads + 1)
    try:
        np.testing.assert_array_equal(policy(observations, noise), together)
        assert torch.get_num_threads() == n_threads + 1
    finally:
        torch.set_num_threads(n_threads)


def test_random_actions_are_uniform():
    policy = RandomPolicy(observation_size=4, action_size=2)
    # Half of all normal numbers lie within 0.6745 of zero, nine tenths within 1.6449.
    known = policy(np.zeros((5, 4)), np.array([[0, 0.67449], [-0.67449, 1.64485], [-9, 9], [0, 0], [0, 0]], np.float32))
    np.testing.assert_allclose(known[:3], [[0, 0.5], [-0.5, 0.9], [-1, 1]], atol=1e-5)
    assert not policy(np.ones((3, 4))).any()
    episodes = roll_out(PENDULUM, [Part(RandomPolicy(4, 1), 300)], seed=0)
    actions = np.concatenate([episode.actions for episode in episodes])[:, 0]
    shares = np.histogram(actions, bins=6, range=(-3, 3))[0] / len(actions)
    np.testing.assert_allclose(shares, 1 / 6, atol=0.04)


@pytest.mark.parametrize(
    ("n_episodes", "noise", "message"),
    [
        (0, 1.0, "n_episodes must be at least 1, got 0 for 'random'"),
        (1, -0.1, "noise must be 0 or more, got -0.1"),
        (1, math.nan, "noise must be 0 or more, got nan"),
        (1, 0.5, "noise 0.5 for 'random', which has no standard deviation"),
    ],
)
def test_impossible_parts_are_refused(n_episodes, noise, message):
    with pytest.raises(DatasetError, match=message):
        Part(RandomPolicy(4, 1), n_episodes, noise)


# -------------------------------------------------------------------------------------------------------- roll-outs


def test_the_data_depend_on_the_seed_alone(policy):
    one = roll_out(PENDULUM, [Part(policy, 7)], seed=3, n_envs=3)
    assert same(one, roll_out(PENDULUM, [Part(policy, 7)], seed=3, n_envs=1))
    assert same(one, roll_out(PENDULUM, [Part(policy, 12)], seed=3, n_envs=10)[:7])
    assert len({episode.seed for episode in one}) == 7
    assert one[0].seed != roll_out(PENDULUM, [Part(policy, 1)], seed=4)[0].seed


def test_a_mixture_has_the_episodes_of_each_part_in_their_order(policy):
    actor = make_actor(networks.Mlp(width=8, depth=1))
    parts = [Part(policy, 2), Part(RandomPolicy(4, 1), 3), Part(policy, 2, noise=0.0), Part(actor, 4, noise=0.5)]
    mixed = roll_out(PENDULUM, parts, seed=3, n_envs=4)
    assert len(mixed) == 11
    low, high = np.full(1, -3, np.float32), np.full(1, 3, np.float32)
    position = 0
    for part in parts:
        for index in range(position, position + part.n_episodes):
            episode, stream = mixed[index], np.random.SeedSequence(3).spawn(11)[index]
            noise = np.random.default_rng(stream).standard_normal((1000, 1), dtype=np.float32) * np.float32(part.noise)
            steps = len(episode.actions)
            states = episode.observations[:steps]
            actions = part.behaviour(states, noise[:steps] if part.noise else None)
            np.testing.assert_array_equal(episode.actions, collect.to_env_actions(actions, low, high))
            assert episode.seed == stream.generate_state(1)[0]
        position += part.n_episodes


class Deadly(RandomPolicy):
    """Kills the process that it acts in, where that is not the one that made it."""

    def __init__(self):
        super().__init__(4, 1)
        self.home = os.getpid()

    def __call__(self, observations, noise=None):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(observations, noise)


def test_a_process_that_dies_is_named_and_leaves_no_dataset(root):
    parts = [Part(RandomPolicy(4, 1), 5), Part(Deadly(), 1)]
    with pytest.raises(CollectionError, match=r"collecting process \d+ was killed by SIGKILL.*--workers"):
        collect_dataset("tests/dead-v0", PENDULUM, parts, seed=0, workers=2)
    assert not multiprocessing.active_children()
    assert not minari.list_local_datasets()
    assert not leftovers(root)


class Broken(RandomPolicy):
    def __call__(self, observations, noise=None):
        return super().__call__(observations, noise) * np.float32(np.nan)


def test_actions_that_are_no_numbers_are_refused():
    with pytest.raises(PolicyError, match="policy 'random' returned NaN or infinite actions"):
        roll_out(PENDULUM, [Part(Broken(4, 1), 4)], seed=0)


def test_an_episode_can_be_replayed_from_its_seed_and_actions(policy):
    env = gymnasium.make(PENDULUM)
    episodes = roll_out(PENDULUM, [Part(policy, 4)], seed=0, n_envs=2)
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
    parts = [Part(policy, 3), Part(RandomPolicy(4, 1), 2)]
    made = collect_dataset(
        "tests/pendulum/wild-v0", PENDULUM, parts, seed=1, reference=(0, 1000), description="A test.", author="Ada"
    )
    dataset = minari.load_dataset("tests/pendulum/wild-v0")
    assert dataset.total_episodes == 5
    assert dataset.spec.env_spec.id == PENDULUM
    metadata = dataset.storage.metadata
    names = "made up (3 episodes), random (2 episodes)"
    assert (metadata["description"], metadata["author"]) == (f"A test. Behaviour: {names}; seed 1.", {"Ada"})
    assert metadata["algorithm_name"] == names
    assert json.loads(metadata["behaviours"]) == [
        {"policy": "made up", "n_episodes": 3, "noise": 1.0},
        {"policy": "random", "n_episodes": 2, "noise": 1.0},
    ]
    assert metadata["collection_seed"] == 1
    assert json.loads(metadata["versions"])["numpy"] == np.__version__
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (0, 1000)
    assert [requirement.split("==")[0] for requirement in metadata["requirements"]] == ["gymnasium", "mujoco"]
    assert [item["seed"] for item in dataset.storage.get_episode_metadata(range(5))] == [
        episode.seed for episode in roll_out(PENDULUM, parts, seed=1)
    ]
    read = list(dataset.iterate_episodes())
    for episode, known in zip(read, made, strict=True):
        np.testing.assert_array_equal(episode.observations, known.observations)
        np.testing.assert_array_equal(episode.actions, known.actions)
    assert next(dataset.iterate_episodes()).observations.dtype == np.float64
    listed = CliRunner().invoke(minari.cli.app, ["list", "local"], env={"COLUMNS": "200"})
    assert "tests/pendulum/wild-v0" in listed.output
    raw = load_minari("tests/pendulum/wild-v0")
    check(raw, env_info(PENDULUM))
    assert raw.n_episodes == 5
    assert not leftovers(root)


def test_an_existing_dataset_is_not_touched(policy):
    collect_dataset("tests/taken-v0", PENDULUM, [Part(policy, 2)], seed=0)
    with pytest.raises(DatasetError, match=r"'tests/taken-v0' exists already: .* `minari delete tests/taken-v0`"):
        collect_dataset("tests/taken-v0", PENDULUM, [Part(policy, 1)], seed=0)
    assert collect_dataset("tests/taken-v0", PENDULUM, [Part(policy, 1)], seed=0, exist_ok=True) is None
    assert load_minari("tests/taken-v0").n_episodes == 2


def test_an_existing_dataset_is_replaced_by_a_whole_one_alone(policy, root):
    collect_dataset("tests/taken-v0", PENDULUM, [Part(policy, 2)], seed=0)
    before = hdf5_bytes(root, "tests/taken-v0")
    with pytest.raises(PolicyError):
        collect_dataset("tests/taken-v0", PENDULUM, [Part(Broken(4, 1), 3)], seed=0, overwrite=True)
    assert hdf5_bytes(root, "tests/taken-v0") == before
    collect_dataset("tests/taken-v0", PENDULUM, [Part(policy, 3)], seed=0, overwrite=True)
    assert load_minari("tests/taken-v0").n_episodes == 3
    assert not leftovers(root)


def test_the_same_collection_gives_the_same_bytes(policy, root):
    parts = [Part(policy, 5), Part(make_actor(networks.Mlp(width=8)), 9, noise=0.5), Part(RandomPolicy(4, 1), 4)]
    for name, options in (("one", {}), ("two", {"n_envs": 2}), ("three", {"workers": 2, "n_envs": 3})):
        collect_dataset(f"tests/{name}-v0", PENDULUM, parts, seed=1, **options)
    assert hdf5_bytes(root, "tests/one-v0") == hdf5_bytes(root, "tests/two-v0") == hdf5_bytes(root, "tests/three-v0")
    one, two = (root.joinpath(f"tests/{name}-v0/data/metadata.json").read_text() for name in ("one", "two"))
    assert one == two.replace("tests/two-v0", "tests/one-v0")


def test_an_exception_leaves_nothing(policy, monkeypatch, root):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(minari.dataset._storages.hdf5_storage.HDF5Storage, "update_episodes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect_dataset("tests/cut-v0", PENDULUM, [Part(policy, 1)], seed=0)
    assert not minari.list_local_datasets()
    assert not leftovers(root)
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


# A process that waits for the file named by its second argument, collects, and stops before the step named by its first
# one until a file called "go" appears.
WORKER = """
import logging, pathlib, sys, time
from minari.dataset._storages.hdf5_storage import HDF5Storage
from cql.data.collect import Part, collect_dataset
from cql.data.policies import NpzPolicy

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
collect_dataset("tests/raced-v0", "Hopper-v5", [Part(policy, 2)], seed=0, exist_ok=True)
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
    collect_dataset("tests/raced-v0", "Hopper-v5", [Part(policy, 2)], seed=0)
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
    made = dataclasses.replace(EMBEDDED["hopper_medium"], parts=(("random", 3), ("hopper/sac_125k", 4)))
    monkeypatch.setitem(EMBEDDED, "hopper_medium", made)
    assert ensure_embedded("hopper_medium", progress=False) == "cql/hopper/medium-v0"
    raw = load_minari("cql/hopper/medium-v0", download=False)
    assert raw.env_id == "Hopper-v5"
    assert raw.episode_returns[:3].max() < 200
    assert 1000 < raw.episode_returns[3:].mean() < 1600
    monkeypatch.setattr(collect, "roll_out", None)
    assert ensure_embedded("hopper_medium", progress=False) == "cql/hopper/medium-v0"


def test_unknown_embedded_datasets_are_refused():
    with pytest.raises(DatasetError, match="no embedded dataset 'ant'; there are halfcheetah_medium, halfcheetah_med"):
        ensure_embedded("ant")


def test_every_embedded_dataset_is_made_of_policies_of_the_package():
    assert len({made.dataset_id for made in EMBEDDED.values()}) == len(EMBEDDED) == 10
    for name, made in EMBEDDED.items():
        assert made.env_id.split("-")[0].lower() == name.split("_")[0] or name.startswith("pointmaze")
        assert {policy for policy, _ in made.parts} <= {"random", "wanderer", *NpzPolicy.embedded_names()}


RETURNS = {  # between which the mean return lies
    "halfcheetah_random": (-320, -250),
    "halfcheetah_medium_replay": (3200, 4200),
    "halfcheetah_medium": (4800, 5400),
    "halfcheetah_medium_expert": (6000, 7000),
    "hopper_random": (14, 24),
    "hopper_medium_replay": (450, 800),
    "hopper_medium": (1200, 1300),
    "hopper_medium_expert": (1500, 2000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_the_embedded_datasets_are_of_their_quality(name):
    start = time.perf_counter()
    raw = load_minari(ensure_embedded(name, progress=False))
    assert time.perf_counter() - start < 120
    assert 95_000 < len(raw) < 105_000
    low, high = RETURNS[name]
    assert low < raw.episode_returns.mean() < high
