"""behaviour: what the text of answers alone shows."""

import unicodedata

import pytest

from seodang.proof.behaviour import Behaviour, behaviour, echoes, hangul_share, repetition
from seodang.types import Answer


def answer(text: str, *, model: str = "tuned", kind: str = "domain", **fields: object) -> Answer:
    """An answer to one question; what a test does not care about is filled in."""
    filled = {"question": "감기는 왜 걸리나요?", "stopped": True, "prompt_tokens": 9, "new_tokens": 10} | fields
    return Answer(kind=kind, model=model, text=text, **filled)


def test_groups_by_model_and_kind() -> None:
    """Each model's answers are counted per kind, and both models stand in the table."""
    table = behaviour([answer("가", model="base"), answer("나", kind="general"), answer("다", kind="general")])
    assert table.base["domain"].answers == 1
    assert table.tuned["general"].answers == 2
    assert "domain" not in table.tuned


def test_no_answers_give_empty_tables() -> None:
    """Without answers there is nothing to say, and no division by zero."""
    assert behaviour([]) == Behaviour()


def test_stop_rate_and_tokens() -> None:
    """The stop rate is the share that ended by itself; tokens are the mean."""
    found = behaviour([answer("가", stopped=True, new_tokens=10), answer("나", stopped=False, new_tokens=30)])
    assert found.tuned["domain"].stop_rate == 0.5
    assert found.tuned["domain"].stopped == 1
    assert found.tuned["domain"].mean_tokens == 20


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
    found = behaviour(
        [answer("가" * 30, reference="가" * 10), answer("가" * 10, reference="가" * 30), answer("가" * 99)]
    )
    assert found.tuned["domain"].length_ratio == 1
    assert behaviour([answer("가")]).tuned["domain"].length_ratio is None
