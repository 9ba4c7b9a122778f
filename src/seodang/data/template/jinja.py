"""Runs a chat template's Jinja text exactly as `apply_chat_template` does. Knows no tokenizer and no mask."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2.runtime import LoopContext

from seodang.data.read.serialized import to_json
from seodang.errors import TemplateError

if TYPE_CHECKING:
    import jinja2

_UNCOMPILED: Mapping[type[Exception], str] = {
    SyntaxError: "a statement stands where it must not, such as `break` outside of a loop",
    UnicodeEncodeError: "it holds half of a surrogate pair",
    RecursionError: "it is nested too deeply",
    MemoryError: "it is nested too deeply",
}
Turn = Mapping[str, Any]  # one message as `Message.as_dict` gives it
_OF_LOOPS = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"})
_OF_TEXTS = frozenset(name for name in vars(str) if name[0] != "_") - {
    "format",
    "format_map",
}  # which the sandbox wraps
PINNED_DATE = date(2026, 1, 1)  # a template that writes today's date would train on one prompt and serve another


def compile_template(text: str, *, where: str = "chat template") -> "jinja2.Template":
    """The template, compiled in transformers' own environment (its `tojson`, `raise_exception`, loop controls …).

    Raises:
        TemplateError: the text is not a Jinja template.
    """
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        template: jinja2.Template = _compile_jinja_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"{error.message}", where=f"{where}:{error.lineno}", hint="fix this line of the template"
        ) from None
    except (SyntaxError, UnicodeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        what = _UNCOMPILED.get(type(error)) or f"{type(error).__name__}: {error}"  # of the Python code made from it
        raise TemplateError(f"not a usable template: {what}", where=where, hint="fix the template") from None
    template.globals = dict(template.globals)  # copied at each render, which is slow from the ChainMap that it is
    template.environment.filters["tojson"] = _to_json
    vars(template.environment)["getattr"] = partial(
        _attribute, type(template.environment).getattr, template.environment
    )
    return template


def variables_of(text: str) -> frozenset[str]:
    """Names that the template reads and does not set itself: `bos_token`, `enable_thinking`, `strftime_now` …"""
    from jinja2 import meta, nodes

    tree = compile_template(text).environment.parse(text)
    dated = {node.name for node in tree.find_all(nodes.Name)} & {"strftime_now"}  # a global, so it counts as declared
    return frozenset(meta.find_undeclared_variables(tree) | dated)


def run(
    template: "jinja2.Template",
    messages: Sequence[Turn],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    variables: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> str:
    """The text of one conversation.

    A call without content (`content: null`) is tried without the key first, as transformers does, then as an empty
    string: Qwen3's own template knows only the latter. Arguments of calls are objects; where a template cannot write
    objects, as DeepSeek's cannot, they are JSON text.

    Raises:
        TemplateError: the template refuses the conversation; carries the template's own message.
    """
    settings = {**variables, "tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
    fault: Exception | None = None
    for turns in _forms(messages):
        try:
            text = template.render(messages=[_present(turn) for turn in turns], **settings)
        except Exception as error:  # a template is foreign code: whatever it raises is about this row
            fault = error
            continue
        if not _writes_python(text, turns):
            return text
    raise TemplateError(_refusal(fault) if fault else "the template writes a call's arguments as Python") from fault


def _forms(messages: Sequence[Turn]) -> Iterator[Sequence[Turn]]:
    """The messages as they are, and as other templates want them: no null content, a call's arguments as JSON text."""
    yield messages
    filled = [{**turn, "content": ""} if turn.get("content") is None else turn for turn in messages]
    if any(turn.get("content") is None for turn in messages):
        yield filled
    if any(isinstance(_arguments(call), dict) for turn in messages for call in turn.get("tool_calls") or ()):
        yield [_with_text_arguments(turn) for turn in messages]
        yield [_with_text_arguments(turn) for turn in filled]


def _arguments(call: Turn) -> Any:
    return call.get("function", call).get("arguments")


def _with_text_arguments(turn: Turn) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        inner = {**call.get("function", call), "arguments": _as_text(_arguments(call))}
        calls.append({**call, "function": inner} if "function" in call else inner)
    return {**turn, "tool_calls": calls}


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def _writes_python(text: str, messages: Sequence[Turn]) -> bool:
    """Whether a template writes a call's arguments as Python does: {'city': …}, which no tool can read."""
    calls = [call for turn in messages for call in turn.get("tool_calls") or ()]
    found = {str(arguments) for arguments in map(_arguments, calls) if isinstance(arguments, dict) and arguments}
    contents = [turn["content"] for turn in messages if isinstance(turn.get("content"), str)] if found else []
    return any(text.count(python) > sum(content.count(python) for content in contents) for python in found)


def pinned(text: str, *, thinking: bool) -> str:
    """The template with what would change between training and serving fixed in its first lines.

    `enable_thinking` defaults to false where nothing thinks, and `strftime_now` writes PINNED_DATE. Each line ends in
    a newline that Jinja's `trim_blocks` takes away again.
    """
    names, lines = variables_of(text), ""
    if "enable_thinking" in names and not thinking:
        lines += "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}\n"
    if "strftime_now" in names:
        formats = _date_formats(text)
        cases = "".join(
            f"{'{%- if' if not number else '{%- elif'} format == {literal(form)} %}}{_pinned_date(form)}"
            for number, form in enumerate(formats)
        )
        otherwise = f"{{%- else %}}{PINNED_DATE.isoformat()}{{%- endif %}}" if formats else PINNED_DATE.isoformat()
        lines += f"{{%- macro strftime_now(format) %}}{cases}{otherwise}{{%- endmacro %}}\n"
    return lines + text


def fixed(text: str, values: Mapping[str, str]) -> str:
    """The template with variables set to fixed strings in its first lines."""
    return "".join(f"{{%- set {name} = {literal(value)} %}}\n" for name, value in values.items()) + text


def with_tools(for_tools: str, text: str) -> str:
    """One template of two: the first for conversations with tools, the second for those without.

    The line break behind each statement is the one that `trim_blocks` takes off; Jinja itself takes one off the end of
    a template; `+` keeps the blanks that `lstrip_blocks` would take off in front of a statement.
    """
    one, other = for_tools.removesuffix("\n"), text.removesuffix("\n")
    return f"{{% if tools is defined and tools is not none %}}\n{one}{{%+ else %}}\n{other}{{%+ endif %}}"


def literal(value: str) -> str:
    """A text as a string of a template."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' own `tojson`, but numbers of the data keep their text."""
    return to_json(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=True
    )


def _attribute(sandboxed: Callable[..., Any], environment: "jinja2.Environment", value: Any, name: str) -> Any:
    """An attribute as the sandbox gives it; what it would allow after long checks anyway is given at once."""
    kind = value.__class__
    if kind is dict:
        if name in value and not hasattr(dict, name):
            return value[name]
    elif (kind is LoopContext and name in _OF_LOOPS) or (kind is str and name in _OF_TEXTS):
        return getattr(value, name)
    return sandboxed(environment, value, name)


def _present(turn: Turn) -> Turn:
    """What transformers hands to templates: no absent keys, and reasoning under its second name too."""
    kept = {key: value for key, value in turn.items() if value is not None}
    return {"thinking": kept["reasoning_content"], **kept} if "reasoning_content" in kept else kept


def _refusal(error: Exception) -> str:
    if isinstance(error, MemoryError | RecursionError):
        return "the template takes too much memory, or calls itself without end"
    message = " ".join(str(error).split())
    return f"the template refuses it: {message[:200] or type(error).__name__}"


def _date_formats(text: str) -> list[str]:
    from jinja2 import nodes

    calls = compile_template(text).environment.parse(text).find_all(nodes.Call)
    dated = [call for call in calls if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now"]
    formats = {call.args[0].value for call in dated if call.args and isinstance(call.args[0], nodes.Const)}
    return sorted(text for text in formats if isinstance(text, str))


def _pinned_date(form: str) -> str:
    try:
        return PINNED_DATE.strftime(form)
    except (ValueError, UnicodeError):
        raise TemplateError(
            f"unknown date format {form[:40]!r}", where="strftime_now", hint="fix the template"
        ) from None
