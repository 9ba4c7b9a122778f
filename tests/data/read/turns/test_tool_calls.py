"""Tool calls and definitions: what is meant is read, whatever it is called; what cannot be read drops the row."""

import json
from pathlib import Path
from typing import Any

import pytest

from converted import convert_rows, converted
from seodang.data.read.turns.tool_calls import read_calls
from seodang.types import Counts

ASKED = {"role": "user", "content": "서울 날씨?"}
ANSWERED = [{"role": "tool", "content": "맑음"}, {"role": "assistant", "content": "맑아요."}]
PLAIN = {"messages": [ASKED, ANSWERED[1]]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ARGUMENTS = {"city": "서울"}


def with_call(call: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", "tool_calls": call}, *ANSWERED], **more}


def arguments_of(folder: Path, call: Any) -> tuple[Any, Counts]:
    rows, counts = converted(folder, with_call(call))
    return rows[0][1]["tool_calls"][0]["function"], counts


@pytest.mark.parametrize(
    "call",
    [
        [{"name": "weather", "args": ARGUMENTS}],
        [{"name": "weather", "input": ARGUMENTS}],
        {"type": "tool_use", "id": None, "name": "weather", "input": ARGUMENTS},
        [{"function": {"name": "weather", "kwargs": ARGUMENTS}}],
        [{"function": "weather", "arguments": ARGUMENTS}],
        [{"tool_name": "weather", "tool_input": ARGUMENTS}],
        [{"name": "weather", "arguments": "{'city': '서울'}"}],
        [{"name": "weather", "arguments": json.dumps(json.dumps(ARGUMENTS))}],
        [{"name": "weather", "arguments": None, "parameters": json.dumps(ARGUMENTS)}],
        ['{"name": "weather", "arguments": {"city": "서울"}}'],
        "{'name': 'weather', 'arguments': {'city': '서울'}}",
    ],
)
def test_arguments_are_read_under_other_names_and_from_texts(tmp_path: Path, call: Any) -> None:
    """Every usual name of the arguments, and arguments printed as JSON, as JSON twice, or by Python."""
    function, _ = arguments_of(tmp_path, call)
    assert function == {"name": "weather", "arguments": ARGUMENTS}


def test_other_names_and_texts_are_counted(tmp_path: Path) -> None:
    """The counts say under which key arguments stood, and that they were a text."""
    _, counts = arguments_of(tmp_path, [{"name": "weather", "args": "{'city': '서울'}"}])
    assert counts.changed == {
        "tool call arguments read as JSON": 1,
        "tool call arguments read from the key args": 1,
    }


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "f", "arguments": "서울"}, "tool call arguments that cannot be read"),
        ({"name": "f", "arguments": '"서울"'}, "tool call arguments that cannot be read"),
        ({"name": "f", "arguments": '{"city": "서'}, "tool call arguments that cannot be read"),
        ({"name": "f", "arguments": [1, 2]}, "tool call arguments that are not an object"),
        ({"name": "f", "arguments": 3}, "tool call arguments that are not an object"),
        ({"name": "f", "arguments": '{"a": 1, "a": 2}'}, "tool call arguments with a duplicate key"),
        ({"name": "f", "arguments": "{'a': 1, 'a': 2}"}, "tool call arguments with a duplicate key"),
        ({"name": "f", "arguments": {"\uac00": 1, "\u1100\u1161": 2}}, "a tool call with a duplicate key"),
        ({"name": "f", "args": {"a": 1}, "input": {"a": 2}}, "tool call arguments under two keys"),
        ({"name": "f", "city": "서울"}, "a tool call with keys that are not known"),
        ({"name": "f", "arguments": {}, "limit": 3}, "a tool call with keys that are not known"),
        ({"name": "f", "arguments": "{'a': {1, 2}}"}, "tool call arguments that cannot be read"),
        ({"arguments": {"a": 1}}, "a tool call without a name"),
        ({"name": "f", "arguments": '{"a": ' * 70 + "1" + "}" * 70}, "tools nested more than 64 levels deep"),
        ({"name": "f", "arguments": '{"a": ' * 9000 + "1" + "}" * 9000}, "tool call arguments that cannot be read"),
        ({"name": "f", "arguments": {"a": 1e999}}, "a value in a tool call that JSON does not have"),
    ],
)
def test_calls_that_would_lose_something_drop_the_row(tmp_path: Path, call: dict[str, Any], reason: str) -> None:
    """No call is supervised with fewer or other arguments than the user wrote."""
    text = json.dumps(with_call([call]), ensure_ascii=False).replace("Infinity", "1e999")
    table, counts = convert_rows(tmp_path, text + "\n" + json.dumps(PLAIN) + "\n")
    assert counts.dropped == {reason: 1}
    assert len(table) == 1


def test_empty_arguments_are_an_empty_object(tmp_path: Path) -> None:
    """Null, missing, blank and empty arguments are a call without arguments, and metadata of a call is no argument."""
    for arguments in (None, "", " ", {}, "{}", "null"):
        call = {"id": "c1", "index": 0, "type": "function", "name": "now", "arguments": arguments}
        assert arguments_of(tmp_path, [call])[0] == {"name": "now", "arguments": {}}
    assert arguments_of(tmp_path, [{"name": "now"}])[0] == {"name": "now", "arguments": {}}


def test_numbers_of_arguments_keep_their_text(tmp_path: Path) -> None:
    """1.10 and 1e5 are stored as they were written, as values and inside of texts; so are tool definitions."""
    numbers = '{"dose": 1.10, "n": 1e5, "m": -2.50E-3, "k": 7}'
    for arguments in (numbers, json.dumps(numbers), json.dumps(numbers.replace('"', "'"))):
        row = json.dumps(with_call([{"name": "f", "arguments": "?"}])).replace('"?"', arguments)
        tools = f'[{{"name": "f", "default": {numbers}}}]'
        table, _ = convert_rows(tmp_path, row[:-1] + f', "tools": {tools}}}\n' + json.dumps(PLAIN) + "\n")
        stored = table.data.column("messages").combine_chunks().flatten().storage[1].as_py()
        assert f'"arguments": {numbers}' in stored
        assert table["tools"][0] == tools
        other, _ = convert_rows(tmp_path, (row[:-1] + f', "tools": {tools}}}\n').replace("1.10", "1.1") * 2)
        assert table["row_id"][0] != other["row_id"][0], "other numbers are another row"


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [TOOL]},
        {"tools": None, "functions": [TOOL]},
        {"tools": [], "functions": json.dumps([TOOL])},
        {"tools": json.dumps(TOOL) + "\n" + json.dumps(TOOL)},
        {"tools": str([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"tools": {"tools": [TOOL]}},
        {"tools": [TOOL], "functions": [TOOL]},
        {"tool_definitions": [TOOL]},
        {"available_functions": json.dumps([TOOL])},
    ],
)
def test_definitions_are_read_wherever_a_row_has_them(tmp_path: Path, more: dict[str, Any]) -> None:
    """In `functions` beside a null `tools`, as JSON, JSON Lines, in Python's notation, as a list of texts."""
    table, _ = convert_rows(tmp_path, [{**PLAIN, **more}, {**PLAIN, "tools": [TOOL], "functions": None}])
    assert TOOL in json.loads(table["tools"][0])


@pytest.mark.parametrize("system", [{"content": "날씨 봇"}, {"content": ""}])
@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), str([TOOL])])
def test_definitions_in_the_system_turn_are_read(tmp_path: Path, system: dict[str, Any], tools: Any) -> None:
    """A system turn's own `tools` are the row's, also where its text is blank and the row has a null column."""
    turns = [{"role": "system", **system, "tools": tools}, *PLAIN["messages"]]
    table, _ = convert_rows(tmp_path, [{"messages": turns, "tools": None}] * 2)
    assert json.loads(table["tools"][0]) == [TOOL]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tools": '[{"name": "weather", "para'}, "tool definitions that cannot be read"),
        ({"tools": "weather, drug"}, "tool definitions that cannot be read"),
        ({"tools": '[{"name": "f", "name": "g"}]'}, "tool definitions with a duplicate key"),
        ({"tools": [{"description": "날씨"}]}, "a tool definition without a name"),
        ({"tools": [3]}, "tools are not a list of definitions"),
        ({"tools": [TOOL], "functions": [{"name": "g"}]}, "different tool definitions in two places"),
        (
            {"messages": [ASKED, ANSWERED[1], {**ASKED, "tools": [TOOL]}, ANSWERED[1]]},
            "tool definitions inside the conversation",
        ),
    ],
)
def test_definitions_that_cannot_be_read_drop_the_row(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    """No row trains without its tools."""
    keys = {"tools": None, "functions": None}
    table, counts = convert_rows(tmp_path, [{**PLAIN, **keys, **row}, {**PLAIN, **keys}])
    assert counts.dropped == {reason: 1}
    assert table["tools"][:] == [None]


def test_names_of_nothing_are_no_definitions(tmp_path: Path) -> None:
    """Cells that say that there are no tools leave the row without, as a null does."""
    table, counts = convert_rows(tmp_path, [{**PLAIN, "tools": tools} for tools in ("", "null", "None", "[]", " ", [])])
    assert table["tools"][:] == [None] * 6
    assert counts.dropped == {}


def test_calls_in_tags_are_read() -> None:
    """Calls between <tool_call> tags, one or several, are calls; text around them is none."""
    text = '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n<tool_call>{"name": "b"}</tool_call>'
    assert [call["function"]["name"] for call in read_calls(text, set())] == ["a", "b"]
