"""Main memory between steps, of training or of generation, on a CPU.

glibc returns what is freed at the end of its heap to the system, and the next step gets its buffers anew, zeroed page
by page at first touch: a fifteenth of a training step of a small model. A step frees just what the next one needs; what
other work frees (an evaluation, a checkpoint) may not fit, so that it is returned. Blocks above 32 MiB are always
returned: kept ones are soon broken into pieces that fit nothing, and the process grows without end.
"""

import ctypes
import platform
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 32 * 2**20  # glibc's own limit of the threshold, to which it adapts


def keep_freed_memory() -> None:
    """From now on freed blocks of up to 32 MiB stay with the process; without glibc, nothing is changed."""
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Give back what is free, and from now on what is freed."""
    if libc := _glibc():
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
