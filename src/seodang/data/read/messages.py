"""Turns of a conversation, OpenAI or ShareGPT style, as messages. Knows roles and tool calls, not files or columns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seodang.data.read.clean import clean
from seodang.data.read.column_names import FUNCTION_CALL, ROLES
from seodang.data.read.raw_rows import as_text
from seodang.types import Message

TRAILING = "turns after the last answer cut"
EMPTY_SYSTEM = "blank system turn removed"
BLOCKS = "text blocks of one turn joined"
WEIGHTS = "weight of a turn not honoured: loss_on says which answers are supervised"
ARGUMENTS = "tool call arguments read as JSON"
TEXT_BLOCKS = frozenset({"text", "input_text", "output_text"})
THINKING_BLOCKS = frozenset({"thinking", "reasoning"})
_CONTENT_KEYS = frozenset({"content", "value", "tool_calls", "function_call"})  # a turn has at least one of these keys
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


class UnusableRowError(Exception):
    """A row that cannot be trained on or measured; the message is the reason it is counted under."""


def is_turn(value: Any) -> bool:
    """Whether a value is one turn: a role, and content or calls."""
    return isinstance(value, dict) and isinstance(_role(value), str) and not _CONTENT_KEYS.isdisjoint(value)


def turn_list(value: Any) -> list[Any] | None:
    """The list of turns that a cell holds, as JSON values or as JSON text; None if it is no list."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _from_json(value)
    return value if isinstance(value, list) else None


def read_turns(turns: Sequence[Mapping[str, Any]], changes: set[str]) -> list[Message]:
    """The turns as messages, with roles mapped; each change is added to `changes`.

    Raises:
        UnusableRowError: a role or content that cannot be read.
    """
    return [message for turn in turns if (message := _read_turn(turn, changes)) is not None]


def cut_after_last_answer(messages: list[Message], changes: set[str]) -> list[Message]:
    """The messages up to the last answer.

    Raises:
        UnusableRowError: no answer, or a blank question or answer.
    """
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise UnusableRowError("no assistant turn")
    for message in messages[: answers[-1] + 1]:
        if message.role in ("user", "assistant") and not message.tool_calls and not (message.content or "").strip():
            raise UnusableRowError("empty question" if message.role == "user" else "empty answer")
    if answers[-1] + 1 < len(messages):
        changes.add(TRAILING)
    return messages[: answers[-1] + 1]


def read_tools(value: Any, changes: set[str]) -> str | None:
    """A row's tool definitions as JSON text of a list; None if it has none.

    Raises:
        UnusableRowError: text that is no JSON, or JSON that is no list of definitions.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        value = _from_json(value)
    if value is None or value == []:
        return None
    tools = [value] if isinstance(value, dict) else value
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UnusableRowError("tools are no list of definitions")
    return clean(_to_json(tools), changes)


def _read_turn(turn: Mapping[str, Any], changes: set[str]) -> Message | None:
    if not is_turn(turn):
        raise UnusableRowError("a turn without role or content")
    written = str(_role(turn))
    given = turn.get("content") if turn.get("content") is not None else turn.get("value")
    role = ROLES.get(written.strip().casefold())
    if role is None:
        raise UnusableRowError(f"unknown role: {written[:40]}")
    if role == FUNCTION_CALL:
        changes.add(f"role {written} read as assistant with a tool call")
        calls = _read_calls(given, changes)
        return Message(role="assistant", content=None, tool_calls=calls)
    if role != written:
        changes.add(f"role {written} read as {role}")
    content, thinking = _read_content(given, role, changes)
    if role == "system" and not (content or "").strip():
        changes.add(EMPTY_SYSTEM)
        return None
    if role != "assistant":
        return Message(
            role=role,
            content=content or "",
            tool_call_id=_label(turn.get("tool_call_id"), changes) if role == "tool" else None,
            name=_label(turn.get("name"), changes) if role == "tool" else None,
        )
    if turn.get("weight") == 0:
        changes.add(WEIGHTS)
    written_thinking = next((turn[key] for key in REASONING_KEYS if turn.get(key)), None)
    reasoning = clean(written_thinking, changes) if isinstance(written_thinking, str) else thinking
    called = turn.get("tool_calls") or turn.get("function_call")
    calls = _read_calls(called, changes) if called else ()
    return Message(role="assistant", content=content, reasoning=reasoning or None, tool_calls=calls)


def _label(value: Any, changes: set[str]) -> str | None:
    """An id or a name."""
    text = as_text(value)
    return clean(text, changes) if isinstance(text, str) else None


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role") or turn.get("from")


def _read_content(content: Any, role: str, changes: set[str]) -> tuple[str | None, str | None]:
    """(text, thinking) of a turn's content: text, null, or a list of blocks."""
    if content is None or isinstance(content, str):
        return (None if content is None else clean(content, changes)), None
    if isinstance(content, list) and all(isinstance(block, str) or _kind(block) for block in content):
        texts = [
            block if isinstance(block, str) else _block_text(block) for block in content if not _is_thinking(block)
        ]
        thinking = [_block_text(block) for block in content if _is_thinking(block)]
        if len(content) > 1:
            changes.add(BLOCKS)
        return clean("\n".join(texts), changes), clean("\n".join(thinking), changes) or None
    if role == "tool":  # tool results may be objects; templates expect JSON text
        return clean(_to_json(content), changes), None
    if isinstance(content, list | dict):
        raise UnusableRowError(f"the content of a turn is {'a list' if isinstance(content, list) else 'an object'}")
    return clean(as_text(content) or "", changes), None


def _kind(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else None


def _is_thinking(block: Any) -> bool:
    return _kind(block) in THINKING_BLOCKS


def _block_text(block: dict[str, Any]) -> str:
    kind = _kind(block)
    text = block.get("text") if kind in TEXT_BLOCKS else block.get(str(kind), block.get("text"))
    if kind not in TEXT_BLOCKS | THINKING_BLOCKS or not isinstance(text, str):
        raise UnusableRowError(f"content that is no text: {kind}")
    return text


def _read_calls(value: Any, changes: set[str]) -> tuple[Mapping[str, Any], ...]:
    """Tool calls, OpenAI style, from one or several calls given as JSON values or text."""
    if isinstance(value, str):
        value = _from_json(value)
    calls = [value] if isinstance(value, dict) else value
    if not isinstance(calls, list):
        raise UnusableRowError("a tool call that cannot be read")
    return tuple(_read_call(call, changes) for call in calls)


def _read_call(call: Any, changes: set[str]) -> Mapping[str, Any]:
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UnusableRowError("a tool call without a name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        parsed = _from_json(arguments) if arguments.strip() else {}
        if isinstance(parsed, dict):
            arguments = parsed
            changes.add(ARGUMENTS)
    read: dict[str, Any] = {"id": call["id"]} if call.get("id") else {}
    read |= {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
    cleaned: Mapping[str, Any] = json.loads(clean(_to_json(read), changes))
    return cleaned


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _to_json(value: Any) -> str:
    """JSON text, keys in their order.

    Raises:
        UnusableRowError: what JSON, or its readers, cannot hold: infinity, whole numbers beyond 64 bits.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        raise UnusableRowError("a value in a tool call that JSON does not have") from None
    if _has_huge_number(value):
        raise UnusableRowError("a whole number beyond 64 bits in a tool call")
    return text


def _has_huge_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_huge_number, value.values()))
    if isinstance(value, list):
        return any(map(_has_huge_number, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63
