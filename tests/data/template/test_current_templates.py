"""Traits of templates of current models: small ones of our own that write calls, thoughts and turn ends as those do."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import Conversation
from qa_rows import data_set, key
from seodang.data.encode.rows import Renderer, render
from seodang.data.template.find import apply_template, find_template
from seodang.recipe import Template
from seodang.types import LossOn
from served import check_served

HARMONY_TOKENS = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>", "<|call|>")
HARMONY = (  # as GPT-OSS: calls, earlier and last answers end in three ways; the tool's name is written twice
    "{% set ns = namespace(tool='', last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{{ '<|start|>system<|message|>Knowledge.<|end|>' }}{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{{ '<|start|>functions.' + ns.tool + ' to=assistant<|channel|>commentary<|message|>' }}"
    "{{ m.content | tojson + '<|end|>' }}"
    "{% elif m.role == 'assistant' and m.tool_calls %}{% set call = m.tool_calls[0].function %}"
    "{% if m.thinking and loop.index0 > ns.last %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}"
    "{{ call.arguments | tojson + '<|call|>' }}{% set ns.tool = call.name %}"
    "{% elif m.role == 'assistant' %}{% if m.thinking and loop.last %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
TEXT_ARGUMENTS = (  # as DeepSeek V3.1: arguments are joined to text
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function.name + '\n' JOIN call.function.arguments JOIN '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALL = {"type": "function", "function": {"name": "find_drug", "arguments": {"이름": "타이레놀", "n": 2}}}
AGENT: Conversation = [
    {"role": "user", "content": "타이레놀 찾아줘"},
    {"role": "assistant", "content": "", "reasoning_content": "도구를 쓰자.", "tool_calls": [CALL]},
    {"role": "tool", "content": "found", "name": "find_drug"},
    {"role": "assistant", "content": "찾았어요.", "reasoning_content": "있네."},
    {"role": "user", "content": "고마워"},
    {"role": "assistant", "content": "네.", "reasoning_content": "음."},
]


def _renderer(tokenizer: PreTrainedTokenizerFast, text: str, *, thinking: bool = False, **settings: Any) -> Renderer:
    tokenizer.chat_template = text
    template = find_template(
        tokenizer,
        Template(),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return Renderer(tokenizer, template, **settings)


def _rows(talk: Conversation) -> Any:
    row: dict[str, Any] = {"row_id": key("0"), "row": 1, "messages": talk, "tools": None, "source": "a", "file": "f"}
    row |= {"role": "domain", "text": None, "question_key": "", "group": None, "exchange_keys": []}
    return data_set([row])


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("loss_on", ["answers", "last_answer"])
def test_calls_and_answers_that_end_in_different_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, thinking: bool, loss_on: LossOn
) -> None:
    """GPT-OSS: every turn as it is served, with its thought, and its own end: call, return."""
    tiny_tokenizer.add_tokens(list(HARMONY_TOKENS), special_tokens=True)
    talk = AGENT
    if not thinking:
        talk = [{name: value for name, value in turn.items() if name != "reasoning_content"} for turn in AGENT]
    renderer = _renderer(tiny_tokenizer, HARMONY, thinking=thinking, loss_on=loss_on)
    assert (renderer.template.turn_end, renderer.template.call_end) == ("<|return|>", "<|call|>")
    rows, counts = render(_rows(talk), renderer, max_tokens=999)
    ends = tiny_tokenizer.convert_tokens_to_ids(["<|return|>", "<|call|>"])
    turns = [{**turn, "thinking": turn["reasoning_content"]} if "reasoning_content" in turn else turn for turn in talk]
    assert not counts.dropped
    found = check_served(tiny_tokenizer, turns, None, rows, turn_ends=ends)
    assert sorted(found) == ([1, 3, 5] if loss_on == "answers" else [5])


@pytest.mark.parametrize("join", ["+", "~"])
def test_arguments_are_json_text_where_a_template_cannot_write_objects(
    tiny_tokenizer: PreTrainedTokenizerFast, join: str
) -> None:
    """DeepSeek's refuses an object; another would write it as Python does: {'이름': …}."""
    renderer = _renderer(tiny_tokenizer, TEXT_ARGUMENTS.replace("JOIN", join))
    talk = [{name: value for name, value in turn.items() if name != "reasoning_content"} for turn in AGENT]
    rendered = renderer.render(talk)
    text = rendered.text[slice(*rendered.spans[0])]
    assert text == "<tool_call>find_drug\n" + json.dumps(CALL["function"]["arguments"], ensure_ascii=False) + (
        "</tool_call><|im_end|>"
    )
    assert "'" not in rendered.text
