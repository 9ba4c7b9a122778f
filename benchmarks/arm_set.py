#!/usr/bin/env python3
"""The peer's arm with one more of its own switches on: arm_set.py use_liger_kernel|bf16 PEER.py [its arguments]."""

import runpy
import sys
from typing import Any

import trl

_, switch, *arguments = sys.argv
config_class = trl.SFTConfig


def config(**settings: Any) -> Any:
    """The peer's own settings and the switch."""
    return config_class(**{**settings, switch: True})


trl.SFTConfig = config
sys.argv = arguments
runpy.run_path(sys.argv[0], run_name="__main__")
