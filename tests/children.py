"""The entry point in a forked process, whose imports are done: a sweep of tiny runs takes a second or two."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import pickle
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium  # noqa: F401  these are imported here so that no child spends its life importing them
import mujoco  # noqa: F401
from entry_points import load_script
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.sweeper import Sweeper
from matplotlib.backends import backend_agg  # noqa: F401
from omegaconf import DictConfig
from tiny import OVERRIDES

from cql import config
from cql.files import write_bytes
from cql.results import sweep_figure
from cql.sweep import jobs, nested_jobs, stacks, workers  # noqa: F401
from cql.training import curves, experiment  # noqa: F401

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's plugins
    config.register()  # Hydra imports all plugins

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Ended:
    """How a child ended: its exit status (negative: the signal that killed it) and what it printed."""

    code: int
    text: str


def entry_point() -> ModuleType:
    """`scripts/train.py` as a module."""
    return load_script("train")


def fork(task: Callable[[], object], output: Path | None = None) -> int:
    """Run a task in a forked process; what it prints goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if output is not None:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            # Pytest's capture has replaced them.
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        task()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001  the parent reads it
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def start(
    dataset: Path, cwd: Path, *overrides: str, before: Callable[[], object] = lambda: None, lean: bool = False
) -> int:
    """Begin `scripts/train.py` with the tiny dataset and sizes, after something else; the process id.

    A lean process leaves out what takes longer than the training of tiny runs: figures are empty files, and Hydra
    composes the config of each job once, not once more before all of them to see that it can. A config that another
    lean process composed from the same overrides is read from a file.
    """
    # Options first: Python's argparse takes no overrides on both sides of one.
    options = [text for text in overrides if text.startswith("-")]
    others = [text for text in overrides if text not in options]
    arguments = ["train.py", *options, "dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, *others]

    def task() -> None:
        warnings.simplefilter("default")  # of other people's packages; pytest has made them errors
        os.chdir(cwd)
        sys.argv = arguments
        if lean:
            curves.key_curves = lambda directory, **_: _empty(directory / curves.KEY_CURVES_FILE)
            sweep_figure.sweep_curves = lambda folder: _empty(folder / sweep_figure.SWEEP_CURVES_FILE)
            Sweeper.validate_batch_is_legal = lambda *_: None
            ConfigLoaderImpl._load_configuration_impl = _shared_composition
        before()
        entry_point().main()

    cwd.mkdir(parents=True, exist_ok=True)
    return fork(task, cwd / "output.txt")


_compose = ConfigLoaderImpl._load_configuration_impl
_composed = tempfile.TemporaryDirectory(prefix="composed-")


def _shared_composition(loader: ConfigLoaderImpl, *given: Any, **named: Any) -> DictConfig:
    path = Path(_composed.name, hashlib.sha256(repr((given, named)).encode()).hexdigest())
    try:
        composed = pickle.loads(path.read_bytes())
    except FileNotFoundError:
        composed = _compose(loader, *given, **named)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(pickle.dumps(composed))
        partial.rename(path)
    composed.hydra.runtime.cwd = str(Path.cwd())  # all else depends on the overrides alone
    return composed


def _empty(path: Path) -> Path:
    write_bytes(path, b"")
    return path


def signal_before(sent: signal.Signals, call: str, path: str, nth: int = 1) -> Callable[[], None]:
    """What `start` is to do first so that its process gets a signal before it renames or flushes a certain file.

    Args:
        sent: the signal.
        call: `replace` for a rename to the path, `fsync` for a flush of it.
        path: pattern of the end of the path.
        nth: counts the calls that match.
    """

    def prepare() -> None:
        count, replace, fsync = 0, os.replace, os.fsync

        def at(name: str, file: str) -> None:
            nonlocal count
            if name == call and fnmatch.fnmatch(file, f"*{path}"):
                count += 1
                if count == nth:
                    os.kill(os.getpid(), sent)

        def replacing(source: Any, target: Any) -> None:
            at("replace", str(target))
            replace(source, target)

        def flushing(descriptor: int) -> None:
            at("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        os.replace, os.fsync = replacing, flushing

    return prepare


def wait(child: int, cwd: Path) -> Ended:
    """The end of what :func:`start` began."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, (cwd / "output.txt").read_text())


def train(dataset: Path, cwd: Path, *overrides: str, lean: bool = False) -> Ended:
    """The whole of one call of `scripts/train.py`."""
    return wait(start(dataset, cwd, *overrides, lean=lean), cwd)


def kill(child: int, cwd: Path) -> Ended:
    """Kill it and wait for its end."""
    os.kill(child, signal.SIGKILL)
    return wait(child, cwd)
