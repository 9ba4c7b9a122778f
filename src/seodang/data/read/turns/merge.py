"""Consecutive turns of one role as one turn, where the recipe asks for it. Knows messages only."""

from collections.abc import Sequence
from dataclasses import replace

from seodang.types import Message

MERGED = "consecutive turns of one role merged"


def merge_turns(messages: Sequence[Message], changes: set[str]) -> list[Message]:
    """The messages, texts of one role joined by a line end; turns with calls or results stay as they are."""
    merged: list[Message] = []
    for message in messages:
        if merged and _can_merge(merged[-1], message):
            before = merged[-1]
            texts = [part for part in (before.content, message.content) if part]
            merged[-1] = replace(before, content="\n".join(texts), reasoning=before.reasoning or message.reasoning)
            changes.add(MERGED)
        else:
            merged.append(message)
    return merged


def _can_merge(before: Message, message: Message) -> bool:
    return (
        before.role == message.role
        and message.role in ("user", "assistant", "system")
        and not before.tool_calls
        and not message.tool_calls
        and before.supervised == message.supervised
        and message.prefill is None
        and (before.reasoning is None or message.reasoning is None)
    )
