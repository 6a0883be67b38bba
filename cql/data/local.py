"""The local folder of Minari datasets, and how a new dataset appears in it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cql.data.raw import DatasetError

log = logging.getLogger(__name__)

# Unfinished datasets are below this folder. Minari ignores names that begin with a dot.
WORK_FOLDER = ".cql-collecting"


def minari_root() -> Path:
    """Return the folder that holds Minari's datasets: `MINARI_DATASETS_PATH`, else `~/.minari/datasets`.

    Raises:
        DatasetError: the variable is empty, or the folder cannot be created.
    """
    from minari.storage import get_dataset_path

    if os.environ.get("MINARI_DATASETS_PATH") == "":
        raise DatasetError("MINARI_DATASETS_PATH is set but empty: unset it or give it a folder")
    try:
        return Path(get_dataset_path())
    except OSError as error:
        raise DatasetError(
            f"Minari's folder of datasets cannot be made ({error}): set MINARI_DATASETS_PATH to one you can write to"
        ) from error


def minari_folder(dataset_id: str) -> Path:
    """Return the folder of a Minari dataset on this machine, whether it exists or not.

    Raises:
        DatasetError: the id is not of Minari's form.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"'{dataset_id}' is not the id of a Minari dataset: ids look like mujoco/halfcheetah/medium-v0, "
            "a namespace of two letters or more, then a name with a version"
        ) from error
    return minari_root() / dataset_id


@contextlib.contextmanager
def new_dataset(dataset_id: str, *, overwrite: bool = False) -> Iterator[Path | None]:
    """Make a Minari dataset completely or not at all.

    The block writes the dataset below a hidden folder, which Minari passes over; at the block's end one rename moves it
    to its place. Neither an exception nor a kill leaves anything that passes for a dataset, and what a kill leaves in
    the hidden folder goes when the same dataset is next made. A process that comes second waits for the first.

    A dataset that is replaced is renamed just before. If the second rename fails, it returns to its place at once;
    after a kill between the two renames, it returns when this is next called for it.

    Args:
        dataset_id: the dataset's id.
        overwrite: at the block's end, put the dataset in the place of one that exists.

    Yields:
        The root to write below, to be given to Minari with `minari_root_set_to`; None if the dataset exists by now.
    """
    import fcntl

    import minari.namespace

    target = minari_folder(dataset_id)
    hidden_root = minari_root() / WORK_FOLDER / dataset_id.replace("/", "--")
    made, replaced = hidden_root / dataset_id, hidden_root / "replaced"
    hidden_root.parent.mkdir(exist_ok=True)
    with hidden_root.with_name(f"{hidden_root.name}.lock").open("w") as lock:
        try:  # the lock ends with the process, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is making %s; waiting for it", dataset_id)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _put_back(replaced, target, made)
        if target.exists() and not overwrite:
            yield None
            return
        shutil.rmtree(hidden_root, ignore_errors=True)
        hidden_root.mkdir()
        try:
            yield hidden_root
            namespace = dataset_id.rpartition("/")[0]
            if namespace and namespace not in minari.namespace.list_local_namespaces():
                with contextlib.suppress(ValueError):  # made meanwhile by a process that makes its neighbour
                    minari.namespace.create_namespace(namespace)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(replaced)  # a folder that holds something cannot be renamed over
            made.rename(target)
        finally:
            _put_back(replaced, target, made)  # if this fails too, nothing is deleted
            shutil.rmtree(hidden_root, ignore_errors=True)


def _put_back(replaced: Path, target: Path, made: Path) -> None:
    """Undo a replacement that came no further than its first rename.

    Once the second is done `made` is gone, and `replaced` only waits to be deleted, maybe in part already: whoever
    deletes the dataset then must not find the old one in its place.
    """
    if replaced.exists() and made.exists() and not target.exists():
        replaced.rename(target)
        log.info("put %s back, whose replacement was interrupted", target)


@contextlib.contextmanager
def minari_root_set_to(root: Path) -> Iterator[None]:
    """Let Minari write below another root, which it reads from the environment variable alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
