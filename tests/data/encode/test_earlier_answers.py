"""Every supervised answer stands behind what is served for it, or the user knows that it does not."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import CHATML_LIKE, STYLES, Conversation, Style, conversations, dressed, with_style_tokens
from qa_rows import key, talk_rows
from seodang.data.encode.earlier_answers import choose_earlier_answers
from seodang.data.encode.rows import render
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import KEPT, MASKED, RESPACED, SPLIT, Renderer
from seodang.recipe import Template
from served import check_served

CALL = {"type": "function", "function": {"name": "find_drug", "arguments": {"이름": "타이레놀", "n": 2}}}
TOOLS = [{"type": "function", "function": {"name": "find_drug", "description": "약을 찾는다", "parameters": {}}}]
THOUGHT_TURN = {"role": "assistant", "content": "네.", "reasoning_content": "음…"}
AGENT: Conversation = [
    {"role": "user", "content": "타이레놀 찾아줘"},
    {"role": "assistant", "content": "찾을게요.", "reasoning_content": "도구를 쓰자.", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"found": true}', "name": "find_drug"},
    {"role": "assistant", "content": "찾았어요.", "reasoning_content": "있네."},
    {"role": "user", "content": "고마워"},
    {"role": "assistant", "content": "네."},
    {"role": "user", "content": "왜?"},
    THOUGHT_TURN,
]
PROMPT_OPENS_THOUGHT = (  # the served prompt holds "<think>\n", which all thoughts begin with in the text
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
NEWLINE_AFTER_LAST_TOOL = (  # a tool's turn ends in a line break only where it is the last
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>' }}{% if m.role != 'tool' or loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAST_ENDS_OTHERWISE = (  # another token ends the last answer than the earlier ones
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{{ '<|endoftext|>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _renderer(
    tokenizer: PreTrainedTokenizerFast, borrow: str | None, *, thinking: bool = False, **settings: Any
) -> Renderer:
    template = find_template(
        tokenizer,
        Template(borrow=borrow),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return Renderer(tokenizer, template, **settings)


def _own(tokenizer: PreTrainedTokenizerFast, text: str, **settings: Any) -> Renderer:
    tokenizer.chat_template = text
    return _renderer(tokenizer, None, **settings)


def _talk(*texts: str) -> Conversation:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_split_answers_are_trained_behind_what_is_served(tiny_tokenizer: PreTrainedTokenizerFast, style: Style) -> None:
    """Over random conversations and many templates: each answer of a kept row is supervised once, as served."""
    tokenizer, template = dressed(with_style_tokens(tiny_tokenizer), style)
    talks = list(conversations(seed=11, count=40))
    rows, counts = render(talk_rows(*talks), Renderer(tokenizer, template), max_tokens=4096)
    assert counts.kept >= 10
    for number, talk in enumerate(talks, start=1):
        examples = rows.filter(lambda row, number=number: row["row"] == number)
        found = check_served(tokenizer, talk, None, examples, turn_ends=[template.turn_end_id], **template.kwargs)
        left_out = sum(note.where == f"talk.jsonl:{number}" for note in counts.notes)
        assert left_out or sorted(found) == list(range(1, len(talk), 2))
        assert len(set(examples["row_id"])) == len(examples)
        assert {row_id.split("#")[0] for row_id in examples["row_id"]} <= {key(str(number - 1))}


@pytest.mark.parametrize("thinking", [False, True])
def test_calls_and_thoughts_are_trained_behind_what_is_served(
    tiny_tokenizer: PreTrainedTokenizerFast, thinking: bool
) -> None:
    """Qwen3 with tools: thoughts of a tool loop stay together in one example, those of other questions do not."""
    talk = AGENT
    if not thinking:
        talk = [{name: value for name, value in turn.items() if name != "reasoning_content"} for turn in AGENT]
    renderer = _renderer(tiny_tokenizer, "qwen3", thinking=thinking)
    rows, counts = render(talk_rows(talk, tools=TOOLS), renderer, max_tokens=4096)
    ends = [renderer.template.turn_end_id]
    found = check_served(tiny_tokenizer, talk, TOOLS, rows, turn_ends=ends, **renderer.template.kwargs)
    assert sorted(found) == [1, 3, 5, 7]
    assert dict(counts.changed) == {SPLIT: 1}
    assert counts.remarks == (f"1 conversation split into {len(rows)} examples",)
    assert len(rows) == (3 if thinking else 4)
    if thinking:
        assert [text.count("음…") + text.count("있네.") + text.count("도구를") for text in rows["text"]] == [1, 0, 2]


def test_the_messages_of_an_example_end_with_its_answer(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """What a row's last answer answers can still be read off its messages; the system turn of the recipe is not one."""
    renderer = _renderer(tiny_tokenizer, "qwen3", system="짧게.")
    talk = _talk("왜?", "네.", "또?", "아뇨.")
    rows, _ = render(talk_rows(_talk("q", "a"), talk), renderer, max_tokens=4096)
    assert rows["messages"] == [_talk("q", "a"), talk, talk[:2]]
    assert rows["row_id"] == [key("0"), key("1"), f"{key('1')}#2"]
    assert rows["row"] == [1, 2, 2]
    assert all(text.startswith("<|im_start|>system\n짧게.") for text in rows["text"])


@pytest.mark.parametrize(
    ("text", "talk"),
    [
        (PROMPT_OPENS_THOUGHT, [AGENT[6], THOUGHT_TURN, AGENT[6], THOUGHT_TURN]),
        (LAST_ENDS_OTHERWISE, _talk("왜?", "네.", "또?", "아뇨.")),
        (NEWLINE_AFTER_LAST_TOOL, [{**AGENT[0]}, {**AGENT[1], "reasoning_content": None}, AGENT[2], AGENT[5]]),
    ],
    ids=["prompt_opens_thought", "last_ends_otherwise", "newline_after_last_tool"],
)
def test_other_ways_to_serve_otherwise_are_found(
    tiny_tokenizer: PreTrainedTokenizerFast, text: str, talk: Conversation
) -> None:
    """A think tag of the prompt is not supervised; another turn end and a missing line break are noticed."""
    talk = [{name: value for name, value in turn.items() if value is not None} for turn in talk]
    renderer = _own(tiny_tokenizer, text, thinking=text == PROMPT_OPENS_THOUGHT)
    rows, counts = render(talk_rows(talk), renderer, max_tokens=999)
    found = check_served(tiny_tokenizer, talk, None, rows, turn_ends=[renderer.template.turn_end_id])
    assert sorted(found) == [1, 3]
    assert counts.changed.get(RESPACED, 0) == (1 if text == NEWLINE_AFTER_LAST_TOOL else 0)


def test_an_earlier_answer_that_ends_otherwise_is_kept_without_its_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Trained as it stands, it must not teach another turn end."""
    renderer = _own(tiny_tokenizer, LAST_ENDS_OTHERWISE, earlier_answers="keep")
    rendered = renderer.render(_talk("왜?", "네.", "또?", "아뇨."))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["네.", "아뇨.<|endoftext|>"]


def test_earlier_answers_can_be_context(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """One example, the last answer alone supervised, and counted."""
    renderer = _renderer(tiny_tokenizer, "qwen3", earlier_answers="context")
    rows, counts = render(talk_rows(_talk("왜?", "네.", "또?", "아뇨.")), renderer, max_tokens=999)
    ends = [renderer.template.turn_end_id]
    talk = _talk("왜?", "네.", "또?", "아뇨.")
    assert check_served(tiny_tokenizer, talk, None, rows, turn_ends=ends, enable_thinking=False) == [3]
    assert dict(counts.changed) == {MASKED: 1}


def test_a_split_answer_that_cannot_be_trained_is_left_out_and_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A thought cannot be served with thinking off; the other answers stay. So do those of examples that fit."""
    talk = [AGENT[6], {**THOUGHT_TURN, "content": "아뇨."}, *_talk("왜?", "네. " * 20)]
    renderer = _renderer(tiny_tokenizer, "qwen3")
    rows, counts = render(talk_rows(talk), renderer, max_tokens=999)
    reason = "the served prompt is not the beginning of the trained text"
    assert dict(counts.changed) == {SPLIT: 1, f"an answer is left out: {reason}": 1}
    assert [(note.where, note.reason) for note in counts.notes] == [
        ("talk.jsonl:1", f"an answer is left out: {reason}")
    ]
    assert len(rows) == 1
    rows, counts = render(talk_rows(_talk("왜?", "네.", "왜?", "네. " * 40)), renderer, max_tokens=60)
    assert (rows["row_id"], rows["messages"]) == ([f"{key('0')}#2"], [_talk("왜?", "네.")])
    assert counts.kept == 1
    assert counts.changed["an answer is left out: longer than 60 tokens"] == 1


def test_auto_splits_where_that_is_cheap_and_says_what_it_costs(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """At most twice the tokens: split. More: kept, with a warning. Few such conversations among many: split."""
    renderer = _renderer(tiny_tokenizer, "qwen3")
    short, long = _talk("왜?", "네.", "또?", "아뇨."), _talk(*["왜 그런가요?", "그렇습니다."] * 8)
    choice, finding = choose_earlier_answers({"a": talk_rows(short)}, renderer, max_tokens=999)
    assert finding is not None
    assert (choice, finding.severity, finding.rows) == ("split", "fixed", ("talk.jsonl:1",))
    choice, finding = choose_earlier_answers({"a": talk_rows(long)}, renderer, max_tokens=999)
    assert finding is not None
    assert (choice, finding.severity, finding.check) == ("keep", "warn", "earlier_answers")
    assert "7 of 8 answers (88%)" in finding.what
    assert "'<think>\\n\\n</think>\\n\\n'" in finding.what
    assert "times the tokens" in finding.hint
    many = {"a": talk_rows(long), "b": talk_rows(*[_talk("왜?", f"네. {n} " * 9) for n in range(50)])}
    assert choose_earlier_answers(many, renderer, max_tokens=999)[0] == "split"
    assert choose_earlier_answers(many, renderer.with_earlier_answers("context"), max_tokens=999)[0] == "context"


def test_nothing_is_found_where_templates_serve_what_they_train(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """ChatML writes every answer alike: one example a conversation, no finding, nothing counted."""
    renderer = _own(tiny_tokenizer, CHATML_LIKE)
    rows = talk_rows(_talk("왜?", "네.", "또?", "아뇨."))
    assert choose_earlier_answers({"a": rows}, renderer, max_tokens=999) == ("split", None)
    made, counts = render(rows, renderer, max_tokens=999)
    assert (len(made), dict(counts.changed)) == (1, {})


def test_answers_without_a_loss_are_not_taken_for_answers_that_are_served_otherwise(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """An answer that its flag, or its place in a prompt, takes out of the loss is no earlier answer to decide about."""
    talk = _talk("왜?", "네.", "또?", "아뇨.")
    talk[1]["supervised"] = False
    assert choose_earlier_answers({"a": talk_rows(talk)}, _own(tiny_tokenizer, CHATML_LIKE), max_tokens=999)[1] is None
    longer = talk_rows([*talk, *_talk("그럼?", "그래요.")])
    _, finding = choose_earlier_answers({"a": longer}, _renderer(tiny_tokenizer, "qwen3"), max_tokens=999)
    assert finding is not None
    assert finding.what.startswith("1 of 2 answers (50%)")


def test_only_the_last_answer_asks_for_no_choice(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """With loss_on last_answer or all, a conversation is one example."""
    for loss_on in ("last_answer", "all"):
        renderer = _renderer(tiny_tokenizer, "qwen3", loss_on=loss_on)
        rows, counts = render(talk_rows(_talk("왜?", "네.", "또?", "아뇨.")), renderer, max_tokens=999)
        assert (len(rows), dict(counts.changed)) == (1, {})


def test_kept_answers_are_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Rows, in the counts of the stage."""
    renderer = _renderer(tiny_tokenizer, "qwen3", earlier_answers="keep")
    _, counts = render(talk_rows(_talk("왜?", "네.", "또?", "아뇨."), _talk("왜?", "네.")), renderer, max_tokens=999)
    assert dict(counts.changed) == {KEPT: 1}
