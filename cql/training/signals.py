"""Signals become notes, which the training loop reads between two steps."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


@dataclass
class Signals:
    """What came in during a step.

    Attributes:
        stop: the signal that asks to stop.
        of_others: signals that somebody else handles, each with its handler.
    """

    stop: int | None = None
    of_others: list[tuple[int, Callable[[int, FrameType | None], Any]]] = field(default_factory=list)


@contextlib.contextmanager
def noted_signals() -> Iterator[Signals]:
    """Turn signals into notes, so that the loop can act on them between two steps.

    The first SIGINT, or SIGTERM where nobody else handles it, asks to stop. SIGTERM, SIGUSR1 and SIGUSR2 that somebody
    else handles are kept for their handlers; all others are left alone.
    """
    signals = Signals()

    def stop(number: int, _: FrameType | None) -> None:
        if signals.stop is not None:
            raise KeyboardInterrupt
        signals.stop = number
        log.warning(
            "%s: stopping after this step with a checkpoint (once more to stop at once)", signal.Signals(number).name
        )

    def keep(number: int, _: FrameType | None) -> None:
        handler = previous[signal.Signals(number)]
        if (number, handler) not in signals.of_others:
            signals.of_others.append((number, handler))

    chosen = {signal.SIGINT: stop}
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if callable(signal.getsignal(number)):
            chosen[number] = keep
        elif number == signal.SIGTERM:
            chosen[number] = stop
    previous: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in chosen}
    installed = []
    try:
        for number, handler in chosen.items():
            # Only the main thread may; elsewhere whoever started the thread decides.
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
                installed.append(number)
        yield signals
    finally:
        for number in installed:
            signal.signal(number, previous[number])
