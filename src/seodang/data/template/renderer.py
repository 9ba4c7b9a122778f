"""One conversation → its true text and the spans of it that are supervised. Knows no data set and no ids."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seodang.data.template.answer_sentinels import (
    RESERVED,
    AnswerSpan,
    find_answers,
    find_bodies,
    insert_sentinels,
    names_of,
    pieces_of,
    remove_sentinels,
)
from seodang.data.template.fast_path import FastPath
from seodang.data.template.find import ChatTemplate
from seodang.data.template.jinja import Turn, compile_template, run
from seodang.errors import TemplateError
from seodang.types import LossOn, Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINK_TAGS = ("<think>", "</think>")


class Renderer:
    """Renders conversations with one template, and knows which of their characters are supervised.

    Args:
        tokenizer: the base's, after `apply_template`.
        template: from `find_template`.
        system: text of the system turn that conversations without one get.
        loss_on: answers, the last answer alone, or everything after BOS.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: ChatTemplate,
        system: str | None = None,
        loss_on: LossOn = "answers",
    ) -> None:
        self.tokenizer, self.template, self.system, self.loss_on = tokenizer, template, system, loss_on
        self._jinja = compile_template(template.text, where=template.origin)
        self._variables = {**tokenizer.special_tokens_map, "eos_token": template.turn_end, **template.kwargs}
        self._fast_path = FastPath(self._jinja, template.text, self._variables)
        special = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
        markers = {name for name, _ in template.markers}
        self._control = _any_of((special | markers) - set(_THINK_TAGS))
        self._markers = _any_of(markers - set(_THINK_TAGS))
        self._check_system()

    def prompt(self, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The text that is served for a conversation that waits for an answer.

        Raises:
            TemplateError: the template refuses it.
        """
        return self._prompt(self._with_system(messages), tools)

    def render(self, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None = None) -> Rendered:
        """The text of a conversation and its supervised spans.

        Raises:
            TemplateError: the row cannot be trained on with this template; `error.what` is the reason.
        """
        return self.render_changed(messages, tools)[0]

    def render_changed(
        self, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[Rendered, tuple[str, ...]]:
        """As `render`, with what the template changed in the contents."""
        messages = self._with_system(messages)
        self.check_text(*_strings(messages), *(_strings(tools) if tools else ()))
        text, turns = self._render(messages, tools)
        wanted = {number: pieces_of(turn) for number, turn in enumerate(messages) if turn["role"] == "assistant"}
        _check_answers(messages, turns, wanted)
        bodies = self._bodies(text, turns, messages, tools)
        return Rendered(text=text, spans=self._spans(text, bodies)), _changes(messages, tools, turns, wanted, text)

    def check_text(self, *strings: str) -> None:
        """Refuse text that would forge a turn, or holds a sentinel.

        Raises:
            TemplateError: it holds a control token or a character of which sentinels are made.
        """
        joined = "\n".join(strings)  # no control token holds a line break
        if found := self._control.search(joined):
            raise TemplateError(f"control token in the text: {found.group()}")
        if not joined.isascii() and (found := RESERVED.search(joined)):
            raise TemplateError(f"reserved character in the text: U+{ord(found.group()):04X}")

    def _check_system(self) -> None:
        try:
            self.check_text(self.system or "")
        except TemplateError as error:
            raise TemplateError(error.what, where="system", hint="take it out of the system text") from None

    def _with_system(self, messages: Sequence[Turn]) -> list[Turn]:
        if self.system is None or any(turn["role"] == "system" for turn in messages[:1]):
            return list(messages)
        return [{"role": "system", "content": self.system}, *messages]

    def _render(
        self, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[str, list[AnswerSpan]]:
        """The text, and where the assistant's turns are in it."""
        if tools is None and (filled := self._fast_path.render(messages)):
            return filled
        text = run(self._jinja, messages, tools, variables=self._variables)
        plain, sentinels = remove_sentinels(
            run(self._jinja, insert_sentinels(messages), tools, variables=self._variables)
        )
        if plain != text:
            raise TemplateError("the template depends on the answer's text")
        return text, find_answers(sentinels, text)

    def _bodies(
        self,
        text: str,
        turns: Sequence[AnswerSpan],
        messages: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> list[tuple[int, int]]:
        header = self.template.header

        def body_start(turn: AnswerSpan, previous_end: int) -> int:
            is_last = turn is turns[-1]
            served = self._served_length(text, messages[: turn.message], tools) if is_last or not header.strip() else 0
            if not header.strip():
                return served
            at = text.rfind(header, previous_end, turn.start)
            if at < 0:
                raise TemplateError("the template writes no assistant header before an answer")
            return max(at + len(header), served)

        return find_bodies(text, turns, body_start=body_start, turn_end=self.template.turn_end, markers=self._markers)

    def _served_length(self, text: str, asked: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None) -> int:
        """Length of the prompt that is served for this answer: it must be the beginning of what is trained."""
        filled = self._fast_path.render(asked, add_generation_prompt=True) if tools is None else None
        prompt = filled.text if filled else self._prompt(asked, tools)
        if not text.startswith(prompt):
            raise TemplateError("the served prompt is not the beginning of the trained text")
        return len(prompt)

    def _prompt(self, asked: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None) -> str:
        return run(self._jinja, asked, tools, variables=self._variables, add_generation_prompt=True)

    def _spans(self, text: str, bodies: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        if self.loss_on == "answers":
            return tuple(bodies)
        if self.loss_on == "last_answer":
            return tuple(bodies[-1:])
        bos = str(self._variables.get("bos_token") or "")
        return ((len(bos) if text.startswith(bos) else 0, len(text)),)


def parse_tools(tools: str | None) -> list[dict[str, Any]] | None:
    """Tool definitions from a row's JSON text."""
    if not tools:
        return None
    parsed = json.loads(tools)
    return parsed if isinstance(parsed, list) else [parsed]


def _any_of(names: set[str]) -> re.Pattern[str]:
    longest_first = sorted((name for name in names if name.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _strings(value: Any) -> list[str]:
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
            found.extend(_strings(item))
    return found


def _check_answers(messages: Sequence[Turn], turns: Sequence[AnswerSpan], wanted: Mapping[int, Sequence[str]]) -> None:
    """`wanted`: assistant turn → its pieces."""
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


def _changes(
    messages: Sequence[Turn],
    tools: Sequence[Mapping[str, Any]] | None,
    turns: Sequence[AnswerSpan],
    wanted: Mapping[int, Sequence[str]],
    text: str,
) -> tuple[str, ...]:
    changes = set()
    for turn in turns:
        message, pieces = messages[turn.message], wanted[turn.message]
        if sorted(pieces) == sorted(turn.pieces):
            continue
        is_thought = message.get("reasoning_content") or "</think>" in (message.get("content") or "")
        if is_thought and set(turn.pieces) <= set(pieces):
            changes.add("the template leaves out thinking" + ("" if turn is turns[-1] else " of earlier turns"))
        else:
            changes.add("the template altered the text of an answer")
    for message in messages:
        content = message.get("content")
        if message["role"] != "assistant" and content and content.strip() not in text:
            changes.add(f"the template altered the text of a {message['role']} turn")
    if any(name not in text for name in names_of(tools or ())):
        changes.add("the template leaves out tool definitions")
    return tuple(sorted(changes))
