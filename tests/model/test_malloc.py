"""Memory that is kept between steps, and given back after them."""

import platform
import subprocess
import sys

import pytest

IN_A_PROCESS_OF_ITS_OWN = """
import numpy as np
import psutil

from seodang.model.malloc import keep_freed_memory, return_freed_memory

BLOCKS, BLOCK = 16, 16 * 2**20  # of so many bytes each

def taken():
    return psutil.Process().memory_info().rss

def take_and_free():
    blocks = [np.ones(BLOCK, dtype=np.uint8) for _ in range(BLOCKS)]
    del blocks

before = taken()
keep_freed_memory()
take_and_free()
assert taken() - before > BLOCKS * BLOCK // 2
return_freed_memory()
assert taken() - before < BLOCKS * BLOCK // 2
take_and_free()
assert taken() - before < BLOCKS * BLOCK // 2
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_stays_until_it_is_returned() -> None:
    """Blocks that are freed stay with the process, until all that is free is given back."""
    ended = subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
