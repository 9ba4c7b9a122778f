"""One conversation → its true text and the spans of it that are supervised. Knows no data set and no ids.

A template need not write an earlier answer as it writes the last one. Qwen3 with thinking off::

    served for b    …<|im_start|>assistant\n<think>\n\n</think>\n\n
    trained         …<|im_start|>assistant\na<|im_end|>\n…<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>\n

so `a` stands behind a prompt that is never served. An answer is served as trained where the render of the messages
before it begins the whole text, and the render that ends with it does so up to its turn end.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from seodang.data.read.raw_rows import Number
from seodang.data.template.answer_sentinels import (
    LOST,
    RESERVED,
    AnswerSpan,
    after_empty_think,
    as_served,
    find_answers,
    find_body,
    insert_sentinels,
    pieces_of,
    remove_sentinels,
)
from seodang.data.template.contents import changes, check_answers, strings
from seodang.data.template.fast_path import FastPath
from seodang.data.template.find import ChatTemplate
from seodang.data.template.jinja import Turn, compile_template, run
from seodang.data.template.supervision import for_template, has_loss, supervised, without_unsupervised
from seodang.errors import TemplateError
from seodang.types import EarlierAnswers, LossOn, Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINK_TAGS = ("<think>", "</think>")
Tools = Sequence[Mapping[str, Any]] | None
SPLIT = "earlier answers are served behind another prompt: each trained in an example of its own"
MASKED = "earlier answers are served behind another prompt: not supervised"
LEFT_OUT = "an answer is left out: "
RESPACED = "white space before an answer replaced by what is served"
REPROMPTED = "text before an answer replaced by what is served"
KEPT = "earlier answers are trained behind a prompt that is not served"


class Example(NamedTuple):
    """A conversation up to one of its answers, as the model reads it."""

    messages: Sequence[Turn]  # from its beginning, the recipe's system turn included
    tools: Tools
    answers: tuple[int, ...]  # which of its messages are supervised
    num_messages: int  # of the conversation's own
    rendered: Rendered
    changes: tuple[str, ...]  # what the template changed in the contents, and what was done about earlier answers


class _Render(NamedTuple):
    """A conversation's text, and where its answers stand in it."""

    messages: Sequence[Turn]  # with what they say about their loss
    num_added: int  # turns in front that are not the conversation's own
    tools: Tools
    text: str
    turns: list[AnswerSpan]  # of the assistant, at least one
    pieces: Mapping[int, list[str]]  # assistant turn → what was asked for
    served: Mapping[int, tuple[int, int]]  # assistant turn → its body, where it is served as it stands here
    change: str  # what is not as the template wrote it, but as it is served; blank: nothing

    @property
    def unserved(self) -> list[int]:
        """Supervised answers that would be served behind another prompt, or with another text."""
        numbers = [turn.message for turn in self.turns if turn.message not in self.served]
        return [number for number in numbers if has_loss(self.messages[number])]


class Renderer:
    """Renders conversations with one template, and knows which of their characters are supervised.

    Args:
        tokenizer: the base's, after `apply_template`.
        template: from `find_template`.
        system: text of the system turn that conversations without one get.
        loss_on: answers, the last answer alone, or everything after BOS.
        earlier_answers: what becomes of answers that would be served otherwise than they stand in the whole
            conversation: `split` makes examples that end with them, `context` leaves them unsupervised, `keep` trains
            them as they stand; `auto` is split, until `choose_earlier_answers` says otherwise.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: ChatTemplate,
        system: str | None = None,
        loss_on: LossOn = "answers",
        earlier_answers: EarlierAnswers = "auto",
    ) -> None:
        self.tokenizer, self.template, self.system, self.loss_on = tokenizer, template, system, loss_on
        self.earlier_answers = earlier_answers
        self._jinja = compile_template(template.text, where=template.origin)
        self._variables = {**tokenizer.special_tokens_map, "eos_token": template.turn_end, **template.kwargs}
        self._fast_path = FastPath(self._jinja, template.text, self._variables)
        special = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
        markers = {name for name, _ in template.markers}
        self._control = _any_of((special | markers) - set(_THINK_TAGS))
        self._markers = _any_of(markers - set(_THINK_TAGS))
        self._check_system()

    def prompt(self, messages: Sequence[Turn], tools: Tools = None) -> str:
        """The text that is served for a conversation that waits for an answer, or for the rest of one with `prefill`.

        Raises:
            TemplateError: the template refuses it.
        """
        turns = self._with_system(messages)
        if not (turns and turns[-1].get("prefill")):
            return self._prompt(turns, tools)
        whole, last = self._render(turns, tools), len(turns) - 1
        start, _ = supervised(whole.text, whole.messages, {last: whole.served[last]})[last]
        return whole.text[:start]

    def render(self, messages: Sequence[Turn], tools: Tools = None) -> Rendered:
        """The text of the whole conversation and its supervised spans: the first of its `examples`.

        Raises:
            TemplateError: the row cannot be trained on with this template; `error.what` is the reason.
        """
        return self.examples(messages, tools)[0].rendered

    def examples(self, messages: Sequence[Turn], tools: Tools = None) -> list[Example]:
        """The whole conversation, and where earlier answers are split off, the examples that end with them.

        No answer is supervised twice, and the examples are as few as can be.

        Raises:
            TemplateError: the row cannot be trained on with this template; `error.what` is the reason.
        """
        turns = self._with_system(messages)
        self.check_text(*strings(turns), *(strings(tools) if tools else ()))
        whole = self._render(turns, tools, len(turns) - len(messages))
        if self.loss_on != "answers":
            return [self._of_whole(whole)]
        if not whole.unserved:
            return [self._example(whole, whole.served)]
        if self.earlier_answers == "keep":
            return [self._example(whole, self._as_they_stand(whole), KEPT)]
        if self.earlier_answers == "context":
            return [self._example(whole, whole.served, MASKED)]
        parts, left_out = self._split_off(whole)  # auto, too
        return [self._example(whole, whole.served, SPLIT, *left_out), *parts]

    def with_messages(self, example: Example, messages: Sequence[Turn]) -> Example:
        """The example with other texts in some of its messages, the same answers supervised.

        Raises:
            TemplateError: it cannot be trained on with these texts.
        """
        found = self._render(messages, example.tools, len(messages) - example.num_messages)
        if self.loss_on != "answers":
            return self._of_whole(found)
        bodies = self._as_they_stand(found) if self.earlier_answers == "keep" else found.served
        kept = {number: bodies[number] for number in example.answers if number in bodies}
        return self._example(found, kept, *example.changes)

    def with_earlier_answers(self, choice: EarlierAnswers) -> "Renderer":
        """The same renderer with another choice."""
        other = copy.copy(self)
        other.earlier_answers = choice
        return other

    def difference(self, messages: Sequence[Turn], tools: Tools = None) -> tuple[str, str] | None:
        """The first answer that is served otherwise than it stands in the whole conversation, with all before it:
        as served, and as it stands there. None: no answer is.

        Raises:
            TemplateError: the row cannot be trained on with this template.
        """
        whole = self._render(self._with_system(messages), tools)
        for number in whole.unserved:
            with suppress(TemplateError):
                alone = self._render(whole.messages[: number + 1], tools)
                end = alone.served[number][1]
                here = next(turn for turn in whole.turns if turn.message == number)
                if here.start != LOST:
                    return alone.text[:end], whole.text[: here.end + end - alone.turns[-1].end]
        return None

    def check_text(self, *contents: str) -> None:
        """Refuse text that would forge a turn, or holds a sentinel.

        Raises:
            TemplateError: it holds a control token or a character of which sentinels are made.
        """
        joined = "\n".join(contents)  # no control token holds a line break
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

    def _render(self, messages: Sequence[Turn], tools: Tools, num_added: int = 0) -> _Render:
        """A conversation whose last answer stands behind the prompt that is served for it.

        Args:
            num_added: turns in front that are not the conversation's own.

        Raises:
            TemplateError: it does not, or answers are missing.
        """
        text, turns, prompt_ends = self._find(messages, tools)
        pieces = {number: pieces_of(turn) for number, turn in enumerate(messages) if turn["role"] == "assistant"}
        check_answers(messages, turns, pieces)
        as_rendered, last = text, turns[-1].message
        if last not in prompt_ends:
            prompt = self._prompt(messages[:last], tools)
            question = str(messages[last - 1].get("content") or "") if last else ""
            text, turns = as_served(text, turns, prompt, self.template.header, question)
            if text.startswith(prompt):
                prompt_ends = {**prompt_ends, last: len(prompt)}
        served = {}
        for turn in turns:
            try:
                if turn.message in prompt_ends:
                    served[turn.message] = self._body(text, turn, prompt_ends[turn.message])
                else:
                    served[turn.message] = self._served_body(text, turn, messages, tools)
            except TemplateError:
                if turn.message == last:
                    raise
        is_respaced = "".join(text.split()) == "".join(as_rendered.split())
        change = "" if text == as_rendered else RESPACED if is_respaced else REPROMPTED
        return _Render(messages, num_added, tools, text, turns, pieces, served, change)

    def _find(self, messages: Sequence[Turn], tools: Tools) -> tuple[str, list[AnswerSpan], dict[int, int]]:
        """The text, where the assistant's turns are in it, and for some of them the end of the prompt they have."""
        messages = for_template(messages)
        if tools is None and (filled := self._fast_path.render(messages)):
            return filled.text, filled.turns, self._fast_path.prompt_ends(messages, filled, self.template.turn_end)
        text = run(self._jinja, messages, tools, variables=self._variables)
        with_sentinels = run(self._jinja, insert_sentinels(messages), tools, variables=self._variables)
        plain, sentinels = remove_sentinels(with_sentinels)
        if plain != text:
            raise TemplateError("the template depends on the answer's text")
        return text, find_answers(sentinels, text, messages), {}

    def _served_body(self, text: str, turn: AnswerSpan, messages: Sequence[Turn], tools: Tools) -> tuple[int, int]:
        """Body of an answer that is served as it stands in the text.

        Raises:
            TemplateError: it is not.
        """
        prompt = self._prompt(messages[: turn.message], tools)
        if not text.startswith(prompt):
            raise TemplateError("the served prompt is not the beginning of the trained text")
        body = self._body(text, turn, len(prompt))
        if not self._text(messages[: turn.message + 1], tools).startswith(text[: body[1]]):
            raise TemplateError("the answer is served otherwise than it is trained")
        return body

    def _body(self, text: str, turn: AnswerSpan, start: int) -> tuple[int, int]:
        ends, header = self.template, self.template.header
        turn_end = ends.call_end or ends.turn_end if turn.ends_in_call else ends.turn_end
        return find_body(text, turn, start, turn_end=turn_end, markers=self._markers, header=header)

    def _as_they_stand(self, whole: _Render) -> dict[int, tuple[int, int]]:
        """All answers, those too that stand behind another prompt than is served.

        Raises:
            TemplateError: one of them has no header, no turn end of its own, or other text before its turn end.
        """
        bodies: dict[int, tuple[int, int]] = {}
        previous_end, header = 0, self.template.header
        for turn in whole.turns:
            body = whole.served.get(turn.message)
            if body is None and turn.start == LOST:
                raise TemplateError("an earlier answer is at another place in the text that is served")
            if body is None:
                at = whole.text.rfind(header, previous_end, turn.start) if header.strip() else -1
                if at < 0:
                    raise TemplateError("the template writes no assistant header before an answer")
                body = self._body_or_answer(whole.text, turn, at + len(header))
            bodies[turn.message], previous_end = body, body[1]
        return bodies

    def _body_or_answer(self, text: str, turn: AnswerSpan, start: int) -> tuple[int, int]:
        """A body, without its end where that is a token that ends no served answer."""
        try:
            return self._body(text, turn, start)
        except TemplateError:
            if turn.ends_in_call or not self._markers.match(text, turn.end):
                raise
            return after_empty_think(text, start, turn), turn.end

    def _split_off(self, whole: _Render) -> tuple[list[Example], list[str]]:
        """Examples that end with the answers that are not yet supervised, and why others cannot have one.

        The last of them first: answers that stand right in its example need none of their own.
        """
        missing, parts, left_out = whole.unserved, [], []
        while missing:
            last = missing[-1]
            try:
                part = self._render(whole.messages[: last + 1], whole.tools, whole.num_added)
            except TemplateError as error:
                left_out.append(LEFT_OUT + error.what)
                missing.pop()
                continue
            bodies = {number: part.served[number] for number in missing if number in part.served}
            parts.append(self._example(part, bodies))
            missing = [number for number in missing if number not in bodies]
        return parts, left_out

    def _example(self, found: _Render, bodies: Mapping[int, tuple[int, int]], *more: str) -> Example:
        """An example that supervises some of its answers.

        Args:
            bodies: answer → its characters; those without loss are left out.
            more: changes beside those of the contents.

        Raises:
            TemplateError: the beginning of an answer, given with its question, is not found in it.
        """
        bodies = supervised(found.text, found.messages, bodies)
        turns = [turn for turn in found.turns if turn.message in bodies]
        return Example(
            messages=found.messages,
            tools=found.tools,
            answers=tuple([turn.message for turn in turns]),
            num_messages=len(found.messages) - found.num_added,
            rendered=Rendered(text=found.text, spans=tuple([bodies[turn.message] for turn in turns])),
            changes=(
                *changes(found.messages, found.tools, turns, found.pieces, found.text),
                *([found.change] if found.change else ()),
                *more,
            ),
        )

    def _of_whole(self, whole: _Render) -> Example:
        """The example of a conversation of which the last answer is supervised, or everything after BOS."""
        bos = str(self._variables.get("bos_token") or "")
        everything = (len(bos) if whole.text.startswith(bos) else 0, len(whole.text))
        last = whole.turns[-1].message
        spans: tuple[tuple[int, int], ...] = (everything,)
        if self.loss_on != "all":
            spans = tuple(supervised(whole.text, whole.messages, {last: whole.served[last]}).values())
        elif not all(map(has_loss, whole.messages)) or any("prefill" in turn for turn in whole.messages):
            spans = without_unsupervised(everything, whole.text, whole.messages, self._as_they_stand(whole))
        return Example(
            messages=whole.messages,
            tools=whole.tools,
            answers=(last,),
            num_messages=len(whole.messages) - whole.num_added,
            rendered=Rendered(text=whole.text, spans=spans),
            changes=(
                *changes(whole.messages, whole.tools, whole.turns, whole.pieces, whole.text),
                *([whole.change] if whole.change else ()),
            ),
        )

    def _text(self, messages: Sequence[Turn], tools: Tools) -> str:
        messages = for_template(messages)
        text = self._fast_path.text(messages) if tools is None else None
        return text or run(self._jinja, messages, tools, variables=self._variables)

    def _prompt(self, messages: Sequence[Turn], tools: Tools) -> str:
        messages = for_template(messages)
        text = self._fast_path.text(messages, add_generation_prompt=True) if tools is None else None
        return text or run(self._jinja, messages, tools, variables=self._variables, add_generation_prompt=True)


def parse_tools(tools: str | None) -> list[dict[str, Any]] | None:
    """Tool definitions from a row's JSON text."""
    if not tools:
        return None
    parsed = json.loads(tools, parse_float=Number)
    return parsed if isinstance(parsed, list) else [parsed]


def _any_of(names: set[str]) -> re.Pattern[str]:
    longest_first = sorted((name for name in names if name.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
