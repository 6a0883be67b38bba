"""Files are whole or absent."""

from __future__ import annotations

import os
import signal

import pytest

from cql import files


def test_text_and_bytes_are_written(tmp_path):
    files.write_text(tmp_path / "a.txt", "ä\n")
    files.write_bytes(tmp_path / "b.bin", b"\x00\x01")
    assert (tmp_path / "a.txt").read_bytes() == "ä\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\x01"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.bin"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def interrupted():
        with files.replacing(path) as aside:
            aside.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_contents_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor, real=os.fsync: (calls.append("fsync"), real(descriptor)))
    monkeypatch.setattr(os, "replace", lambda a, b, real=os.replace: (calls.append("replace"), real(a, b)))
    files.write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace", "fsync"]  # the contents, the name, the folder that holds it


def test_the_suffix_is_kept_for_writers_that_choose_their_format_by_it(tmp_path):
    with files.replacing(tmp_path / "film.gif") as aside:
        assert aside.suffix == ".gif"
        assert aside.parent == tmp_path
        aside.write_bytes(b"")


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "file.txt"
    child = os.fork()
    if child == 0:
        with files.replacing(path) as aside:
            aside.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    files.write_text(path, "whole")
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "whole"
    files.remove_leftovers(tmp_path / "absent")
