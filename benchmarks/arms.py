"""One arm of a benchmark: a process of its own, whose last line is its result."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any


class ArmError(Exception):
    """An arm that ended without a result: why."""


def run(command: Sequence[str], *, seconds: float | None = None) -> dict[str, Any]:
    """The arm's last line.

    Raises:
        ArmError: it failed, or took longer than `seconds`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ArmError(f"not done after {seconds:.0f} s") from None
    if done.returncode:
        raise ArmError(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
