"""One process at a time trains in a run's folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from processes import holder

from cql.lock import FolderInUseError, held, hold

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
