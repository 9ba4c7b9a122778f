"""Cells → conversations: prompts with history, values that were printed into texts, rows of another format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converted import convert_rows, converted
from seodang.data.read.conversation import CONTINUED, PROMPT_ANSWERS, TURNS_AS_TEXT
from seodang.errors import SourceError

USER = {"role": "user", "content": "1+1?"}
WRONG = {"role": "assistant", "content": "3"}
AGAIN = {"role": "user", "content": "다시"}
RIGHT = {"role": "assistant", "content": "2"}
HISTORY = [USER, WRONG, AGAIN]
QA = {"question": "감기는?", "answer": "쉬세요."}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("prompt", [HISTORY, as_json(HISTORY), str(HISTORY)])
@pytest.mark.parametrize("completion", [[RIGHT], as_json([RIGHT]), "2"])
def test_answers_in_the_prompt_are_not_supervised(tmp_path: Path, prompt: Any, completion: Any) -> None:
    """A prompt with history, as turns or as their text: the completion alone has a loss."""
    rows, counts = converted(tmp_path, {"prompt": prompt, "completion": completion})
    assert rows == [[USER, {**WRONG, "supervised": False}, AGAIN, RIGHT]]
    assert counts.changed[PROMPT_ANSWERS] == 1
    assert counts.changed.get(TURNS_AS_TEXT, 0) == (isinstance(prompt, str) or completion == as_json([RIGHT]))


def test_an_answer_that_the_prompt_begins_is_continued(tmp_path: Path) -> None:
    """A prefilled assistant turn and the completion are one answer, of which the completion alone has a loss."""
    begun = {"role": "assistant", "content": "답은 "}
    expected = {"role": "assistant", "content": "답은 2", "prefill": "답은 "}
    for completion in ([RIGHT], "2"):
        rows, counts = converted(tmp_path, {"prompt": [*HISTORY, begun], "completion": completion})
        assert rows == [[USER, {**WRONG, "supervised": False}, AGAIN, expected]]
        assert counts.changed[CONTINUED] == 1
    rows, _ = converted(tmp_path, {"prompt": [USER, {**begun, "content": ""}], "completion": [RIGHT]})
    assert rows == [[USER, RIGHT]], "an empty beginning is none"
    thinking = {**begun, "reasoning_content": "음"}
    _, counts = converted(
        tmp_path, {"prompt": [USER, thinking], "completion": "2"}, {"prompt": [USER], "completion": "2"}
    )
    assert counts.dropped == {"an answer that the prompt begins, with thoughts": 1}


def test_a_completion_may_be_several_turns(tmp_path: Path) -> None:
    """Each answer of the completion has a loss, unless its own flag says otherwise; without one the row is dropped."""
    rows, counts = converted(
        tmp_path,
        {"prompt": [USER], "completion": [RIGHT, AGAIN, RIGHT]},
        {"prompt": [USER], "completion": [{**WRONG, "train": False}, AGAIN, RIGHT]},
        {"prompt": HISTORY[:2], "completion": [AGAIN]},
    )
    assert rows == [[USER, RIGHT, AGAIN, RIGHT], [USER, {**WRONG, "supervised": False}, AGAIN, RIGHT]]
    assert counts.dropped == {"no answer with a loss": 1}


def test_turns_in_columns_of_any_pair_are_turns(tmp_path: Path) -> None:
    """Question and answer may be lists of turns or their text; a context beside such a list drops the row."""
    row = {"question": as_json(HISTORY), "answer": "2"}
    rows, _ = converted(tmp_path, row)
    assert rows == [[USER, {**WRONG, "supervised": False}, AGAIN, RIGHT]]
    assert converted(tmp_path, {"prompt": HISTORY, "response": [RIGHT]})[0] == rows
    _, counts = converted(tmp_path, {**row, "context": "글"}, {**row, "context": None})
    assert counts.dropped == {"a context beside a list of turns": 1}


@pytest.mark.parametrize("flag", [{"train": False}, {"weight": 0}, {"Loss Weight": "0"}, {"masked": True}])
@pytest.mark.parametrize("row", [{"messages": [USER, RIGHT]}, {"question": "q", "answer": "a"}, {"text": "글"}])
def test_a_flag_of_a_whole_row_takes_it_out_of_the_loss(
    tmp_path: Path, row: dict[str, Any], flag: dict[str, Any]
) -> None:
    """Beside the row's content, near or far down; a source that is not trained on keeps such rows."""
    role: Any = "replay" if "text" in row else "domain"
    rows = [row] * 1200 + [{**row, **flag}]
    for chosen in (rows, rows[-2:]):
        _, counts = convert_rows(tmp_path, chosen, role=role)
        assert counts.dropped == {"no answer with a loss": 1}
        assert not any("not used" in remark for remark in counts.remarks)
    _, counts = convert_rows(tmp_path, rows[-2:], role=role, train=False)
    assert not counts.dropped


def test_columns_that_only_bear_the_name_of_a_flag_are_not_used(tmp_path: Path) -> None:
    """Patients have a weight and measured rows a loss, which is remarked on; a fraction among flags drops the row."""
    row = {"question": "q", "answer": "a"}
    for value in (72.5, "heavy", 0.5):
        _, counts = convert_rows(tmp_path, [{**row, "weight": value}, {**row, "weight": 0}])
        assert not counts.dropped
        assert any("not used: weight" in remark for remark in counts.remarks)
    flagged = [{**row, "weight": value} for value in (1, None, *[1] * 300, 0.5)]
    _, counts = convert_rows(tmp_path, flagged)
    assert counts.dropped == {"a loss weight other than 0 and 1": 1}


@pytest.mark.parametrize(
    "cell",
    [
        "['쉬세요.']",
        '["쉬세요."]',
        "{'text': ['쉬세요.'], 'answer_start': [0]}",
        "{'text': ['쉬세요.', '쉬세요.'], 'answer_start': [0, 3]}",
    ],
)
def test_printed_lists_in_csv_cells_are_read(tmp_path: Path, cell: str) -> None:
    """Where every answer is a printed list of one text, or SQuAD's object, the text is taken and counted."""
    quoted = cell.replace('"', '""')
    table, counts = convert_rows(tmp_path, f'question,answer\n감기는?,"{quoted}"\n두통은?,"{quoted}"\n', name="d.csv")
    assert [row[1]["content"] for row in table["messages"]] == ["쉬세요."] * 2
    assert counts.changed["answer: read from the text of a list or object"] == 2


def test_squad_objects_are_read_and_unanswerable_ones_dropped(tmp_path: Path) -> None:
    """An object of answers is its one text, of several right ones the first; without any it is no answer."""
    answers = [{"text": texts, "answer_start": [0] * len(texts)} for texts in (["쉬세요."], [], ["가", "나"])]
    rows, counts = converted(tmp_path, *({"question": "감기는?", "answers": answer} for answer in answers))
    assert [row[1]["content"] for row in rows] == ["쉬세요.", "가"]
    assert counts.dropped == {"empty answer": 1}
    assert counts.changed == {"answers: the first of several right answers taken": 1}


def test_an_object_in_a_cell_names_the_text_that_it_holds(tmp_path: Path) -> None:
    """Rows whose cells are objects are refused with the dotted name by which a recipe reaches the text."""
    row = {"id": "1", "question": {"lang": "ko", "text": "감기는?"}, "answer": {"text": "쉬세요."}}
    with pytest.raises(SourceError, match=r"question holds an object, not text\n.*such as `question\.lang`"):
        converted(tmp_path, row)


def test_odd_values_end_in_a_count(tmp_path: Path) -> None:
    """An object where a text or a role is expected drops its row or is a text; it never stops the reading."""
    odd = {"text": [{"a": 1}, {"a": 1}], "answer_start": [0, 0]}
    _, counts = convert_rows(tmp_path, [{**QA, "answer": odd}, QA])
    assert counts.dropped == {"answer holds an object, not text": 1}
    assert convert_rows(tmp_path, [{"role": {"name": "user"}, "content": "글"}] * 2)[1].kept == 2


def test_a_list_among_texts_stays_a_text(tmp_path: Path) -> None:
    """Where other answers of the column are texts, a printed list is what the user wrote: code, maybe."""
    rows, _ = converted(tmp_path, {**QA, "answer": "['a']"}, QA)
    assert rows[0][1]["content"] == "['a']"
    rows, _ = converted(tmp_path, *[{**QA, "answer": '{"증상": "열"}'}] * 2)
    assert rows[0][1]["content"] == '{"증상": "열"}', "an answer in JSON is an answer"


@pytest.mark.parametrize(
    "blank", ["\u200b", "\ufeff", "\u3164", "\u00ad", "\u2060\n", "\u2800", " \u115f\u1160 ", "\ufe0f"]
)
def test_answers_that_cannot_be_seen_are_empty(tmp_path: Path, blank: str) -> None:
    """Zero widths, fillers and soft hyphens alone are no question, no answer, no text."""
    rows = [QA, {**QA, "answer": blank}, {**QA, "question": blank}]
    assert convert_rows(tmp_path, rows)[1].dropped == {"empty answer": 1, "empty question": 1}
    assert convert_rows(tmp_path, [{"text": "글"}, {"text": blank}])[1].dropped == {"empty text": 1}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": blank}]
    assert converted(tmp_path, {"messages": HISTORY[:2]}, {"messages": turns})[1].dropped == {"empty answer": 1}


def test_a_header_that_stands_once_more_is_dropped(tmp_path: Path) -> None:
    """Files that were joined with their headers: no row asks 'question'."""
    table, counts = convert_rows(tmp_path, "question,answer\na,b\nquestion,answer\nc,d\n", name="d.csv")
    assert table["row"][:] == [1, 3]
    assert counts.dropped == {"a repeated header": 1}


ONE_A_ROW = [
    "".join(as_json(turn) + "\n" for turn in [USER, RIGHT] * 2),
    as_json([USER, RIGHT]),
    "id,role,content\n1,user,안녕\n1,assistant,네\n",
    "".join(as_json({"from": role, "value": "x", "id": 1}) + "\n" for role in ("human", "gpt")),
]


@pytest.mark.parametrize("text", ONE_A_ROW)
@pytest.mark.parametrize("role", ["domain", "retention"])
def test_rows_that_are_turns_are_refused(tmp_path: Path, text: str, role: str) -> None:
    """A table or list with one turn a row is no list of texts; the message says how to join them."""
    path = tmp_path / ("d.csv" if text.startswith("id,") else "d.json" if text.startswith("[") else "d.jsonl")
    with pytest.raises(SourceError, match=r"each row is a single turn.*\n.*join the turns"):
        convert_rows(tmp_path, text, name=path.name)


@pytest.mark.parametrize(
    ("row", "others", "keys"),
    [
        ({"messages": [USER, RIGHT]}, QA, {"question": "question", "answer": "answer"}),
        ({"instruction": "a", "output": "b"}, QA, {"question": "question", "answer": "answer"}),
        ({"Frage": "a", "Antwort": "b"}, QA, {}),
        ({"question": None, "answer": None, "text": "글"}, {**QA, "text": None}, {}),
        (QA, {"messages": [USER, RIGHT]}, {"messages": "messages"}),
        (QA, {"text": "글"}, {"text": "text"}),
    ],
)
def test_rows_of_another_format_are_named_so(
    tmp_path: Path, row: dict[str, Any], others: dict[str, Any], keys: dict[str, str]
) -> None:
    """A row that has none of the source's columns, but others, is no empty question."""
    _, counts = convert_rows(tmp_path, [others, row], **keys)
    assert counts.dropped == {"a row of another format": 1}


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ([{"messages": [USER]}], "leave rows without question or answer out"),
        ([{"messages": [{"role": "critic", "content": "x"}]}], "with the roles system, user, assistant and tool"),
        ([{"messages": [USER, {**RIGHT, "weight": 0.5}]}], "the weight 0 or 1"),
        ([{"messages": [USER, RIGHT], "tools": "weather"}], "as a JSON list of objects"),
        ([{"question": "q", "answer": ["a", "b"]}], "one text into each of these cells"),
    ],
)
def test_the_hint_fits_the_reason(tmp_path: Path, rows: list[dict[str, Any]], hint: str) -> None:
    """If no row can be used, the message says how to fix what most rows have."""
    with pytest.raises(SourceError, match=hint):
        convert_rows(tmp_path, rows * 2)


def test_printed_turns_in_csv_cells_are_read(tmp_path: Path) -> None:
    """As Python prints a list of turns, and as NumPy does: without commas between the turns."""
    turns = [USER, {"role": "assistant", "content": 'it\'s "2"\n} {'}]
    printed = [str(turns), "[" + "\n ".join(map(str, turns)) + "]", as_json(turns)]
    cells = "".join('"' + cell.replace('"', '""') + '"\n' for cell in printed)
    table, _ = convert_rows(tmp_path, "messages\n" + cells, name="d.csv")
    assert table["messages"][:] == [turns] * 3


@pytest.mark.parametrize("row", [USER, WRONG])
@pytest.mark.parametrize(
    "write",
    [
        lambda turns: "".join(as_json(row) + "\n" for row in [turns] * 3),
        lambda turns: as_json([turns] * 3),
        lambda turns: "".join(as_json(row) + "\n\n" for row in [turns] * 3),
    ],
)
def test_lists_of_turns_are_rows(tmp_path: Path, write: Callable[[Any], str], row: dict[str, Any]) -> None:
    """A list of turns in each line, or a list of such lists: a conversation each."""
    turns = [row, AGAIN, RIGHT]
    for name in ("d.jsonl", "d.json"):
        table, _ = convert_rows(tmp_path, write(turns), name=name)
        assert table["messages"][:] == [turns] * 3


def test_one_list_of_turns_in_one_line_is_one_row(tmp_path: Path) -> None:
    """In a file of JSON Lines, a lone line with a list of turns is a conversation; broken lines name their place."""
    table, _ = convert_rows(tmp_path, as_json([USER, RIGHT]) + "\n")
    assert table["messages"][:] == [[USER, RIGHT]]
    with pytest.raises(SourceError, match=r"d.jsonl:2: .*found a list"):
        convert_rows(tmp_path, as_json([USER, RIGHT]) + '\n["a"]\n')
