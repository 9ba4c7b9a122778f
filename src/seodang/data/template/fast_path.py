"""Conversations of one signature rendered once, where a template provably passes texts on unread. Knows no tokenizer.

A template is given opaque texts in place of contents. They can be written, joined to other text, trimmed, and asked
whether they are texts. Asked whether they contain, begin or end with something ("</think>", "<tool_response>"), they
say no, and the skeleton holds for texts of which that is true. Whatever else a template tries with one ends the proof,
and so does a template that could read what it has written (a macro, a block …). Nothing that it writes then depends on
more than the roles::

    roles       user, assistant
    skeleton    <start_of_turn>user\\n|⟨0⟩|<end_of_turn>\\n<start_of_turn>model\\n|⟨1⟩|<end_of_turn>\\n

so that each conversation of these roles is this skeleton with its own texts, trimmed where the skeleton says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.filters import do_trim
from jinja2.tests import test_iterable, test_string

from seodang.data.template.answer_sentinels import CLOSE, RESERVED, TEXT, AnswerSpan
from seodang.data.template.jinja import Turn, run
from seodang.errors import TemplateError

CACHED_SKELETONS = 1024
_Signature = tuple[tuple[str, ...], ...]  # the keys of each message, in their order, and its role
_Content = tuple[int, str]  # of which message, and how it is trimmed: a key of _TRIMMED
_Part = str | _Content  # text of the template, or of a message
_TRIMMED: Mapping[str, Callable[[str], str]] = {"": str, "t": str.strip, "l": lambda text: text.lstrip("\n")}
_PLACEHOLDER = re.compile(f"{TEXT}([0-9]+)([tl]?){CLOSE}")
_READS_OUTPUT = (  # or escapes it, or writes what another template says
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.EvalContextModifier,
    nodes.ScopedEvalContextModifier, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends,
)  # fmt: skip
_VARIES = frozenset({"random", "lipsum", "strftime_now", "sameas"})  # filters, functions and tests


class _Denied(NamedTuple):
    """A question that a template asked of a text, which was answered with no."""

    content: _Content
    method: str  # of str: __contains__, startswith or endswith
    wanted: str

    def is_wrong(self, messages: Sequence[Turn]) -> bool:
        """Whether the answer is yes in this conversation."""
        number, trim = self.content
        return bool(getattr(_TRIMMED[trim](messages[number]["content"]), self.method)(self.wanted))


class Skeleton(NamedTuple):
    """What a template writes for conversations of one signature."""

    literals: tuple[str, ...]  # before, between and after the placeholders
    placeholders: tuple[_Content, ...]  # what stands there
    denied: frozenset[_Denied] = frozenset()  # it holds for conversations in which none of these is wrong


class Filled(NamedTuple):
    """A skeleton with the texts of one conversation."""

    text: str
    turns: list[AnswerSpan]  # of the assistant, as `find_answers` gives them
    literal_starts: list[int]  # where each literal of the skeleton begins in the text


class FastPath:
    """Renders conversations by their signature.

    Args:
        template: as `compile_template` gives it.
        text: of the template.
        variables: that it is rendered with.
    """

    def __init__(self, template: jinja2.Template, text: str, variables: Mapping[str, Any]) -> None:
        self._opaque = _for_opaque(template, text)
        self._variables = variables
        self._skeleton: Callable[[_Signature, bool], Skeleton | None] = lru_cache(CACHED_SKELETONS)(self._prove)
        self._served = lru_cache(CACHED_SKELETONS)(self._find_served)

    def render(self, messages: Sequence[Turn]) -> Filled | None:
        """A conversation without tools, and where its answers are; None where `run` is not proven to write the same."""
        skeleton = self._proven(messages, add_generation_prompt=False)
        return skeleton and _fill(skeleton, messages)

    def text(self, messages: Sequence[Turn], *, add_generation_prompt: bool = False) -> str | None:
        """As `run` of a conversation without tools; None where that is not proven to be the same."""
        skeleton = self._proven(messages, add_generation_prompt=add_generation_prompt)
        return skeleton and "".join(_written(skeleton, messages))

    def prompt_ends(self, messages: Sequence[Turn], filled: Filled, turn_end: str) -> dict[int, int]:
        """Assistant turn → where the prompt ends that is served for it, in characters.

        Only turns that are proven to be served as they stand in `filled`: the render of the messages before them is
        the beginning of it, and up to the turn end so is the render that ends with them.
        """
        found = self._served(tuple([(*turn, turn["role"]) for turn in messages]), turn_end)
        return {message: filled.literal_starts[literal] + length for message, literal, length in found}

    def _proven(self, messages: Sequence[Turn], *, add_generation_prompt: bool) -> Skeleton | None:
        signature = []
        for turn in messages:
            if not _is_plain(turn.get("content")):
                return None
            signature.append((*turn, turn["role"]))
        skeleton = self._skeleton(tuple(signature), add_generation_prompt)
        return None if skeleton is None or any(denied.is_wrong(messages) for denied in skeleton.denied) else skeleton

    def _find_served(self, signature: _Signature, turn_end: str) -> tuple[tuple[int, int, int], ...]:
        """(message, last literal of its prompt, length of that) of the turns that `prompt_ends` names."""
        whole = self._skeleton(signature, False)
        found = []
        for number, (*_, role) in enumerate(signature):
            if role != "assistant" or whole is None:
                continue
            prompt, alone = self._skeleton(signature[:number], True), self._skeleton(signature[: number + 1], False)
            if not prompt or not alone or not prompt.denied | alone.denied <= whole.denied:
                continue
            if _begins(prompt, whole) and _answers_alike(alone, whole, turn_end):
                found.append((number, len(prompt.placeholders), len(prompt.literals[-1])))
        return tuple(found)

    def _prove(self, signature: _Signature, add_generation_prompt: bool) -> Skeleton | None:
        if self._opaque is None or any({*keys} != {"role", "content"} for *keys, _ in signature):
            return None
        denied: set[_Denied] = set()
        messages = [
            {key: role if key == "role" else _OpaqueText(denied, (number, "")) for key in keys}
            for number, (*keys, role) in enumerate(signature)
        ]
        try:
            text = run(self._opaque, messages, variables=self._variables, add_generation_prompt=add_generation_prompt)
        except (TemplateError, _ReadError):
            return None
        parts = _PLACEHOLDER.split(text)
        if RESERVED.search("".join(parts[::3])):
            return None
        placeholders = tuple((int(number), trim) for number, trim in zip(parts[1::3], parts[2::3], strict=True))
        return Skeleton(tuple(parts[::3]), placeholders, frozenset(denied))


def _is_plain(content: object) -> bool:
    """A text that is not blank, and one piece for `answer_sentinels`."""
    return isinstance(content, str) and "think>" not in content and content != "" and not content.isspace()


def _written(skeleton: Skeleton, messages: Sequence[Turn]) -> list[str]:
    """Literals and contents by turns."""
    written = [skeleton.literals[0]]
    for (number, trim), after in zip(skeleton.placeholders, skeleton.literals[1:], strict=True):
        written += (_TRIMMED[trim](messages[number]["content"]), after)
    return written


def _fill(skeleton: Skeleton, messages: Sequence[Turn]) -> Filled:
    written = _written(skeleton, messages)
    starts = [0, *accumulate(map(len, written[:-1]))]
    pieces: dict[int, list[tuple[int, str]]] = {}  # assistant turn → where its text begins, each time it is written
    for (number, _), start, text in zip(skeleton.placeholders, starts[1::2], written[1::2], strict=True):
        if messages[number]["role"] == "assistant":
            inner = text.strip()
            pieces.setdefault(number, []).append((start + text.index(inner), inner))
    turns = [
        AnswerSpan(
            message=number,
            start=found[0][0],
            end=found[-1][0] + len(found[-1][1]),
            pieces=tuple([inner for _, inner in found]),
            ends_in_call=False,
        )
        for number, found in pieces.items()
    ]
    return Filled("".join(written), turns, starts[::2])


def _begins(part: Skeleton, whole: Skeleton) -> bool:
    """Whether one skeleton is the beginning of another, whatever the texts."""
    size = len(part.placeholders)
    return (
        size < len(whole.literals)
        and part.placeholders == whole.placeholders[:size]
        and part.literals[:-1] == whole.literals[:size]
        and whole.literals[size].startswith(part.literals[-1])
    )


def _answers_alike(alone: Skeleton, whole: Skeleton, turn_end: str) -> bool:
    """Whether a skeleton that ends with an answer is, up to its turn end, the beginning of another."""
    last = alone.literals[-1]
    end = last.find(turn_end)
    return end >= 0 and _begins(
        Skeleton((*alone.literals[:-1], last[: end + len(turn_end)]), alone.placeholders), whole
    )


class _ReadError(BaseException):
    """A template did more with a text than pass it on. Jinja takes some of the usual exceptions for an answer."""


class _OpaqueText:
    """A text that is not known: contents of messages, maybe with text around them. None is blank.

    Args:
        denied: takes the questions that it answers with no.
    """

    def __init__(self, denied: set[_Denied], *parts: _Part) -> None:
        self._denied, self._parts = denied, parts

    def __add__(self, after: object) -> "_OpaqueText":
        return _OpaqueText(self._denied, *self._parts, *_parts_of(after))

    def __radd__(self, before: object) -> "_OpaqueText":
        return _OpaqueText(self._denied, *_parts_of(before), *self._parts)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, part: object) -> bool:
        return self._deny("__contains__", part)

    def startswith(self, beginning: object) -> bool:
        """No."""
        return self._deny("startswith", beginning)

    def endswith(self, end: object) -> bool:
        """No."""
        return self._deny("endswith", end)

    def strip(self) -> "_OpaqueText":
        """Without white space around it."""
        return _OpaqueText(self._denied, (self._content()[0], "t"))

    def lstrip(self, characters: object) -> "_OpaqueText":
        """Without line breaks before it; without other characters it could be blank."""
        number, trim = self._content()
        if characters != "\n":
            raise _ReadError
        return _OpaqueText(self._denied, (number, trim or "l"))

    def _content(self) -> _Content:
        """Of one message alone, without text around it."""
        if len(self._parts) > 1 or isinstance(self._parts[0], str):
            raise _ReadError
        return self._parts[0]

    def _deny(self, method: str, wanted: object) -> bool:
        if not isinstance(wanted, str):
            raise _ReadError
        self._denied.add(_Denied(self._content(), method, wanted))
        return False


def _read(*_: object) -> NoReturn:
    raise _ReadError


for _name in (
    "getattr", "getitem", "len", "iter", "reversed", "eq", "ne", "lt", "le", "gt", "ge", "hash",
    "str", "repr", "format", "int", "float", "complex", "index",
):  # fmt: skip
    setattr(_OpaqueText, f"__{_name}__", _read)


def _parts_of(value: object) -> tuple[_Part, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, _OpaqueText):
        return value._parts
    raise _ReadError


def _for_opaque(template: jinja2.Template, text: str) -> jinja2.Template | None:
    """The template as it takes opaque texts; None if it could read what it has written."""
    environment = template.environment.overlay(finalize=_with_placeholders)
    tree = environment.parse(text)
    if next(tree.find_all(_READS_OUTPUT), None) or any(loop.recursive for loop in tree.find_all(nodes.For)):
        return None
    names = {name.name for name in tree.find_all(nodes.Name)}
    called = {node.name for node in (*tree.find_all(nodes.Filter), *tree.find_all(nodes.Test))}
    if _VARIES & (names | called):
        return None
    environment.filters = {**environment.filters, "trim": _trim}
    environment.tests = {**environment.tests, "string": _or_opaque(test_string), "iterable": _or_opaque(test_iterable)}
    return environment.from_string(text, globals=template.globals)


def _with_placeholders(value: object) -> object:
    if not isinstance(value, _OpaqueText):
        return value
    return "".join(part if isinstance(part, str) else f"{TEXT}{part[0]}{part[1]}{CLOSE}" for part in value._parts)


def _trim(value: Any, chars: str | None = None) -> Any:
    return value.strip() if isinstance(value, _OpaqueText) and chars is None else do_trim(value, chars)


def _or_opaque(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, _OpaqueText) or test(value)
