"""stability: how alike the answers to one question are."""

import pytest
from sacrebleu.metrics import CHRF

from seodang.errors import RunError
from seodang.proof.stability import stability

ANSWERS = [
    "해열진통제가 있습니다.",
    "해열제와 진통제가 있어요.",
    "콧물에는 항히스타민제를 씁니다.",
    "해열진통제가 있습니다.",
]


def test_equal_answers() -> None:
    """Answers that are the same, white space aside, are one answer with a chrF of 100."""
    assert stability(["가 나", "가  나\n", "가 나"]) == {"distinct": 1, "duplicate_share": 1.0, "chrf": 100.0}


def test_answers_with_nothing_in_common() -> None:
    """Answers without a common character score 0 and none is a duplicate."""
    assert stability(["가가가", "나나나"]) == {"distinct": 2, "duplicate_share": 0.0, "chrf": 0.0}


def test_chrf_is_sacrebleus_over_all_ordered_pairs() -> None:
    """The mean equals sacrebleu's own score taken over every ordered pair, duplicates included."""
    metric = CHRF()
    scores = [
        metric.sentence_score(one, [other]).score
        for i, one in enumerate(ANSWERS)
        for j, other in enumerate(ANSWERS)
        if i != j
    ]
    told = stability(ANSWERS)
    assert told["chrf"] == pytest.approx(sum(scores) / len(scores))
    assert told["distinct"] == 3
    assert told["duplicate_share"] == pytest.approx(1 / 3)


def test_empty_answers_are_equal() -> None:
    """Models that say nothing are perfectly stable: no division by zero."""
    assert stability(["", ""])["chrf"] == 100.0


def test_one_answer_is_refused() -> None:
    """A single answer cannot be compared with itself."""
    with pytest.raises(RunError, match="at least twice"):
        stability(["혼자"])
