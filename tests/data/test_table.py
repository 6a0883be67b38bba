"""Tables of transitions: what D4RL's file holds, named columns hold too; and what is wrong with a table is named."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import logging
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from composed import load
from tiny import OVERRIDES

from cql import data
from cql.commands import MissingPackageError
from cql.config.messages import ConfigError
from cql.config.names import dataset_label
from cql.data.inspection import find, inspect, text
from cql.data.raw import DatasetError, DatasetNotFoundError
from cql.rollout.envs import env_info
from cql.training.build import load_data

S, M = 12, 40
COLUMNS: dict[str, Any] = {"observation_columns": ["obs_*"], "action_columns": ["act_a", "act_b"]}
TRUNCATED = {"truncated_column": "truncated"}
NEXT = {"next_observation_columns": ["next_*"]}
IDS = {"episode_column": "id"}
Columns = dict[str, np.ndarray]


def columns() -> Columns:
    """Four episodes: terminated, truncated, both, and cut by the end of the file; columns in no order."""
    random = np.random.default_rng(0)
    found = {f"obs_{i}": random.normal(size=M).astype(np.float32) for i in reversed(range(S))}
    found |= {f"next_{i}": random.normal(size=M).astype(np.float32) for i in range(S)}
    found |= {name: random.uniform(-1, 1, M).astype(np.float32) for name in ("act_b", "act_a", "reward")}
    found["terminated"], found["truncated"] = np.zeros(M, bool), np.zeros(M, bool)
    found["terminated"][[9, 29]] = found["truncated"][[14, 29]] = True
    return found | {"id": np.array([3] * 10 + [7] * 5 + [1] * 15 + [2] * 10), "temperature": np.ones(M)}


def written(path: Path, columns: Columns) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return path


def as_hdf5(path: Path, columns: Columns, *, with_next: bool) -> Path:
    with h5py.File(path, "w") as file:
        file["observations"] = np.stack([columns[f"obs_{i}"] for i in range(S)], 1)
        if with_next:
            file["next_observations"] = np.stack([columns[f"next_{i}"] for i in range(S)], 1)
        file["actions"] = np.stack([columns["act_a"], columns["act_b"]], 1)
        file["rewards"], file["terminals"] = columns["reward"], columns["terminated"]
        file["timeouts"] = columns["truncated"]
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("ends", [TRUNCATED, IDS, TRUNCATED | IDS], ids=["flags", "ids", "both"])
@pytest.mark.parametrize("with_next", [False, True])
def test_a_table_is_what_d4rls_file_is(tmp_path: Path, ending: str, ends: dict[str, str], with_next: bool) -> None:
    own = columns()
    expected = data.load_d4rl(as_hdf5(tmp_path / "x.hdf5", own, with_next=with_next))
    found = data.load_table(written(tmp_path / f"x{ending}", own), **COLUMNS, **ends, **(NEXT if with_next else {}))
    for field in dataclasses.fields(expected):
        one, two = getattr(expected, field.name), getattr(found, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, field.name
            np.testing.assert_array_equal(one, two, field.name)
    assert data.fingerprint(expected) == data.fingerprint(found)
    assert (len(found), found.n_episodes) == ((40, 4) if with_next else (38, 4))
    assert found.terminated.sum() == found.truncated.sum() == 2


def test_numbers_in_names_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    own = columns()
    found = data.load_table(written(tmp_path / "x.csv", own), **COLUMNS, **IDS)
    np.testing.assert_array_equal(found.observations[0], [own[f"obs_{i}"][0] for i in range(S)])
    np.testing.assert_array_equal(found.actions[0], [own["act_a"][0], own["act_b"][0]])
    chosen = data.load_table(tmp_path / "x.csv", observation_columns=["obs_10", "obs_2"], action_columns=["act_a"])
    np.testing.assert_array_equal(chosen.observations[0], [own["obs_10"][0], own["obs_2"][0]])


def test_without_ends_the_file_is_one_episode(tmp_path: Path) -> None:
    found = data.load_table(written(tmp_path / "x.csv", columns()), **COLUMNS, terminated_column=None)
    assert (len(found), found.n_episodes, found.truncated.sum()) == (M - 1, 1, 1)


def test_whole_numbers_far_into_a_csv_may_become_fractions(tmp_path: Path) -> None:
    # pyarrow guesses a column's type from the file's first megabyte.
    path, n = tmp_path / "x.csv", 200_000
    path.write_text("obs_0,a,reward,terminated\n" + "0,0,0,0\n" * n + "0.5,0.25,0.125,1\n")
    found = data.load_table(path, observation_columns=["obs_0"], action_columns=["a"])
    assert (len(found), found.rewards[-1], found.terminated[-1]) == (n + 1, 0.125, True)


def test_what_is_read_and_what_is_not_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cql"):
        data.load_table(written(tmp_path / "x.csv", columns()), **COLUMNS, **NEXT, **IDS)
    assert "40 rows, " in caplog.text
    assert "actions act_a, act_b; not used: truncated, temperature" in caplog.text


def changed(name: str, row: int, value: object) -> Columns:
    own = columns()
    own[name] = own[name].astype(object)
    own[name][row] = value
    return own


@pytest.mark.parametrize(
    ("own", "given", "said"),
    [
        (columns(), {"reward_column": "rewards"}, "no column 'rewards' (dataset.reward_column); it has obs_11, "),
        (columns(), {"reward_column": "rewards"}, "did you mean reward?"),
        (columns(), {"reward_column": "obs_*"}, "no column 'obs_*' (dataset.reward_column); it has"),
        (columns(), {"observation_columns": ["ob_*"]}, "the star is a number); it has"),
        (columns(), {"observation_columns": ["ob_*"]}, "did you mean obs_*?"),
        (columns(), {"action_columns": ["act_a", "act_a"]}, "dataset.action_columns names column 'act_a' twice"),
        (
            columns(),
            {"action_columns": ["obs_0"]},
            "column 'obs_0' is in dataset.observation_columns and in dataset.action_columns",
        ),
        (columns() | {"obs_01": columns()["obs_1"]}, {}, "have the same number in dataset.observation_columns=obs_*"),
        (columns(), {"next_observation_columns": ["next_0"]}, "12 observation_columns, but 1 next_observation_columns"),
        (changed("obs_2", 4, "warm"), {}, "column 'obs_2': 'warm' is not a number (row 5 of the data)"),
        (changed("reward", 4, ""), {}, "column 'reward': no value (empty or NaN)"),
        (changed("act_a", 4, "nan"), {}, "column 'act_a': no value (empty or NaN)"),
        (changed("act_a", 4, "-inf"), {}, "column 'act_a': -inf is not finite"),
        (changed("act_a", 4, "1e39"), {}, "column 'act_a': 1e+39 is not finite, or too large for 32 bits"),
        (changed("terminated", 4, "2"), {}, "column 'terminated': '2' is not a flag: use 0 or 1, or false or true"),
        (changed("terminated", 4, "no"), {}, "column 'terminated': 'no' is not a flag: use 0 or 1, or false or true"),
        (changed("id", 39, 3), IDS, "column 'id': 3 comes back after another episode: sort the rows"),
        (changed("id", 39, ""), IDS, "column 'id': no value"),
        (changed("terminated", 3, True), IDS, "column 'terminated': True although the same id goes on in the next row"),
        ({name: column[:0] for name, column in columns().items()}, {}, "holds no transitions"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, own: Columns, given: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "x.csv", own)
    with pytest.raises(DatasetError) as caught:
        data.load_table(path, **COLUMNS | given)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_types_of_parquet_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    own: dict[str, Any] = {"obs_0": [[1.0], [2.0]], "a": ["x", "1"], "reward": [0, 1], "terminated": [0, 7]}
    pq.write_table(pa.table(own), tmp_path / "x.parquet")
    for name, said in (("obs_0", "column 'obs_0': [1.0] is not a number"), ("a", "column 'a': 'x' is not a number")):
        with pytest.raises(DatasetError) as caught:
            data.load_table(tmp_path / "x.parquet", observation_columns=[name], action_columns=["reward"])
        assert said in str(caught.value)
    with pytest.raises(DatasetError, match="7 is not a flag"):
        data.load_table(tmp_path / "x.parquet", observation_columns=["reward"], action_columns=["reward"])


def test_ids_of_parquet_may_be_categories(tmp_path: Path) -> None:
    own = columns()
    names, codes = np.unique(own["id"].astype(str), return_inverse=True)  # as pandas numbers them
    pq.write_table(pa.table({**own, "id": pa.DictionaryArray.from_arrays(codes, names)}), tmp_path / "x.parquet")
    assert data.load_table(tmp_path / "x.parquet", **COLUMNS, **IDS).n_episodes == 4


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"does not exist: set dataset\.path"):
        data.load_table(tmp_path / "x.csv", **COLUMNS)
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(DatasetError, match=r"is no table: set dataset\.path to a file \.csv, \.csv\.gz, \.parquet"):
        data.load_table(tmp_path / "x.txt", **COLUMNS)
    for name, contents in (("x.csv", b""), ("y.csv", b"a,b\n1\n"), ("x.parquet", b"PAR1"), ("x.csv.gz", b"\x1f\x8bx")):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(DatasetError, match=r"cannot be read as a table"):
            data.load_table(tmp_path / name, observation_columns=["a"], action_columns=["b"], reward_column="a",
                            terminated_column=None)  # fmt: skip


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pyarrow is not installed: pip install 'cql\[table\]'"):
        data.load_table(tmp_path / "x.csv", **COLUMNS)


# In configs -----------------------------------------------------------------------------------------------------------


def pendulum_table(dataset: Path, path: Path) -> Path:
    """The tiny dataset as a table."""
    with h5py.File(dataset) as file:
        members = {key: file[key][()] for key in file}
    own = {f"obs_{i}": members["observations"][:, i] for i in range(4)} | {"act": members["actions"][:, 0]}
    own |= {f"next_{i}": members["next_observations"][:, i] for i in range(4)}
    own |= {"reward": members["rewards"], "terminated": members["terminals"], "truncated": members["timeouts"]}
    return written(path, own)


def test_the_config_gives_the_same_transitions_as_d4rls_file(dataset: Path, tmp_path: Path) -> None:
    path, cpu = pendulum_table(dataset, tmp_path / "log.csv.gz"), torch.device("cpu")
    info = env_info("InvertedPendulum-v5")
    given = {"path": path, "observation_columns": "[obs_*]", "action_columns": "[act]", "truncated_column": "truncated",
             "next_observation_columns": "[next_*]"}  # fmt: skip
    alone = load("dataset=table", *(f"dataset.{key}={value}" for key, value in given.items()), *OVERRIDES)
    expected = load("dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES)
    assert dataset_label(alone.dataset) == "log"
    assert load_data(alone, info, cpu).fingerprint == load_data(expected, info, cpu).fingerprint
    own = ",".join(f"{key}:{value}" for key, value in given.items())
    mixed = load(
        "dataset=mixture",
        f"dataset.mixture=[{{kind:table,{own}}},{{kind:d4rl,path:{dataset}}}]",
        *OVERRIDES,
    )
    assert len(load_data(mixed, info, cpu)) == 2 * len(load_data(expected, info, cpu))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset.path=a.csv"], "dataset.observation_columns is missing: give columns, e.g. 'dataset.observation_"),
        (["dataset.observation_columns=obs_*"], "dataset.observation_columns=[first,second]"),
        (["dataset.path=a.csv", "dataset.observation_columns=[]", "dataset.action_columns=[a]"],
         "dataset.observation_columns is empty"),
    ],
)  # fmt: skip
def test_columns_that_a_config_lacks(overrides: list[str], said: str) -> None:
    from cql import config

    with pytest.raises(Exception) as caught:  # noqa: PT011 - of OmegaConf's or ours
        config.checked(config.compose(["dataset=table", *overrides]))
    assert said in str(config.explain(caught.value))


def test_an_inspection_asks_for_the_columns(dataset: Path, tmp_path: Path) -> None:
    path = pendulum_table(dataset, tmp_path / "log.csv")
    with pytest.raises(DatasetError, match="a table needs its observation_columns: add --observation-columns NAME"):
        find(str(path))
    name, source = find(str(path), columns={"observation_columns": ["obs_*"], "action_columns": ["act"]})
    assert (name, source.lost_steps, source.raw.observations.shape[1]) == ("log", 1, 4)
    found = inspect(source, data.recorded_info([source.raw]))
    assert (found.env_id, found.n_outside) == ("no simulator", 0)
    # The longest episode is no time limit that others could have reached.
    assert not {check.code: check.fired for check in found.checks}["terminals_at_limit"]
    assert text(found).startswith(f"{path}: no simulator, 20 episodes, ")


def test_a_key_of_a_table_is_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.reward_column"):
        load("dataset=embedded_hopper_medium", "+dataset.reward_column=x")
