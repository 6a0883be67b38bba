"""Who works in a folder, seen by every process that can see it: one process trains a run or starts a sweep at a time.

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
    """Another process works in the folder."""


@contextlib.contextmanager
def hold(directory: Path, *, name: str = LOCK_FILE, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a folder's lock during the block.

    Args:
        directory: The folder; it must exist.
        name: Of the file that is locked.
        patience: How many seconds to wait for another process that holds it.

    Raises:
        FolderInUseError: Another process holds it; the message names its process id and host.
        OSError: The file cannot be opened, or its file system has no locks; the message names the file.
    """
    path, deadline = directory / name, time.monotonic() + patience
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not (_locked(descriptor, path) and os.fstat(descriptor).st_nlink):
            if not os.fstat(descriptor).st_nlink:  # who held it has removed the file, so that others lock a new one
                os.close(descriptor)
                descriptor = -1
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            elif time.monotonic() > deadline:
                owner = path.read_text(encoding="utf-8").strip() or "another process"
                raise FolderInUseError(f"{directory} is in use by {owner}; wait for it, or stop it first")
            else:
                time.sleep(0.01)
        with contextlib.suppress(OSError):  # on a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def share(directory: Path, name: str) -> Iterator[None]:
    """Hold a folder's lock together with others that share it; seen by :func:`shared`."""
    descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def shared(directory: Path, name: str) -> bool:
    """Whether a process shares the lock of a folder now."""
    return _is_taken(directory / name, fcntl.LOCK_EX)


def _locked(descriptor: int, path: Path) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot be locked ({error.strerror}); the folder has to be on a file system with locks, such as a local "
            "disk, or NFS with its lock service",
            str(path),
        ) from error
    return True


def held(directory: Path) -> bool:
    """Whether a process trains in the folder now."""
    return _is_taken(directory / LOCK_FILE, fcntl.LOCK_SH)


def _is_taken(path: Path, wanted: int) -> bool:
    """Whether a lock cannot be had; if it can, it is free again at once."""
    try:
        # NFS grants an exclusive lock only to those who may write.
        descriptor = os.open(path, os.O_RDWR if wanted == fcntl.LOCK_EX else os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, wanted | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, where nobody can train
        return False
    finally:
        os.close(descriptor)
    return False
