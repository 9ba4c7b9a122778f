"""Memory that is kept between steps, and given back after them."""

import gc
import platform

import numpy as np
import psutil
import pytest

from seodang.model.allocator import freed_memory_kept

BLOCK = 256 * 2**20  # bytes


def _taken() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_inside_and_returned_after_the_outermost() -> None:
    """A large block that is freed stays with the process until the outermost context ends."""
    gc.collect()
    before = _taken()
    with freed_memory_kept():
        with freed_memory_kept():
            np.ones(BLOCK, dtype=np.uint8)
        assert _taken() - before > BLOCK // 2
    assert _taken() - before < BLOCK // 2
