"""What a measured change is called: gained, unchanged, lost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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


def change_of(name: str, loss: Mapping[str, Any]) -> Change:
    base, tuned = loss.get("base") or {}, loss.get("tuned") or {}
    before, after = base.get("loss"), tuned.get("loss")
    share = (after - before) / before if before and after is not None else None
    return Change(
        source=name,
        role=str(loss.get("role", "")),
        rows=int(loss.get("rows") or 0),
        tokens=int(loss.get("tokens") or 0),
        base=before,
        tuned=after,
        base_bits=base.get("bits_per_byte"),
        tuned_bits=tuned.get("bits_per_byte"),
        share=share,
        tone=_tone(share),
    )


def _tone(share: float | None) -> Tone:
    if share is None or not math.isfinite(share):
        return "broken"
    if abs(share) < UNCHANGED:
        return "same"
    return "gained" if share < 0 else "lost"
