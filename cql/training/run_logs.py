"""The log file of each run, and what of several runs' logs the console shows."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

LOG_FILE = "train.log"
RAISED = "is_raised"
"""The attribute of a record of an error that is raised too, so that the console need not show it twice."""


@contextlib.contextmanager
def run_logs(directories: Sequence[Path], *, quiet: bool) -> Iterator[None]:
    """Give each run its ``train.log``, which says nothing of the other runs.

    A log record with the attribute ``run_dir`` belongs to that run, one with ``stack`` to the stack, any other to every
    run. One with :data:`RAISED` set is for the files alone.

    Args:
        directories: one per run.
        quiet: keep what the runs report, below warnings, off the handlers that are there already.
    """

    def belongs(directory: Path) -> Callable[[logging.LogRecord], bool]:
        return lambda record: getattr(record, "run_dir", directory) == directory and not hasattr(record, "stack")

    def is_shown(record: logging.LogRecord) -> bool:
        if getattr(record, RAISED, False):
            return False
        return not quiet or record.levelno >= logging.WARNING or not hasattr(record, "run_dir")

    root = logging.getLogger()
    there, added = list(root.handlers), []
    try:
        for directory in directories:
            handler = _RunLog(directory / LOG_FILE)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            handler.addFilter(belongs(directory))
            root.addHandler(handler)
            added.append(handler)
        for other in there:
            other.addFilter(is_shown)
            if quiet:
                other.setFormatter(_NamesTheRun(other.formatter))
        yield
    finally:
        for other in there:
            other.removeFilter(is_shown)
            if isinstance(other.formatter, _NamesTheRun):
                other.setFormatter(other.formatter.inner)
        for handler in added:
            root.removeHandler(handler)
            handler.close()


def check_log(directory: Path) -> None:
    """Check that a run's log can be written.

    Raises:
        OSError: It cannot; the message names the file.
    """
    path = directory / LOG_FILE
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file: remove it")  # a pipe would be waited for
    path.open("ab").close()


class _RunLog(logging.Handler):
    """Appends records to a file, which is open for that moment only: a stack may have more runs than open files.

    A record that cannot be written is left out. What else the run writes there will fail too, and that ends the run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(self.format(record) + "\n")
        except OSError:
            pass
        except Exception:  # noqa: BLE001  a wrong call of somebody's logger
            self.handleError(record)


class _NamesTheRun(logging.Formatter):
    """Puts the run's name before what a run reports."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        self.inner = inner
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "run_dir"):
            record = copy.copy(record)
            record.msg, record.args = f"{record.__dict__['run_dir'].name}: {record.getMessage()}", None
        return (self.inner or logging.Formatter()).format(record)
