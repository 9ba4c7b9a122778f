"""curve: which alpha is recommended, and how it is compared with the tuned model."""

from dataclasses import replace

import pytest

from planted_curve import MEASURING, between, blended
from planted_rows import in_both_halves, measured_row, noisy_rows
from seodang.alpha.curve import ALPHAS, AlphaCurve, make_curve, make_points, make_proof, recommended
from seodang.json_values import from_json, to_json


@pytest.mark.parametrize(("cost", "expected"), [(0.02, 1.0), (0.05, 0.75), (0.1, 0.5), (0.4, 0.25), (2.0, None)])
def test_the_largest_gain_within_tolerance_is_recommended(cost: float, expected: float | None) -> None:
    """Text may cost 0.03 bits per byte: the largest alpha whose whole interval is below, the base aside."""
    points = make_points(between(cost=cost), MEASURING)
    assert [point.alpha for point in points] == list(ALPHAS)
    assert points[0].sources["medical"].change.value == 0
    found = recommended(points)
    assert (found.alpha if found else None) == expected
    assert found is None or found.within == "shown"


def test_a_measured_rise_counts_where_no_interval_is_within_tolerance() -> None:
    """With few and noisy rows nothing is shown to be kept: the values decide, and the point says so."""
    rows = between(cost=0.025, rows=13, noise=0.5)
    found = recommended(make_points(rows, MEASURING))
    assert found
    assert found.within == "measured"


def test_a_domain_that_gets_worse_is_not_recommended() -> None:
    """Nor is a run without domain rows; without general or retention rows nothing limits the choice."""
    worse = {a: {"medical": blended(noisy_rows(60, change=0.5), a)} for a in ALPHAS}
    better = {a: {"medical": blended(noisy_rows(60), a)} for a in ALPHAS}
    text = {a: {"wiki": rows["wiki"]} for a, rows in between(cost=0.01).items()}
    for rows, expected in ((worse, None), (text, None), (better, 1.0)):
        curve = make_curve(make_points(rows, MEASURING), None)
        assert curve.recommended == expected
        assert curve.limited_by == (("wiki",) if "wiki" in rows[0.0] else ())


def test_several_domain_sources_count_together() -> None:
    """By their tokens: what one loses the other may gain."""
    measuring = replace(MEASURING, roles={"a": "domain", "b": "domain"})
    rows = {"a": [measured_row(n, "a", tokens=30, ends=0, tuned=4) for n in range(20)],
            "b": [measured_row(n, "b", tokens=10, ends=0, tuned=1) for n in range(20)]}  # fmt: skip
    (point,) = make_points({1.0: rows}, measuring)
    assert point.domain
    assert point.domain.value == pytest.approx((30 * 1 + 10 * -2) / 40)
    assert point.domain.clusters == 40


def test_the_recommended_alpha_is_compared_with_the_tuned_model() -> None:
    """Row by row: what the blend gains less than the tuned model, and what it loses less."""
    rows = between(cost=0.1)
    proof = make_proof(0.5, rows[0.5], rows[1.0], MEASURING)
    for name in ("medical", "wiki"):
        change, whole = proof.blend[name].change.value, proof.tuned[name].change.value
        assert proof.difference[name].value == pytest.approx(change - whole)
    assert proof.difference["medical"].value > 0 > proof.difference["wiki"].value


def test_a_curve_is_read_as_it_was_written() -> None:
    """Its JSON gives the same value; sources of which the same rows choose and prove are named."""
    rows = between(cost=0.05)
    points = make_points(rows, MEASURING)
    curve = make_curve(points, make_proof(0.75, rows[0.75], rows[1.0], MEASURING))
    assert from_json(AlphaCurve, to_json(curve), where="alpha.json") == curve
    assert curve.same_rows == ("medical", "wiki")
    choosing = {
        a: {"medical": [r for r in in_both_halves(own["medical"]) if r.half == "choose"]} for a, own in rows.items()
    }
    assert make_curve(make_points(choosing, MEASURING), None).same_rows == ()
