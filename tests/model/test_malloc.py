"""Memory that is kept between steps, and given back after them."""

import gc
import platform

import numpy as np
import psutil
import pytest

from seodang.model.malloc import keep_freed_memory, return_freed_memory

BLOCKS, BLOCK = 16, 16 * 2**20  # of so many bytes each


def _taken() -> int:
    return int(psutil.Process().memory_info().rss)


def _take_and_free() -> None:
    blocks = [np.ones(BLOCK, dtype=np.uint8) for _ in range(BLOCKS)]
    del blocks


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_stays_until_it_is_returned() -> None:
    """Blocks that are freed stay with the process, until all that is free is given back."""
    gc.collect()
    return_freed_memory()  # what other tests left free would be taken first
    before = _taken()
    keep_freed_memory()
    _take_and_free()
    kept = _taken() - before
    return_freed_memory()
    assert kept > BLOCKS * BLOCK // 2
    assert _taken() - before < BLOCKS * BLOCK // 2
    _take_and_free()
    assert _taken() - before < BLOCKS * BLOCK // 2
