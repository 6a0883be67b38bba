"""What tests of child processes wait for and look at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cql.lock import LOCK_FILE, hold

SECONDS = 120.0
"""The longest that anything may take while other work has the cores."""


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def holder(directory: Path, name: str = LOCK_FILE) -> int:
    """A child that holds a folder's lock until it is killed."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with hold(directory, name=name):
                os.write(told, b"x")
                time.sleep(60)
        finally:
            os._exit(0)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(told)
    return child


def is_running(process_id: int) -> bool:
    """Whether a process exists and is more than an entry that its parent has not read."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cql.rollout.worker"]
