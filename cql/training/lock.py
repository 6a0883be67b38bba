"""Who trains in a run's folder: one process at a time, seen by every process that can see the folder.

The lock is the kernel's (``flock``), so it ends with its process, however that ends: no stale lock remains.
Not ``filelock``: it cannot tell whether a lock is held without taking it, which creates the file, and its shared lock
is an SQLite database.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = ".lock"
_PATIENCE = 0.2  # seconds; `held` takes the lock for a moment


class FolderInUseError(RuntimeError):
    """Another process trains in the folder."""


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold a folder's lock during the block.

    Args:
        directory: The folder of the run; it must exist.

    Raises:
        FolderInUseError: Another process holds it; the message names its process id and host.
    """
    path = directory / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    owner = path.read_text(encoding="utf-8").strip() or "another process"
                    raise FolderInUseError(
                        f"{directory} is being trained by {owner}; wait for it, or stop it first"
                    ) from error
                time.sleep(0.01)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def held(directory: Path) -> bool:
    """Whether a process trains in the folder now."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
