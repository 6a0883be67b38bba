"""Files that are whole or absent, whatever moment a process is killed at.

A file is written beside its final name, flushed to the disk and renamed. A reader sees the old contents or the new
ones, never a part. This is the only place of the program that does so, and the one that reads files of strangers.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ASIDE = ".partial-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside ``path``; when the block ends without an error, it takes the place of ``path``.

    The suffix of the path is kept, since writers of pictures choose their format by it. After an error, ``path`` is as
    it was and nothing is left beside it.

    Args:
        path: the final name, in a folder that exists.

    Raises:
        OSError: the file could not be written, flushed or renamed.
    """
    aside = path.with_name(f"{_ASIDE}{os.getpid()}-{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)  # noqa: PTH105  by this name, so that tests count renames in one place
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


class UnreadableError(OSError):
    """A file cannot be read, which does not mean that it is damaged."""


def contents(path: Path) -> bytes:
    """The contents of a file.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is no regular file, such as a pipe, which would be waited for; or this process cannot read
            it. The message names it.
    """
    if path.exists() and not path.is_file():
        raise UnreadableError(f"{path} is not a file")
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror}); it may be whole") from error


def damage(path: Path) -> str:
    """The path and what is wrong with its file, which could not be read as it should: it is empty, or damaged."""
    return f"{path} is {'empty' if path.stat().st_size == 0 else 'damaged'}"


def remove_leftovers(folder: Path, *, deep: bool = True) -> None:
    """Remove what killed writers left beside their files, in a folder that nobody writes to now.

    Args:
        folder: need not exist.
        deep: also in the folders in it.
    """
    for path in folder.rglob(f"{_ASIDE}*") if deep else folder.glob(f"{_ASIDE}*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Write bytes to a file, atomically."""
    with replacing(path) as aside:
        aside.write_bytes(contents)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
