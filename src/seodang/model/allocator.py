"""Main memory: freed blocks stay with the process, ready for the next step."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed; elsewhere, nothing is changed.

    By default it returns each block above 32 MiB to the system at once, and the next step gets its buffers anew, zeroed
    page by page at first touch: a sixth of a training step of a small model on a CPU. A step frees what the next one
    needs, so that the peak does not grow. Holds for the process, from the first model that is loaded onto the CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
