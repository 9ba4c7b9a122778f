"""What became of a conversation's contents in a render: answers left out, texts altered. Knows no tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from seodang.data.template.answer_sentinels import AnswerSpan, names_of
from seodang.data.template.jinja import Turn
from seodang.errors import TemplateError


def strings(value: Any) -> list[str]:
    """Every string in messages or tools, keys included."""
    if isinstance(value, str):
        return [value]
    found: list[str] = []
    if isinstance(value, dict):
        found.extend(value)
        value = value.values()
    elif not isinstance(value, list | tuple):
        return found
    for item in value:
        if item.__class__ is str:
            found.append(item)
        else:
            found.extend(strings(item))
    return found


def check_answers(messages: Sequence[Turn], turns: Sequence[AnswerSpan], wanted: Mapping[int, Sequence[str]]) -> None:
    """Refuse a conversation whose answers are not all there.

    Args:
        turns: the answers in the render.
        wanted: assistant turn → its pieces.

    Raises:
        TemplateError: none, an empty one, or one that the template leaves out.
    """
    if not wanted:
        raise TemplateError("no answer")
    if not all(wanted.values()):
        raise TemplateError("empty answer")
    if [turn.message for turn in turns] != list(wanted):
        raise TemplateError("the template leaves out answers")
    for turn in turns:
        calls = messages[turn.message].get("tool_calls")
        if calls and not set(names_of(calls)) <= set(turn.pieces):
            raise TemplateError("the template leaves out tool calls")


def changes(
    messages: Sequence[Turn],
    tools: Sequence[Mapping[str, Any]] | None,
    turns: Sequence[AnswerSpan],
    wanted: Mapping[int, Sequence[str]],
    text: str,
) -> tuple[str, ...]:
    """What the template changed.

    Args:
        turns: the answers that are supervised.
        wanted: assistant turn → its pieces.
    """
    last_answer = max(wanted)
    found = set()
    for turn in turns:
        message, pieces = messages[turn.message], wanted[turn.message]
        if sorted(pieces) == sorted(turn.pieces):
            continue
        is_thought = message.get("reasoning_content") or "</think>" in (message.get("content") or "")
        if is_thought and set(turn.pieces) <= set(pieces):
            found.add("the template leaves out thinking" + ("" if turn.message == last_answer else " of earlier turns"))
        else:
            found.add("the template altered the text of an answer")
    for message in messages:
        content = message.get("content")
        if message["role"] != "assistant" and content and content.strip() not in text:
            found.add(f"the template altered the text of a {message['role']} turn")
    if any(name not in text for name in names_of(tools or ())):
        found.add("the template leaves out tool definitions")
    return tuple(sorted(found))
