"""The engine's own log-probabilities show a near-tie, so that the run's weights need not be loaded."""

import pytest

from seodang.serve.verify.answers import Asked, served_gap
from seodang.serve.verify.cause import Comparison, causes
from seodang.serve.verify.endpoint import ServedReply, ServedToken
from seodang.serve.verify.reference import Expected, Reference

LIKELIEST = ServedToken(text="x", logprob=-0.7, likeliest={"x": -0.7, "c": -0.704})
TOKENS = [*(ServedToken(text=text, logprob=-0.1, likeliest={}) for text in "ab"), LIKELIEST]


def test_the_gap_is_that_of_the_two_tokens(reference: Reference) -> None:
    """At the first difference, the engine gives both tokens a log-probability."""
    own, served = reference.text_ids("abcd"), reference.text_ids("abxd")
    assert served_gap(reference, own, served, 2, TOKENS) == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("own", "place", "tokens"),
    [
        ("abzd", 2, TOKENS),  # the run's token is not among those that it reports
        ("ab", 2, TOKENS),  # the run's answer has ended
        ("abcd", 2, ()),
        ("abcd", 2, [TOKENS[1], TOKENS[0], LIKELIEST]),  # the text was written in other tokens
    ],
)
def test_a_gap_that_is_not_known(reference: Reference, own: str, place: int, tokens: list[ServedToken]) -> None:
    """Then the run's own model has to be asked."""
    ids = reference.text_ids("abxd")
    assert served_gap(reference, reference.text_ids(own), ids, place, tokens) is None


@pytest.mark.parametrize(("gap", "is_same"), [(0.004, True), (0.4, False), (None, False)])
def test_near_ties_are_rounding(gap: float | None, is_same: bool) -> None:
    """Two tokens as likely as each other may change places; others may not."""
    expected = Expected(question="?", text="c", stopped=True, max_tokens=4)
    reply = ServedReply(text="x", stopped=True, prompt_tokens=3)
    asked = [Asked(expected=expected, reply=reply, ids=(5,), first_difference=0, served_gap=gap)]
    comparison = Comparison(asked=asked, forced=[], dtype="float32", penalty=1.0, weights=None, is_drawn=False)
    assert (causes(comparison) == []) == is_same
