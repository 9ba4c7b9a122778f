"""Rows whose answer somebody marked as bad are not trained on, and counted."""

from pathlib import Path
from typing import Any

import pytest

from converted import convert_rows

GOOD = {"question": "감기는?", "answer": "쉬세요."}
BAD = {"question": "독감은?", "answer": "몰라요."}
MARKS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"사용여부": "Y"}, {"사용여부": "N"}, "사용여부: n"),
    ({"검수 상태": "승인"}, {"검수 상태": "반려"}, "검수 상태: 반려"),
    ({"status": "completed"}, {"status": "discarded"}, "status: discarded"),
    ({"kto_tag": True}, {"kto_tag": False}, "kto_tag: false"),
    ({"rejected": False}, {"rejected": True}, "rejected: true"),
    ({"use_yn": None}, {"use_yn": "n"}, "use_yn: n"),
]


@pytest.mark.parametrize(("good", "bad", "marked"), MARKS)
def test_rows_that_are_marked_as_bad_are_dropped(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], marked: str
) -> None:
    """Reviews, preferences and deleted records: the row is dropped under its mark, its column is named as used."""
    table, counts = convert_rows(tmp_path, [GOOD | good, BAD | bad])
    assert [row[-1]["content"] for row in table["messages"]] == ["쉬세요."]
    assert counts.dropped == {f"marked as a bad answer ({marked})": 1}
    assert f"marked as bad: {marked.partition(':')[0]}" in counts.remarks[-1]


def test_unwanted_completions_of_a_preference_set_are_dropped(tmp_path: Path) -> None:
    """KTO's rows are a prompt, a completion and whether it is wanted."""
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "c", "completion": "d", "label": False}]
    table, counts = convert_rows(tmp_path, rows)
    assert len(table) == 1
    assert counts.dropped == {"marked as a bad answer (label: false)": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"label": False},  # a class: only beside prompt and completion is it a preference
        {"rejected": "모릅니다."},  # a text: the rejected answer
        {"status": "입원"},
        {"is_correct": "모름"},
    ],
)
def test_columns_that_say_something_else_drop_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    """A column of that name with other values is no mark."""
    table, counts = convert_rows(tmp_path, [GOOD | other, BAD | other])
    assert len(table) == 2
    assert not counts.dropped
