"""Where strangers' files are read: what h5py, json and NumPy raise of them becomes an error that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cql.data.raw import DatasetError

_OF_DAMAGE = (
    OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, MemoryError, OverflowError,
    RecursionError,
)  # fmt: skip


@contextlib.contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Make a DatasetError of whatever a damaged file raises in the block; those of the block itself pass.

    Args:
        what: the file or dataset, for the message.
        remedy: what to do if it is damaged.

    Raises:
        DatasetError: the file cannot be read now, needs a filter that is not installed, or is damaged.
    """
    try:
        yield
    except DatasetError:
        raise
    except (PermissionError, BlockingIOError) as error:
        raise DatasetError(
            f"{what} cannot be read now ({error}); it may be whole: look at who may read it, and whether another "
            "program has it open"
        ) from error
    except _OF_DAMAGE as error:
        if "filter" in str(error):
            raise DatasetError(
                f"{what} was compressed with a filter that is not installed here ({error}): `pip install hdf5plugin` "
                "brings the common ones, or write it again with gzip"
            ) from error
        raise DatasetError(f"{what} ({type(error).__name__}: {error}): {remedy}") from error


def regular(path: Path) -> Path:
    """A path that is a file; a pipe would be waited for.

    Raises:
        OSError: it is none.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is {'not a file' if path.exists() else 'missing'}")
    return path


def stored_here(member: Any, where: str) -> Any:
    """An HDF5 dataset whose values are all in its own file.

    Raises:
        DatasetError: its values are in another file, or some were never written.
    """
    if member.external or member.is_virtual:
        raise DatasetError(f"{where} keeps its values in another file, which is not read")
    if member.size:
        if member.chunks is None:
            n_missing = int(member.id.get_storage_size() == 0)
        else:
            n_chunks = 1
            for length, chunk in zip(member.shape, member.chunks, strict=True):
                n_chunks *= -(-length // chunk)
            n_missing = n_chunks - member.id.get_num_chunks()
        if n_missing:
            raise DatasetError(f"{where} declares values of shape {member.shape} that were never written")
    return member
