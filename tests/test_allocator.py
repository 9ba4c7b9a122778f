"""Memory that is kept between steps, and given back after them."""

import gc
import platform

import numpy as np
import psutil
import pytest

from seodang.model.allocator import keep_freed_memory, return_freed_memory

BLOCK = 256 * 2**20  # bytes


def _taken() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_stays_until_it_is_returned() -> None:
    """A large block that is freed stays with the process, until all that is free is given back."""
    gc.collect()
    before = _taken()
    keep_freed_memory()
    np.ones(BLOCK, dtype=np.uint8)
    kept = _taken() - before
    return_freed_memory()
    assert kept > BLOCK // 2
    assert _taken() - before < BLOCK // 2
    np.ones(BLOCK, dtype=np.uint8)
    assert _taken() - before < BLOCK // 2
