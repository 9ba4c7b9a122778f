"""Turns → messages: loss flags, turns written as several, thoughts and blocks of every shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from converted import convert_rows, converted
from seodang.data.read.turns.messages import FLAG_NOT_HONOURED, JOINED_CALLS, WITHOUT_LOSS
from seodang.data.read.turns.thoughts import ENCRYPTED, SECOND

USER = {"role": "user", "content": "1+1?"}
WRONG = {"role": "assistant", "content": "3"}
AGAIN = {"role": "user", "content": "다시"}
RIGHT = {"role": "assistant", "content": "2"}


def flagged(flags: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [USER, {**WRONG, **flags}, AGAIN, RIGHT]}


@pytest.mark.parametrize(
    "flags",
    [
        {"train": False}, {"training": False}, {"trainable": "false"}, {"loss": False}, {"loss": 0}, {"loss_mask": 0},
        {"loss_weight": 0.0}, {"mask": True}, {"masked": "True"}, {"mask": 1}, {"weight": 0}, {"weight": "0"},
        {"weight": "0.0"}, {"compute_loss": False}, {"no_loss": True}, {"loss_mask": "0", "weight": 1},
        {"train_on_turn": False}, {"is_train": 0}, {"include_in_loss": "no"}, {"exclude_from_loss": True},
    ],
)  # fmt: skip
def test_an_answer_that_is_flagged_is_context(tmp_path: Path, flags: dict[str, Any]) -> None:
    """Whatever the flag is called: the answer stays in the conversation, without loss, and is counted."""
    rows, counts = converted(tmp_path, flagged(flags))
    assert rows == [[USER, {**WRONG, "supervised": False}, AGAIN, RIGHT]]
    assert counts.changed == {WITHOUT_LOSS: 1}


@pytest.mark.parametrize(
    "flags", [{"train": True}, {"weight": 1}, {"weight": "1.0"}, {"mask": False}, {"loss_mask": 1}, {"loss": None}]
)
def test_flags_that_ask_for_the_loss_change_nothing(tmp_path: Path, flags: dict[str, Any]) -> None:
    """An answer that is to be trained is trained, and no flag reaches the stored turn."""
    assert converted(tmp_path, flagged(flags))[0] == [[USER, WRONG, AGAIN, RIGHT]]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"weight": 0.5}, "a loss weight other than 0 and 1"),
        ({"weight": "0.3"}, "a loss weight other than 0 and 1"),
        ({"loss_weight": 2}, "a loss weight other than 0 and 1"),
        ({"mask": "User"}, "a loss flag that cannot be read"),
        ({"loss_mask": [0, 1, 1]}, "a loss flag that cannot be read"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}, "loss flags for parts of a turn"),
    ],
)
def test_flags_that_cannot_be_honoured_drop_the_row(tmp_path: Path, flags: dict[str, Any], reason: str) -> None:
    """A fractional weight or a flag for a part of a turn is never ignored."""
    rows, counts = converted(tmp_path, flagged(flags), {"messages": [USER, RIGHT]})
    assert counts.dropped == {reason: 1}
    assert rows == [[USER, RIGHT]]


def test_a_conversation_ends_with_a_supervised_answer(tmp_path: Path) -> None:
    """What follows the last answer with loss is cut; without any such answer the row is dropped."""
    last = [USER, RIGHT, AGAIN, {**WRONG, "train": False}]
    none = [USER, {**WRONG, "train": False}]
    rows, counts = converted(tmp_path, {"messages": last}, {"messages": none})
    assert rows == [[USER, RIGHT]]
    assert counts.changed == {"turns after the last answer cut": 1, WITHOUT_LOSS: 1}
    assert counts.dropped == {"no answer with a loss": 1}


def test_loss_of_a_question_is_not_honoured_and_counted(tmp_path: Path) -> None:
    """`train: false` on a question is what holds anyway; `train: true` is reported."""
    rows, counts = converted(
        tmp_path, {"messages": [{**USER, "train": True}, RIGHT]}, {"messages": [{**USER, "weight": 0}, RIGHT]}
    )
    assert rows == [[USER, RIGHT]] * 2
    assert counts.changed == {FLAG_NOT_HONOURED: 1}


def call(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"city": "서울"}}}


def share_gpt(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


CALL_A, CALL_B = (json.dumps({"name": name, "arguments": {"city": "서울"}}) for name in "ab")


def test_several_calls_of_one_turn_are_one_turn(tmp_path: Path) -> None:
    """tool_call, tool_call, tool_response, tool_response: one assistant turn with two calls, two tool turns."""
    row = share_gpt(
        ("human", "q"), ("tool_call", CALL_A), ("tool_call", CALL_B), ("tool_response", "1"), ("tool_response", "2"),
        ("gpt", "a"),
    )  # fmt: skip
    rows, counts = converted(tmp_path, row, row)
    assert rows[0] == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "a"},
    ]
    assert counts.changed[JOINED_CALLS] == 2


@pytest.mark.parametrize("text", ["찾을게요.", "<think>\n서울?\n</think>", "<think>\n서울?\n</think>\n\n찾을게요."])
def test_a_text_before_a_call_is_of_the_same_turn(tmp_path: Path, text: str) -> None:
    """A text, or a thought, and the call that follows it are one answer, in both styles."""
    expected = {"role": "assistant", "content": text, "tool_calls": [call("a")]}
    end = [{"role": "tool", "content": "1"}, RIGHT]
    rows, _ = converted(
        tmp_path, share_gpt(("human", "1+1?"), ("gpt", text), ("function_call", CALL_A), ("tool", "1"), ("gpt", "2"))
    )
    assert rows == [[USER, expected, *end]]
    turns = [USER, {"role": "assistant", "content": text}, {"role": "assistant", "tool_calls": [call("a")]}, *end]
    rows, _ = converted(tmp_path, {"messages": turns})
    assert rows == [[USER, expected, *end]]


def test_a_thought_inside_a_call_turn_is_kept(tmp_path: Path) -> None:
    """`<think>…</think>` and then the call, both in the text of one call turn."""
    thought = "<think>\n서울?\n</think>"
    rows, counts = converted(
        tmp_path,
        share_gpt(("human", "q"), ("function_call", f"{thought}\n{CALL_A}\n{CALL_B}"), ("tool", "1"), ("gpt", "a")),
    )
    assert rows[0][1] == {"role": "assistant", "content": thought, "tool_calls": [call("a"), call("b")]}
    assert counts.dropped == {}


def test_calls_one_after_the_other_stay_apart(tmp_path: Path) -> None:
    """A call that waits for the result of the call before is a turn of its own."""
    rows, counts = converted(tmp_path, share_gpt(
        ("human", "q"), ("tool_call", CALL_A), ("tool_response", "1"), ("tool_call", CALL_B), ("tool_response", "2"),
        ("gpt", "a"),
    ))  # fmt: skip
    assert [turn["role"] for turn in rows[0]] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert JOINED_CALLS not in counts.changed


def test_calls_with_and_without_loss_are_not_joined(tmp_path: Path) -> None:
    """A joined turn could not say which of its parts is supervised."""
    turns = [
        USER,
        {"role": "assistant", "content": "음", "train": False},
        {"role": "assistant", "tool_calls": [call("a")]},
        RIGHT,
    ]
    rows, _ = converted(tmp_path, {"messages": turns})
    assert len(rows[0]) == 4


@pytest.mark.parametrize(
    "thoughts",
    [
        {"reasoning_content": "가\n나"},
        {"reasoning_content": {"text": "가\n나"}},
        {"reasoning_content": ["가", "나"]},
        {"reasoning_content": [{"type": "thinking", "thinking": "가"}, {"type": "text", "text": "나"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "가\n나", "signature": "x"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "가\n나"}]},
        {"thought": "가\n나"},
        {"think": "가\n나"},
        {"reasoning": {"summary": [{"type": "summary_text", "text": "가"}, {"type": "summary_text", "text": "나"}]}},
        {"reasoning_content": " ", "thoughts": ["가", {"content": "나"}]},
        {"cot": "가\n나"},
        {"chain_of_thought": "가\n나"},
        {"reasoning_content": '[{"type": "thinking", "thinking": "가"}, {"type": "text", "text": "나"}]'},
        {"thinking": "[{'type': 'text', 'text': '가\\n나'}]"},
    ],
)
@pytest.mark.parametrize("answer", [RIGHT, {"role": "function_call", "content": CALL_A}])
def test_thoughts_of_every_shape_are_read(tmp_path: Path, thoughts: dict[str, Any], answer: dict[str, Any]) -> None:
    """Objects, lists, parts, and the names that providers use; in answers and in call turns."""
    rows, _ = converted(tmp_path, {"messages": [USER, {**answer, **thoughts}, AGAIN, RIGHT]})
    assert rows[0][1]["reasoning_content"] == "가\n나"


def test_thoughts_that_are_not_used_are_counted(tmp_path: Path) -> None:
    """Encrypted thoughts and a second, different one are left out and counted; unknown shapes drop the row."""
    encrypted = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}
    second = {"reasoning_content": "가", "thinking": "나"}
    same = {"reasoning": "가", "reasoning_details": [{"type": "reasoning.text", "text": "가"}]}
    unknown = {"reasoning_content": {"steps_taken": 3}}
    flag = {"thinking": True}
    rows, counts = converted(
        tmp_path, *({"messages": [USER, {**RIGHT, **keys}]} for keys in (encrypted, second, same, unknown, flag))
    )
    assert [row[1].get("reasoning_content") for row in rows] == [None, "가", "가", None]
    assert counts.changed == {ENCRYPTED: 1, SECOND: 1}
    assert counts.dropped == {"thoughts that cannot be read": 1}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "value": "1+1?"}],
        [{"type": "text", "text": {"value": "1+1?", "annotations": []}}],
        {"type": "text", "text": "1+1?"},
        [{"type": "text", "content": "1+1?"}],
        '[{"type": "text", "text": "1+1?"}]',
        "[{'type': 'text', 'text': '1+1?'}]",
    ],
)
def test_text_blocks_of_every_shape_are_read(tmp_path: Path, content: Any) -> None:
    """A block's text under `value` or `content`, in an object, and blocks that were printed into a text."""
    assert converted(tmp_path, {"messages": [{"role": "user", "content": content}, RIGHT]})[0] == [[USER, RIGHT]]


def test_keys_of_turns_that_are_not_used_are_reported(tmp_path: Path) -> None:
    """What a turn holds beside what is read is named, once for the row; empty values are no content."""
    turns = [
        {**USER, "images": ["a.png"], "id": None},
        {**RIGHT, "emotion": "기쁨", "refusal": None, "annotations": []},
    ]
    _, counts = converted(tmp_path, {"messages": turns})
    assert counts.changed == {"keys of a turn not used: emotion, images": 1}


def test_drop_reasons_hold_no_text_of_the_row(tmp_path: Path) -> None:
    """Many rows with the same fault are one reason; the list of dropped rows says what each one had."""
    rows = [{"messages": [{"role": f"critic {number}", "content": "x"}, USER, RIGHT]} for number in range(300)]
    rows += [{"messages": [{"role": "user", "content": [{"type": f"odd{n}"}]}, RIGHT]} for n in range(300)]
    _, counts = converted(tmp_path, *rows, {"messages": [USER, RIGHT]})
    assert counts.dropped == {"unknown role": 300, "content that is not text": 300}
    assert counts.notes[7].reason == "unknown role: 'critic 7'"


def test_broken_characters_and_deep_nesting_end_in_a_count(tmp_path: Path) -> None:
    """Lone surrogates in keys and values, and deeply nested values, never stop the reading."""
    deep = {"role": "tool", "content": json.loads('{"a": ' * 90 + "1" + "}" * 90)}
    odd = {**USER, "\ud800key": "\udc00value", "content": "1+1?\ud800"}
    text = json.dumps({"messages": [odd, RIGHT]}) + "\n" + json.dumps({"messages": [USER, RIGHT, deep, RIGHT]}) + "\n"
    text += json.dumps({"messages": [USER, RIGHT], "meta\ud800": {"\ud800": "\ud800"}}) + "\n"
    table, counts = convert_rows(tmp_path, text, "question")
    assert table["messages"][0] == [USER, RIGHT]
    assert counts.kept + sum(counts.dropped.values()) == 3
    "\n".join([*counts.remarks, *counts.changed, *counts.dropped]).encode()


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
@pytest.mark.parametrize("role", [{"name": "user"}, ["user"], 3, True])
def test_a_role_that_is_no_text_drops_its_row(tmp_path: Path, keys: tuple[str, str], role: object) -> None:
    """Also in the shape that most turns have: the row is counted, the others are read."""
    good = [dict(zip(keys, pair, strict=True)) for pair in (("user", "1+1?"), ("assistant", "2"))]
    bad = [{**good[0], keys[0]: role}, good[1]]
    rows, counts = converted(tmp_path, {"messages": good}, {"messages": bad}, {"messages": good})
    assert rows == [[USER, RIGHT], [USER, RIGHT]]
    assert sum(counts.dropped.values()) == 1
