"""Which holdout rows are asked, and how."""

import json
from typing import Any

from datasets import Dataset

from qa_rows import data_set, row
from seodang.data.read.serialized import to_json
from seodang.data.template.renderer import parse_tools
from seodang.proof.questions import questions
from seodang.recipe import Ask


def _asked(rows: Dataset, count: int) -> list[Any]:
    def prompt(messages: Any, tools: str | None) -> str:
        return to_json([messages, parse_tools(tools)])

    return questions(Ask(holdout=count), {"a": rows}, prompt)


def test_each_conversation_is_asked_once_before_any_is_asked_again() -> None:
    """Examples that are split off one conversation stand one after the other, and bear its row_id with a number."""
    ids = ("b", "b#2", "b#3", "a", "a#2", "c")
    rows = data_set(
        row(number, [("user", f"q{number}"), ("assistant", "x")], "a", row_id=name) for number, name in enumerate(ids)
    )
    assert [question.row_id for question in _asked(rows, 2)] == ["b", "a"]
    assert [question.row_id for question in _asked(rows, 5)] == ["b", "a", "c", "b#2", "b#3"]
    backwards = rows.select(list(reversed(range(len(ids)))))
    assert [question.row_id for question in _asked(backwards, 4)] == ["c", "a#2", "b#3", "a"]


def test_numbers_in_prompts_of_the_holdout_keep_their_text() -> None:
    """As they were trained: 1.10 is no 1.1, and 1e5 no 100000.0."""
    call = {"type": "function", "function": {"name": "dose", "arguments": {"mg": 0}}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "x", "tool_calls": [call]},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "y"},
    ]
    one = row(1, [("user", "q"), ("assistant", "x")], "a", messages=turns, tools=None)
    table = data_set([one]).data.table
    text = json.dumps(turns[1], ensure_ascii=False).replace('"mg": 0', '"mg": [1.10, 1e5]')
    made = _with_turn(table, 1, text)
    assert "[1.10, 1e5]" in _asked(made, 1)[0].prompt


def _with_turn(table: Any, at: int, text: str) -> Dataset:
    """The one conversation with other JSON text for a turn."""
    import pyarrow as pa

    column = table["messages"].combine_chunks()
    texts = column.flatten().storage.to_pylist()
    texts[at] = text
    storage = pa.array(texts, type=pa.string())
    values = pa.ExtensionArray.from_storage(pa.json_(), storage)
    lists = pa.ListArray.from_arrays(pa.array([0, len(texts)], type=pa.int32()), values)
    index = table.schema.get_field_index("messages")
    return Dataset(table.set_column(index, table.schema.field(index), lists))
