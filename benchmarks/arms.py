"""One arm of a benchmark: a process of its own, whose last line is its result."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

WARM_UP = 1  # steps, in which memory is touched for the first time


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


def steady(rows: Sequence[Any], each: int) -> Sequence[Any]:
    """Those of the steps that are timed, `each` a step; where there is but one step, all."""
    return rows[WARM_UP * each :] or rows


def speed(step_seconds: Sequence[float], rows: Sequence[dict[str, list[int]]], examples_per_step: int) -> float:
    """Tokens a second of the steps that are timed: their own tokens, since steps differ in length by a half.

    Args:
        rows: in the order in which the steps take them.
    """
    tokens = sum(len(row["input_ids"]) for row in steady(rows, examples_per_step))
    seconds: float = sum(steady(step_seconds, 1))
    return tokens / seconds
