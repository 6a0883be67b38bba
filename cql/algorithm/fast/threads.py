"""Independent pieces of a step's arithmetic, side by side on the processor's cores.

torch spreads each operator over its threads, which meet after every one. Pieces that need nothing of each other meet
once: each runs on one thread from beginning to end, out of that core's own cache, and its rounding does not depend on
how many threads there are.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def each_alone(pieces: Sequence[Callable[[], T]], device: torch.device) -> list[T]:
    """Call functions on as many threads as torch has, the calling one among them, each with torch's operators on one.

    They run without gradients, whose mode is a thread's own. Anywhere but on a processor they are called one after the
    other.

    Args:
        pieces: they must not depend on one another.
        device: of their tensors.

    Returns:
        What they returned, in their order.
    """
    results: dict[int, T] = {}
    remaining = iter(enumerate(pieces))  # shared: whoever is free takes the next

    @torch.no_grad()
    def work() -> None:
        for position, piece in remaining:
            results[position] = piece()

    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    if n_threads == 1:
        work()
        return [results[position] for position in range(len(pieces))]
    helpers: list[Future[None]] = []
    torch.set_num_threads(1)
    try:
        pool = _pool(n_threads - 1)
        helpers = [pool.submit(work) for _ in range(min(n_threads, len(pieces)) - 1)]
        work()
    finally:
        failures = [helper.exception() for helper in helpers]  # which waits for it
        torch.set_num_threads(n_threads)
    for failure in failures:
        if failure is not None:
            raise failure
    return [results[position] for position in range(len(pieces))]


def _pool(size: int) -> ThreadPoolExecutor:
    """Threads whose operators run on one thread each, kept from step to step; a forked process starts its own."""
    key = os.getpid(), size
    if key not in _pools:
        # torch.set_num_threads sets something of the calling thread's and something of the process's: all threads must
        # have done so before the caller gives the process its own number back.
        ready = threading.Barrier(size + 1)

        def begin() -> None:
            torch.set_num_threads(1)
            ready.wait()

        pool = ThreadPoolExecutor(size, "arithmetic", begin)
        for _ in range(size):
            pool.submit(int)  # starts a thread as long as none is idle, and none is before all have begun
        ready.wait()
        _pools[key] = pool
    return _pools[key]
