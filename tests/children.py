"""The entry point in a forked process, whose imports are done: a sweep of tiny runs takes a second or two."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import gymnasium  # noqa: F401  these are imported here so that no child spends its life importing them
import matplotlib.figure  # noqa: F401
import mujoco  # noqa: F401
from entry_points import load_script
from tiny import OVERRIDES

from cql.training import experiment  # noqa: F401

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


def start(dataset: Path, cwd: Path, *overrides: str, before: Callable[[], object] = lambda: None) -> int:
    """Begin `scripts/train.py` with the tiny dataset and sizes, after something else; the process id."""
    # Options first: Python's argparse takes no overrides on both sides of one.
    options = [text for text in overrides if text.startswith("-")]
    others = [text for text in overrides if text not in options]
    arguments = ["train.py", *options, "dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, *others]

    def task() -> None:
        warnings.simplefilter("default")  # of other people's packages; pytest has made them errors
        os.chdir(cwd)
        sys.argv = arguments
        before()
        entry_point().main()

    cwd.mkdir(parents=True, exist_ok=True)
    return fork(task, cwd / "output.txt")


def wait(child: int, cwd: Path) -> Ended:
    """The end of what :func:`start` began."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, (cwd / "output.txt").read_text())


def train(dataset: Path, cwd: Path, *overrides: str) -> Ended:
    """The whole of one call of `scripts/train.py`."""
    return wait(start(dataset, cwd, *overrides), cwd)


def kill(child: int, cwd: Path) -> Ended:
    """Kill it and wait for its end."""
    os.kill(child, signal.SIGKILL)
    return wait(child, cwd)
