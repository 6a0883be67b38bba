"""Damaged and hostile datasets: each is read, or refused by name; none ends in an error of another kind."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import write_dataset

from cql import data
from cql.data.checks import check
from cql.data.policies import NpzPolicy, PolicyError
from cql.data.raw import DatasetError, RawData
from cql.rollout.envs import env_info

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    0.5,
    "",
    "x",
    [],
    {},
    [1],
    {"id": 3},
    "{",
    '{"id": 1}',
    '{"id": null}',
    "[]",
]
COUNTS = [(0, 60), pytest.param(1, 2000, marks=[pytest.mark.slow])]


def outcome(read: Callable[[], RawData]) -> str:
    info = env_info("InvertedPendulum-v5")
    try:
        check(read(), info)
    except DatasetError:
        return "refused by name"
    return "read"


def spoil(file: h5py.File, chance: random.Random) -> None:
    """Put something else in the place of one array."""
    key = chance.choice([name for name in KEYS if name in file])
    old = file[key][()]
    del file[key]
    match chance.randrange(12):
        case 0:
            pass
        case 1:
            file.create_group(key)
        case 2:
            file[key] = h5py.SoftLink("/nowhere")
        case 3:
            file[key] = h5py.ExternalLink("/etc/hostname", "/x")
        case 4:
            file.create_dataset(key, data=np.array([b"text"] * len(old)))
        case 5:
            file.create_dataset(key, data=old.reshape(-1)[: chance.randrange(1, old.size)])
        case 6:
            file.create_dataset(key, shape=(10_000_000, 4), dtype="f4", chunks=True)
        case 7:
            file.create_dataset(key, data=np.full(old.shape, chance.choice([np.nan, np.inf, 3e38, -1.0])))
        case 8:
            file.create_dataset(key, shape=(len(old),), dtype=h5py.string_dtype())
        case 9:
            file.create_dataset(key, data=np.zeros(len(old), [("a", "f4"), ("b", "i4")]))
        case 10:
            file.create_dataset(key, data=chance.choice([1.0, b"x", True]))
        case _:
            file.create_dataset(key, data=np.asarray(old, chance.choice(["f2", "f8", ">f4", "i8", "c8"])))


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_d4rl_files_with_other_members(tmp_path: Path, seed: int, n: int) -> None:
    chance, whole, path = random.Random(seed), write_dataset(tmp_path / "whole.hdf5"), tmp_path / "data.hdf5"
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            spoil(file, chance)
        outcomes[outcome(lambda: data.load_d4rl(path))] += 1
    print(dict(outcomes))  # noqa: T201  shown with -rP
    assert outcomes["refused by name"] > n / 3


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_d4rl_files_with_other_bytes(tmp_path: Path, seed: int, n: int) -> None:
    chance, path = random.Random(seed), tmp_path / "data.hdf5"
    whole = write_dataset(tmp_path / "whole.hdf5").read_bytes()
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        body = bytearray(whole)
        if chance.random() < 0.3:
            body = body[: chance.randrange(len(body))]
        # Most of a file are numbers; what describes them stands at its beginning.
        for _ in range(chance.randrange(1, 8)):
            if body:
                body[chance.randrange(min(len(body), 6000))] = chance.randrange(256)
        path.write_bytes(bytes(body))
        outcomes[outcome(lambda: data.load_d4rl(path))] += 1
    print(dict(outcomes))  # noqa: T201
    assert sum(outcomes.values()) == n


def _as(kind: pa.DataType, cells: tuple[str, ...]) -> pa.Array:
    """Texts as a column of a type, or as texts if they are not of it."""
    try:
        values = [float(each) for each in cells]
        return pa.array([[each] for each in values] if pa.types.is_list(kind) else values, kind)
    except (ValueError, pa.ArrowException):
        return pa.array(cells)


@pytest.mark.parametrize(("seed", "n"), COUNTS)
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_tables_with_other_cells_or_bytes(tmp_path: Path, ending: str, seed: int, n: int) -> None:
    chance, path = random.Random(seed), tmp_path / f"log.{ending}"
    names = ["id", *(f"obs_{i}" for i in range(4)), "act", "reward", "terminated"]
    numbers = np.random.default_rng(0).normal(size=(8, 6)).round(3)
    rows: list[list[Any]] = [[index // 4, *row, int(index == 3)] for index, row in enumerate(numbers.tolist())]
    odd = ["", "nan", "inf", "1e400", "x", "true", "7", "-0", " 1 ", '"', "\u00e9", "1,5", "0x10", "1_0", "[]"]
    outcomes: Counter[str] = Counter()

    def read() -> RawData:
        return data.load_table(path, observation_columns=["obs_*"], action_columns=["act"], episode_column="id")

    for _ in range(n):
        own, header = [list(row) for row in rows], list(names)
        for _ in range(chance.randrange(3)):
            chance.choice([header, *own])[chance.randrange(len(names))] = chance.choice(odd)
        if chance.random() < 0.2:
            del chance.choice([header, *own])[-1]
        if ending == "parquet":
            cells = zip(*((*map(str, row), "")[:8] for row in own), strict=True)
            kinds = [
                chance.choice([*[pa.float64()] * 9, pa.string(), pa.int8(), pa.list_(pa.float64())]) for _ in names
            ]
            pq.write_table(
                pa.table([_as(kind, each) for kind, each in zip(kinds, cells, strict=True)], (*header, "x")[:8]), path
            )
        else:
            text = "\n".join(",".join(map(str, row)) for row in (header, *own)).encode()
            path.write_bytes(gzip.compress(text) if ending == "csv.gz" else text)
        body = bytearray(path.read_bytes())
        for _ in range(chance.choice([0, 0, 1, 5])):
            body[chance.randrange(len(body))] = chance.randrange(256)
        path.write_bytes(bytes(body[: chance.randrange(len(body))] if chance.random() < 0.1 else body))
        outcomes[outcome(read)] += 1
    print(dict(outcomes))  # noqa: T201
    assert outcomes["refused by name"] > n / 4
    assert sum(outcomes.values()) == n


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_minari_folders_with_other_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, n: int) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    chance, folder = random.Random(seed), tmp_path / "tests" / "fuzz-v0" / "data"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for index in range(3):
            episode = file.create_group(f"episode_{index}")
            episode["observations"] = rng.normal(size=(6, 4)).astype(np.float32)
            episode["actions"] = rng.uniform(-3, 3, (5, 1)).astype(np.float32)
            episode["rewards"] = np.ones(5)
            episode["terminations"] = np.array([False] * 4 + [True])
            episode["truncations"] = np.zeros(5, bool)
    metadata = {
        "total_episodes": 3,
        "total_steps": 15,
        "data_format": "hdf5",
        "env_spec": json.dumps({"id": "InvertedPendulum-v5", "kwargs": {}, "max_episode_steps": 1000}),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    assert outcome(lambda: data.load_minari("tests/fuzz-v0", download=False)) == "read"
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        other = dict(metadata)
        match chance.randrange(4):
            case 0:
                del other[chance.choice(list(other))]
            case 1:
                spec = {"id": "InvertedPendulum-v5", "kwargs": {}, "max_episode_steps": 1000}
                spec[chance.choice(list(spec))] = chance.choice(ODD)
                other["env_spec"] = json.dumps(spec)
            case _:
                other[chance.choice(list(other))] = chance.choice(ODD)
        text = json.dumps(other).encode()
        if chance.random() < 0.2:
            text = chance.choice([text[: chance.randrange(len(text))], b"\xff" + text, b"[" * 50_000, b"null", b""])
        (folder / "metadata.json").write_bytes(text)
        outcomes[outcome(lambda: data.load_minari("tests/fuzz-v0", download=False))] += 1
    print(dict(outcomes))  # noqa: T201
    assert outcomes["refused by name"] > n / 4


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_policies_with_other_bytes_or_weights(tmp_path: Path, seed: int, n: int) -> None:
    chance, path = random.Random(seed), tmp_path / "policy.npz"
    weights = {
        "hidden_0.weight": np.ones((8, 4), np.float32), "hidden_0.bias": np.ones(8, np.float32),
        "hidden_1.weight": np.ones((8, 8), np.float32), "hidden_1.bias": np.ones(8, np.float32),
        "mean.weight": np.ones((1, 8), np.float32), "mean.bias": np.ones(1, np.float32),
        "log_std.weight": np.ones((1, 8), np.float32), "log_std.bias": np.ones(1, np.float32),
    }  # fmt: skip
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        other: dict[str, Any] = dict(weights)
        key = chance.choice(list(other))
        match chance.randrange(4):
            case 0:
                del other[key]
            case 1:
                other[key] = chance.choice([np.float32(1), np.zeros(0), np.array(["x"]), other[key].astype("f8")])
            case 2:
                other[key] = other[key] * chance.choice([np.nan, np.inf, 3e38, 1e5])
            case _:
                pass
        np.savez(path, **other)
        if chance.random() < 0.6:
            body = bytearray(path.read_bytes())
            for _ in range(chance.randrange(1, 20)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            path.write_bytes(bytes(body[: chance.randrange(len(body))] if chance.random() < 0.3 else body))
        try:
            policy = NpzPolicy.load(path)
        except PolicyError:
            outcomes["refused by name"] += 1
        else:
            assert np.isfinite(policy(np.full((3, 4), 1e3, np.float32), np.ones((3, 1), np.float32))).all()
            outcomes["read"] += 1
    print(dict(outcomes))  # noqa: T201
    assert outcomes["refused by name"] > n / 3
