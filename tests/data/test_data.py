"""Datasets: what is read from Minari and D4RL files, what is refused and how, what the tensors hold."""

import dataclasses
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from children import fork
from hydra.core.override_parser.overrides_parser import OverridesParser
from minari.data_collector import EpisodeBuffer

from cql import data
from cql.algorithm.sampling import Batch, Sampler
from cql.data import (
    DatasetError,
    DatasetNotFoundError,
    RawData,
    check,
    each_once,
    fingerprint,
    load_d4rl,
    load_minari,
    prepare,
    select_episodes,
)
from cql.data import local as local_module
from cql.data import minari as minari_module
from cql.data import raw as raw_module
from cql.data.checks import check_source
from cql.rollout.envs import EnvInfo, EnvSpec
from cql.training import build

S, A = 3, 2
LOW, HIGH = np.array([-1, -3], np.float32), np.array([1, 3], np.float32)


def env(spec, observation_size=S, action_size=A, low=LOW, high=HIGH):
    """What the checks need to know of an environment, made up."""
    spec = EnvSpec(spec) if isinstance(spec, str) else spec
    return EnvInfo(spec, observation_size, action_size, low, high, max_episode_steps=1000, step_seconds=0.05)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def make_buffer(steps, *, terminated=False, truncated=True, seed=0, **changes):
    generator = np.random.default_rng(seed)
    flags = np.arange(steps) == steps - 1
    fields = {
        "observations": generator.standard_normal((steps + 1, S)),
        "actions": generator.uniform(LOW, HIGH, (steps, A)).astype(np.float32),
        "rewards": generator.standard_normal(steps),
        "terminations": flags & terminated,
        "truncations": flags & truncated,
        "infos": {},
    }
    return EpisodeBuffer(**{**fields, **changes})


def write_minari(dataset_id, buffers, **options):
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (S,)),
        "action_space": gymnasium.spaces.Box(LOW, HIGH),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(is set to None|env_spec is None)")
        minari.create_dataset_from_buffers(dataset_id, list(buffers), **{**spaces, "data_format": "hdf5", **options})


def make_raw(lengths=(3, 2, 4), seed=0):
    generator = np.random.default_rng(seed)
    m = sum(lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    terminated = np.zeros(m, bool)
    terminated[np.cumsum(lengths)[0] - 1] = True
    last = np.append(np.diff(episode) != 0, True)
    observations, actions = generator.standard_normal((m, S)), generator.uniform(LOW, HIGH, (m, A))
    # No next observation is that of the following row.
    next_observations = generator.standard_normal((m, S))
    rows, row = each_once([(observations.astype(np.float32), next_observations.astype(np.float32))])
    return RawData(
        rows=rows,
        row=row,
        actions=actions.astype(np.float32),
        rewards=np.arange(m, dtype=np.float32),
        terminated=terminated,
        truncated=last & ~terminated,
        episode=episode,
        name="made/up-v0",
        env_id="Made-v5",
    )


# ---------------------------------------------------------------------------------------------------------- Minari


def test_minari_episodes_become_transitions():
    buffers = [make_buffer(4, seed=1), make_buffer(1, terminated=True, truncated=False, seed=2), make_buffer(3, seed=3)]
    write_minari("tests/plain-v0", buffers)
    raw = load_minari("tests/plain-v0", download=False)
    assert raw.episode.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    assert raw.terminated.tolist() == [False] * 4 + [True] + [False] * 3
    assert raw.truncated.tolist() == [False] * 3 + [True, False, False, False, True]
    assert raw.n_episodes == 3
    assert raw.episode_lengths.tolist() == [4, 1, 3]
    np.testing.assert_allclose(raw.episode_returns, [buffer.rewards.sum() for buffer in buffers], rtol=1e-6)
    for key in ("observations", "actions", "rewards", "next_observations"):
        assert getattr(raw, key).dtype == np.float32
    np.testing.assert_array_equal(raw.observations[:4], buffers[0].observations[:4].astype(np.float32))
    # The last observation of an episode is the next observation of its last step, not the first of the next episode.
    np.testing.assert_array_equal(raw.next_observations[3], buffers[0].observations[4].astype(np.float32))
    np.testing.assert_array_equal(raw.next_observations[:3], raw.observations[1:4])
    check(raw, env("whatever the file does not name"))


def test_the_direct_reading_agrees_with_minari():
    write_minari("tests/many-v0", [make_buffer(int(n), seed=int(n)) for n in (5, 2, 9, 14)])
    raw = load_minari("tests/many-v0")
    for index, episode in enumerate(minari.load_dataset("tests/many-v0").iterate_episodes()):
        here = raw.episode == index
        np.testing.assert_array_equal(raw.observations[here], episode.observations[:-1].astype(np.float32))
        np.testing.assert_array_equal(raw.next_observations[here], episode.observations[1:].astype(np.float32))
        np.testing.assert_array_equal(raw.actions[here], episode.actions)
        np.testing.assert_array_equal(raw.rewards[here], episode.rewards.astype(np.float32))


def test_arrow_files_give_the_same_as_hdf5():
    pytest.importorskip("pyarrow")
    # Arrow stores observations with the precision the space declares.
    spaces = {"observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (S,), np.float64)}
    buffers = [make_buffer(3, seed=1), make_buffer(2, terminated=True, seed=2)]
    write_minari("tests/first-v0", buffers, **spaces)
    write_minari("tests/second-v0", buffers, **spaces, data_format="arrow")
    assert fingerprint(load_minari("tests/first-v0")) == fingerprint(load_minari("tests/second-v0"))


def test_an_end_is_terminated_or_truncated_and_never_both():
    write_minari(
        "tests/ends-v0",
        [make_buffer(2, terminated=True, truncated=True), make_buffer(2, terminated=False, truncated=False)],
    )
    raw = load_minari("tests/ends-v0")
    assert raw.terminated.tolist() == [False, True, False, False]
    assert raw.truncated.tolist() == [False, False, False, True]


def test_the_environment_is_read_from_the_metadata():
    steps = make_buffer(2, observations=np.zeros((3, 4)), actions=np.zeros((2, 1), np.float32))
    recorded = {"env": "InvertedPendulum-v5", "observation_space": None, "action_space": None}
    write_minari("tests/pendulum-v0", [steps], **recorded)
    raw = load_minari("tests/pendulum-v0")
    assert raw.env_id == "InvertedPendulum-v5"
    low = np.array([-3], np.float32)
    sizes = (4, 1, low, -low)
    check(raw, env("InvertedPendulum-v5", *sizes))
    with pytest.raises(DatasetError, match=r"recorded in InvertedPendulum-v5, but the environment is Hopper-v5"):
        check(raw, env("Hopper-v5", *sizes))


def test_an_absent_dataset_is_reported_with_what_is_there(monkeypatch):
    write_minari("tests/here-v0", [make_buffer(2)])
    with pytest.raises(
        DatasetNotFoundError,
        match=r"forbids(.|\n)*tests/here-v0(.|\n)*pip install -e '\.\[hub\]' && minari download mujoco/ant/medium-v0",
    ):
        load_minari("mujoco/ant/medium-v0", download=False)
    monkeypatch.setattr(minari_module, "find_spec", lambda _: None)
    with pytest.raises(DatasetNotFoundError, match=r"huggingface_hub(.|\n)*pip install -e '\.\[hub\]'"):
        load_minari("mujoco/ant/medium-v0")


@pytest.fixture
def hub(monkeypatch):
    """Let the hub's client seem installed and no proxy stand before it."""
    monkeypatch.setattr(minari_module, "find_spec", lambda _: object())
    monkeypatch.setattr(minari_module.urllib.request, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("MINARI_REMOTE", raising=False)


def test_without_a_network_the_answer_comes_at_once(hub, monkeypatch):
    # A free port of this machine refuses the connection, as the hub's would not answer.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    start = time.perf_counter()
    with pytest.raises(DatasetNotFoundError, match=r"no connection to 127\.0\.0\.1"):
        load_minari("mujoco/ant/medium-v0")
    assert time.perf_counter() - start < 5
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DatasetNotFoundError, match="HF_HUB_OFFLINE is set"):
        load_minari("mujoco/ant/medium-v0")


def test_a_download_is_moved_to_its_place_when_it_is_whole(hub, monkeypatch, root, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(minari_module, "_hub_unreachable", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: write_minari(dataset_id, [make_buffer(2)]))
    assert len(load_minari("mujoco/ant/medium-v0")) == 2
    assert "downloading mujoco/ant/medium-v0" in caplog.text
    assert list(minari.list_local_datasets()) == ["mujoco/ant/medium-v0"]
    assert minari.namespace.list_local_namespaces() == ["mujoco", "mujoco/ant"]
    assert not [path for path in (root / data.WORK_FOLDER).iterdir() if path.is_dir()]


def test_a_failed_download_leaves_nothing(hub, monkeypatch):
    def fail(dataset_id):
        write_minari(dataset_id, [make_buffer(2)])
        raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(minari_module, "_hub_unreachable", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(DatasetNotFoundError, match="ConnectionResetError: the line went dead"):
        load_minari("mujoco/ant/medium-v0")
    assert not minari.list_local_datasets()
    monkeypatch.setattr(minari, "download_dataset", lambda _: None)
    with pytest.raises(DatasetNotFoundError, match="brought nothing"):
        load_minari("mujoco/ant/medium-v0")


def replace_dataset(dataset_id, steps):
    with data.new_dataset(dataset_id, overwrite=True) as hidden_root, data.minari_root_set_to(hidden_root):
        write_minari(dataset_id, [make_buffer(steps)])


def stop_second_rename(monkeypatch, stop):
    """Let every rename from the second on be something else."""
    renames, rename = [], Path.rename

    def counted(self, target):
        renames.append(target)
        return rename(self, target) if len(renames) == 1 else stop(rename, self, target, len(renames))

    monkeypatch.setattr(Path, "rename", counted)


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_failed_replacement_leaves_the_old_dataset(error, monkeypatch, root):
    def fail_once(rename, self, target, count):
        if count == 2:
            raise error
        return rename(self, target)

    replace_dataset("tests/kept-v0", 2)
    with monkeypatch.context() as patch:
        stop_second_rename(patch, fail_once)
        with pytest.raises(type(error)):
            replace_dataset("tests/kept-v0", 3)
    assert len(load_minari("tests/kept-v0", download=False)) == 2
    assert not [path for path in (root / data.WORK_FOLDER).iterdir() if path.is_dir()]
    replace_dataset("tests/kept-v0", 3)
    assert len(load_minari("tests/kept-v0", download=False)) == 3


@pytest.mark.parametrize("end", ["killed", "cannot be put back either"])
@pytest.mark.parametrize("then", ["used", "replaced", "not replaced"])
def test_an_interrupted_replacement_is_undone_by_the_next_call(end, then, monkeypatch, root, caplog):
    caplog.set_level("INFO")
    replace_dataset("tests/kept-v0", 2)

    def stop(*_):
        if end == "killed":
            os._exit(9)
        raise OSError("the disk is full")

    if end == "killed":

        def task():
            stop_second_rename(monkeypatch, stop)
            replace_dataset("tests/kept-v0", 3)

        assert os.waitstatus_to_exitcode(os.waitpid(fork(task), 0)[1]) == 9
    else:
        with monkeypatch.context() as patch:
            stop_second_rename(patch, stop)
            with pytest.raises(OSError, match="the disk is full"):
                replace_dataset("tests/kept-v0", 3)
    assert not minari.list_local_datasets()

    match then:
        case "used":
            with data.new_dataset("tests/kept-v0") as hidden_root:
                assert hidden_root is None
        case "replaced":
            replace_dataset("tests/kept-v0", 4)
        case "not replaced":
            with pytest.raises(ZeroDivisionError), data.new_dataset("tests/kept-v0", overwrite=True):
                raise ZeroDivisionError
    assert "kept-v0 back, whose replacement was interrupted" in caplog.text
    assert len(load_minari("tests/kept-v0", download=False)) == (4 if then == "replaced" else 2)


def test_what_was_replaced_does_not_come_back(monkeypatch):
    replace_dataset("tests/gone-v0", 2)
    with monkeypatch.context() as patch:
        # As if killed behind the second rename, before the old one is deleted.
        patch.setattr(local_module.shutil, "rmtree", lambda *_, **__: None)
        replace_dataset("tests/gone-v0", 3)
    assert len(load_minari("tests/gone-v0", download=False)) == 3
    minari.delete_dataset("tests/gone-v0")
    with data.new_dataset("tests/gone-v0") as hidden_root:
        assert hidden_root is not None
        assert not list(hidden_root.iterdir())
        assert not minari.list_local_datasets()
        with data.minari_root_set_to(hidden_root):
            write_minari("tests/gone-v0", [make_buffer(5)])
    assert len(load_minari("tests/gone-v0", download=False)) == 5


@pytest.mark.parametrize("dataset_id", ["", "halfcheetah", "mujoco/halfcheetah/medium", "../secret-v0", "a b-v0"])
def test_malformed_ids_are_refused(dataset_id):
    with pytest.raises(DatasetError, match="not the id of a Minari dataset"):
        load_minari(dataset_id)


def test_an_empty_datasets_path_is_refused(monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    with pytest.raises(DatasetError, match="MINARI_DATASETS_PATH is set but empty"):
        load_minari("mujoco/ant/medium-v0")


@pytest.mark.parametrize("damage", ["no metadata", "half the metadata", "no data", "half the data", "an episode short"])
def test_damaged_datasets_are_named(damage, root):
    write_minari("tests/whole-v0", [make_buffer(50), make_buffer(50)])
    folder = root / "tests" / "whole-v0" / "data"
    metadata, main = folder / "metadata.json", folder / "main_data.hdf5"
    match damage:
        case "no metadata":
            metadata.unlink()
        case "half the metadata":
            metadata.write_text(metadata.read_text()[:100])
        case "no data":
            main.unlink()
        case "half the data":
            main.write_bytes(main.read_bytes()[:3000])
        case "an episode short":
            metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "total_episodes": 3}))
    with pytest.raises(DatasetError, match=r"'tests/whole-v0' in .* is incomplete or damaged"):
        load_minari("tests/whole-v0")


def test_observations_of_more_dimensions_are_read_flat():
    observations = np.arange(24.0).reshape(4, 2, 3)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
    write_minari("tests/grid-v0", [make_buffer(3, observations=observations)], observation_space=space)
    np.testing.assert_array_equal(load_minari("tests/grid-v0").rows, observations.reshape(4, 6))


def test_spaces_other_than_vectors_are_refused():
    space = gymnasium.spaces.Dict({"joints": gymnasium.spaces.Box(-1, 1, (2,)), "mode": gymnasium.spaces.Discrete(2)})
    observations = {"joints": np.zeros((3, 2), np.float32), "mode": np.zeros(3, np.int64)}
    write_minari("tests/dict-v0", [make_buffer(2, observations=observations)], observation_space=space)
    with pytest.raises(DatasetError, match=r"episode 0: observations are a Dict of joints, mode: say which"):
        load_minari("tests/dict-v0")
    write_minari(
        "tests/discrete-v0", [make_buffer(2, actions=np.zeros(2, int))], action_space=gymnasium.spaces.Discrete(2)
    )
    with pytest.raises(DatasetError, match=r"episode 0: actions must hold one vector .* shape \(2,\), int64"):
        load_minari("tests/discrete-v0")


def test_episodes_that_do_not_fit_together_are_refused():
    write_minari("tests/lengths-v0", [make_buffer(3), make_buffer(3, observations=np.zeros((3, S)))])
    with pytest.raises(DatasetError, match=r"episode 1: 3 rewards go with 4 observations .*'observations': 3"):
        load_minari("tests/lengths-v0")
    write_minari("tests/sizes-v0", [make_buffer(3), make_buffer(3, observations=np.zeros((4, S + 1)))])
    with pytest.raises(DatasetError, match=r"observations differ in size between episodes: \[3, 4\]"):
        load_minari("tests/sizes-v0")


def test_a_dataset_without_transitions_is_refused():
    write_minari("tests/none-v0", [])
    with pytest.raises(DatasetError, match="'tests/none-v0' is empty"):
        load_minari("tests/none-v0")


@pytest.mark.slow
def test_a_million_transitions_are_read_in_seconds():
    write_minari("tests/million-v0", [make_buffer(1000)] * 1000)
    start = time.perf_counter()
    assert len(load_minari("tests/million-v0")) == 1_000_000
    assert time.perf_counter() - start < 15


# ------------------------------------------------------------------------------------------------------------ D4RL

#                      0  1  2  3  4  5  6  7  8
TERMINALS = np.array([0, 0, 1, 0, 0, 0, 0, 1, 0], bool)
TIMEOUTS = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0], bool)  # row 7 has both flags; row 8 is left unfinished


def write_d4rl(path, *, leave_out=(), **changes):
    generator = np.random.default_rng(0)
    n = len(TERMINALS)
    arrays = {
        "observations": generator.standard_normal((n, S)).astype(np.float32),
        "actions": generator.uniform(LOW, HIGH, (n, A)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": TERMINALS,
        "timeouts": TIMEOUTS,
        "next_observations": generator.standard_normal((n, S)).astype(np.float32),
        "infos/qpos": np.zeros((n, 2)),
        "infos/qvel": np.zeros((n, 2)),
        "infos/action_log_probs": np.zeros(n, np.float32),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": np.array([100]),
        "metadata/policy/fc0/weight": np.zeros((4, S), np.float32),
        "metadata/policy/nonlinearity": np.bytes_("relu"),
    }
    arrays = {key: array for key, array in {**arrays, **changes}.items() if key not in leave_out}
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return arrays


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hopper_medium-v2.hdf5"


def test_d4rl_with_next_observations_keeps_every_transition(path):
    arrays = write_d4rl(path)
    raw = load_d4rl(path)
    for key in ("observations", "actions", "rewards", "next_observations"):
        np.testing.assert_array_equal(getattr(raw, key), arrays[key])
    assert raw.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert raw.terminated.tolist() == TERMINALS.tolist()  # row 7, flagged twice, counts as terminal
    assert np.flatnonzero(raw.truncated).tolist() == [5, 8]
    check(raw, env("Hopper-v5"))


def test_d4rl_without_next_observations_leaves_out_what_it_cannot_know(path):
    arrays = write_d4rl(path, leave_out={"next_observations"})
    raw = load_d4rl(path)
    assert raw.rewards.tolist() == [0, 1, 2, 3, 4, 6, 7]  # not 5, cut by the time limit, nor 8, the file's last
    assert raw.episode.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert np.flatnonzero(raw.terminated).tolist() == [2, 6]
    assert np.flatnonzero(raw.truncated).tolist() == [4]
    following = raw.next_observations[~raw.terminated]
    np.testing.assert_array_equal(following, arrays["observations"][[1, 2, 4, 5, 7]])
    # Behind a terminal state nothing follows; in the file stands the first observation of another episode.
    np.testing.assert_array_equal(raw.next_observations[raw.terminated], arrays["observations"][[2, 7]])


def test_d4rl_flags_may_be_numbers(path):
    write_d4rl(path, terminals=TERMINALS.astype(np.float32), timeouts=TIMEOUTS.astype(np.uint8))
    assert np.flatnonzero(load_d4rl(path).terminated).tolist() == [2, 7]


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_d4rl_missing_keys_are_named(path, key):
    write_d4rl(path, leave_out={key})
    with pytest.raises(DatasetError, match=f"hopper_medium-v2.hdf5' has no '{key}'; it holds .*timeouts"):
        load_d4rl(path)


def at_time_limit(terminals, limit):
    """Step by step, where an episode comes to its limit."""
    flags, steps = [], 0
    for terminal in terminals:
        steps += 1
        flags.append(steps == limit and not terminal)
        if terminal or steps == limit:
            steps = 0
    return np.array(flags, bool)


def write_v0(path, terminals, **changes):
    """A file as the first `-v0` ones were: four arrays and nothing else."""
    n = len(terminals)
    arrays = {
        "observations": np.arange(n * S, dtype=np.float32).reshape(n, S),
        "actions": np.zeros((n, A), np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": np.asarray(terminals, bool),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return arrays


def test_d4rl_without_timeouts_is_cut_at_the_time_limit(path, caplog):
    #                            0  1  2  3  4  5  6  7  8  9 10 11 12 13
    arrays = write_v0(path, [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0])
    raw = load_d4rl(path, time_limit=3)
    # Cut at 2. The terminal steps 7 and 10 are third ones and stay what they are; 13, the file's last, has no next.
    assert raw.rewards.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert raw.episode.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
    assert np.flatnonzero(raw.terminated).tolist() == [3, 6, 9, 10]
    assert np.flatnonzero(raw.truncated).tolist() == [1, 11]
    following = [1, 2, 4, 6, 7, 9, 10, 13]  # never that of another episode
    np.testing.assert_array_equal(raw.next_observations[~raw.terminated], arrays["observations"][following])
    check(raw, env("Hopper-v5"))
    assert "has no timeouts, so they were derived: 1 episode(s) taken to be cut at 3 steps" in caplog.text


def test_d4rl_episodes_without_timeouts_are_of_a_thousand_steps(path):
    terminals = np.zeros(4500, bool)
    terminals[1499] = True
    write_v0(path, terminals)
    raw = load_d4rl(path)
    assert raw.episode_lengths.tolist() == [999, 500, 999, 999, 999]  # less the steps that have no next observation
    assert np.flatnonzero(raw.terminated).tolist() == [1498]


@pytest.mark.parametrize("chunk", [7, 10_000])
@pytest.mark.parametrize("next_observations", [True, False])
def test_derived_timeouts_are_those_of_a_slow_loop(path, tmp_path, monkeypatch, chunk, next_observations):
    monkeypatch.setattr(raw_module, "CHUNK", chunk)
    generator = np.random.default_rng(0)
    recorded = tmp_path / "recorded.hdf5"
    for _ in range(40):
        n, limit = int(generator.integers(2, 60)), int(generator.integers(2, 9))
        terminals = generator.random(n) < generator.choice([0, 0.05, 0.3])
        flags = at_time_limit(terminals, limit)
        more = {"next_observations": generator.standard_normal((n, S))} if next_observations else {}
        write_v0(path, terminals, **more)
        write_v0(recorded, terminals, timeouts=flags, **more)
        derived, expected = load_d4rl(path, time_limit=limit), load_d4rl(recorded)
        for key in ("observations", "next_observations", "rewards", "terminated", "truncated", "episode"):
            np.testing.assert_array_equal(getattr(derived, key), getattr(expected, key))
        assert not next_observations or len(derived) == n  # none is left out where each knows its own


def test_recorded_timeouts_are_left_alone(path, caplog):
    write_d4rl(path)
    assert fingerprint(load_d4rl(path, time_limit=2)) == fingerprint(load_d4rl(path))
    assert not caplog.text
    with pytest.raises(ValueError, match="time_limit must be at least 1, got 0"):
        load_d4rl(path, time_limit=0)


def test_d4rl_rewards_and_flags_may_stand_in_a_column(path):
    for leave_out in (set(), {"timeouts", "next_observations"}):
        arrays = write_d4rl(path, leave_out=leave_out)
        expected = load_d4rl(path)
        columns = {key: arrays[key][:, None] for key in ("rewards", "terminals", "timeouts") if key in arrays}
        write_d4rl(path, leave_out=leave_out, **columns)
        raw = load_d4rl(path)
        check(raw, env("Hopper-v5"))
        assert fingerprint(raw) == fingerprint(expected)


def test_d4rl_arrays_that_do_not_fit_are_refused(path):
    write_d4rl(path, rewards=np.zeros(3, np.float32))
    with pytest.raises(DatasetError, match=r"differ in length: .*'rewards': 3"):
        load_d4rl(path)
    write_d4rl(path, rewards=np.zeros((9, 2), np.float32))
    with pytest.raises(DatasetError, match=r"'rewards' must be an array of numbers of shape \(transitions,\), found"):
        load_d4rl(path)
    write_d4rl(path, leave_out={"actions"}, **{"actions/left": np.zeros((9, 2))})
    with pytest.raises(DatasetError, match=r"'actions' must be an array of numbers .* found a group"):
        load_d4rl(path)


def test_d4rl_files_that_are_none(path, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"nowhere.hdf5' does not exist: set dataset\.path"):
        load_d4rl(tmp_path / "nowhere.hdf5")
    path.write_text("<html>403 Forbidden</html>")
    with pytest.raises(DatasetError, match=r"\(26 bytes\) cannot be read as HDF5"):
        load_d4rl(path)
    nothing = {key: np.zeros((0, *shape), np.float32) for key, shape in (("observations", (S,)), ("actions", (A,)))}
    flat = {key: np.zeros(0, np.float32) for key in ("rewards", "terminals", "timeouts")}
    write_d4rl(path, leave_out={"next_observations"}, **nothing, **flat)
    with pytest.raises(DatasetError, match="is empty"):
        load_d4rl(path)


# ------------------------------------------------------------------------------------------- choice, checks, tensors


def test_whole_episodes_are_chosen_and_keep_their_order():
    raw = make_raw(lengths=(3, 2, 4, 1, 5, 2, 2, 3, 6, 1))
    some = select_episodes(raw, n_episodes=4, seed=7)
    assert some.n_episodes == 4
    assert np.all(np.diff(some.rewards) > 0)  # rewards count the transitions of `raw`
    chosen = raw.episode[some.rewards.astype(int)]
    assert [raw.episode_lengths[index] for index in np.unique(chosen)] == some.episode_lengths.tolist()
    assert fingerprint(some) == fingerprint(select_episodes(raw, n_episodes=4, seed=7))
    assert fingerprint(some) != fingerprint(select_episodes(raw, n_episodes=4, seed=8))
    assert set(some.rewards) < set(select_episodes(raw, fraction=0.7, seed=7).rewards)
    assert select_episodes(raw, fraction=0.01).n_episodes == 1
    assert fingerprint(select_episodes(raw, fraction=1.0)) == fingerprint(raw)
    assert select_episodes(raw) is raw


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"n_episodes": 2, "fraction": 0.5}, "exclude each other"),
        ({"n_episodes": 4}, "n_episodes=4, but 'made/up-v0' has episodes 1 to 3"),
        ({"n_episodes": 0}, "n_episodes=0"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\]"),
        ({"fraction": 1.5}, "got 1.5"),
    ],
)
def test_impossible_choices_are_refused(choice, message):
    with pytest.raises(DatasetError, match=message):
        select_episodes(make_raw(), **choice)


def spoil(key, index, value):
    raw = make_raw()
    if key.endswith("observations"):
        pair = {"observations": raw.observations, "next_observations": raw.next_observations}
        pair[key][index] = value
        rows, row = each_once([tuple(pair.values())])
        return dataclasses.replace(raw, rows=rows, row=row)
    array = getattr(raw, key).copy()
    array[index] = value
    return dataclasses.replace(raw, **{key: array})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (spoil("observations", (4, 1), np.nan), "1 value.s. of observations .* nan in episode 1, step 1, column 1"),
        (spoil("next_observations", (5, 2), -np.inf), "next_observations .* -inf in episode 2, step 0, column 2"),
        (spoil("rewards", slice(6, 8), np.inf), "2 value.s. of rewards .* inf in episode 2, step 1:"),
        (spoil("actions", (0, 0), np.nan), "actions .* nan in episode 0, step 0, column 0"),
        (
            spoil("actions", (slice(3, 5), 1), (3.01, -4)),
            r"2 of 9 actions lie outside .* -4 in column 1 \(episode 1, step 1\), where the bounds are \[-3, 3\]",
        ),
        (
            dataclasses.replace(make_raw(), rows=np.zeros((18, 5), np.float32)),
            "observations have 5 features, but Made-v5 has 3",
        ),
        (
            dataclasses.replace(make_raw(), actions=np.zeros((9, 1), np.float32), env_id=None),
            "actions have 1 features, but Made-v5 has 2; the dataset does not say",
        ),
        (
            dataclasses.replace(make_raw(), rewards=np.zeros(9)),
            r"rewards must be float32 of shape \(9,\), found float64",
        ),
        (
            dataclasses.replace(make_raw(), terminated=np.zeros(8, bool)),
            r"terminated must be bool of shape \(9,\), found bool of shape \(8,\)",
        ),
        (
            dataclasses.replace(make_raw(), rows=np.zeros((18, 3))),
            r"rows must be float32 of shape \(18, 3\), found float64",
        ),
        (
            dataclasses.replace(make_raw(), rows=make_raw().rows[:-1]),
            "row counts from 0 to 16, but there are 17 rows, and a next observation behind each",
        ),
        (dataclasses.replace(make_raw(), env_id="Other-v5"), "recorded in Other-v5, .* set env.id=Other-v5"),
        (
            RawData(*(getattr(make_raw(), field.name)[:0] for field in dataclasses.fields(RawData)[:7]), name="bare"),
            "'bare' is empty",
        ),
    ],
)
def test_unfit_data_are_refused_by_name_and_place(raw, message):
    with pytest.raises(DatasetError, match=message):
        check(raw, env("Made-v5"))


@pytest.mark.parametrize(
    ("present", "recorded", "advice"),
    [
        ("Hopper-v5", "HalfCheetah-v5", "env=HalfCheetah-v5"),
        ("Hopper-v5", "cql/UMaze-v0", "env=UMaze"),
        ("Hopper-v5", "Pusher-v5", "env.id=Pusher-v5"),  # has no file
        ("Pusher-v5", "HalfCheetah-v5", "env.id=HalfCheetah-v5"),  # an env.id that was given would win over env=
    ],
)
def test_the_environment_of_the_recording_is_advised_as_it_is_chosen(present, recorded, advice):
    with pytest.raises(DatasetError, match=f" set {advice} or choose"):
        check(dataclasses.replace(make_raw(), env_id=recorded), env(present))


def test_fit_data_pass_and_rounding_errors_at_the_bounds_too():
    check(make_raw(), env("Made-v5"))
    check(spoil("actions", (0, 0), np.float32(1) + np.float32(5e-6)), env("Made-v5"))


def test_tensors_hold_scaled_actions_and_untouched_states():
    raw = make_raw()
    raw.actions[:3] = [[-1, -3], [1, 3], [0.5, 0]]
    made = prepare(raw, action_low=LOW, action_high=HIGH)
    assert made.actions[:3].tolist() == [[-1, -1], [1, 1], [0.5, 0]]
    np.testing.assert_array_equal(made.observations.numpy(), raw.observations)
    np.testing.assert_array_equal(made.next_observations.numpy(), raw.next_observations)
    np.testing.assert_array_equal(made.rewards.numpy(), raw.rewards)
    assert made.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]  # a truncated episode still bootstraps
    assert len(made) == 9
    for key in ("observations", "actions", "rewards", "next_observations", "terminated"):
        tensor = getattr(made, key)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
    before = raw.rows.copy(), raw.actions.copy()
    made.rows.zero_()
    made.actions.zero_()
    np.testing.assert_array_equal(raw.rows, before[0])  # the tensors own their memory
    np.testing.assert_array_equal(raw.actions, before[1])


def test_actions_span_the_whole_range_where_bounds_are_not_symmetric():
    raw = dataclasses.replace(make_raw(), actions=np.tile(np.array([[0, 2], [4, 3], [2, 2.5]], np.float32), (3, 1)))
    made = prepare(raw, action_low=np.array([0, 2], np.float32), action_high=np.array([4, 3], np.float32))
    assert made.actions[:3].tolist() == [[-1, -1], [1, 1], [0, 0]]


def test_rewards_and_ends_follow_the_options():
    made = prepare(
        make_raw(), action_low=LOW, action_high=HIGH, reward_scale=2, reward_bias=-1, timeouts_as_terminals=True
    )
    assert made.rewards.tolist() == [2 * reward - 1 for reward in range(9)]
    assert made.terminated.tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 1]


def test_normalisation_uses_the_statistics_of_the_observations():
    raw = make_raw()
    raw.rows[:, 1] = 7  # constant: only the floor keeps its scale from zero
    made = prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True)
    mean = raw.observations.astype(float).mean(0)
    std = raw.observations.astype(float).std(0) + 1e-3
    np.testing.assert_allclose(made.normaliser.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(made.normaliser.std, std, rtol=1e-6)
    np.testing.assert_allclose(made.observations, (raw.observations - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.next_observations, (raw.next_observations - mean) / std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.normaliser.apply(torch.from_numpy(raw.observations)), made.observations)
    plain = prepare(raw, action_low=LOW, action_high=HIGH)
    observations = torch.from_numpy(raw.observations)
    assert torch.equal(plain.normaliser.apply(observations), observations)
    assert plain.fingerprint == made.fingerprint


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_the_fingerprint_sees_every_array(key):
    assert fingerprint(make_raw()) == fingerprint(make_raw())
    assert fingerprint(spoil(key, -1, 0.25)) != fingerprint(make_raw())
    assert fingerprint(dataclasses.replace(make_raw(), terminated=make_raw().truncated)) != fingerprint(make_raw())


def test_the_fingerprint_of_a_file_stays_what_it_was(path):
    # Checkpoints hold it: with another one, runs trained before could not go on.
    n = len(TERMINALS)
    changes = {
        "observations": (np.arange(n * S).reshape(n, S) % 7 / 8).astype(np.float32),
        "actions": (np.arange(n * A).reshape(n, A) % 5 / 4 - 0.5).astype(np.float32),
        "next_observations": (np.arange(n * S).reshape(n, S) % 11 / 16).astype(np.float32),
    }
    write_d4rl(path, **changes)
    assert fingerprint(load_d4rl(path)) == "625aa0a1b7e53b42"
    write_d4rl(path, **changes, leave_out={"next_observations"})
    assert fingerprint(load_d4rl(path)) == "b4949e5ac0c98ddf"


# --------------------------------------------------------------------------------- each observation in memory once


def d4rl_kinds():
    """Arrays of D4RL files with what can go wrong between a next observation and the row that follows."""
    generator = np.random.default_rng(1)
    n = 60
    terminals, timeouts = generator.random(n) < 0.1, generator.random(n) < 0.1
    terminals[[7, 8]], timeouts[[20, 21, n - 1]] = True, True  # episodes of one step too, and one cut at the file's end
    observations = generator.standard_normal((n, S)).astype(np.float32)
    following = np.concatenate([observations[1:], observations[:1]])
    own = np.where((terminals | timeouts)[:, None], np.float32(0.5) + observations, following)
    flags = {"terminals": terminals, "timeouts": timeouts}
    unlike = own.copy()
    unlike[::3, 1] += 1  # within episodes
    signed = observations.copy()
    signed[10:20, 0] = 0.0
    zeros = np.concatenate([signed[1:], signed[:1]])
    zeros[12:15, 0] = -0.0  # the same numbers, and other bits
    for name, arrays in {
        "its own next observations at the ends": {"next_observations": own},
        "the following row everywhere": {"next_observations": following},
        "next observations of no row": {"next_observations": unlike},
        "zeros of both signs": {"observations": signed, "next_observations": zeros},
        "no next observations": {},
        "no next observations, cut by the clock only": {"terminals": np.zeros(n, bool)},
        "no next observations, unfinished": {"timeouts": np.append(timeouts[:-1], False)},
        "float64": {"observations": observations.astype(float) + 1e-12, "next_observations": own.astype(float)},
    }.items():
        yield pytest.param({"observations": observations, **flags, **arrays}, id=name)


def two_copies(arrays):
    """Observations and next observations of the transitions that count, as two whole arrays."""
    terminals, timeouts = arrays["terminals"], arrays["timeouts"] & ~arrays["terminals"]
    observations = arrays["observations"].astype(np.float32)
    if "next_observations" in arrays:
        return observations, arrays["next_observations"].astype(np.float32)
    following = np.concatenate([observations[1:], observations[-1:]])
    following[terminals] = observations[terminals]
    keep = ~timeouts
    keep[-1] = terminals[-1]
    return observations[keep], following[keep]


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32).tolist()


@pytest.mark.parametrize("chunk", [4, 7, 10_000])
@pytest.mark.parametrize("arrays", list(d4rl_kinds()))
def test_what_is_stored_once_are_the_bits_of_two_copies(arrays, chunk, path, monkeypatch):
    monkeypatch.setattr(raw_module, "CHUNK", chunk)
    n = len(arrays["observations"])
    write_d4rl(
        path,
        leave_out={"next_observations"} - set(arrays),
        **{"actions": np.zeros((n, A), np.float32), "rewards": np.arange(n, dtype=np.float32), **arrays},
    )
    raw = load_d4rl(path)
    observations, next_observations = two_copies(arrays)
    assert bits(raw.observations) == bits(observations)
    assert bits(raw.next_observations) == bits(next_observations)
    # One row a transition, and one more where its next observation is not the following one.
    follows = [bits(a) == bits(b) for a, b in zip(next_observations[:-1], observations[1:], strict=True)]
    assert len(raw.rows) == len(raw) + 1 + follows.count(False)

    transitions = prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True)
    plain = Batch(
        transitions.normaliser.apply(torch.from_numpy(observations)),
        transitions.actions,
        transitions.rewards,
        transitions.normaliser.apply(torch.from_numpy(next_observations)),
        transitions.terminated,
    )
    counts = {
        "batch_size": 16,
        "action_size": A,
        "n_uniform": 2,
        "n_policy": 2,
        "n_next_policy": 2,
        "n_target": 1,
        "n_choices": (2, 1),
        "n_subset": 0,
    }
    ours, theirs = (Sampler([0, 1], **counts, device=torch.device("cpu")) for _ in range(2))
    for _ in range(5):
        for a, b in zip(
            (x for part in ours.draw(build.as_pool(transitions)) for x in part if x is not None),
            (x for part in theirs.draw(plain) for x in part if x is not None),
            strict=True,
        ):
            assert a.shape == b.shape
            assert a.is_contiguous() == b.is_contiguous()
            assert bits(a.numpy()) == bits(b.numpy())


@pytest.mark.parametrize("options", [{}, {"chunks": (5, S)}, {"chunks": (60, S), "compression": "gzip"}])
def test_the_blocks_of_a_file_change_nothing(options, path, monkeypatch):
    monkeypatch.setattr(raw_module, "CHUNK", 7)
    generator = np.random.default_rng(0)
    arrays = write_d4rl(
        path, **{key: generator.standard_normal((9, S)) for key in ("observations", "next_observations")}
    )
    with h5py.File(path, "a") as file:
        for key in ("observations", "next_observations"):
            del file[key]
            options = {**options, "chunks": (min(options["chunks"][0], 9), S)} if "chunks" in options else options
            file.create_dataset(key, data=arrays[key], **options)
    raw = load_d4rl(path)
    np.testing.assert_array_equal(raw.observations, arrays["observations"].astype(np.float32))
    np.testing.assert_array_equal(raw.next_observations, arrays["next_observations"].astype(np.float32))


def test_next_observations_of_another_size_are_refused(path):
    write_d4rl(path, next_observations=np.zeros((9, S + 1), np.float32))
    with pytest.raises(DatasetError, match="observations have 3 features, but next_observations 4"):
        load_d4rl(path)


def test_chosen_episodes_keep_their_observations():
    write_minari("tests/many-v0", [make_buffer(int(n), seed=int(n)) for n in (5, 2, 9, 14)])
    raw = load_minari("tests/many-v0")
    assert len(raw.rows) == len(raw) + 4
    some = select_episodes(raw, n_episodes=2, seed=3)
    kept = np.isin(raw.rewards, some.rewards)
    assert 0 < kept.sum() < len(raw)
    np.testing.assert_array_equal(some.observations, raw.observations[kept])
    np.testing.assert_array_equal(some.next_observations, raw.next_observations[kept])
    assert len(some.rows) == len(some) + 2


def test_a_wrong_number_of_steps_in_the_metadata_does_no_harm(root):
    write_minari("tests/count-v0", [make_buffer(5, seed=1), make_buffer(9, seed=2)])
    metadata = root / "tests" / "count-v0" / "data" / "metadata.json"
    known = json.loads(metadata.read_text())
    assert known["total_steps"] == 14
    expected = fingerprint(load_minari("tests/count-v0"))
    for wrong in (0, 3, 1000):
        metadata.write_text(json.dumps({**known, "total_steps": wrong}))
        raw = load_minari("tests/count-v0")
        assert fingerprint(raw) == expected
        assert (raw.rows.nbytes, raw.rows.base) == (16 * S * 4, None)


def test_the_tensors_hold_one_copy_and_take_over_the_memory_they_came_in():
    write_minari("tests/memory-v0", [make_buffer(50, seed=seed) for seed in range(4)])
    raw = load_minari("tests/memory-v0")
    m, n = len(raw), len(raw) + 4
    addresses = {key: getattr(raw, key).ctypes.data for key in ("rows", "row", "actions")}
    copied = prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True)
    made = prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True, in_place=True)
    tensors = [getattr(made, key) for key in ("rows", "row", "actions", "rewards", "terminated")]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == n * S * 4 + m * (8 + A * 4 + 4 + 4)
    for key, address in addresses.items():
        assert getattr(made, key).data_ptr() == address
        assert getattr(copied, key).data_ptr() != address
    assert made.fingerprint == copied.fingerprint
    for key in ("rows", "row", "actions", "rewards", "terminated"):
        assert torch.equal(getattr(made, key), getattr(copied, key))


@pytest.mark.parametrize("kind", ["minari", "d4rl", "d4rl without next observations"])
def test_loading_never_holds_a_second_copy(kind, path, monkeypatch):
    monkeypatch.setattr(raw_module, "CHUNK", 500)
    n, size = 20_000, 20
    generator = np.random.default_rng(0)
    if kind == "minari":
        spaces = {"observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (size,))}
        observations = generator.standard_normal((101, size))  # in float64
        write_minari("tests/peak-v0", [make_buffer(100, observations=observations)] * (n // 100), **spaces)
    else:
        observations = generator.standard_normal((n, size)).astype(np.float32)
        ends = np.arange(n) % 100 == 99
        write_d4rl(
            path,
            observations=observations,
            next_observations=np.concatenate([observations[1:], observations[:1]]),
            actions=np.zeros((n, A)),
            rewards=np.zeros(n),
            terminals=ends,
            timeouts=np.zeros(n, bool),
            leave_out={"next_observations"} if kind.endswith("without next observations") else (),
        )
    observation_bytes = n * size * 4
    tracemalloc.start()
    try:
        raw = load_minari("tests/peak-v0") if kind == "minari" else load_d4rl(path)
        resting, _ = tracemalloc.get_traced_memory()
        check(raw, env("any", size))
        prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True, in_place=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert resting > observation_bytes  # NumPy's memory is seen
    assert peak - resting < observation_bytes / 2


@pytest.mark.parametrize("shape", [(1, 3), (7, 1), (8193, 2), (70_000, 17), (3000, 376)])
def test_mean_and_deviation_are_those_of_the_whole_array(shape):
    generator = np.random.default_rng(0)
    observations = (generator.standard_normal(shape) * generator.uniform(0.01, 100, shape[1]) + 3).astype(np.float32)
    rows, row = each_once([(observations, observations + 1)])
    m = len(observations)
    flags, actions = np.zeros(m, bool), np.zeros((m, A), np.float32)
    raw = RawData(rows, row, actions, np.zeros(m, np.float32), flags, flags, np.zeros(m, np.int64), "made")
    normaliser = prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True).normaliser
    mean = observations.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = (observations.std(axis=0, dtype=np.float64) + data.STD_FLOOR).astype(np.float32)
    assert bits(normaliser.mean.numpy()) == bits(mean)
    assert bits(normaliser.std.numpy()) == bits(std)


def test_importing_the_readers_loads_no_library_of_theirs():
    readers = ("minari", "h5py", "gymnasium", "torch")
    code = f"import sys, cql.data.inspection; print([m for m in {readers} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert out.stdout.strip() == "[]"


def test_data_that_were_recorded_with_other_arguments_are_refused_until_these_are_given():
    raw = dataclasses.replace(
        make_raw(),
        env_id="Hopper-v5",
        env_kwargs={"healthy_reward": 100.0, "terminate_when_unhealthy": False, "render_mode": "rgb_array"},
        max_episode_steps=50,
    )
    with pytest.raises(DatasetError) as refused:
        check_source(raw, env("Hopper-v5"))
    assert "healthy_reward=100.0 (here 1.0)" in str(refused.value)
    (settings,) = re.findall(": set (.*) or choose another dataset", str(refused.value))
    overrides = OverridesParser.create().parse_overrides(shlex.split(settings))
    values = {each.key_or_group: each.value() for each in overrides}
    own = EnvSpec.of("Hopper-v5", values["env.kwargs"], values["env.max_episode_steps"])
    check_source(raw, env(own))


# ------------------------------------------------------------------------------- numbers that float32 cannot hold


def test_an_observation_that_normalisation_makes_infinite_is_named_with_its_step():
    raw = make_raw()
    largest = np.finfo(np.float32).max
    raw.rows[:, 1] = -largest
    raw.rows[raw.row[7], 1] = largest
    check(raw, env("Made-v5"))
    assert prepare(raw, action_low=LOW, action_high=HIGH).rows.isfinite().all()
    with pytest.raises(DatasetError, match=r"column 1 of the observations is not finite in float32 once") as refused:
        prepare(raw, action_low=LOW, action_high=HIGH, normalise_observations=True)
    assert "'made/up-v0'" in str(refused.value)
    assert "first in episode 2, step 2: repair it" in str(refused.value)
    assert "dataset.normalise_observations=false" in str(refused.value)


def test_a_reward_that_its_scale_makes_infinite_is_named_with_its_step():
    raw = make_raw()
    with pytest.raises(DatasetError, match=r"the reward of episode 1, step 1, 4, is not finite in float32 once"):
        prepare(raw, action_low=LOW, action_high=HIGH, reward_scale=1e38)
    assert prepare(raw, action_low=LOW, action_high=HIGH, reward_scale=1e30).rewards.isfinite().all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (np.array([b"False"] * 4), "must hold flags, found |S5"),
        (np.array([0.0, np.nan, 0.0, 1.0]), "is nan in row 1; a flag is 0 or 1"),
        (np.array([0, 0, 7, 1]), "is 7 in row 2; a flag is 0 or 1"),
    ],
)
def test_flags_that_are_none_are_refused(flags, said, tmp_path):
    write_minari("tests/flags-v0", [make_buffer(4)])
    path = Path(os.environ["MINARI_DATASETS_PATH"], "tests", "flags-v0", "data", "main_data.hdf5")
    with h5py.File(path, "r+") as file:
        del file["episode_0/terminations"]
        file["episode_0/terminations"] = flags
    with pytest.raises(DatasetError, match=re.escape(f"dataset 'tests/flags-v0', episode 0: terminations {said}")):
        load_minari("tests/flags-v0", download=False)
    with h5py.File(path, "r+") as file:
        del file["episode_0/terminations"]
        file["episode_0/terminations"] = np.array([0.0, 0.0, 0.0, 1.0])
    assert load_minari("tests/flags-v0", download=False).terminated.tolist() == [False] * 3 + [True]
