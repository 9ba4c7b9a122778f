"""Puts sentinels around answers before a template renders them, and finds them again. Knows no tokenizer.

Unicode keeps U+FDD0 … U+FDEF free of characters, so they can stand for "here an answer begins" and "ends"::

    content     " 물을 마셔요. "
    sentinels   " ⟨3 물을 마셔요.⟩ "      inside the white space, which templates trim
    rendered    <start_of_turn>model\\n⟨3 물을 마셔요.⟩<end_of_turn>\\n
    body                              └──────────────────────────┘ header's end … turn end
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from seodang.data.template.jinja import Turn
from seodang.errors import TemplateError

TEXT, CALL, CLOSE = "\ufdd0", "\ufdd2", "\ufdd1"  # an answer or thought begins; a tool's name begins; either ends
_DIGITS = "".join(chr(code) for code in range(0xFDE0, 0xFDF0))  # base 16: which message a sentinel belongs to
_VALUES = str.maketrans(_DIGITS, "0123456789abcdef")
_SENTINEL = re.compile(f"([{TEXT}{CALL}{CLOSE}][{_DIGITS}]*)")  # a class first: alternatives are far slower
LOST = -1  # start and end of an answer that stands elsewhere in the text that is served
RESERVED = re.compile("[\ufdd0-\ufdef]")  # content that holds one of these cannot be told from sentinels
_THINK_TAG = re.compile(r"(</?think>)")
EMPTY_THINK = re.compile(r"<think>\s*</think>\n*")
OPEN_THINK = re.compile(r"<think>\s*(</think>\s*)?\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSpan:
    """One assistant turn as found in a render."""

    message: int  # index into the conversation
    start: int  # first character of its first piece
    end: int  # after its last piece
    pieces: tuple[str, ...]  # contents, thoughts and tool names as the template wrote them
    ends_in_call: bool  # the arguments of a tool call follow the last piece


def insert_sentinels(messages: Sequence[Turn]) -> list[dict[str, Any]]:
    """The conversation with every piece of every assistant turn between two sentinels."""
    return [
        _with_sentinels(turn, number) if turn["role"] == "assistant" else dict(turn)
        for number, turn in enumerate(messages)
    ]


def remove_sentinels(text: str) -> tuple[str, list[tuple[str, int]]]:
    """The text without sentinels, and each sentinel with its position in that text."""
    parts = _SENTINEL.split(text)
    texts = parts[::2]
    return "".join(texts), list(zip(parts[1::2], accumulate(map(len, texts)), strict=False))


def pieces_of(turn: Turn) -> list[str]:
    """What of an assistant turn gets sentinels: content and thoughts without outer white space, tool names."""
    texts = _split_think_tags(turn.get("content")) + _split_think_tags(turn.get("reasoning_content"))
    return [text.strip() for text in texts if text.strip()] + names_of(turn.get("tool_calls") or ())


def names_of(tools: Sequence[Turn]) -> list[str]:
    """Names in tool calls or definitions, which either nest in {"function": …} or do not."""
    return [str(_function_of(tool).get("name", "")).strip() for tool in tools]


def find_answers(sentinels: Sequence[tuple[str, int]], text: str, messages: Sequence[Turn] = ()) -> list[AnswerSpan]:
    """The assistant turns of a render with sentinels, in the order of the text.

    Args:
        sentinels: from `remove_sentinels`.
        text: without sentinels; positions count its characters.
        messages: of the conversation. Some templates write a call's name again in front of the tool's report: names
            beyond the number of calls are no part of the answer.

    Raises:
        TemplateError: a sentinel lacks its partner: the template cuts answers.
    """
    turns: dict[int, list[tuple[int, int, str]]] = {}
    opened = None
    for token, position in sentinels:
        if opened is None and len(token) > 1 and token[0] != CLOSE:
            opened = int(token[1:].translate(_VALUES), 16), position, token[0]
        elif opened is not None and token == CLOSE:
            turns.setdefault(opened[0], []).append((opened[1], position, opened[2]))
            opened = None
        else:
            raise TemplateError("the template cuts an answer")
    if opened is not None:
        raise TemplateError("the template cuts an answer")
    for number, turn in enumerate(messages):
        if number in turns and (calls := len(turn.get("tool_calls") or ())):
            names = [piece for piece in turns[number] if piece[2] == CALL]
            turns[number] = [piece for piece in turns[number] if piece not in names[calls:]]
    return [
        AnswerSpan(
            message=message,
            start=pieces[0][0],
            end=pieces[-1][1],
            pieces=tuple(text[start:end] for start, end, _ in pieces),
            ends_in_call=pieces[-1][2] == CALL,
        )
        for message, pieces in turns.items()
    ]


def find_body(
    text: str, turn: AnswerSpan, start: int, *, turn_end: str, markers: re.Pattern[str], header: str = ""
) -> tuple[int, int]:
    """What the model writes in a turn: [after the prompt, after the turn end) in characters.

    Args:
        text: the render without sentinels.
        start: where the prompt ends.
        turn_end: of this turn.
        markers: control tokens that must not stand between an answer and its turn end.
        header: that must not stand between a call's name and its turn end; blank: markers must not.

    Raises:
        TemplateError: no turn end of its own, or other text before it.
    """
    start = after_empty_think(text, start, turn)
    if start > turn.start:
        raise TemplateError("the served prompt already holds the beginning of the answer")
    stop = text.find(turn_end, turn.end)
    if stop < 0:
        raise TemplateError("the template writes no turn end after an answer")
    between = text[turn.end : stop]
    is_foreign = header in between if header.strip() else markers.search(between)
    if is_foreign if turn.ends_in_call else between.strip():
        raise TemplateError(f"the template writes {between.strip()[:40]!r} between an answer and its turn end")
    return start, stop + len(turn_end)


def as_served(
    text: str, turns: list[AnswerSpan], prompt: str, header: str, question: str
) -> tuple[str, list[AnswerSpan]]:
    """The render with the last answer behind the prompt that it is served with, if it can be told where that ends.

    Some templates end a tool's report in a line break only where it is the last turn; others put the system text in
    front of the last question only, or leave thoughts out once an answer follows.

    Args:
        turns: its answers. Those in a part that is served otherwise are placed at LOST.
        prompt: as served for the last one.
        header: that stands before an answer; blank: what follows the question does.
        question: the turn before the last answer.
    """
    end = header if header.strip() else prompt[max(prompt.rfind(question.strip()), 0) :]
    before = turns[-2].end if len(turns) > 1 else 0
    at = text.rfind(end, before, turns[-1].start) if end.strip() and prompt.rstrip().endswith(end.rstrip()) else -1
    if at < 0 or text.startswith(prompt):
        return text, turns
    cut = at + len(end)
    made = prompt + text[cut:]
    if "".join(text[:cut].split()) == "".join(prompt.split()):
        places = dict(zip(_inked(text), _inked(made), strict=True))
        return made, [replace(turn, start=places[turn.start], end=places[turn.end - 1] + 1) for turn in turns]
    same = common_prefix(text, prompt)
    earlier = [turn if turn.end <= same else replace(turn, start=LOST, end=LOST) for turn in turns[:-1]]
    moved = len(prompt) - cut
    return made, [*earlier, replace(turns[-1], start=turns[-1].start + moved, end=turns[-1].end + moved)]


def common_prefix(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _inked(text: str) -> list[int]:
    """Where a text's characters are that are no white space."""
    return [at for at, character in enumerate(text) if not character.isspace()]


def after_empty_think(text: str, start: int, turn: AnswerSpan) -> int:
    """Where a body begins: supervising an empty think block would unlearn thinking."""
    thought = EMPTY_THINK.match(text, start, turn.start)
    return thought.end() if thought else start


def _with_sentinels(turn: Turn, number: int) -> dict[str, Any]:
    name = "".join(_DIGITS[int(digit, 16)] for digit in f"{number:x}")
    changed = dict(turn)
    for key in ("content", "reasoning_content"):
        if turn.get(key):
            changed[key] = "".join(_wrap(part, TEXT + name) for part in _THINK_TAG.split(turn[key]))
    if turn.get("tool_calls"):
        changed["tool_calls"] = [_call_with_sentinels(call, CALL + name) for call in turn["tool_calls"]]
    return changed


def _wrap(part: str, opening: str) -> str:
    inner = part.strip()
    if not inner or _THINK_TAG.fullmatch(part):
        return part
    start = part.index(inner)
    return f"{part[:start]}{opening}{inner}{CLOSE}{part[start + len(inner) :]}"


def _call_with_sentinels(call: Turn, opening: str) -> dict[str, Any]:
    inner = _function_of(call)
    function = {**inner, "name": _wrap(inner["name"], opening)}
    return {**call, "function": function} if "function" in call else function


def _split_think_tags(text: str | None) -> list[str]:
    if text and "think>" not in text:
        return [text]
    return [part for part in _THINK_TAG.split(text or "") if not _THINK_TAG.fullmatch(part)]


def _function_of(call: Turn) -> Turn:
    """A call is either {"function": {"name": …}} or the inner object alone."""
    inner: Turn = call.get("function", call)
    return inner
