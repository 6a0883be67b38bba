"""Datasets of mazes, hands and kitchens, in files of the layout that Minari and D4RL give them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from entry_points import load_script
from hydra.core.override_parser.overrides_parser import OverridesParser
from minari.data_collector import EpisodeBuffer

from cql import data
from cql.data import DatasetError, RawData, check, end_at_success, load_d4rl, load_minari, select_episodes
from cql.data.collect import Part, collect_dataset
from cql.data.policies import RandomPolicy
from cql.rollout.envs import EnvSpec, env_info, make_env

pytestmark = [
    pytest.mark.skipif(find_spec("gymnasium_robotics") is None, reason="needs the extra robotics"),
    pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning"),  # AntMaze v4, which Minari's data are of
]

ENDS = {"continuing_task": False}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def sampled(space, length, generator):
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: sampled(each, length, generator) for key, each in space.items()}
    return generator.standard_normal((length, *space.shape)).astype(space.dtype)


def write_minari(
    dataset_id, env_id, kwargs=None, lengths=(5, 7), success=None, info_at_reset=True, rewards=None, **options
):
    """A dataset as Minari's own generation scripts write it: its spaces, and infos that begin with the reset's."""
    spec = EnvSpec.of(env_id, kwargs)
    env_info(spec)  # registers it
    made = gymnasium.make(env_id, **(kwargs or {}))
    generator, buffers = np.random.default_rng(0), []
    for index, length in enumerate(lengths):
        infos = {}
        if success is not None:
            infos = {"success": np.array([False] * info_at_reset + [t in success[index] for t in range(length)])}
        own = np.array([float(t in (rewards or success or {}).get(index, ())) for t in range(length)])
        buffers.append(
            EpisodeBuffer(
                observations=sampled(made.observation_space, length + 1, generator),
                actions=generator.uniform(-1, 1, (length, made.action_space.shape[0])).astype(np.float32),
                rewards=own,
                terminations=np.zeros(length, bool),
                truncations=np.arange(length) == length - 1,
                infos=infos,
            )
        )
    minari.create_dataset_from_buffers(
        dataset_id, buffer=buffers, env=made.unwrapped.spec, eval_env=made.unwrapped.spec,
        algorithm_name="test", description="test", author="test", author_email="a@b.c",
        code_permalink="https://example.org", **options,
    )  # fmt: skip
    made.close()
    return minari.load_dataset(dataset_id)


@pytest.mark.parametrize(
    ("dataset_id", "env_id", "kwargs", "keys"),
    [
        ("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", ENDS, ["achieved_goal", "observation", "desired_goal"]),
        ("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3", {}, ["achieved_goal", "observation", "desired_goal"]),
        (
            "D4RL/kitchen/partial-v2",
            "FrankaKitchen-v1",
            {"tasks_to_complete": ["microwave", "kettle"]},
            ["observation"],
        ),
    ],
)
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_dicts_are_read_side_by_side(dataset_id, env_id, kwargs, keys, data_format):
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
        if "kitchen" in dataset_id:
            pytest.skip("minari 0.5.4 does not write nested Dicts as arrow")
    written = write_minari(dataset_id, env_id, kwargs, data_format=data_format)
    info = env_info(EnvSpec.of(env_id, kwargs))
    raw = load_minari(dataset_id, keys=info.observation_keys)
    check(raw, info)
    assert raw.observation_keys == tuple(keys)
    for index, episode in enumerate(written.iterate_episodes()):
        wanted = np.concatenate([episode.observations[key] for key in keys], axis=1)
        mine = raw.episode == index
        np.testing.assert_array_equal(raw.observations[mine], wanted[:-1].astype(np.float32))
        np.testing.assert_array_equal(raw.next_observations[mine], wanted[1:].astype(np.float32))


def test_minari_hands_are_vectors():
    write_minari("D4RL/pen/human-v2", "AdroitHandPen-v1")
    raw = load_minari("D4RL/pen/human-v2")
    assert (raw.rows.shape[1], raw.actions.shape[1], raw.observation_keys) == (45, 24, None)
    check(raw, env_info("AdroitHandPen-v1"))


def test_other_keys_give_other_vectors_and_both_sides_must_agree():
    write_minari("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3")
    own = EnvSpec.of("PointMaze_UMaze-v3", observation_keys=["observation", "desired_goal"])
    raw = load_minari("D4RL/pointmaze/umaze-v2", keys=own.observation_keys)
    assert raw.rows.shape[1] == 6
    check(raw, env_info(own))
    with pytest.raises(DatasetError, match=r"set env\.observation_keys=\[observation,desired_goal\]"):
        check(raw, env_info("PointMaze_UMaze-v3"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["state"], r"observations have no 'state', but a Dict of achieved_goal, desired_goal, observation"),
        (["observation", "achieved_goal/x"], r"observations have no 'achieved_goal/x'"),
    ],
)
def test_wrong_keys_are_refused_by_name(keys, message):
    write_minari("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3")
    with pytest.raises(DatasetError, match=rf"'D4RL/pointmaze/umaze-v2', episode 0: {message}"):
        load_minari("D4RL/pointmaze/umaze-v2", keys=keys)


def test_a_dataset_of_another_version_is_refused_with_what_makes_it_fit():
    """An ant of version 5 has 105 features where that of version 4 has 27."""
    write_minari("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v5")
    with pytest.raises(
        DatasetError, match=r"recorded in AntMaze_UMaze-v5, but the environment is AntMaze_UMaze-v4: set"
    ):
        check(load_minari("D4RL/antmaze/umaze-v1"), env_info("AntMaze_UMaze-v4"))


def test_arguments_of_the_recording_are_asked_for_and_defaults_are_not():
    usual = {"continuing_task": True, "reset_target": False}  # as PointMaze has them anyway
    layout = [[1, 1, 1], [1, "c", 1], [1, "c", 1], [1, 1, 1]]
    write_minari("me/plain-v0", "PointMaze_UMaze-v3", usual)
    check(load_minari("me/plain-v0"), env_info("PointMaze_UMaze-v3"))
    write_minari("me/layout-v0", "PointMaze_UMaze-v3", {**usual, "maze_map": layout})
    raw = load_minari("me/layout-v0")
    with pytest.raises(DatasetError) as refused:
        check(raw, env_info("PointMaze_UMaze-v3"))
    (setting,) = re.findall(": set (.*) or choose another dataset", str(refused.value))
    (override,) = OverridesParser.create().parse_overrides(shlex.split(setting))
    assert override.value() == {"maze_map": layout}
    check(raw, env_info(EnvSpec.of("PointMaze_UMaze-v3", override.value())))


# Ends at success ------------------------------------------------------------------------------------------------------


def made(lengths, rewards, success=None, terminated=()):
    """Episodes of one feature, which counts the steps."""
    total = sum(lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.isin(np.arange(total), np.cumsum(lengths) - 1)
    return RawData(
        rows=np.arange(total + len(lengths), dtype=np.float32)[:, None],
        row=np.arange(total) + episode,
        actions=np.zeros((total, 1), np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminated=np.isin(np.arange(total), terminated),
        truncated=ends & ~np.isin(np.arange(total), terminated),
        episode=episode,
        name="made/up-v0",
        success=None if success is None else np.asarray(success, bool),
    )


def test_episodes_end_at_their_first_success():
    raw = made([4, 3, 2], rewards=[0, 1, 1, 0, 0, 0, 0, 1, 1])
    cut = end_at_success(raw)
    assert cut.rewards.tolist() == [0, 1, 0, 0, 0, 1]
    assert cut.terminated.tolist() == [False, True, False, False, False, True]
    assert cut.truncated.tolist() == [False, False, False, False, True, False]
    assert cut.episode.tolist() == [0, 0, 1, 1, 1, 2]
    np.testing.assert_array_equal(cut.observations, raw.observations[[0, 1, 4, 5, 6, 7]])
    np.testing.assert_array_equal(cut.next_observations, raw.next_observations[[0, 1, 4, 5, 6, 7]])
    assert cut.episode_returns.tolist() == [1, 0, 1]
    assert raw.rewards.tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 1]


def test_what_the_dataset_says_of_success_counts_more_than_its_rewards():
    raw = made([3, 2], rewards=[0.3, -2, 5, 1, 1], success=[0, 1, 0, 0, 0])
    cut = end_at_success(raw)
    assert cut.terminated.tolist() == [False, True, False, False]
    assert cut.success.tolist() == [False, True, False, False]
    assert select_episodes(cut, n_episodes=1, seed=0).success is not None


def test_a_success_at_the_last_step_makes_a_truncated_episode_terminal():
    cut = end_at_success(made([2], rewards=[0, 1]))
    assert (cut.terminated.tolist(), cut.truncated.tolist()) == ([False, True], [False, False])


def test_data_without_a_success_stay_as_they_are(caplog):
    raw = made([2, 2], rewards=[0, 0, 0, 0], terminated=(3,))
    assert end_at_success(raw) is raw
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "'made/up-v0': 0 of 2 episodes are cut at their first success")
    ]


def test_how_many_are_cut_is_told_and_an_end_that_cannot_be_checked(caplog):
    with caplog.at_level("INFO", logger="cql.data.raw"):
        end_at_success(made([2, 2], rewards=[0, 1, 0, 0]), ends_there=False)
    assert "1 of 2 episodes are cut at their first success" in caplog.text
    assert "whether the environment ends at a success cannot be told" in caplog.text


def test_data_that_do_not_say_what_a_success_is_are_refused():
    with pytest.raises(DatasetError, match=r"no infos/success, and rewards other than 0 and 1, such as 0\.5"):
        end_at_success(made([2], rewards=[0, 0.5]))


@pytest.mark.parametrize("info_at_reset", [True, False])
def test_minaris_antmaze_is_cut_where_it_succeeded(info_at_reset):
    success = {0: (2, 3), 1: ()}
    write_minari("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", success=success, info_at_reset=info_at_reset)
    info = env_info(EnvSpec.of("AntMaze_UMaze-v4", ENDS))
    raw = load_minari("D4RL/antmaze/umaze-v1", keys=info.observation_keys, with_success=True)
    assert np.flatnonzero(raw.success).tolist() == [2, 3]
    check(raw, info, ends_at_success=True)
    cut = end_at_success(raw)
    assert np.bincount(cut.episode).tolist() == [3, 7]
    assert np.flatnonzero(cut.terminated).tolist() == [2]


def edit(dataset_id, change):
    with h5py.File(data.minari_folder(dataset_id) / "data" / "main_data.hdf5", "r+") as file:
        change(file)


def test_an_info_of_another_length_is_refused_by_its_episode():
    write_minari("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", success={0: (2,), 1: ()})

    def shorten(file):
        del file["episode_1/infos/success"]
        file["episode_1/infos/success"] = np.zeros(3, bool)

    edit("D4RL/antmaze/umaze-v1", shorten)
    with pytest.raises(DatasetError, match="episode 1: infos/success has 3 values for 7 steps"):
        load_minari("D4RL/antmaze/umaze-v1", with_success=True)
    assert load_minari("D4RL/antmaze/umaze-v1").success is None


@pytest.mark.parametrize("without", [0, 1])
def test_an_info_that_some_episodes_lack_is_refused(without):
    write_minari("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", success={0: (2,), 1: ()})
    edit("D4RL/antmaze/umaze-v1", lambda file: file.pop(f"episode_{without}/infos/success"))
    with pytest.raises(DatasetError, match="episode 1: some episodes have infos/success, others have not"):
        load_minari("D4RL/antmaze/umaze-v1", with_success=True)


def test_a_dataset_of_dicts_in_an_environment_of_vectors_asks_for_another_environment():
    raw = dataclasses.replace(made([2], rewards=[0, 0]), observation_keys=("a", "b"))
    with pytest.raises(DatasetError, match=r"sees all of Hopper-v5, which is no Dict: set env\.id=\.\.\. to the env"):
        check(raw, env_info("Hopper-v5"))


def test_an_environment_that_goes_on_at_the_goal_does_not_fit_data_that_end_there():
    write_minari("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4")
    raw = load_minari("D4RL/antmaze/umaze-v1")
    with pytest.raises(
        DatasetError, match=r"goes on there and rewards each step: set env\.kwargs=\{continuing_task:false\}"
    ):
        check(raw, env_info("AntMaze_UMaze-v4"), ends_at_success=True)
    with pytest.raises(
        DatasetError, match=r"with continuing_task=True \(here False\): set env\.kwargs=null or .*end_at"
    ):
        check(raw, env_info(EnvSpec.of("AntMaze_UMaze-v4", ENDS)))
    check(raw, env_info("AntMaze_UMaze-v4"))  # env.kwargs=null
    check(raw, env_info(EnvSpec.of("AntMaze_UMaze-v4", ENDS)), ends_at_success=True)


# D4RL -----------------------------------------------------------------------------------------------------------------


def write_d4rl(path, n, n_observed, n_actions, terminals=(), timeouts=()):
    """The members of D4RL's antmaze and hand files, with the infos that no reader here needs."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = generator.standard_normal((n, n_observed)).astype(np.float32)
        file["actions"] = generator.uniform(-1, 1, (n, n_actions)).astype(np.float32)
        file["rewards"] = np.isin(np.arange(n), terminals).astype(np.float32)
        file["terminals"] = np.isin(np.arange(n), terminals)
        file["timeouts"] = np.isin(np.arange(n), timeouts)
        file["infos/goal"] = generator.standard_normal((n, 2)).astype(np.float32)
        file["infos/qpos"] = generator.standard_normal((n, 15))
        file["infos/qvel"] = generator.standard_normal((n, 14))
        file["metadata/algorithm/name"] = "waypoint"


def test_d4rl_antmaze_is_read_and_its_other_maze_is_told(tmp_path, caplog):
    path = tmp_path / "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"
    write_d4rl(path, 20, 29, 8, terminals=(6,), timeouts=(13, 19))
    raw = load_d4rl(path)
    assert np.bincount(raw.episode).tolist() == [7, 6, 5]  # the last step of a cut episode has no next observation
    with pytest.raises(DatasetError, match="observations have 29 features, but AntMaze_UMaze-v4 has 31"):
        check(raw, env_info(EnvSpec.of("AntMaze_UMaze-v4", ENDS)))
    caplog.clear()
    check(raw, env_info(EnvSpec.of("AntMaze_UMaze-v4", ENDS, observation_keys=["achieved_goal", "observation"])))
    assert "If it is one of D4RL's, AntMaze_UMaze-v4 is another maze" in caplog.text


def test_d4rl_hands_fit_their_environment(tmp_path):
    path = tmp_path / "pen-human-v1.hdf5"
    write_d4rl(path, 20, 45, 24, timeouts=(9, 19))
    check(load_d4rl(path), env_info("AdroitHandPen-v1"))


# Collection -----------------------------------------------------------------------------------------------------------


def test_collected_dicts_are_stored_flat_with_their_keys_and_success():
    spec = EnvSpec.of(
        "PointMaze_UMaze-v3", {"continuing_task": False}, observation_keys=["observation", "desired_goal"]
    )
    episodes = collect_dataset("me/maze-v0", spec, [Part(RandomPolicy(6, 2), 3)], seed=0)
    written = minari.load_dataset("me/maze-v0")
    assert written.observation_space.shape == (6,)
    metadata = written.storage.metadata
    assert json.loads(metadata["observation_keys"]) == ["observation", "desired_goal"]
    assert written.spec.env_spec.kwargs["continuing_task"] is False
    raw = load_minari("me/maze-v0", with_success=True)
    np.testing.assert_array_equal(raw.rewards == 1, raw.success)
    np.testing.assert_array_equal(raw.success, np.concatenate([episode.success for episode in episodes]))
    check(raw, env_info(spec))
    with pytest.raises(DatasetError, match=r"set env\.observation_keys=\[observation,desired_goal\]"):
        check(raw, env_info(dataclasses.replace(spec, observation_keys=None)))
    again = make_env(spec)
    first, _ = again.reset(seed=episodes[0].seed)
    np.testing.assert_array_equal(first.astype(np.float32), raw.observations[0])


def test_the_command_that_collect_prints_has_the_arguments(monkeypatch, capsys):
    collect = load_script("collect")
    arguments = ["me/ant-v0", "--env", "AntMaze_UMaze-v4", "--env-kwargs", "{continuing_task: false}"]
    arguments += ["--observation-keys", "achieved_goal,observation", "--policy", "random", "--episodes", "1"]
    monkeypatch.setattr(sys, "argv", ["collect.py", *arguments])
    assert collect.main() == 0
    printed = capsys.readouterr().out
    command = shlex.split(printed.partition("train on it: ")[2])
    values = {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(command[2:])}
    assert values["env.kwargs"] == {"continuing_task": False}
    assert values["env.observation_keys"] == ["achieved_goal", "observation"]
    assert "D4RL score" in printed
    assert data.minari_folder("me/ant-v0").is_dir()


@pytest.mark.parametrize("text", ["3", "a", "{a: [", "[1]"])
def test_arguments_that_are_no_mapping_are_refused(text, monkeypatch, capsys):
    collect = load_script("collect")
    arguments = ["me/x-v0", "--env", "Hopper-v5", "--env-kwargs", text, "--policy", "random"]
    monkeypatch.setattr(sys, "argv", ["collect.py", *arguments])
    with pytest.raises(SystemExit):
        collect.main()
    assert f"argument --env-kwargs: {text!r} is not a mapping such as" in capsys.readouterr().err
    assert not Path(data.minari_root(), "me").exists()
