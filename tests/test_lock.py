"""One process at a time trains in a run's folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import holder

from cql.lock import FolderInUseError, held, hold, share, shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def test_a_second_process_is_told_who_trains_there_and_a_kill_frees_the_folder(tmp_path: Path) -> None:
    assert not held(tmp_path)
    (tmp_path / "file").touch()
    assert not held(tmp_path / "file")  # where a folder was to be
    child = holder(tmp_path)
    assert held(tmp_path)
    with pytest.raises(FolderInUseError, match=f"process {child} on "), hold(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not held(tmp_path)
    with hold(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)


def test_who_only_asks_is_in_nobodys_way(tmp_path: Path) -> None:
    with hold(tmp_path):
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            held(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(200):
            with hold(tmp_path):
                pass
    finally:
        stop.set()
        asking.join()


def test_a_lock_that_is_shared_is_seen_and_in_nobodys_way(tmp_path: Path) -> None:
    assert not shared(tmp_path, ".running")
    with share(tmp_path, ".running"), share(tmp_path, ".running"):
        assert shared(tmp_path, ".running")
    assert not shared(tmp_path, ".running")


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    """Who waits for the old file would hold a lock that nobody else sees."""
    path, got = tmp_path / ".starting", threading.Event()

    def wait() -> None:
        with hold(tmp_path, name=".starting", patience=60.0):
            got.set()
            time.sleep(0.2)

    with hold(tmp_path, name=".starting"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        assert not got.is_set()
        path.unlink()
        assert got.wait(10.0)  # of the new file
        with pytest.raises(FolderInUseError), hold(tmp_path, name=".starting", patience=0.01):
            pass
    waiting.join()
