"""How the console shows progress: durations in words, and log lines above the progress bar."""

import contextlib
import logging
from collections.abc import Iterator

from tqdm.contrib.logging import logging_redirect_tqdm


def duration(seconds: float) -> str:
    """Seconds in words that a person reads at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def logging_above_bar() -> Iterator[None]:
    """Log to the console without tearing the bar apart."""
    root = logging.getLogger()
    before = list(root.handlers)
    with logging_redirect_tqdm():
        # tqdm's handler stands in for those of the console; older releases of tqdm leave out their filters.
        filters = [each for handler in before if handler not in root.handlers for each in handler.filters]
        for stand_in in (handler for handler in root.handlers if handler not in before):
            for each in filters:
                stand_in.addFilter(each)
        yield
