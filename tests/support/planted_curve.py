"""Alpha curves of planted losses, without a model."""

from dataclasses import replace

from planted_rows import noisy_rows, text_rows
from seodang.alpha.curve import ALPHAS, AlphaCurve, Measuring, Rows, make_curve, make_points, make_proof, recommended
from seodang.proof.measured_rows import MeasuredRow
from seodang.recipe import Tolerance
from seodang.run.base_measurement import RowLoss

MEASURING = Measuring(
    roles={"medical": "domain", "wiki": "retention"}, trained=["medical"], tolerance=Tolerance(), effective_shares={}
)
BITS = 2.77  # nats a token of four bytes that make one bit a byte


def blended(rows: list[MeasuredRow], share: float) -> list[MeasuredRow]:
    """Rows whose loss moves by this share of the way from base to tuned model."""
    return [
        replace(
            row,
            tuned=RowLoss(
                content=row.base.content + share * (row.tuned.content - row.base.content),
                ending=row.base.ending + share * (row.tuned.ending - row.base.ending),
            ),
        )
        for row in rows
    ]


def between(*, cost: float, rows: int = 60, noise: float = 0.02) -> dict[float, Rows]:
    """Domain losses that fall in a line with alpha, and text that costs `cost` bits per byte at 1, with its square."""
    domain, text = noisy_rows(rows), text_rows(rows, change=cost * BITS, noise=noise)
    return {a: {"medical": blended(domain, a), "wiki": blended(text, a * a)} for a in ALPHAS}


def planted_curve(cost: float) -> AlphaCurve:
    """The curve of these rows, with the proof of what it recommends."""
    rows = between(cost=cost)
    points = make_points(rows, MEASURING)
    found = recommended(points)
    proof = make_proof(found.alpha, rows[found.alpha], rows[1.0], MEASURING) if found and found.alpha < 1 else None
    return make_curve(points, proof)
