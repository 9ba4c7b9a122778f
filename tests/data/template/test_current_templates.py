"""Traits of templates of current models: small ones of our own that write calls, thoughts and turn ends as those do."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import Conversation
from qa_rows import talk_rows
from seodang.data.encode.rows import render
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import REPROMPTED, Renderer
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
NEXT_ROLE_TOKENS = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
NEXT_ROLE = (  # as GLM 4: an answer ends with the token of who speaks next; earlier thoughts are left out
    "[gMASK]<sop>{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|observation|>' if messages[loop.index0 - 1].role != 'tool' else '' }}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>' }}"
    "{% set known = m.reasoning_content and loop.index0 > ns.last %}"
    "{{ '\n<think>' + (m.reasoning_content if known else '') + '</think>' }}"
    "{{ '\n' + m.content if m.content else '' }}{% for call in m.tool_calls or [] %}"
    "{{ '\n<tool_call>' + call.function.name + '\n' + call.function.arguments | tojson + '</tool_call>' }}"
    "{% endfor %}{% else %}{{ '<|' + m.role + '|>\n' + m.content }}"
    "{{ '/nothink' if m.role == 'user' and enable_thinking is defined and not enable_thinking else '' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}\n"
)
ONE_TURN_TOKENS = ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>")
ONE_TURN = (  # as Gemma 4: calls, their reports and the answer share one turn, so that answer has no header
    "{{ bos_token }}{% set ns = namespace(open=false) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ ('' if ns.waits else '<|tool_response>') + 'response:' + m.name + '{' + m.content + '}<tool_response|>' }}"
    "{% set ns.waits = false %}"
    "{% elif m.role == 'assistant' %}{{ '' if ns.open else '<|turn>model\n' }}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '<|tool_call>call:' + call.function.name + call.function.arguments | tojson + '<tool_call|>' }}{% endfor %}"
    "{% set ns.open = m.tool_calls | length > 0 %}{% set ns.waits = ns.open %}"
    "{{ '<|tool_response>' if ns.open else '<turn|>\n' }}"
    "{% else %}{% set ns.open = false %}{{ '<|turn>' + m.role + '\n' + m.content | trim + '<turn|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt and not ns.open %}{{ '<|turn>model\n' }}{% endif %}"
)
WITH_IDS = (  # as Solar: a call without id cannot be written, and ends in a token of its own
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.tool_calls %}"
    "{% for call in m.tool_calls %}{{ '<tool_call>' + call.id + '\n' + call.function.name + '\n' }}"
    "{{ call.function.arguments | tojson }}{% endfor %}{{ '<|call|>' }}"
    "{% else %}{{ '\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
LAST_QUESTION = (  # as Mistral Nemo: the system text stands in the last question, and only where that is the last turn
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
    "{% endif %}{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST]' + (system + '\n\n' if loop.last and system is defined else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
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


def _plain(talk: Conversation) -> Conversation:
    return [{name: value for name, value in turn.items() if name != "reasoning_content"} for turn in talk]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("loss_on", ["answers", "last_answer"])
def test_calls_and_answers_that_end_in_different_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, thinking: bool, loss_on: LossOn
) -> None:
    """GPT-OSS: every turn as it is served, with its thought, and its own end: call, return."""
    tiny_tokenizer.add_tokens(list(HARMONY_TOKENS), special_tokens=True)
    talk = AGENT if thinking else _plain(AGENT)
    renderer = _renderer(tiny_tokenizer, HARMONY, thinking=thinking, loss_on=loss_on)
    assert (renderer.template.turn_end, renderer.template.call_end) == ("<|return|>", "<|call|>")
    rows, counts = render(talk_rows(talk), renderer, max_tokens=999)
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
    rendered = renderer.render(_plain(AGENT))
    text = rendered.text[slice(*rendered.spans[0])]
    assert text == "<tool_call>find_drug\n" + json.dumps(CALL["function"]["arguments"], ensure_ascii=False) + (
        "</tool_call><|im_end|>"
    )
    assert "'" not in rendered.text


def _check(tokenizer: PreTrainedTokenizerFast, renderer: Renderer, talk: Conversation, **settings: Any) -> list[int]:
    """The answers that are supervised, each checked against what is served."""
    rows, counts = render(talk_rows(talk), renderer, max_tokens=9999)
    assert not counts.dropped
    ends = [renderer.template.turn_end_id, renderer.template.call_end_id]
    return sorted(check_served(tokenizer, talk, None, rows, turn_ends=[end for end in ends if end], **settings))


@pytest.mark.parametrize("thinking", [False, True])
def test_an_answer_that_ends_with_the_next_roles_token(tiny_tokenizer: PreTrainedTokenizerFast, thinking: bool) -> None:
    """GLM: `<|user|>` ends an answer and `<|observation|>` a call, the last ones too; prompts stay as they are."""
    tiny_tokenizer.add_tokens(list(NEXT_ROLE_TOKENS), special_tokens=True)
    talk = AGENT if thinking else _plain(AGENT)
    renderer = _renderer(tiny_tokenizer, NEXT_ROLE, thinking=thinking)
    assert (renderer.template.turn_end, renderer.template.call_end) == ("<|user|>", "<|observation|>")
    settings = {} if thinking else {"enable_thinking": False}
    assert _check(tiny_tokenizer, renderer, talk, **settings) == [1, 3, 5]
    rendered = renderer.render(talk)
    assert rendered.text.endswith("</think>\n네.<|user|>")
    assert rendered.spans[-1][1] == len(rendered.text)
    assert renderer.render(talk[:2]).text.endswith("</tool_call><|observation|>")
    assert renderer.prompt(talk[:3]).endswith("<|assistant|>" if thinking else "<|assistant|>\n<think></think>")


def test_without_a_call_all_of_a_conversation_is_one_example(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """GLM: each answer ends with the token that opens the next question; conversations of texts take the fast path."""
    tiny_tokenizer.add_tokens(list(NEXT_ROLE_TOKENS), special_tokens=True)
    renderer = _renderer(tiny_tokenizer, NEXT_ROLE)
    talk = [turn for turn in _plain(AGENT) if turn["role"] != "tool" and "tool_calls" not in turn]
    rendered = renderer.render(talk)
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["\n찾았어요.<|user|>", "\n네.<|user|>"]


def test_an_answer_that_goes_on_in_the_turn_of_its_call(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Gemma 4: behind a tool's report no header is written, and none is asked for."""
    tiny_tokenizer.add_tokens(list(ONE_TURN_TOKENS), special_tokens=True)
    talk = _plain(AGENT)
    for choice in ("auto", "keep"):
        renderer = _renderer(tiny_tokenizer, ONE_TURN, earlier_answers=choice)
        assert (renderer.template.turn_end, renderer.template.call_end) == ("<turn|>", "<|tool_response>")
        assert _check(tiny_tokenizer, renderer, talk) == [1, 3, 5]


def test_calls_that_need_an_id(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Solar: the token that ends a call is found though the template refuses a call without id."""
    tiny_tokenizer.add_tokens(["<|call|>"], special_tokens=True)
    renderer = _renderer(tiny_tokenizer, WITH_IDS)
    assert renderer.template.call_end == "<|call|>"
    talk = [dict(turn) for turn in _plain(AGENT)]
    talk[1]["tool_calls"] = [{"id": "call00001", **CALL}]
    assert _check(tiny_tokenizer, renderer, talk) == [1, 3, 5]


def test_a_prompt_that_the_trained_text_does_not_have(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Mistral Nemo: each answer stands behind its own question with the system text, as that is served."""
    tiny_tokenizer.add_tokens(["[INST]", "[/INST]", "</s>"], special_tokens=True)
    renderer = _renderer(tiny_tokenizer, LAST_QUESTION)
    talk = [{"role": "system", "content": "짧게."}, *_plain(AGENT)[-2:], {"role": "user", "content": "더?"}]
    talk.append({"role": "assistant", "content": "아니요."})
    assert _check(tiny_tokenizer, renderer, talk) == [2, 4]
    _, counts = render(talk_rows(talk), renderer, max_tokens=99)
    assert counts.changed[REPROMPTED] == 1
    parts = [example.rendered.text for example in renderer.examples(talk)]
    assert parts[0].endswith("[INST]고마워[/INST] 네.</s>[INST]짧게.\n\n더?[/INST] 아니요.</s>")
    assert parts[1].endswith("[INST]짧게.\n\n고마워[/INST] 네.</s>")
