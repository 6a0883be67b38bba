"""The file format is a promise: whole or absent, versioned, safe to open."""

from pathlib import Path

import pytest
import torch

from cql.training import checkpoint
from cql.training.checkpoint import CheckpointError, CheckpointFolder

CONTENTS = {"step": 7, "config": {"seed": 0, "name": None}, "agent": {"w": torch.arange(6.0).reshape(2, 3)}}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", CONTENTS)
    loaded = checkpoint.read(tmp_path / "a.pt")
    assert torch.equal(loaded["agent"]["w"], CONTENTS["agent"]["w"])
    assert {key: loaded[key] for key in ("step", "config", "format_version")} == {
        "step": 7,
        "config": {"seed": 0, "name": None},
        "format_version": checkpoint.FORMAT_VERSION,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_torch_itself_loads_it_without_running_code(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", CONTENTS)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 7


@pytest.mark.parametrize("position", [0, 100, 700, -80, -1])
def test_an_altered_byte_is_noticed(tmp_path: Path, position: int) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENTS)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged"):
        checkpoint.read(path)


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_truncated_file_is_noticed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENTS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged"):
        checkpoint.read(path)


def test_another_format_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "FORMAT_VERSION", 99)
        checkpoint.save(tmp_path / "a.pt", CONTENTS)
    with pytest.raises(CheckpointError, match="format version 99"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENTS)
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"pickle|local"):
        checkpoint.save(path, {"bad": lambda: None})
    assert checkpoint.read(path)["step"] == 7


def test_the_folder_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", n_kept=2)
    for step in (10, 20, 30):
        folder.write(step, {"step": step})
        folder.prune(step)
    folder.write_best({"step": 10})
    assert folder.steps() == [20, 30]
    assert checkpoint.read(folder.find("best"))["step"] == 10
    assert folder.find("last") == folder.path(30)
    for name in ("20", "step_0000020", "step_0000020.pt"):
        assert folder.find(name) == folder.path(20)
    with pytest.raises(CheckpointError, match="no checkpoint '10'; there are: best, last, 20, 30"):
        folder.find("10")


def test_what_is_newer_than_a_step_is_dropped(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, n_kept=1)
    for step in (10, 20, 30):
        folder.write(step, {"step": step})
    folder.write_best({"step": 30})
    folder.cut(20)
    assert folder.steps() == [10, 20]
    folder.cut(20)
    assert folder.steps() == [10, 20]
    folder.write(30, {"step": 30})
    folder.prune(20)
    assert folder.steps() == [20, 30]
    assert folder.best.exists()
