"""What the C library does with memory that is freed."""

import ctypes
import logging
import platform

log = logging.getLogger(__name__)


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed, instead of giving them back and faulting them in at every step.

    The activations of one update are megabytes each, above the size from which glibc maps each block anew. Kept blocks
    make an update of one run about 5 % faster on two cores (docs/performance.md). Other C libraries are left as they
    are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # the parameters' numbers in malloc.h
    # Not by mmap_threshold, which glibc bounds at 32 MB without a word: the layers of a stack are larger.
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1)):
        if libc.mallopt(parameter, value) != 1:
            log.warning("mallopt(%d, %d) was refused; updates may be slower", parameter, value)
