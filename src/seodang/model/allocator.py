"""Main memory between the steps of training and of generation."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of malloc.h
_LARGEST = 32 * 2**20  # glibc's own limit of the threshold, to which it adapts
_entered = 0  # times; the outermost counts


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, glibc keeps large blocks that are freed, for the next step; elsewhere, nothing is changed.

    By default it returns each block above 32 MiB to the system at once, and the next step gets its buffers anew, zeroed
    page by page at first touch: a sixth of a training step of a small model on a CPU. A step frees what the next one
    needs, so that the peak does not grow; what other work frees fits nothing, so that it must stay outside.
    """
    global _entered
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    _entered += 1
    try:
        yield
    finally:
        _entered -= 1
        if not _entered:
            libc.mallopt(_M_MMAP_MAX, 65536)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
            libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)
            libc.malloc_trim(0)
