"""Independent pieces of a step's arithmetic, in parallel on the processor's cores.

torch spreads each operator over its threads, which wait for each other after every one. Independent pieces wait once:
each runs on one thread from beginning to end, in the cache of that core, and its rounding does not depend on the number
of threads.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def each_alone(pieces: Sequence[Callable[[], T]]) -> list[T]:
    """Call functions on as many threads as torch has, with torch's operators on one thread in each of them.

    The calling thread is one of them. The functions run without gradients: the mode belongs to a thread.

    Args:
        pieces: they must not depend on one another.

    Returns:
        What they returned, in their order.
    """
    results: dict[int, T] = {}
    remaining = iter(enumerate(pieces))  # shared: a free thread takes the next

    @torch.no_grad()
    def work() -> None:
        for position, piece in remaining:
            results[position] = piece()

    n_threads = torch.get_num_threads()
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
