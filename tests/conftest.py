"""One thread for every test and for the processes they start: the same sums in the same order, and no crowding.

And what several files of tests start from.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from multirun import Sweep

# Read by torch, NumPy and their children when they are imported, which is after this file.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

# What is started in the background by a shell ignores interrupts, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported lives to the end: the garbage collector leaves it alone, and looks at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Scripts that run in this process configure logging, on streams that end with their test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset, for tests that only read it."""
    from tiny import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "pendulum.hdf5")


@pytest.fixture(scope="session")
def in_one_process(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of four runs in two stacks, without another launcher and undisturbed."""
    from multirun import Sweep, assert_complete

    sweep = Sweep(tmp_path_factory.mktemp("in_one_process"), dataset, alphas=(1, 5), seeds=(0, 1))
    assert sweep.run("hydra/launcher=stacked", "hydra.launcher.stack_size=2") == 0, sweep.said()
    assert_complete(sweep)
    return sweep


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Figures of runs are empty files: to draw three takes longer than to train, and test_curves.py tests them."""
    from cql import files
    from cql.training import curves

    def write_empty(directory: Path, **_: object) -> Path:
        files.write_bytes(directory / curves.KEY_CURVES_FILE, b"")
        return directory / curves.KEY_CURVES_FILE

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(curves, "key_curves", write_empty)
        yield
