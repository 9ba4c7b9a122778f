"""Multiple-choice rows are known by their choices, whatever their columns are called."""

from pathlib import Path
from typing import Any

import pytest

from converted import convert_rows
from seodang.data.read.turns.choices import choice_columns, is_choice_mark
from seodang.errors import SourceError

DROPPED = {"a multiple-choice question, whose answer is one of its choices": 1}
QA = {"question": "감기는?", "answer": "쉬세요."}
CHOICES: list[dict[str, Any]] = [
    {"보기1": "인삼", "보기2": "감초", "보기3": "마황", "answer": "3"},
    {"보기①": "인삼", "보기②": "감초", "answer": "②"},
    {"option_a": "인삼", "option_b": "감초", "answer": "(b)"},
    {"opa": "인삼", "opb": "감초", "opc": "마황", "answer": "A."},
    {"A": "인삼", "B": "감초", "C": "마황", "answer": "C"},
    {"선택지": ["인삼", "감초", "마황"], "answer": "1번, 3번"},
]


@pytest.mark.parametrize("row", CHOICES)
def test_files_of_choices_answered_by_a_mark_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    """The choices stand in columns of their own; an empty answer among them changes nothing."""
    rows = [{"question": "군약은?", **row}, {"question": "군약은?", **row, "answer": None}]
    with pytest.raises(SourceError, match="these are multiple-choice rows: 'answer' holds numbers of choices"):
        convert_rows(tmp_path, rows)


@pytest.mark.parametrize("row", CHOICES)
def test_single_rows_of_choices_are_dropped(tmp_path: Path, row: dict[str, Any]) -> None:
    """Among other rows, a mark is no answer where the row has choices; whoever names the columns keeps it."""
    rows = [{"question": "군약은?", **row}, QA]
    table, counts = convert_rows(tmp_path, rows)
    assert [turns[-1]["content"] for turns in table["messages"]] == ["쉬세요."]
    assert counts.dropped == DROPPED
    assert len(convert_rows(tmp_path, rows, question="question", answer="answer")[0]) == 2


@pytest.mark.parametrize("answer", ["①", "3)", "② 감초"])
def test_choices_in_the_question_need_no_type(tmp_path: Path, answer: str) -> None:
    """An exam question that lists its choices is known by them."""
    asked = "군약은? ① 인삼 ② 감초 ③ 마황 ④ 창출" if "①" <= answer[0] <= "④" else "군약은? 1) 인삼 2) 감초 3) 마황"
    table, counts = convert_rows(tmp_path, [{"question": asked, "answer": answer}, QA])
    assert counts.dropped == DROPPED
    assert len(table) == 1


def test_a_list_that_answers_a_list_is_kept(tmp_path: Path) -> None:
    """To translate or to explain a list is another task than to choose from it."""
    asked = "존댓말로 바꾸세요. 1. 먹어 2. 자 3. 가"
    table, counts = convert_rows(tmp_path, [{"question": asked, "answer": "1. 드세요 2. 주무세요 3. 가세요"}, QA])
    assert (len(table), counts.dropped) == (2, {})


def test_choices_that_the_model_does_not_see_are_remarked(tmp_path: Path) -> None:
    """A choice written out is an answer; that the choices are no part of the question is stated."""
    row = {"question": "군약은?", "choices": ["인삼", "감초"], "answer": "감초"}
    _, counts = convert_rows(tmp_path, [row])
    assert counts.remarks[-1] == "the choices are not put into the questions: choices"


def test_columns_of_single_choices_are_a_family() -> None:
    """One letter or number alone makes no column a choice."""
    assert choice_columns(["question", "option_a", "option_b", "보기 1", "보기 2", "sol1"]) == (
        *("option_a", "option_b"),
        *("보기 1", "보기 2"),
    )
    assert choice_columns(["a", "q", "q1", "vitamin_b", "vitamin_c", "1", "2"]) == ()


def test_marks_of_choices() -> None:
    """Letters and numbers of choices, alone or several; words and amounts are none."""
    assert all(map(is_choice_mark, ["A", " (2) ", "3번", "①③", "A, C", "b)"]))
    assert not any(map(is_choice_mark, ["", "감초", "Ab", "12", "10 mg", "3 일", "A형", "K"]))
