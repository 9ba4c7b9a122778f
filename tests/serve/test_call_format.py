"""Formats of tool calls are read off templates, and calls off answers, whole or broken."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import pytest

from seodang.data.template.find import BUILT_IN
from seodang.data.template.jinja import compile_template, run
from seodang.serve.call_format import Call, CallFormat, Render, call_format, parse_calls

HERMES = CallFormat(opening="<tool_call>\n", closing="\n</tool_call>", arguments="arguments", is_list=False)
LLAMA = CallFormat(opening="", closing="", arguments="parameters", is_list=False)
MISTRAL = CallFormat(opening="[TOOL_CALLS]", closing="", arguments="arguments", is_list=True)
_LLAMA_TEXT = """{%- for turn in messages %}{{ '<|' + turn.role + '|>' }}{%- if turn.tool_calls %}
{{- '{"name": "' + turn.tool_calls[0].function.name + '", "parameters": ' }}
{{- turn.tool_calls[0].function.arguments | tojson }}{{- '}' }}
{%- else %}{{- turn.content }}{%- endif %}{{- '<|eot|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
_MISTRAL_TEXT = """{%- for turn in messages %}{%- if turn.role == 'user' %}{{- '[INST]' + turn.content + '[/INST]' }}
{%- elif turn.tool_calls %}{{- '[TOOL_CALLS][' }}{%- for call in turn.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}
{%- endfor %}{{- ']</s>' }}{%- else %}{{- turn.content + '</s>' }}{%- endif %}{%- endfor %}"""


def _render(text: str) -> Render:
    template = compile_template(text)

    def render(turns: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        return run(
            template, turns, variables={"bos_token": "<bos>", "eos_token": "<eos>"}, add_generation_prompt=prompt
        )

    return render


@pytest.mark.parametrize("name", BUILT_IN)
def test_formats_of_the_templates_that_ship(name: str) -> None:
    """Of those that ship, Qwen3's alone has calls."""
    text = files("seodang.templates").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    assert call_format(_render(text)) == (HERMES if name == "qwen3" else None)


@pytest.mark.parametrize(("text", "form"), [(_LLAMA_TEXT, LLAMA), (_MISTRAL_TEXT, MISTRAL)])
def test_formats_of_other_templates(text: str, form: CallFormat) -> None:
    """Calls without a text around them, with other keys, and in lists are found as well."""
    assert call_format(_render(text)) == form


@pytest.mark.parametrize("form", [HERMES, LLAMA, MISTRAL])
def test_a_forced_call_is_read_again(form: CallFormat) -> None:
    """What an answer is made to begin with, completed by the model, is the call."""
    text = form.forced("find") + '{"name": "아스피린"}}' + ("]" if form.is_list else "") + form.closing
    found = parse_calls(text, form)
    assert (found.calls, found.malformed, found.text) == ((Call(name="find", arguments={"name": "아스피린"}),), (), "")


@pytest.mark.parametrize("form", [HERMES, LLAMA, MISTRAL])
def test_a_call_of_any_tool_is_read_again(form: CallFormat) -> None:
    """Where one of several tools has to be called, the model writes on from the tool's name."""
    rest = f'find", "{form.arguments}": {{"n": 1}}}}' + ("]" if form.is_list else "") + form.closing
    found = parse_calls(form.forced() + rest, form)
    assert (found.calls, found.malformed, found.text) == ((Call(name="find", arguments={"n": 1}),), (), "")


def test_several_calls_and_the_text_around_them() -> None:
    """Each call is read in its order; what stands before and after is the answer's text."""
    calls = [json.dumps({"name": name, "arguments": {"n": n}}) for n, name in enumerate(("one", "two"))]
    found = parse_calls("찾아볼게요.\n" + "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls), HERMES)
    assert [(call.name, dict(call.arguments)) for call in found.calls] == [("one", {"n": 0}), ("two", {"n": 1})]
    assert found.text == "찾아볼게요."


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"name": "find", "arguments": {"n": }}', "not JSON"),
        ('{"name": "find", "arguments": 3}', "not a JSON object"),
        ('{"arguments": {}}', "names no tool"),
        ('"find"', "names no tool"),
        ('{"name": "find"', "not JSON"),
    ],
)
def test_a_broken_call_is_kept_and_the_next_one_read(body: str, why: str) -> None:
    """What cannot be read is reported with its text, and hides nothing behind it."""
    good = '<tool_call>\n{"name": "next", "arguments": {}}\n</tool_call>'
    found = parse_calls(f"<tool_call>\n{body}\n</tool_call>\n{good}", HERMES)
    assert [call.name for call in found.calls] == ["next"]
    assert len(found.malformed) == 1
    assert why in found.malformed[0].why


@pytest.mark.parametrize("text", ["", "그냥 답입니다.", '{"a": 1}', "[1, 2]", "  leading blanks stay"])
def test_an_answer_without_calls_stays_as_it_is(text: str) -> None:
    """JSON that names no tool is an answer like any other."""
    assert all(parse_calls(text, form).text == text for form in (HERMES, LLAMA, MISTRAL))
