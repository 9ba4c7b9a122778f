"""What became of the loss on one source's held-out rows: base against tuned, paired by row, with intervals.

Changes are tuned − base: negative is better. Knows no model and no file: whoever has `rows.jsonl` can recompute it all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from seodang.proof.measured_rows import Half, MeasuredRow
from seodang.proof.statistics import Estimate, Outcome, outcome, ratio
from seodang.recipe import Tolerance
from seodang.run.base_measurement import RowLoss
from seodang.types import Lengths, SourceRole

Estimator = Callable[..., Estimate]  # `statistics.ratio` with its settings
Unit = Literal["nats per token", "bits per byte"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLoss:
    """One model's loss on one source's held-out rows."""

    nats_per_token: float  # over all supervised tokens
    content: float | None  # nats per token of the answers (of the whole text, for plain text); None: there is none
    ending: float | None  # nats per turn end; None: none is supervised
    bits_per_byte: float | None  # of the content; None: its bytes are not known


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLoss:
    """Both models' losses on one source, and what their difference shows."""

    role: SourceRole
    is_trained: bool  # whether other rows of this source were trained on
    rows: int
    tokens: int  # supervised, turn ends included
    half: Half  # of the rows; both: the same rows chose the checkpoint
    base: ModelLoss
    tuned: ModelLoss
    unit: Unit  # of `change` and `tolerance`
    change: Estimate
    content: Estimate | None  # nats per content token
    ending: Estimate | None  # nats per turn end
    kl: Estimate | None  # KL(base‖tuned), nats per token; None: not measured
    tolerance: float | None  # a rise up to it counts as kept; None where a gain is wanted
    outcome: Outcome

    @property
    def is_replayed(self) -> bool:
        """Whether it is reported apart: what was trained on again says little of what was forgotten."""
        return self.role == "replay" or (self.role == "retention" and self.is_trained)

    @property
    def before(self) -> float | None:
        """The base's loss, in `unit`."""
        return self.base.bits_per_byte if self.unit == "bits per byte" else self.base.nats_per_token

    @property
    def after(self) -> float | None:
        """The tuned model's loss, in `unit`."""
        return self.tuned.bits_per_byte if self.unit == "bits per byte" else self.tuned.nats_per_token


def source_loss(
    rows: Sequence[MeasuredRow],
    role: SourceRole,
    tolerance: Tolerance,
    *,
    is_trained: bool,
    same_tokenizer: bool,
    level: float,
    effective_share: float | None = None,
) -> SourceLoss:
    """One source's losses, from those of its rows that prove, or those that choose.

    Plain text, and models with different tokenizers, are compared in bits per byte, everything else in nats per token.

    Args:
        rows: of one source, at least one.
        level: of the intervals.
        effective_share: of the source's rows, by their lengths (`statistics.ratio`).
    """
    estimate = partial(ratio, level=level, effective_share=effective_share)
    is_text = role == "retention" or not any(row.end_tokens for row in rows)
    in_bytes = (is_text or not same_tokenizer) and all(row.num_bytes for row in rows)
    unit: Unit = "bits per byte" if in_bytes else "nats per token"
    change = (
        _bits_change(rows, estimate)
        if in_bytes
        else _change(rows, lambda loss: loss.total, lambda row: row.tokens, estimate)
    )
    assert change, f"{rows[0].source}: no supervised token"
    kept_up_to = None if role == "domain" else tolerance.retention if in_bytes else tolerance.general
    return SourceLoss(
        role=role,
        is_trained=is_trained,
        rows=len(rows),
        tokens=sum(row.tokens for row in rows),
        half=rows[0].half,
        base=_model_loss(rows, lambda row: row.base),
        tuned=_model_loss(rows, lambda row: row.tuned),
        unit=unit,
        change=change,
        content=_change(rows, lambda loss: loss.content, lambda row: row.content_tokens, estimate),
        ending=_change(rows, lambda loss: loss.ending, lambda row: row.end_tokens, partial(ratio, level=level)),
        kl=_kl(rows, estimate),
        tolerance=kept_up_to,
        outcome=outcome(change, aim="gain")
        if kept_up_to is None
        else outcome(change, tolerance=kept_up_to, aim="keep"),
    )


def proving(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """The rows that the proof's figures are from: those that chose no checkpoint, or all where there are too few."""
    return [row for row in rows if row.half != "choose"]


def tuned_against_tuned(first: Sequence[MeasuredRow], other: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """The rows of `other` with the tuned model of `first` in the base's place, so that `source_loss` compares the two.

    Empty where they were not measured on the same rows, split into as many tokens.
    """

    def size(row: MeasuredRow) -> tuple[str, int, int, int]:
        return row.row_id, row.content_tokens, row.end_tokens, row.num_bytes

    by_id = {row.row_id: row for row in first}
    if len(by_id) != len(first) or sorted(map(size, first)) != sorted(map(size, other)):
        return []
    return [replace(row, base=by_id[row.row_id].tuned, kl=None, kl_tokens=0, contrast=None) for row in other]


def effective_shares(lengths: Lengths) -> dict[str, float]:
    """Source → how many rows of equal length weigh as much as one of its rows, 0 to 1, by all lengths that are known.

    A small holdout may lack the long rows that decide: known are those of sources that are trained on.
    """
    return {
        name: 1 / (1 + (row.supervised.std / row.supervised.mean) ** 2)
        for name, row in lengths.train.items()
        if row.supervised.mean
    }


def _model_loss(rows: Sequence[MeasuredRow], model: Callable[[MeasuredRow], RowLoss]) -> ModelLoss:
    content, ending = sum(model(row).content for row in rows), sum(model(row).ending for row in rows)
    content_tokens, end_tokens = sum(row.content_tokens for row in rows), sum(row.end_tokens for row in rows)
    num_bytes = sum(row.num_bytes for row in rows)
    return ModelLoss(
        nats_per_token=(content + ending) / (content_tokens + end_tokens),
        content=content / content_tokens if content_tokens else None,
        ending=ending / end_tokens if end_tokens else None,
        bits_per_byte=content / (num_bytes * math.log(2)) if num_bytes else None,
    )


def _change(
    rows: Sequence[MeasuredRow],
    loss: Callable[[RowLoss], float],
    tokens: Callable[[MeasuredRow], int],
    estimate: Estimator,
) -> Estimate | None:
    if not any(map(tokens, rows)):
        return None
    changes = [loss(row.tuned) - loss(row.base) for row in rows]
    return estimate(changes, [tokens(row) for row in rows], [row.cluster for row in rows])


def _bits_change(rows: Sequence[MeasuredRow], estimate: Estimator) -> Estimate:
    changes = [(row.tuned.content - row.base.content) / math.log(2) for row in rows]
    return estimate(changes, [row.num_bytes for row in rows], [row.cluster for row in rows])


def _kl(rows: Sequence[MeasuredRow], estimate: Estimator) -> Estimate | None:
    measured = [(row.kl, row.kl_tokens, row.cluster) for row in rows if row.kl is not None and row.kl_tokens]
    if not measured:
        return None
    sums, tokens, clusters = zip(*measured, strict=True)
    return estimate(sums, tokens, clusters)
