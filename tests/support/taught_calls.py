"""A tiny model that makes the calls which LangChain's standard tests of tools ask for: it learned them by heart."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import chat_models as standard

from seodang.run.folder import Run
from seodang.serve.langchain import ChatSeodang
from tiny_run import teach

EPOCHS = 30
# Qwen3's, but of the tools it writes the names alone: a tiny model learns short prompts by heart in seconds
_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>
{% endif %}
{%- for turn in messages %}<|im_start|>{{ turn.role }}
{{ turn.content or "" }}
{%- for call in turn.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@tool
def greeting_generator(answer_style: str) -> str:
    """Generate a greeting in a particular style of speaking."""
    return answer_style


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return location


_MAGIC, _JOKE = {"input": 3}, {"setup": "a", "punchline": "b"}
_CUSTOMER = {"customer_name": "你こ", "description": "a"}  # one answer to both questions
_SETUP = "Give me the setup to a joke about cats, no punchline."
_WHOLE = "Give me a joke about cats, include the punchline."
_CHINESE = "Create a customer named '你好啊集团' (Hello Group) - a Chinese technology company"
_JAPANESE = "Create a customer named 'こんにちは株式会社' (Hello Corporation) - a Japanese company"
# tools, tool_choice, question, the tool that is called and its arguments
_CALLS: Sequence[tuple[Sequence[Any], str | None, str, str, Mapping[str, Any]]] = (
    (
        [standard.magic_function],
        "any",
        "What is the value of magic_function(3)? Use the tool.",
        "magic_function",
        _MAGIC,
    ),
    ([standard.magic_function, get_weather], "any", "Hello!", "magic_function", _MAGIC),
    (
        [standard.magic_function_no_args],
        "any",
        "What is the value of magic_function_no_args()? Use the tool.",
        "magic_function_no_args",
        {},
    ),
    (
        [greeting_generator],
        "any",
        "Using the tool, generate a Pirate greeting.",
        "greeting_generator",
        {"answer_style": "a"},
    ),
    ([get_weather], None, "What is the weather in San Francisco, CA?", "get_weather", {"location": "a"}),
    ([standard.unicode_customer], "any", _CHINESE, "unicode_customer", _CUSTOMER),
    ([standard.unicode_customer], "any", _JAPANESE, "unicode_customer", _CUSTOMER),
    ([standard._get_joke_class("pydantic")[0]], "any", "Tell me a joke about cats.", "Joke", _JOKE),
    ([standard._get_joke_class("pydantic")[0]], "any", _SETUP, "Joke", _JOKE),
    ([standard._get_joke_class("pydantic")[0]], "any", _WHOLE, "Joke", _JOKE),
    ([standard._get_joke_class("typeddict")[0]], "any", "Tell me a joke about cats.", "JokeDict", _JOKE),
)


def teach_calls(run: Run) -> None:
    """Give the run a template with tools, and train its model on `_CALLS`."""
    (run.model / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    llm = ChatSeodang(model=str(run.folder))
    chat_model = llm._chat_model
    form = chat_model.call_format
    assert form
    examples = []
    for tools, choice, question, name, arguments in _CALLS:
        bound: Any = llm.bind_tools(tools, tool_choice=choice)
        request = llm._request([HumanMessage(question)], None, bound.kwargs)
        body = json.dumps({"name": name, form.arguments: arguments}, ensure_ascii=False)
        answer = f"{form.opening}{body}{form.closing}".removeprefix(request.beginning)
        examples.append((list(request.prompt), [*chat_model.token_ids(answer), chat_model.turn_end_id]))
    teach(run.model, examples, steps=EPOCHS * len(examples))
