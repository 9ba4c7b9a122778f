#!/usr/bin/env python3
"""The peer's arm with Liger's kernels switched on: arm_liger.py PEER.py [its arguments]."""

import runpy
import sys
from functools import partial

import trl

trl.SFTConfig = partial(trl.SFTConfig, use_liger_kernel=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
