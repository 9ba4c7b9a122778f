"""Tool calls in a model's answer: their format is read off the chat template, not off the model's name."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAME, _KEY, _VALUE = "seodangcall", "seodangkey", "seodangvalue"  # of the call that a template is asked to write
_ARGUMENTS = ("arguments", "parameters")
_QUESTION = {"role": "user", "content": "?"}
Render = Callable[[Sequence[Mapping[str, Any]], bool], str]  # turns, add_generation_prompt → text


@dataclass(frozen=True, kw_only=True, slots=True)
class CallFormat:
    """A call as JSON between two texts, such as ``<tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>``."""

    opening: str
    closing: str
    arguments: str  # the key of a call's arguments
    is_list: bool  # calls stand in one JSON list

    def forced(self, name: str | None = None) -> str:
        """How an answer begins that is a call: of the tool of this name, or of any.

        It ends where a token ends: tokenizers join a blank with what follows it.
        """
        start = f'{self.opening}{"[" if self.is_list else ""}{{"name": '
        return f'{start}"' if name is None else f"{start}{json.dumps(name)}, {json.dumps(self.arguments)}:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call that a model wrote."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MalformedCall:
    """Text that begins a call and cannot be read as one."""

    text: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedAnswer:
    """An answer, taken apart."""

    text: str  # what is no call
    calls: tuple[Call, ...]
    malformed: tuple[MalformedCall, ...]


def call_format(render: Render) -> CallFormat | None:
    """The format in which a template writes calls; None: it writes none, or not as JSON.

    Args:
        render: a conversation's text by the template; may raise what it wants where the template refuses.
    """
    function = {"name": _NAME, "arguments": {_KEY: _VALUE}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    try:
        prompt, whole = render([_QUESTION], True), render([_QUESTION, call], False)
        plain = render([_QUESTION, {"role": "assistant", "content": _VALUE}], False)
    except Exception:  # a template is foreign code, and many refuse calls
        return None
    # what stands between the prompt and the call in a plain answer too, such as an empty thought, is no part of it
    lead = plain.partition(_VALUE)[0]
    shared = lead if whole.startswith(lead) else prompt
    if not whole.startswith(shared):
        return None
    end = plain.partition(_VALUE)[2]
    written = whole.removeprefix(shared).removesuffix(end)
    place = written.find("{")
    if place < 0:
        return None
    is_list = written[:place].rstrip().endswith("[")
    start = written.rindex("[", 0, place) if is_list else place
    try:
        found, length = json.JSONDecoder().raw_decode(written[start:])
    except ValueError:
        return None
    found = found[0] if isinstance(found, list) and found else found
    if not isinstance(found, dict) or found.get("name") != _NAME:
        return None
    key = next((key for key in _ARGUMENTS if found.get(key) == {_KEY: _VALUE}), None)
    if key is None:
        return None
    return CallFormat(opening=written[:start], closing=written[start + length :], arguments=key, is_list=is_list)


def parse_calls(text: str, form: CallFormat) -> ParsedAnswer:
    """The calls in an answer, those that cannot be read, and the text around them."""
    calls: list[Call] = []
    malformed: list[MalformedCall] = []
    rest, plain = text, ""
    opening = form.opening.strip()
    while True:
        before, found, after = rest.partition(opening) if opening else ("", "x", rest)
        if not found or (not opening and not _looks_like_call(rest)):
            break
        plain += before
        rest, read = _read_one(after.lstrip(), form)
        for value in read:
            if isinstance(value, Call):
                calls.append(value)
            else:
                malformed.append(value)
        if not opening:
            break
    return ParsedAnswer(
        text=(plain + rest).strip() if calls or malformed else text, calls=tuple(calls), malformed=tuple(malformed)
    )


def _looks_like_call(text: str) -> bool:
    """Where no text opens a call, JSON with a name does."""
    return text.lstrip().startswith(("{", "[{")) and '"name"' in text


def _read_one(text: str, form: CallFormat) -> tuple[str, list[Call | MalformedCall]]:
    """(what follows, what was read) of a text behind the opening of a call."""
    closing = form.closing.strip()
    try:
        value, length = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        body, _, after = text.partition(closing) if closing else (text, "", "")
        return after, [MalformedCall(text=body.strip(), why=f"not JSON: {error}")]
    after = text[length:].lstrip()
    return after.removeprefix(closing), [_call(one, form) for one in (value if isinstance(value, list) else [value])]


def _call(value: Any, form: CallFormat) -> Call | MalformedCall:
    arguments = value.get(form.arguments) if isinstance(value, dict) else None
    if isinstance(arguments, str):  # some models write them as JSON text
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return MalformedCall(text=text, why="it names no tool")
    if not isinstance(arguments, dict):
        return MalformedCall(text=text, why=f"its {form.arguments} are not a JSON object")
    return Call(name=value["name"], arguments=arguments)
