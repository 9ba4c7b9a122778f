"""One row's cells → a conversation or a plain text. Knows one row at a time and no file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from seodang.data.read.clean import clean, is_blank
from seodang.data.read.column_names import KNOWN_COLUMNS, column_key
from seodang.data.read.layout import Layout
from seodang.data.read.serialized import opens_value, parse_text
from seodang.data.read.turns.choices import refuse_choice
from seodang.data.read.turns.loss_flags import NO_LOSS, NO_LOSS_HINT, has_loss
from seodang.data.read.turns.merge import merge_turns
from seodang.data.read.turns.messages import (
    cut_after_last_answer,
    is_turn,
    read_turns,
    tools_of_turns,
    turn_list,
)
from seodang.data.read.turns.reviews import refuse_bad
from seodang.data.read.turns.tool_calls import read_tools
from seodang.data.read.turns.variants import plain_turns
from seodang.data.read.unusable import UnusableRowError
from seodang.types import Message

TURNS_AS_TEXT = "turns read from their JSON text"
PROMPT_ANSWERS = "answers in the prompt not supervised"
CONTINUED = "answer that the prompt begins continued: only the rest is supervised"
PARTS = frozenset({"intro", "introduction", "body", "main", "conclusion", "서론", "본론", "결론"})  # of an answer
OTHER_FORMAT_HINT = "give rows of another format a source of their own"


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
    _refuse_other_rows(layout, fields)
    if any(has_loss({column_key(name): fields.get(name)}) is False for name in layout.loss_flags):
        raise UnusableRowError(NO_LOSS, hint=NO_LOSS_HINT)
    refuse_bad(layout.reviews, fields)
    if layout.text is not None:
        text = _cell(layout, layout.text, fields, changes)
        if is_blank(text):
            raise UnusableRowError("empty text", hint="leave such rows out")
        return Conversation(text=text)
    turns, messages = _turns(layout, fields, changes) if layout.messages else _pair(layout, fields, changes)
    if layout.system is not None:
        system = _cell(layout, layout.system, fields, changes)
        if not is_blank(system) and any(message.role == "system" for message in messages):
            changes.add(f"{layout.system} not used: the conversation has a system turn")
        elif not is_blank(system):
            messages = [Message(role="system", content=system), *messages]
    if layout.merge_turns:
        messages = merge_turns(messages, changes)
    places = [*(fields.get(column) for column in layout.tools), *tools_of_turns(turns)]
    tools = read_tools(places, changes) if any(places) else None
    return Conversation(messages=tuple(cut_after_last_answer(messages, changes)), tools=tools)


def _refuse_other_rows(layout: Layout, fields: Mapping[str, Any]) -> None:
    """Refuse rows that hold no cell of the layout, but others; and a table's header that is repeated."""
    used = layout.contents
    cells = [fields.get(column) for column in used]
    if cells.count(None) == len(cells):
        others = [name for name, value in fields.items() if value is not None and name not in layout.used]
        if any(column_key(name) in KNOWN_COLUMNS for name in others) or (others and fields.keys().isdisjoint(used)):
            raise UnusableRowError("a row of another format", hint=OTHER_FORMAT_HINT)
    if all(
        isinstance(cell, str) and len(cell) <= len(column) + 2 and cell.strip() == column
        for cell, column in zip(cells, used, strict=True)
    ):
        raise UnusableRowError("a repeated header", hint="leave repeated header lines out")


def _turns(layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> tuple[list[Any], list[Message]]:
    """The turns in the column of conversations, as they stand there and as messages."""
    column = layout.messages or ""
    turns = turn_list(fields.get(column))
    if turns is None:
        raise UnusableRowError(
            f"{column} holds no list of turns", hint="give each row a list of turns, or leave it out"
        )
    turns = plain_turns(turns, layout.roles, changes)
    return turns, read_turns(turns, changes)


def _pair(layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> tuple[list[Any], list[Message]]:
    """Question and answer, each a text or a list of turns: those turns, and the messages."""
    if layout.choices is not None:
        cells = (fields.get(name or "") for name in (layout.question_type, layout.question, layout.answer))
        refuse_choice(*cells, has_choices=any(fields.get(name) for name in layout.choices))
    asked = _turns_in(fields.get(layout.question or ""), changes)
    answered = _turns_in(fields.get(layout.answer or ""), changes)
    if asked is None:
        messages = [Message(role="user", content=_question(layout, fields, changes))]
    else:
        if any(fields.get(column) for column in (layout.context, layout.input) if column is not None):
            raise UnusableRowError(
                "a context beside a list of turns", hint="put the context into the turn that asks about it"
            )
        messages = [_as_context(message, changes) for message in read_turns(asked, changes)]
    if answered is None:
        answer = [Message(role="assistant", content=_cell(layout, layout.answer, fields, changes))]
    else:
        answer = read_turns(answered, changes)
    if layout.reasoning is not None:
        answer = _with_thoughts(answer, _cell(layout, layout.reasoning, fields, changes))
    if layout.history is not None:
        messages = [*_history(fields.get(layout.history), changes), *messages]
    if messages and answer and messages[-1].role == answer[0].role == "assistant" and not messages[-1].tool_calls:
        begun = messages.pop()
        answer[0] = _continued(begun, answer[0], changes)
    return [*(asked or ()), *(answered or ())], messages + answer


def _with_thoughts(answer: list[Message], thoughts: str) -> list[Message]:
    """The answer with the thoughts that its row holds in a column of their own."""
    if is_blank(thoughts) or len(answer) != 1 or answer[0].reasoning is not None:
        return answer
    return [replace(answer[0], reasoning=thoughts)]


def _history(value: Any, changes: set[str]) -> list[Message]:
    """Earlier exchanges: a list of turns, or of pairs of a question and its answer."""
    turns = turn_list(value)
    if turns is None and value not in (None, "", {}):
        raise UnusableRowError("history holds no list of turns", hint="write it as [[question, answer], …]")
    if not turns:
        return []
    if all(isinstance(pair, list) and len(pair) == 2 for pair in turns):
        roles = ("user", "assistant")
        turns = [{"role": role, "content": text} for pair in turns for role, text in zip(roles, pair, strict=True)]
    return read_turns(plain_turns(turns, {}, changes), changes)


def _turns_in(value: Any, changes: set[str]) -> list[Any] | None:
    """The turns that a cell of a pair holds, as values or as text; None: the cell holds no list of turns."""
    turns = turn_list(value)
    if not turns or not all(map(is_turn, turns)):
        return None
    if isinstance(value, str):
        changes.add(TURNS_AS_TEXT)
    return turns


def _as_context(message: Message, changes: set[str]) -> Message:
    if message.role != "assistant":
        return message
    changes.add(PROMPT_ANSWERS)
    return replace(message, supervised=False)


def _continued(begun: Message, answer: Message, changes: set[str]) -> Message:
    """An answer whose beginning the prompt gives."""
    if begun.reasoning or (answer.reasoning and not is_blank(begun.content)):
        raise UnusableRowError(
            "an answer that the prompt begins, with thoughts", hint="put the whole answer into the completion"
        )
    if is_blank(begun.content):
        return answer
    changes.add(CONTINUED)
    return replace(answer, content=(begun.content or "") + (answer.content or ""), prefill=begun.content)


def _question(layout: Layout, fields: Mapping[str, Any], changes: set[str]) -> str:
    """The question with the column before it and the one after it, blank lines between."""
    question = _cell(layout, layout.question, fields, changes)
    if layout.input is not None:
        addition = _cell(layout, layout.input, fields, changes)
        question = "\n\n".join(part for part in (question, addition) if not is_blank(part))
    if layout.context is not None and not is_blank(question):
        context = _cell(layout, layout.context, fields, changes)
        question = f"{context}\n\n{question}" if not is_blank(context) else question
    return question


def _cell(layout: Layout, column: str | None, fields: Mapping[str, Any], changes: set[str]) -> str:
    """A cell's text; null is the empty text."""
    value = fields.get(column or "")
    if column in layout.serialized and isinstance(value, str) and opens_value(value):
        try:
            value = parse_text(value)
        except ValueError:
            pass
        else:
            changes.add(f"{column}: read from the text of a list or object")
    if isinstance(value, dict) and "answer_start" in value and isinstance(value.get("text"), list):  # as SQuAD has it
        value = _right_answer(value["text"], column, changes)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "answer_start" in item for item in value):
        value = _right_answer([item.get("text") for item in value], column, changes)
    elif isinstance(value, dict) and value and value.keys() <= PARTS:
        value = _joined_parts(value, column, changes)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
        changes.add(f"{column}: a list of one text taken as the text")
    if value == []:
        value = None
    if isinstance(value, list | dict):
        what, hint = "a list" if isinstance(value, list) else "an object", "write one text into each of these cells"
        texts = [key for key, one in value.items() if isinstance(one, str)] if isinstance(value, dict) else []
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            hint = f"if these are turns, name `messages: {column}` in the recipe, with `roles:` for its speakers"
        elif isinstance(value, list):
            hint = f"name one of the texts, such as `{column}.0`, in the recipe; or {hint}"
        if texts:
            hint = f"name the text that it holds, such as `{column}.{texts[0]}`, in the recipe; or {hint}"
        raise UnusableRowError(f"{column} holds {what}, not text", hint=hint)
    return clean(value, changes) if value else ""


def _right_answer(texts: list[Any], column: str | None, changes: set[str]) -> Any:
    """The first of the right answers that SQuAD and KorQuAD list; annotators often give the same one twice."""
    if any(text != texts[0] for text in texts):
        changes.add(f"{column}: the first of several right answers taken")
    return texts[0] if texts else None


def _joined_parts(value: Mapping[str, Any], column: str | None, changes: set[str]) -> Any:
    """An answer in parts (AI Hub's intro, body, conclusion) as one text, in the order in which they stand."""
    texts = [text for text in value.values() if text is not None]
    if not all(isinstance(text, str) for text in texts):
        return value
    changes.add(f"{column}: its parts {', '.join(value)} joined")
    return "\n\n".join(text for text in texts if not is_blank(text))
