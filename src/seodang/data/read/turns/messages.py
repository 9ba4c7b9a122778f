"""Turns of a conversation, OpenAI or ShareGPT style, as messages. Knows roles and flags, not files or columns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from seodang.data.read.clean import clean, is_blank
from seodang.data.read.column_names import FUNCTION_CALL, ROLES
from seodang.data.read.raw_rows import as_text
from seodang.data.read.serialized import opens_value, parse_text, to_json
from seodang.data.read.turns.loss_flags import FLAGS, NO_LOSS, NO_LOSS_HINT, has_loss
from seodang.data.read.turns.thoughts import ENCRYPTED_BLOCKS, THOUGHT_BLOCKS, THOUGHT_KEYS, read_thoughts, thought_text
from seodang.data.read.turns.tool_calls import read_calls
from seodang.data.read.turns.variants import transposed
from seodang.data.read.unusable import CHECK_COLUMNS, UnusableRowError
from seodang.types import Message

TRAILING = "turns after the last answer cut"
EMPTY_SYSTEM = "blank system turn removed"
BLOCKS = "text blocks of one turn joined"
BLOCKS_AS_TEXT = "text blocks of one turn read from their JSON text"
WITHOUT_LOSS = "answers without loss, as their flags say"
FLAG_NOT_HONOURED = "loss flag of a turn that is not an answer: not honoured: only answers are supervised"
JOINED_CALLS = "tool calls of one turn joined into one turn"
TEXT_BLOCKS = frozenset({"text", "input_text", "output_text"})
MEDIA_BLOCKS = frozenset(
    {"image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url", "file"}
    | {"input_file", "document", "tool_use", "tool_result"}
)
CALL_KEYS = ("tool_calls", "function_call", "tool_call", "function_calls", "toolCalls", "functionCall")
_CALL_KEYS = frozenset(CALL_KEYS)
TOOLS_KEYS = ("tools", "functions")
_CONTENT_KEYS = frozenset({"content", "value", *CALL_KEYS})  # a turn has at least one of these keys
_KNOWN_KEYS = frozenset({"role", "from", "content", "value"}) | FLAGS
_PLAIN_KEYS, _PLAIN_ROLES = frozenset({"role", "content"}), ("user", "assistant")
_KEYS_OF_ROLE = {
    "assistant": _KNOWN_KEYS | {*THOUGHT_KEYS, *CALL_KEYS},
    FUNCTION_CALL: _KNOWN_KEYS | {*THOUGHT_KEYS},
    "tool": _KNOWN_KEYS | {"tool_call_id", "name"},
    "system": _KNOWN_KEYS | {*TOOLS_KEYS},
    "user": _KNOWN_KEYS | {*TOOLS_KEYS},
}
_THOUGHT_BEFORE_CALL = re.compile(r"\s*(<think>.*?</think>)\s*(?=\S)", re.DOTALL)
NAMED_KEYS = 5  # keys that are not used, named in a change
TURN_HINT = 'write a turn as {"role": "user", "content": "…"}, with the roles system, user, assistant and tool'
ROLE_HINT = (
    "write the turns with the roles system, user, assistant and tool, or map the speakers in the recipe, such as "
    "`roles: {P01: user, P02: assistant}`"
)
TEXT_HINT = "keep rows whose turns hold text only"
ANSWER_HINT = f"{CHECK_COLUMNS}, or leave rows without question or answer out"


def is_turn(value: Any) -> bool:
    """Whether a value is one turn: a role, and content or calls."""
    return isinstance(value, dict) and isinstance(_role(value), str) and not _CONTENT_KEYS.isdisjoint(value)


def turn_list(value: Any) -> list[Any] | None:
    """The list of turns that a cell holds, as values or as text (JSON, Python's notation); None if it is not a list."""
    if isinstance(value, str) and opens_value(value):
        try:
            value = parse_text(value)
        except ValueError:
            return None
    if isinstance(value, dict):
        return transposed(value)
    return value if isinstance(value, list) else None


def read_turns(turns: Sequence[Mapping[str, Any]], changes: set[str]) -> list[Message]:
    """The turns as messages, with roles mapped; each change is added to `changes`.

    Raises:
        UnusableRowError: a role or content that cannot be read.
    """
    messages: list[Message] = []
    for turn in turns:
        message = _read_turn(turn, changes)
        if message is None:
            continue
        if messages and _continues(messages[-1], message):
            changes.add(JOINED_CALLS)
            messages[-1] = _joined(messages[-1], message)
        else:
            messages.append(message)
    _count_unused_keys(turns, changes)
    return messages


def tools_of_turns(turns: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The tool definitions that turns hold.

    Raises:
        UnusableRowError: definitions behind the first answer, where no template puts any.
    """
    found: list[Any] = []
    if not any("tools" in turn or "functions" in turn for turn in turns):
        return found
    for number, turn in enumerate(turns):
        here = [turn[key] for key in TOOLS_KEYS if turn.get(key)]
        if here and any(ROLES.get(str(_role(earlier)).strip().casefold()) == "assistant" for earlier in turns[:number]):
            raise UnusableRowError(
                "tool definitions inside the conversation", hint="give all tool definitions before the first answer"
            )
        found += here
    return found


def cut_after_last_answer(messages: list[Message], changes: set[str]) -> list[Message]:
    """The messages up to the last answer that is supervised.

    Raises:
        UnusableRowError: no such answer, or a blank question or answer.
    """
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise UnusableRowError("no assistant turn", hint=ANSWER_HINT)
    supervised = [index for index in answers if messages[index].supervised]
    if not supervised:
        raise UnusableRowError(NO_LOSS, hint=NO_LOSS_HINT)
    kept = messages[: supervised[-1] + 1]
    for message in kept:
        if message.role in ("user", "assistant") and not message.tool_calls and is_blank(message.content):
            what = "empty question" if message.role == "user" else "empty answer"
            raise UnusableRowError(what, hint=ANSWER_HINT)
    if len(kept) < len(messages):
        changes.add(TRAILING)
    return kept


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role") or turn.get("from")


def _read_turn(turn: Mapping[str, Any], changes: set[str]) -> Message | None:
    if (plain := _plain_turn(turn, changes)) is not None:
        return plain
    if not is_turn(turn):
        raise UnusableRowError("a turn without role or content", hint=TURN_HINT)
    written = str(_role(turn)).strip()
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    role = ROLES.get(written.casefold())
    if role is None:
        raise UnusableRowError("unknown role", hint=ROLE_HINT, detail=written)
    if role != written:
        name = "assistant with a tool call" if role == FUNCTION_CALL else role
        changes.add(f"role {written} read as {name}")
    loss = has_loss(turn)
    if role in ("assistant", FUNCTION_CALL):
        if loss is False:
            changes.add(WITHOUT_LOSS)
        return _read_answer(turn, content, role, supervised=loss is not False, changes=changes)
    if loss:
        changes.add(FLAG_NOT_HONOURED)
    text, _ = _read_content(content, role, changes)
    if role == "system" and is_blank(text):
        changes.add(EMPTY_SYSTEM)
        return None
    return Message(
        role=role,
        content=text or "",
        tool_call_id=_label(turn.get("tool_call_id"), changes) if role == "tool" else None,
        name=_label(turn.get("name"), changes) if role == "tool" else None,
    )


def _plain_turn(turn: Mapping[str, Any], changes: set[str]) -> Message | None:
    """A turn of nothing but a known role and a text, as most are; None: it takes a closer look."""
    if not isinstance(turn, dict) or turn.keys() != _PLAIN_KEYS:
        return None
    role, content = turn["role"], turn["content"]
    if not (isinstance(role, str) and role in _PLAIN_ROLES and isinstance(content, str)):
        return None
    if not content or opens_value(content):
        return None
    return Message(role=role, content=clean(content, changes))


def _read_answer(turn: Mapping[str, Any], content: Any, role: str, *, supervised: bool, changes: set[str]) -> Message:
    thoughts = read_thoughts(turn, changes)
    if role == FUNCTION_CALL:
        text = None
        if isinstance(content, str) and (thought := _THOUGHT_BEFORE_CALL.match(content)):
            text, content = clean(thought[1], changes), content[thought.end() :]
        calls = read_calls(content, changes)
        return Message(role="assistant", content=text, reasoning=thoughts, tool_calls=calls, supervised=supervised)
    text, inside = _read_content(content, role, changes)
    called = [] if _CALL_KEYS.isdisjoint(turn) else [turn[key] for key in CALL_KEYS if turn.get(key)]
    if any(calls != called[0] for calls in called[1:]):
        raise UnusableRowError("tool calls under two keys of a turn", hint="keep one of the keys")
    calls = read_calls(called[0], changes) if called else ()
    return Message(
        role="assistant", content=text, reasoning=thoughts or inside, tool_calls=calls, supervised=supervised
    )


def _label(value: Any, changes: set[str]) -> str | None:
    """An id or a name."""
    text = as_text(value)
    return clean(text, changes) if isinstance(text, str) else None


def _continues(before: Message, message: Message) -> bool:
    """Whether a message is nothing but more calls of the turn before, which was written as several."""
    return (
        bool(message.tool_calls)
        and before.role == message.role == "assistant"
        and is_blank(message.content)
        and message.reasoning is None
        and before.supervised == message.supervised
    )


def _joined(before: Message, message: Message) -> Message:
    return replace(before, tool_calls=before.tool_calls + message.tool_calls)


def _count_unused_keys(turns: Iterable[Mapping[str, Any]], changes: set[str]) -> None:
    unused: set[str] = set()
    for turn in turns:
        if turn.keys() <= _KNOWN_KEYS:
            continue
        known = _KEYS_OF_ROLE[ROLES[str(_role(turn)).strip().casefold()]]
        unused |= {key for key in turn.keys() - known if turn[key] not in (None, "", [], {})}
    if unused:
        names = [key[:30] for key in sorted(unused)]
        more = ", …" if len(names) > NAMED_KEYS else ""
        changes.add(clean(f"keys of a turn not used: {', '.join(names[:NAMED_KEYS])}{more}", set()))


def _read_content(content: Any, role: str, changes: set[str]) -> tuple[str | None, str | None]:
    """(text, thoughts) of a turn's content: text, null, or a list of blocks."""
    if isinstance(content, str):
        blocks = _blocks_in(content) if opens_value(content) else None
        if blocks is None:
            return clean(content, changes), None
        changes.add(BLOCKS_AS_TEXT)
        content = blocks
    if content is None:
        return None, None
    if isinstance(content, dict) and _kind(content):
        content = [content]
    if isinstance(content, list) and all(isinstance(block, str) or _kind(block) for block in content):
        thoughts = [
            thought_text(block, changes) for block in content if _kind(block) in THOUGHT_BLOCKS | ENCRYPTED_BLOCKS
        ]
        texts = [_block_text(block) for block in content if _kind(block) not in THOUGHT_BLOCKS | ENCRYPTED_BLOCKS]
        if len(content) > 1:
            changes.add(BLOCKS)
        return clean("\n".join(texts), changes), clean("\n".join(filter(None, thoughts)), changes) or None
    if role == "tool":  # tool results may be objects; templates expect JSON text
        try:
            return clean(to_json(content), changes), None
        except (ValueError, TypeError):
            raise UnusableRowError("a tool result that JSON cannot hold", hint="write tool results as text") from None
    if isinstance(content, list | dict):
        what = "a list" if isinstance(content, list) else "an object"
        raise UnusableRowError(f"the content of a turn is {what}", hint="write the content of each turn as a text")
    return clean(as_text(content) or "", changes), None


def _blocks_in(text: str) -> list[Any] | None:
    """The blocks that a text holds as JSON or in Python's notation, if it is nothing else."""
    blocks = turn_list(text)
    return blocks if blocks and all(_kind(block) in TEXT_BLOCKS | THOUGHT_BLOCKS for block in blocks) else None


def _kind(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else None


def _block_text(block: str | dict[str, Any]) -> str:
    if isinstance(block, str):
        return block
    text = next((block[key] for key in ("text", "value", "content") if block.get(key) is not None), None)
    if isinstance(text, dict):
        text = text.get("value")
    if _kind(block) not in TEXT_BLOCKS or not isinstance(text, str):
        kind = _kind(block) or ""
        what = f": {kind}" if kind in MEDIA_BLOCKS else ""
        raise UnusableRowError(f"content that is not text{what}", hint=TEXT_HINT, detail="" if what else kind)
    return text
