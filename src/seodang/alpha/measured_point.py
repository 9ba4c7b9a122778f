"""What one alpha measured: alpha/HALF-ALPHA.json, from which a measurement that was stopped is resumed.

All losses are sums of −log p in nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seodang.errors import SeodangError
from seodang.json_values import to_json
from seodang.proof.measured_rows import Half
from seodang.run.base_measurement import MeasurementSettings, RowLoss
from seodang.run.folder import ALPHA_POINTS, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPoint:
    """One blend's losses on the rows of one half."""

    SCHEMA_VERSION: ClassVar[int] = 1

    settings: MeasurementSettings  # `weights` names both models, `rows` the rows of this half
    alpha: float
    half: Half
    losses: Mapping[str, tuple[RowLoss, ...]]  # source → its rows of this half, in the order of the holdout


def keep_point(run: Run, point: MeasuredPoint) -> None:
    """Write a point, whole or not at all."""
    (run.folder / ALPHA_POINTS).mkdir(exist_ok=True)
    run.write_json(_name(point.alpha, point.half), to_json(point))


def kept_point(run: Run, alpha: float, half: Half, settings: MeasurementSettings) -> MeasuredPoint | None:
    """A point that was measured before with the same weights, rows and hardware settings."""
    found = read_point(run, alpha, half)
    return found if found and found.settings == settings else None


def read_point(run: Run, alpha: float, half: Half) -> MeasuredPoint | None:
    """A point that was measured before, under whichever settings.

    One that is damaged, or of another version, counts as none: it is measured again.
    """
    try:
        return run.read_value(MeasuredPoint, _name(alpha, half))
    except SeodangError:
        return None


def _name(alpha: float, half: Half) -> str:
    return f"{ALPHA_POINTS}/{half}-{alpha:g}.json"
