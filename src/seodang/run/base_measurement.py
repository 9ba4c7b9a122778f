"""What one model measured, row by row; of the base, with its settings: base.json.

A run that is resumed under other settings measures it again. All losses are sums of −log p in nats.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from seodang.types import Answer, Placement

Form = Literal["template", "plain"]  # the trained chat template; a plain question/answer form in the data's language


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLoss:
    """One model's loss on the supervised tokens of one row."""

    content: float
    ending: float  # of the turn-end tokens; 0 where none is supervised

    @property
    def total(self) -> float:
        """Of all supervised tokens."""
        return self.content + self.ending


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLosses:
    """The content of one answer behind its own prompt, and behind those of other rows."""

    own: float
    foreign: tuple[float, ...]  # one for each foreign prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerLosses:
    """One model's losses on a row's last answer, behind its own prompt and those of other rows."""

    form: Form  # of `losses`
    template: float  # the content behind its own prompt in the chat template
    plain: float | None  # the same in the plain form, where that was tried
    ending: float  # in the chat template
    losses: PromptLosses


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRow:
    """One model on one row."""

    loss: RowLoss
    answer: AnswerLosses | None = None  # none where no contrast is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementSettings:
    """What losses and answers depend on, beside the inputs that a run compares anyway."""

    device: str
    dtype: str
    compute_dtype: str
    attention: str
    four_bit: bool
    questions_sha256: str  # of all that is asked, in its order: answers alone depend on it
    weights: str  # hash of all of the model's weights
    rows: str  # hash of ids and labels that are scored

    def same_losses(self, other: "MeasurementSettings") -> bool:
        """Whether losses measured under the other settings are the same."""
        return replace(self, questions_sha256=other.questions_sha256) == other

    @property
    def key(self) -> str:
        """Names the hidden states that were computed under these settings."""
        return f"{self.weights} {self.rows} {self.device} {self.compute_dtype} {self.four_bit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseMeasurement:
    """base.json."""

    SCHEMA_VERSION: ClassVar[int] = 2
    settings: MeasurementSettings
    rows: Mapping[str, tuple[ModelRow, ...]]  # source → its holdout, in its order
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownBase:
    """What was measured of the base before."""

    settings: MeasurementSettings  # under which it is measured now
    measured: BaseMeasurement | None = None  # perhaps under others
    is_recorded: bool = False  # in this run, under the same settings
    has_states: bool = False  # whether its hidden states are in the run's folder

    @property
    def has_losses(self) -> bool:
        """Whether its losses need not be measured."""
        return self.measured is not None and self.measured.settings.same_losses(self.settings)

    @property
    def has_answers(self) -> bool:
        """Whether nothing of it needs to be measured."""
        return self.measured is not None and self.measured.settings == self.settings


def measurement_settings(
    placement: Placement, asked: Sequence[Sequence[str | None]], *, four_bit: bool, weights: str, rows: str
) -> MeasurementSettings:
    """Args:
    asked: all that an answer is made from or carries, of every question: prompt, sampling settings, kind, reference …
    weights, rows: hashes of the model and of what is scored.
    """
    return MeasurementSettings(
        device=placement.device.split(":")[0],
        dtype=placement.dtype,
        compute_dtype=placement.compute_dtype,
        attention=placement.attention,
        four_bit=four_bit,
        questions_sha256=hashlib.sha256(json.dumps(list(asked)).encode()).hexdigest(),
        weights=weights,
        rows=rows,
    )
