"""What the base measured, and under which settings: base.json. A run that is resumed under others measures it again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from seodang.types import Answer, Metric, Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementSettings:
    """What losses and answers depend on, beside the inputs that a run compares anyway."""

    device: str
    dtype: str
    compute_dtype: str
    attention: str
    four_bit: bool
    questions_sha256: str  # of prompts and sampling settings, in their order: answers alone depend on them

    def same_losses(self, other: "MeasurementSettings") -> bool:
        """Whether losses measured under the other settings are the same."""
        keys = ("device", "dtype", "compute_dtype", "attention", "four_bit")
        return all(getattr(self, key) == getattr(other, key) for key in keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseMeasurement:
    """base.json."""

    SCHEMA_VERSION: ClassVar[int] = 1
    settings: MeasurementSettings
    metrics: Mapping[str, Metric]  # source → loss on its holdout
    answers: tuple[Answer, ...]


def measurement_settings(
    placement: Placement, asked: Sequence[tuple[str, str]], *, four_bit: bool
) -> MeasurementSettings:
    """Args:
    asked: every question's prompt, and its sampling settings as JSON.
    """
    return MeasurementSettings(
        device=placement.device.split(":")[0],
        dtype=placement.dtype,
        compute_dtype=placement.compute_dtype,
        attention=placement.attention,
        four_bit=four_bit,
        questions_sha256=hashlib.sha256(json.dumps(list(asked)).encode()).hexdigest(),
    )
