"""stability: how alike the answers to one question are."""

import pytest
from sacrebleu.metrics import CHRF

from seodang.proof.stability import AnswerStability, Stability, answer_stability, stability
from seodang.types import Answer

ANSWERS = [
    "해열진통제가 있습니다.",
    "해열제와 진통제가 있어요.",
    "콧물에는 항히스타민제를 씁니다.",
    "해열진통제가 있습니다.",
]


def alike(*texts: str) -> AnswerStability:
    """How alike these answers to one question are."""
    return answer_stability("감기약은?", texts, temperature=0.1)


def test_equal_answers() -> None:
    """Answers that are the same, white space aside, are one answer with a chrF of 100."""
    found = alike("가 나", "가  나\n", "가 나")
    assert (found.distinct, found.duplicate_share, found.chrf) == (1, 1.0, 100.0)


def test_answers_with_nothing_in_common() -> None:
    """Answers without a common character score 0 and none is a duplicate."""
    found = alike("가가가", "나나나")
    assert (found.distinct, found.duplicate_share, found.chrf) == (2, 0.0, 0.0)


def test_chrf_is_sacrebleus_over_all_ordered_pairs() -> None:
    """The mean equals sacrebleu's own score taken over every ordered pair, duplicates included."""
    metric = CHRF()
    scores = [
        metric.sentence_score(one, [other]).score
        for i, one in enumerate(ANSWERS)
        for j, other in enumerate(ANSWERS)
        if i != j
    ]
    found = alike(*ANSWERS)
    assert found.chrf == pytest.approx(sum(scores) / len(scores))
    assert found.distinct == 3
    assert found.duplicate_share == pytest.approx(1 / 3)


def test_empty_answers_are_equal() -> None:
    """Models that say nothing are perfectly stable: no division by zero."""
    assert alike("", "").chrf == 100.0


def test_each_model_is_compared_with_itself() -> None:
    """Only the repeated question counts; a model that was asked less than twice has no stability."""
    fields = {"stopped": True, "prompt_tokens": 1, "new_tokens": 1, "question": "감기약은?"}
    answers = [Answer(kind="repeat", model="tuned", text=text, **fields) for text in ("가", "가", "나")]
    answers += [Answer(kind="repeat", model="base", text="가", **fields)]
    answers += [Answer(kind="domain", model="base", text="가", **fields)]
    found = stability(answers, temperature=0.7)
    assert found == Stability(tuned=answer_stability("감기약은?", ["가", "가", "나"], temperature=0.7))
    assert found.tuned is not None
    assert (found.tuned.times, found.tuned.temperature, found.tuned.distinct) == (3, 0.7, 2)
