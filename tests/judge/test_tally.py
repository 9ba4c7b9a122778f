"""Wins, ties and losses: what their intervals show, what length explains, and how often chance alone claims a gain."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from seodang.judge.judgement import Judged, Outcome
from seodang.judge.pairs import Pair, clusters_of
from seodang.judge.tally import adjust_for_length, shown, tally

JUDGEMENTS, FLIPS, SIMULATIONS = 200, 0.13, 1000


def judged(outcome: Outcome, *, cluster: int, ratio: float = 0.0) -> Judged:
    return Judged(
        question="?", outcome=outcome, flipped=False, replies=("A", "B"), first_twice=False, second_twice=False,
        similar_length=abs(ratio) < 0.18, log_length_ratio=ratio, has_reference=True,
        is_same_text=False, cluster=cluster,
    )  # fmt: skip


def many(outcomes: Sequence[Outcome], *, per_cluster: int = 1) -> list[Judged]:
    return [judged(outcome, cluster=number // per_cluster) for number, outcome in enumerate(outcomes)]


@cache
def claim(wins: int, losses: int) -> str:
    """What so many wins and losses of independent pairs show."""
    ties = JUDGEMENTS - wins - losses
    found = tally(many([*["win"] * wins, *["loss"] * losses, *["tie"] * ties]))
    assert found is not None
    return shown(found.difference)


def test_errors_are_none_of_the_outcomes() -> None:
    """Shares are of what was judged; without any, there is no tally."""
    found = tally(many([*["win"] * 30, *["tie"] * 6, *["loss"] * 4, *["error"] * 9]))
    assert found is not None
    assert [(one.count, one.of) for one in (found.wins, found.ties, found.losses)] == [(30, 40), (6, 40), (4, 40)]
    assert math.isclose(found.difference.difference, 0.65)
    assert shown(found.difference) == "better"
    assert tally(many(["error"] * 3)) is None


def test_answers_to_one_question_are_one_piece_of_evidence() -> None:
    """40 wins in 40 clusters are better; the same wins and losses in 8 clusters show nothing."""
    outcomes: list[Outcome] = [*["win"] * 28, *["loss"] * 12]
    apart, together = tally(many(outcomes)), tally(many(outcomes, per_cluster=5))
    assert apart is not None
    assert together is not None
    assert (shown(apart.difference), shown(together.difference)) == ("better", "not shown")
    assert apart.wins.interval is not None
    assert together.wins.interval is not None
    assert together.wins.interval.high - together.wins.interval.low > apart.wins.interval.high - apart.wins.interval.low


def test_equal_questions_and_references_join_pairs() -> None:
    """Also a cluster that the run knows."""
    pairs = [
        Pair(question="A?", ours="", theirs="", reference="x"),
        Pair(question="a? ", ours="", theirs="", reference="y"),
        Pair(question="b?", ours="", theirs="", reference="Y"),
        Pair(question="c?", ours="", theirs="", cluster="7"),
        Pair(question="d?", ours="", theirs="", cluster="7"),
        Pair(question="e?", ours="", theirs=""),
    ]
    assert clusters_of(pairs) == [0, 0, 0, 1, 1, 2]


def test_equal_models_are_rarely_called_different() -> None:
    """Two equal models, 200 judgements of which 13 % flip with the order: an improvement is claimed in at most 5 %."""
    draw = np.random.default_rng(0)
    first = draw.random((SIMULATIONS, JUDGEMENTS)) < 0.5
    second = first ^ (draw.random((SIMULATIONS, JUDGEMENTS)) < FLIPS)
    won, lost = (first & second).sum(axis=1), (~first & ~second).sum(axis=1)
    claimed = [claim(int(wins), int(losses)) for wins, losses in zip(won, lost, strict=True)]
    assert claimed.count("better") <= 0.05 * SIMULATIONS
    assert claimed.count("worse") <= 0.05 * SIMULATIONS


def test_a_judge_that_goes_by_length_shows_nothing_at_equal_length() -> None:
    """Our answers are longer and win for that alone: adjusted, little is left; a true gain stays."""
    draw = np.random.default_rng(1)
    ratios = draw.normal(0.5, 0.5, 400)
    for gain, holds in ((0.0, lambda low, high: low < 0 < high), (1.0, lambda low, high: low > 0.1)):
        chance = 1 / (1 + np.exp(-(gain + 2 * ratios)))
        won = draw.random(400) < chance
        pairs = [
            judged("win" if win else "loss", cluster=n, ratio=r)
            for n, (win, r) in enumerate(zip(won, ratios, strict=True))
        ]
        plain, adjusted = tally(pairs), adjust_for_length(pairs)
        assert plain is not None
        assert adjusted is not None
        assert adjusted.interval is not None
        assert shown(plain.difference) == "better"
        assert holds(adjusted.interval.low, adjusted.interval.high)
        assert abs(adjusted.value - math.tanh(gain / 2)) < 0.15
        assert 1.2 < adjusted.slope < 2.8


def test_the_adjustment_is_finite_where_lengths_decide_everything() -> None:
    """Every longer answer wins, all lengths are equal, or all are ties: a value and an interval, never an overflow."""
    decided = [judged("win" if n % 2 else "loss", cluster=n, ratio=0.5 if n % 2 else -0.5) for n in range(40)]
    equal = [judged("win" if n % 4 else "loss", cluster=n) for n in range(40)]
    ties = [judged("tie", cluster=n, ratio=n / 40) for n in range(40)]
    for pairs, expected in ((decided, 0.0), (equal, 0.5), (ties, 0.0)):
        found = adjust_for_length(pairs)
        assert found is not None
        assert found.interval is not None
        assert abs(found.value - expected) < 0.06
        assert -1 < found.interval.low <= found.value <= found.interval.high < 1
    assert adjust_for_length([]) is None
