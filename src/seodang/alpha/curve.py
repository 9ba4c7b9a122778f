"""Measured rows of several blends → the curve: what each alpha gains and costs, which is recommended, how it proves.

Rows that choose give the curve, and with it the recommended alpha; rows that prove compare that one with the tuned
model. Changes are blend − base: negative is better. Knows no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from seodang.json_values import from_json
from seodang.proof.losses import SourceLoss, source_loss
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.statistics import Estimate, headline_level, ratio
from seodang.recipe import Tolerance
from seodang.run.folder import ALPHA
from seodang.types import SourceRole

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # both ends, and what shows the shape between at three more measurements
Within = Literal["shown", "measured", "no"]  # the rise is within all tolerances: all of its interval, its value, or not
Rows = Mapping[str, Sequence[MeasuredRow]]  # source → its rows, each with the losses of two models


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How the rows of a run are compared, whatever the alpha."""

    roles: Mapping[str, SourceRole]  # source → what it stands for
    trained: Sequence[str]  # sources of which other rows were trained on
    tolerance: Tolerance
    effective_shares: Mapping[str, float]  # source → share (`losses.effective_shares`)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlphaPoint:
    """One alpha against the base, on the rows that choose."""

    alpha: float  # 0: the base; 1: the tuned model
    domain: Estimate | None  # change over all domain sources: of one, in its unit; of several, in nats per token
    within: Within  # of general answers and of plain text that was never trained on
    sources: Mapping[str, SourceLoss]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlphaProof:
    """The recommended alpha and the tuned model, on the rows that prove."""

    alpha: float
    blend: Mapping[str, SourceLoss]  # base against the blend
    tuned: Mapping[str, SourceLoss]  # base against the tuned model
    difference: Mapping[str, Estimate]  # blend − tuned model, in the unit of the source's change


@dataclass(frozen=True, kw_only=True, slots=True)
class AlphaCurve:
    """The content of alpha.json."""

    SCHEMA_VERSION: ClassVar[int] = 1

    level: float  # of all intervals: 1 − 0.05 / sources
    points: tuple[AlphaPoint, ...]  # by alpha, ascending
    recommended: float | None  # the largest domain gain within tolerance; None: no alpha above 0 has one
    limited_by: tuple[str, ...]  # sources whose rise limits the choice; empty: nothing does
    proof: AlphaProof | None  # None: nothing is recommended, or the tuned model itself

    @property
    def chosen(self) -> AlphaPoint | None:
        """The recommended point."""
        return next((point for point in self.points if point.alpha == self.recommended), None)

    @property
    def same_rows(self) -> tuple[str, ...]:
        """Sources of which the same rows choose and prove: they have too few clusters for both."""
        found = self.points[0].sources if self.points else {}
        return tuple(name for name, loss in found.items() if loss.half == "both")


def make_points(rows: Mapping[float, Rows], measuring: Measuring) -> tuple[AlphaPoint, ...]:
    """The curve.

    Args:
        rows: alpha → the rows that choose, with the losses of base and blend.
    """
    return tuple(_point(alpha, rows[alpha], measuring) for alpha in sorted(rows))


def recommended(points: Sequence[AlphaPoint]) -> AlphaPoint | None:
    """The largest domain gain among points whose rise is shown to be within tolerance; where none is, whose value is.

    The base itself is no candidate: where no other point gains within tolerance, nothing is recommended.
    """
    for wanted in ("shown", "measured"):
        found = [
            (point.domain.value, point.alpha, point)
            for point in points
            if point.alpha > 0 and point.within == wanted and point.domain and point.domain.value < 0
        ]
        if found:
            return min(found, key=lambda item: item[:2])[2]
    return None


def make_proof(alpha: float, blend: Rows, tuned: Rows, measuring: Measuring) -> AlphaProof:
    """The recommended alpha against the tuned model.

    Args:
        blend, tuned: the same rows that prove, with the losses of the base and of the one or the other.
    """
    apart = {
        name: [replace(ours, base=theirs.tuned) for ours, theirs in zip(blend[name], tuned[name], strict=True)]
        for name in blend
    }
    return AlphaProof(
        alpha=alpha,
        blend=_losses(blend, measuring),
        tuned=_losses(tuned, measuring),
        difference={name: loss.change for name, loss in _losses(apart, measuring).items()},
    )


def make_curve(points: Sequence[AlphaPoint], proof: AlphaProof | None) -> AlphaCurve:
    """The whole of it."""
    found = recommended(points)
    first = points[0].sources
    return AlphaCurve(
        level=headline_level(len(first)),
        points=tuple(points),
        recommended=found.alpha if found else None,
        limited_by=tuple(name for name, loss in first.items() if _limits(loss)),
        proof=proof,
    )


def read_curve(data: Mapping[str, Any] | None) -> AlphaCurve | None:
    """The curve that alpha.json holds, if there is one.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    return None if data is None else from_json(AlphaCurve, dict(data), where=ALPHA)


def _point(alpha: float, rows: Rows, measuring: Measuring) -> AlphaPoint:
    losses = _losses(rows, measuring)
    domain = [name for name, loss in losses.items() if loss.role == "domain"]
    limits = [loss for loss in losses.values() if _limits(loss)]
    return AlphaPoint(
        alpha=alpha,
        domain=losses[domain[0]].change
        if len(domain) == 1
        else _together([row for name in domain for row in rows[name]], headline_level(len(losses))),
        within="shown"
        if all(loss.outcome == "kept" for loss in limits)
        else "measured"
        if all(loss.change.value <= (loss.tolerance or 0.0) for loss in limits)
        else "no",
        sources=losses,
    )


def _losses(rows: Rows, measuring: Measuring) -> dict[str, SourceLoss]:
    measured = {name: own for name, own in rows.items() if own}
    return {
        name: source_loss(
            own,
            measuring.roles[name],
            measuring.tolerance,
            is_trained=name in measuring.trained,
            same_tokenizer=True,
            level=headline_level(len(measured)),
            effective_share=measuring.effective_shares.get(name),
        )
        for name, own in measured.items()
    }


def _limits(loss: SourceLoss) -> bool:
    """Whether a source's rise decides what may be recommended: general answers, and text that was never trained on."""
    return loss.role in ("general", "retention") and not loss.is_replayed


def _together(rows: Sequence[MeasuredRow], level: float) -> Estimate | None:
    """Change of the loss over rows of several sources, nats per token; None: there are no rows."""
    if not rows:
        return None
    changes = [row.tuned.total - row.base.total for row in rows]
    clusters = [f"{row.source} {row.cluster}" for row in rows]
    return ratio(changes, [row.tokens for row in rows], clusters, level=level)
