"""One row's cells → a conversation or a plain text. Knows one row at a time and no file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seodang.data.read.clean import clean
from seodang.data.read.layout import Layout
from seodang.data.read.messages import UnusableRowError, cut_after_last_answer, read_tools, read_turns, turn_list
from seodang.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """The content of one row: messages, or a plain text."""

    messages: tuple[Message, ...] = ()
    tools: str | None = None  # JSON text of a list of definitions
    text: str | None = None

    @property
    def question(self) -> str:
        """The first user turn, or the text: two rows with the same one ask the same."""
        if self.text is not None:
            return self.text
        return next((turn.content for turn in self.messages if turn.role == "user"), self.messages[0].content) or ""

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        """Each user turn, with what the assistant answered up to the next one (tool calls left out)."""
        exchanges: list[tuple[str, str]] = []
        for turn in self.messages:
            if turn.role == "user":
                exchanges.append((turn.content or "", ""))
            elif turn.role == "assistant" and exchanges:
                question, answer = exchanges[-1]
                exchanges[-1] = question, f"{answer}\n{turn.content or ''}"
        return exchanges


def read_row(layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> Conversation:
    """The row's conversation or text; what had to be changed is added to `changes`.

    Raises:
        UnusableRowError: with the reason the row is to be counted under.
    """
    if layout.text is not None:
        text = _cell(fields.get(layout.text), layout.text, changes)
        if not text.strip():
            raise UnusableRowError("empty text")
        return Conversation(text=text)
    messages = _turns(layout.messages, fields, changes) if layout.messages else _pair(layout, fields, changes)
    if layout.system is not None:
        system = _cell(fields.get(layout.system), layout.system, changes)
        if system.strip() and any(message.role == "system" for message in messages):
            changes.add(f"{layout.system} not used: the conversation has a system turn")
        elif system.strip():
            messages = [Message(role="system", content=system), *messages]
    tools = read_tools(fields.get(layout.tools), changes) if layout.tools else None
    return Conversation(messages=tuple(cut_after_last_answer(messages, changes)), tools=tools)


def _turns(column: str, fields: Mapping[str, Any], changes: set[str]) -> list[Message]:
    turns = turn_list(fields.get(column))
    if turns is None:
        raise UnusableRowError(f"{column} holds no list of turns")
    return read_turns(turns, changes)


def _pair(layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> list[Message]:
    """Question and answer, each a text or, as prompt and completion, a list of turns."""
    question, answer = fields.get(layout.question or ""), fields.get(layout.answer or "")
    may_be_turns = layout.format == "prompt_completion"
    if may_be_turns and isinstance(question, list):
        messages = read_turns(question, changes)
    else:
        messages = [Message(role="user", content=_question(question, layout, fields, changes))]
    if may_be_turns and isinstance(answer, list):
        return messages + read_turns(answer, changes)
    return [*messages, Message(role="assistant", content=_cell(answer, layout.answer, changes))]


def _question(value: Any, layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> str:
    """The question with the column before it and the one after it, blank lines between."""
    question = _cell(value, layout.question, changes)
    if layout.input is not None:
        addition = _cell(fields.get(layout.input), layout.input, changes)
        question = "\n\n".join(part for part in (question, addition) if part.strip())
    if layout.context is not None and question.strip():
        context = _cell(fields.get(layout.context), layout.context, changes)
        question = f"{context}\n\n{question}" if context.strip() else question
    return question


def _cell(value: Any, column: str | None, changes: set[str]) -> str:
    """A cell's text; null is the empty text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
        changes.add(f"{column}: a list of one text taken as the text")
    if isinstance(value, list | dict):
        raise UnusableRowError(f"{column} holds {'a list' if isinstance(value, list) else 'an object'}, no text")
    return clean(value, changes) if value else ""
