"""behaviour: what the text of answers alone shows."""

import unicodedata

import pytest

from seodang.proof.behaviour import AnswerBehaviour, behaviour, echoes, hangul_share, is_broken, repetition
from seodang.proof.statistics import wilson
from seodang.types import Answer


def answer(text: str, *, model: str = "tuned", kind: str = "domain", **fields: object) -> Answer:
    """An answer to one question; what a test does not care about is filled in."""
    filled = {"question": "감기는 왜 걸리나요?", "stopped": True, "prompt_tokens": 9, "new_tokens": 10} | fields
    return Answer(kind=kind, model=model, text=text, **filled)


def of_tuned(*answers: Answer) -> AnswerBehaviour:
    """The tuned model's behaviour in the only group."""
    (group,) = behaviour(answers)
    assert group.tuned
    return group.tuned


def test_groups_by_kind_and_source() -> None:
    """Each model's answers are counted per kind and source, and both models stand in a group."""
    answers = [answer("가", model="base"), answer("나", kind="general"), answer("다", kind="general")]
    answers += [answer("라", kind="holdout", source=source) for source in ("a", "b")]
    groups = behaviour(answers)
    assert [(group.kind, group.source) for group in groups] == [
        ("domain", None), ("general", None), ("holdout", "a"), ("holdout", "b"),
    ]  # fmt: skip
    assert groups[0].tuned is None
    assert groups[1].tuned
    assert groups[1].tuned.answers == 2


def test_no_answers_give_no_groups() -> None:
    """Without answers there is nothing to say, and no division by zero."""
    assert behaviour([]) == ()


def test_stop_rate_and_tokens() -> None:
    """The stop rate is the share that ended by itself, with Wilson's interval; tokens are the mean."""
    found = of_tuned(
        answer("가", stopped=True, new_tokens=10), answer("나", stopped=False, new_tokens=30, question="왜?")
    )
    assert (found.stopped.value, found.stopped.count) == (0.5, 1)
    assert found.stopped.interval == wilson(1, 2)
    assert found.mean_tokens.value == 20


def test_one_question_has_no_interval() -> None:
    """Answers to one question, however many, say nothing of other questions."""
    found = of_tuned(*(answer(text, kind="repeat") for text in "가나다라마바사아자차카타파"))
    assert found.stopped.interval is None
    assert found.repetition.interval is None


def test_answers_of_one_cluster_are_one_piece_of_evidence() -> None:
    """24 answers to 6 questions leave a share as open as 6 answers do."""
    answers = [answer("가", question=f"{number % 6}?", stopped=number % 6 < 3) for number in range(24)]
    found = of_tuned(*answers)
    assert (found.stopped.count, found.stopped.of) == (12, 24)
    assert found.stopped.interval == wilson(3, 6)


def test_stops_are_compared_by_question() -> None:
    """12 of 12 that end where none did: an exact p, and a share that has a width."""
    pairs = [
        answer("가", model=model, kind="holdout", source="a", question=f"{n}?", stopped=model == "tuned")
        for n in range(12)
        for model in ("base", "tuned")
    ]
    (group,) = behaviour(pairs)
    assert group.stops
    assert group.stops.p == 2 / 2**12
    assert group.tuned
    assert group.tuned.stopped.interval
    assert group.tuned.stopped.interval.low < 0.8


def test_the_same_answer_to_every_question_is_no_more_like_its_own_reference() -> None:
    """chrF against the own reference, less that against another question's: near 0 for one constant answer."""
    questions = [f"{n}번 약은 무엇인가요?" for n in range(20)]
    references = [f"{n * 7919} 밀리그램을 {chr(0xAC00 + 97 * n) * 6} 먹습니다." for n in range(20)]
    constant, right = (
        of_tuned(
            *(
                answer(text or reference, kind="holdout", source="a", question=question, reference=reference)
                for question, reference in zip(questions, references, strict=True)
            )
        )
        for text in ("의사와 상의하세요.", "")
    )
    assert right.chrf
    assert right.chrf.value == pytest.approx(100)
    assert right.likeness
    assert right.likeness.interval
    assert right.likeness.interval.low > 20
    assert constant.likeness
    assert constant.likeness.value == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "stopped", "broken"),
    [
        *(
            ("가" * 9, True, False),
            ("가" * 9, False, False),
            ("가" * 11, False, True),
            ("가 나 다 라 " * 9, True, True),
        ),
        *(("", True, True), ("\n" * 9, False, True), ("\u200b", True, True)),
    ],
)
def test_broken_answers(text: str, stopped: bool, broken: bool) -> None:
    """Broken is what loops, is blank, or was cut off as long as its reference or longer; a long one may be cut."""
    assert is_broken(answer(text, stopped=stopped, reference="나" * 10)) == broken


def test_repetition_by_hand() -> None:
    """seq-rep-4 of `a b c d a b c d` is 1 − 4/5: of five 4-grams one stood before."""
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)


@pytest.mark.parametrize("text", ["", "감기", "물을 많이 드세요"])
def test_short_texts_do_not_repeat(text: str) -> None:
    """A text without a second 4-gram repeats nothing."""
    assert repetition(text) == 0


def test_loops_are_seen_with_and_without_spaces() -> None:
    """A looping answer scores near 1 whether or not it keeps its spaces; a plain one scores 0."""
    assert repetition("감기약은 식후에 먹습니다. " * 20) > 0.9
    assert repetition("감기약감기약" * 20) > 0.9
    assert repetition("감기는 바이러스가 일으키므로 항생제로 낫지 않고, 쉬면서 물을 자주 마시면 대개 낫습니다.") == 0


def test_echo_ignores_punctuation_case_and_normal_form() -> None:
    """The question said again counts as an echo whatever its spelling of spaces, case and jamo."""
    question = "What is 감기 exactly?"
    assert echoes(question, unicodedata.normalize("NFD", "질문: what is  감기, exactly! 답은…"))
    assert not echoes(question, "감기는 바이러스 질환입니다.")


def test_short_questions_echo_only_at_the_start() -> None:
    """`감기?` inside an answer is a normal word; at the start of the answer it is the question again."""
    assert not echoes("감기?", "흔한 감기입니다.")
    assert echoes("감기?", "감기? 감기? 감기?")
    assert not echoes("???", "무엇이든")


def test_hangul_share_counts_letters_only() -> None:
    """Digits, spaces and marks do not count; jamo do; a text without letters has no share."""
    assert hangul_share("가나 ab 12!") == 0.5
    assert hangul_share("ㅋㅋㅋ") == 1
    assert hangul_share(unicodedata.normalize("NFD", "한글")) == 1
    assert hangul_share("1 + 1 = 2") is None


def test_length_ratio_needs_references() -> None:
    """The ratio compares all characters of answers and references; without references there is none."""
    found = of_tuned(answer("가" * 30, reference="가" * 10), answer("가" * 10, reference="가" * 30), answer("가" * 99))
    assert found.length_ratio
    assert found.length_ratio.value == 1
    assert of_tuned(answer("가")).length_ratio is None


def test_answers_that_are_all_alike_leave_no_certainty() -> None:
    """Twenty answers without a repetition do not show that none ever repeats itself: a mean of them has no interval."""
    questions = [f"질문 {number}?" for number in range(20)]
    alike = of_tuned(*(answer("물을 드세요", question=one, reference="쉬세요") for one in questions))
    for found in (alike.mean_tokens, alike.repetition, alike.hangul, alike.chrf):
        assert found
        assert found.interval is None
    several = of_tuned(
        *(
            answer("물을 드세요. " * (1 + 8 * (number % 2)), question=one, new_tokens=number)
            for number, one in enumerate(questions)
        )
    )
    for found in (several.mean_tokens, several.repetition):
        assert found.interval
        assert found.interval.low < found.interval.high
