"""What a measured change is called: gained, unchanged, lost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from seodang.json_values import from_json

UNCHANGED = 0.01  # a loss that moves by less than one percent is called unchanged
FEW_ROWS = 30  # below this a mean says little
Tone = Literal["gained", "same", "lost", "broken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One source's held-out loss, before and after."""

    source: str
    role: str
    rows: int
    tokens: int
    base: float | None  # nats per supervised token
    tuned: float | None
    base_bits: float | None  # bits per UTF-8 byte, where they were measured
    tuned_bits: float | None
    share: float | None  # relative change of the loss
    tone: Tone

    @property
    def is_small(self) -> bool:
        """Too few rows for a mean to say much."""
        return self.rows < FEW_ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLoss:
    """One model's loss on one source's holdout, as proof.json holds it."""

    loss: float | None = None  # nats per supervised token
    bits_per_byte: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLoss:
    """`losses` of proof.json, one source."""

    role: str = ""
    rows: int = 0
    tokens: int = 0
    base: ModelLoss = field(default_factory=ModelLoss)
    tuned: ModelLoss = field(default_factory=ModelLoss)
    change: float | None = None  # tuned − base


def change_of(name: str, loss: Mapping[str, Any]) -> Change:
    """One source's part of proof.json as a change.

    Raises:
        SeodangError: it is damaged.
    """
    found = from_json(SourceLoss, loss, where=f"proof.json, losses, {name}")
    before, after = found.base.loss, found.tuned.loss
    share = (after - before) / before if before and after is not None else None
    return Change(
        source=name,
        role=found.role,
        rows=found.rows,
        tokens=found.tokens,
        base=before,
        tuned=after,
        base_bits=found.base.bits_per_byte,
        tuned_bits=found.tuned.bits_per_byte,
        share=share,
        tone=_tone(share),
    )


def _tone(share: float | None) -> Tone:
    if share is None or not math.isfinite(share):
        return "broken"
    if abs(share) < UNCHANGED:
        return "same"
    return "gained" if share < 0 else "lost"
