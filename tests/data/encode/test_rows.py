"""What a row becomes: the text that is served, and labels that are the answers and nothing else."""

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from chat_styles import (
    ANSWERS,
    CHATML_LIKE,
    QUESTIONS,
    STYLES,
    Conversation,
    Style,
    conversations,
    dressed,
    sentencepiece_like,
    trimming,
    with_style_tokens,
)
from qa_rows import key, talk_rows
from seodang.data.encode import rows as rows_module
from seodang.data.encode import tokenize
from seodang.data.encode.rows import LOSSY, STEP, TOO_LARGE, UNKNOWN, render
from seodang.data.encode.tokenize import FAULTY_BOUNDARY, Encoder
from seodang.data.encode.word_cache import Tokens
from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.data.template.renderer import KEPT, Renderer
from seodang.errors import GateError, TemplateError
from seodang.recipe import Template
from seodang.types import IGNORED, Counts, Rendered

CALL = {"type": "function", "function": {"name": "find_drug", "arguments": {"이름": "타이레놀", "n": 2}}}
TOOLS = [{"type": "function", "function": {"name": "find_drug", "description": "약을 찾는다", "parameters": {}}}]
TOOL_TALK: Conversation = [
    {"role": "user", "content": "타이레놀 찾아줘"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"found": true}', "name": "find_drug"},
    {"role": "assistant", "content": "찾았어요."},
]


def _texts(*texts: str) -> Dataset:
    empty = talk_rows(*[[] for _ in texts])
    return empty.remove_columns("text").add_column("text", list(texts)).cast(empty.features)


def _talk(question: str, *rest: str) -> Conversation:
    roles = ("user", "assistant") * 9
    return [{"role": role, "content": text} for role, text in zip(roles, (question, *rest), strict=False)]


def _dressed(tokenizer: PreTrainedTokenizerFast, text: str | None = None, **settings: Any) -> Renderer:
    """A renderer over a template's text (none: the built-in ChatML)."""
    tokenizer.chat_template = text
    template = find_template(
        tokenizer,
        Template(borrow=None if text else "chatml"),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=settings.pop("thinking", False),
    )
    apply_template(tokenizer, template)
    return Renderer(tokenizer, template, **settings)


def _one(renderer: Renderer, turns: Conversation, tools: Any = None, **settings: Any) -> tuple[dict[str, Any], Counts]:
    rows, counts = render(talk_rows(turns, tools=tools), renderer, **{"max_tokens": 4096, **settings})
    return (rows[0] if len(rows) else {}), counts


def _supervised(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast, turn_end_id: int | None = None) -> list[str]:
    """The supervised tokens as text, cut after each turn end or where supervision pauses."""
    runs: list[list[int]] = [[]]
    for label in row["labels"]:
        if label == IGNORED:
            runs.append([])
            continue
        runs[-1].append(label)
        if label == turn_end_id:
            runs.append([])
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@pytest.mark.parametrize("trims", [False, True], ids=["offsets", "trimmed_offsets"])
def test_supervised_tokens_are_the_answers_and_their_turn_ends(
    tiny_tokenizer: PreTrainedTokenizerFast, style: Style, trims: bool
) -> None:
    """Over random conversations: labels decode to each answer as rendered plus its turn end, ids are those that
    apply_chat_template gives, and the served prompt's ids begin them; a row that would break this is dropped.
    """
    base = with_style_tokens(tiny_tokenizer)
    tokenizer, template = dressed(trimming(base) if trims else base, style)
    talks = list(conversations(seed=7, count=60))
    renderer = Renderer(tokenizer, template, earlier_answers="keep")
    rows, counts = render(talk_rows(*talks), renderer, max_tokens=4096)
    for row in rows:
        turns = talks[row["row"] - 1]
        *earlier, last = (turn["content"] for turn in turns if turn["role"] == "assistant")
        answers = [*map(style.earlier or style.answer, earlier), style.answer(last)]
        assert _supervised(row, tokenizer, template.turn_end_id) == [answer + style.turn_end for answer in answers]
        assert row["text"] == tokenizer.apply_chat_template(turns, tokenize=False)
        assert row["input_ids"] == tokenizer.apply_chat_template(turns)["input_ids"]
        served = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, **template.kwargs)["input_ids"]
        assert row["input_ids"][: len(served)] == served
        assert row["text"].startswith(renderer.prompt(turns[:-1]))
        assert row["num_tokens"] == len(row["input_ids"]) == len(row["labels"])
        assert row["num_supervised"] == sum(label != IGNORED for label in row["labels"])
    assert set(counts.dropped) <= {FAULTY_BOUNDARY}
    assert counts.kept == len(rows) >= 20
    kept = set(rows["row"])
    for number, turns in enumerate(talks, start=1):
        assert number in kept or _has_faulty_boundary(turns, tokenizer, template)


def _has_faulty_boundary(turns: Conversation, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> bool:
    """Whether some answer of the row would be trained on other prompt ids than are served."""
    rounds = [turns[: at + 1] for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    for part in rounds:
        prompt = tokenizer.apply_chat_template(part[:-1], add_generation_prompt=True)["input_ids"]
        if tokenizer.apply_chat_template(part)["input_ids"][: len(prompt)] != prompt:
            return True
    return False


def test_a_tokenizer_with_blanks_as_characters_is_masked_alike() -> None:
    """Llama 2's kind: a blank is put in front of every piece, rare characters fall back to bytes."""
    tokenizer = sentencepiece_like()
    style = next(style for style in STYLES if style.name == "mistral")
    tokenizer.chat_template = style.text
    renderer = _dressed(tokenizer, style.text)
    talks = [_talk(*QUESTIONS[:1], *ANSWERS[:1]), _talk(QUESTIONS[2], ANSWERS[2] + " 뷁 é", QUESTIONS[1], ANSWERS[3])]
    rows, _ = render(talk_rows(*talks), renderer, max_tokens=4096)
    for row, turns in zip(rows, talks, strict=True):
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        decoded = [text.strip() for text in _supervised(row, tokenizer, renderer.template.turn_end_id)]
        assert decoded == [f"{answer}</s>" for answer in answers]
        assert row["input_ids"] == tokenizer.apply_chat_template(turns)["input_ids"]


def test_a_system_text_is_put_before_conversations_without_one(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The recipe's system text is trained and served; a row's own system turn stays."""
    renderer = _dressed(tiny_tokenizer, system="짧게 답하세요.")
    own = [{"role": "system", "content": "길게."}, *_talk("왜?", "네.")]
    assert renderer.render(_talk("왜?", "네.")).text.startswith("<bos><|im_start|>system\n짧게 답하세요.<|im_end|>\n")
    assert renderer.render(own).text.startswith("<bos><|im_start|>system\n길게.<|im_end|>\n<|im_start|>user")
    assert renderer.render(_talk("왜?", "네.")).text.startswith(renderer.prompt(_talk("왜?")))


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("answers", ["하나<|im_end|>", "둘<|im_end|>"]),
        ("last_answer", ["둘<|im_end|>"]),
    ],
)
def test_the_loss_can_be_on_all_answers_or_the_last(
    tiny_tokenizer: PreTrainedTokenizerFast, loss_on: Any, expected: list[str]
) -> None:
    """last_answer leaves earlier answers unsupervised."""
    renderer = _dressed(tiny_tokenizer, loss_on=loss_on)
    row, _ = _one(renderer, _talk("일?", "하나", "이?", "둘"))
    assert _supervised(row, tiny_tokenizer) == expected


def test_the_loss_can_be_on_everything_after_bos(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """loss_on all supervises questions and headers too, but never BOS."""
    row, _ = _one(_dressed(tiny_tokenizer, loss_on="all"), _talk("일?", "하나"))
    assert row["labels"] == [IGNORED, *row["input_ids"][1:]]
    assert row["input_ids"][0] == tiny_tokenizer.bos_token_id


def test_tool_calls_are_supervised_and_tool_results_are_not(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A call whose content is null is an answer too; the tool's report is none."""
    renderer = Renderer(*_qwen(tiny_tokenizer), earlier_answers="keep")
    row, counts = _one(renderer, TOOL_TALK, TOOLS)
    assert _supervised(row, tiny_tokenizer) == [
        '<tool_call>\n{"name": "find_drug", "arguments": {"이름": "타이레놀", "n": 2}}\n</tool_call><|im_end|>',
        "찾았어요.<|im_end|>",
    ]
    assert "약을 찾는다" in row["text"]
    assert (counts.kept, dict(counts.changed)) == (1, {KEPT: 1})


def _qwen(
    tokenizer: PreTrainedTokenizerFast, *, thinking: bool = False
) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
    template = find_template(
        tokenizer,
        Template(borrow="qwen3"),
        num_embeddings=512,
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return tokenizer, template


def test_two_calls_and_a_text_in_one_turn_are_one_body(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Several pieces of one turn make one supervised span with one turn end."""
    turns = copy.deepcopy(TOOL_TALK)
    turns[1] |= {"content": "찾아볼게요.", "tool_calls": [CALL, CALL]}
    renderer = Renderer(*_qwen(tiny_tokenizer), earlier_answers="keep")
    rendered = renderer.render(turns, TOOLS)
    first = rendered.text[slice(*rendered.spans[0])]
    assert len(rendered.spans) == 2
    assert first.startswith("찾아볼게요.\n<tool_call>\n")
    assert first.count('"name": "find_drug"') == 2
    assert first.count("<|im_end|>") == 1


def test_thoughts_are_supervised_and_empty_think_blocks_are_not(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """With thoughts in the data: the thought is trained; an answer without one does not train an empty block."""
    renderer = Renderer(*_qwen(tiny_tokenizer, thinking=True))
    thought = [{"role": "user", "content": "왜?"}, {"role": "assistant", "content": "네.", "reasoning_content": "음…"}]
    inline = _talk("왜?", "<think>\n음…\n</think>\n\n네.")
    bare = _talk("왜?", "네.")
    bodies = [[r.text[slice(*span)] for span in r.spans] for r in map(renderer.render, (thought, inline, bare))]
    assert bodies == [["<think>\n음…\n</think>\n\n네.<|im_end|>"]] * 2 + [["네.<|im_end|>"]]
    assert renderer.render(bare).text.endswith("assistant\n<think>\n\n</think>\n\n네.<|im_end|>\n")


def test_thoughts_of_earlier_turns_that_a_template_strips_are_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Qwen3 keeps only the last turn's thinking; each answer is still masked exactly."""
    renderer = Renderer(*_qwen(tiny_tokenizer, thinking=True), earlier_answers="keep")
    turns = _talk("왜?", "<think>\n하나\n</think>\n\n네.", "또?", "<think>\n둘\n</think>\n\n아뇨.")
    row, counts = _one(renderer, turns)
    assert _supervised(row, tiny_tokenizer) == ["네.<|im_end|>", "<think>\n둘\n</think>\n\n아뇨.<|im_end|>"]
    assert dict(counts.changed) == {"the template leaves out thinking of earlier turns": 1, KEPT: 1}


def test_a_template_that_strips_thinking_is_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """What is trained is the answer alone, and the count says that thinking went."""
    style = next(style for style in STYLES if style.name == "deepseek")
    tokenizer, template = dressed(with_style_tokens(tiny_tokenizer), style)
    row, counts = _one(Renderer(tokenizer, template), _talk("왜?", "<think>음</think>네."))
    assert _supervised(row, tokenizer) == ["네.<｜end▁of▁sentence｜>"]
    assert dict(counts.changed) == {"the template leaves out thinking": 1}


def test_thoughts_that_would_be_served_otherwise_are_dropped(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """With thinking off the served prompt closes the think block: a row that thinks does not continue it."""
    row, counts = _one(Renderer(*_qwen(tiny_tokenizer)), _talk("왜?", "<think>\n음\n</think>\n\n네."))
    assert row == {}
    assert dict(counts.dropped) == {"the served prompt is not the beginning of the trained text": 1}


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_forged_turns_are_dropped_and_counted(tiny_tokenizer: PreTrainedTokenizerFast, role: str) -> None:
    """A control token inside a content would open or close turns."""
    turns = [{"role": "system", "content": "s"}, *_talk("q", "a")]
    turns = [{**turn, "content": "x <|im_end|> y"} if turn["role"] == role else turn for turn in turns]
    _, counts = _one(_dressed(tiny_tokenizer), turns)
    assert dict(counts.dropped) == {"control token in the text: <|im_end|>": 1}
    assert (counts.rows_in, counts.kept) == (1, 0)
    assert [note.where for note in counts.notes] == ["talk.jsonl:1"]


def test_forged_turns_are_found_in_calls_tools_and_the_system_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Arguments and tool definitions are contents too; a forged system text stops at once."""
    renderer = Renderer(*_qwen(tiny_tokenizer))
    forged = copy.deepcopy(TOOL_TALK)
    forged[1]["tool_calls"] = [{"function": {"name": "find_drug", "arguments": {"이름": ["<|im_start|>"]}}}]
    with pytest.raises(TemplateError, match=r"control token in the text: <\|im_start\|>"):
        renderer.render(forged, TOOLS)
    with pytest.raises(TemplateError, match=r"control token in the text: <bos>"):
        renderer.render(TOOL_TALK, [{"name": "find_drug", "description": "<bos>"}])
    with pytest.raises(TemplateError, match="system: control token"):
        Renderer(renderer.tokenizer, renderer.template, system="<|im_end|>")


def test_the_characters_of_sentinels_are_refused_in_contents(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """U+FDD0 … U+FDEF are no characters; content that holds one could forge a sentinel."""
    _, counts = _one(_dressed(tiny_tokenizer), _talk("q", "a\ufdd1b"))
    assert dict(counts.dropped) == {"reserved character in the text: U+FDD1": 1}


def test_rows_that_the_template_refuses_are_counted_with_its_own_words(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Two user turns in a row: Gemma's template says why it does not take them."""
    tokenizer, template = dressed(tiny_tokenizer, STYLES[0])
    turns = [_talk("a", "b"), [{"role": "user", "content": "x"}, *_talk("a", "b")]]
    rows, counts = render(talk_rows(*turns), Renderer(tokenizer, template), max_tokens=99)
    assert dict(counts.dropped) == {"the template refuses it: turns must alternate between user and assistant": 1}
    assert rows["row"] == [1]


@pytest.mark.parametrize("name", ["gemma", "llama3", "chatml", "plain"])
def test_built_in_templates_without_tools_refuse_calls(tiny_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """A call that would silently vanish from the text is no row to train on."""
    tokenizer, template = dressed(tiny_tokenizer, next(style for style in STYLES if style.name == name))
    calls = [TOOL_TALK[0], {**TOOL_TALK[1], "content": "찾을게요."}]
    with pytest.raises(TemplateError, match="no tool calls"):
        Renderer(tokenizer, template).render(calls)


def test_calls_that_a_template_leaves_out_are_dropped(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A template that knows only contents would train silence or a lone remark in place of the call."""
    renderer = _dressed(tiny_tokenizer, CHATML_LIKE)
    talks = [TOOL_TALK, [TOOL_TALK[0], {**TOOL_TALK[1], "content": "찾을게요."}], _talk("q", "a")]
    rows, counts = render(talk_rows(*talks, tools=TOOLS), renderer, max_tokens=999)
    assert dict(counts.dropped) == {"the template leaves out answers": 1, "the template leaves out tool calls": 1}
    assert dict(counts.changed) == {"the template leaves out tool definitions": 1}
    assert len(rows) == 1


def test_a_template_that_looks_at_the_answers_text_is_noticed(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """If sentinels change what is rendered, the true text cannot be masked by them."""
    looks = CHATML_LIKE.replace("m.content +", "(m.content[:20] if m.role == 'assistant' else m.content) +")
    renderer = _dressed(tiny_tokenizer, looks)
    assert len(_one(renderer, _talk("q", "short"))[0]["labels"]) > 0
    cut = {"the template cuts an answer", "the template depends on the answer's text"}
    assert cut >= set(_one(renderer, _talk("q", "a much longer answer than twenty"))[1].dropped) != set()


def test_an_answer_that_the_template_alters_is_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Upper-cased answers and questions are trained as rendered, and reported."""
    renderer = _dressed(tiny_tokenizer, CHATML_LIKE.replace("m.content +", "m.content | replace('!', '.') +"))
    row, counts = _one(renderer, _talk("Hello!", "Hi!"))
    assert _supervised(row, tiny_tokenizer) == ["Hi.<|im_end|>"]
    assert dict(counts.changed) == {
        "the template altered the text of a user turn": 1,
        "the template altered the text of an answer": 1,
    }


def test_an_answer_whose_first_token_merges_with_the_header_is_dropped(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """An answer that begins with a line break would share a token with the header's own."""
    rows, counts = render(
        talk_rows(_talk("q", "\n\nfoo"), _talk("q", "foo")), _line_breaking(tiny_tokenizer), max_tokens=99
    )
    assert dict(counts.dropped) == {FAULTY_BOUNDARY: 1}
    assert rows["row"] == [2]


def _line_breaking(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    """ChatML on a tokenizer where line breaks in a row are one token, as they are in most real ones."""
    tokenizer.add_tokens(["\n\n", "\n\n\n"])
    return _dressed(tokenizer)


def test_rows_above_max_tokens_are_dropped_and_listed(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """An answer is never cut: the row goes, by name."""
    rows, counts = render(talk_rows(_talk("q", "a " * 50), _talk("q", "a")), _dressed(tiny_tokenizer), max_tokens=40)
    assert rows["row"] == [2]
    assert dict(counts.dropped) == {"longer than 40 tokens": 1}
    assert [(note.where, note.reason) for note in counts.notes] == [("talk.jsonl:1", "longer than 40 tokens")]


def test_rows_above_max_tokens_can_be_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The error names the rows, and the limit that keeps all of them."""
    rows, renderer = talk_rows(_talk("q", "a"), _talk("q", "a " * 150)), _dressed(tiny_tokenizer)
    with pytest.raises(GateError, match=r"rows longer than 40 tokens: 1 \(talk\.jsonl:2\)") as refused:
        render(rows, renderer, max_tokens=40, too_long="refuse")
    limit = int(refused.value.hint.split()[0].partition("=")[2])
    assert limit > 128
    kept, less = (render(rows, renderer, max_tokens=most)[1].kept for most in (limit, limit - STEP))
    assert (kept, less) == (2, 1)


def test_a_long_question_can_be_cut_at_its_beginning(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The question's end and the whole answer stay, and the row just fits."""
    renderer = _dressed(tiny_tokenizer)
    question = " ".join(f"문맥 {number}." for number in range(60)) + " 왜 아파요?"
    turns = _talk(question, "쉬세요.")
    row, counts = _one(renderer, turns, max_tokens=64, too_long="cut_question")
    assert 56 <= row["num_tokens"] <= 64
    assert row["text"].endswith("59. 왜 아파요?<|im_end|>\n<|im_start|>assistant\n쉬세요.<|im_end|>\n")
    assert _supervised(row, tiny_tokenizer) == ["쉬세요.<|im_end|>"]
    assert dict(counts.changed) == {"question cut at its beginning to fit max_tokens": 1}


def test_a_long_answer_is_dropped_even_if_questions_are_cut(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """No question is long enough to make room for it."""
    row, counts = _one(_dressed(tiny_tokenizer), _talk("q", "a " * 99), max_tokens=64, too_long="cut_question")
    assert row == {}
    assert dict(counts.dropped) == {"longer than 64 tokens even without its question": 1}


def test_plain_texts_are_windows_that_add_up(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Each window starts with BOS, fits, and is supervised but for BOS; together they are the text, byte for byte."""
    text = "이 약은 식후에 드세요. 🍎 뷁. " * 20
    rows, counts = render(_texts(text, "짧은 글."), _dressed(tiny_tokenizer), max_tokens=50)
    parts = [row for row in rows if row["row"] == 1]
    bos = tiny_tokenizer.bos_token_id
    assert "".join(row["text"] for row in parts) == text
    ids = [token for row in parts for token in row["input_ids"][1:]]
    assert ids == tiny_tokenizer.encode(text, add_special_tokens=False)
    assert all(row["input_ids"][0] == bos and row["labels"] == [IGNORED, *row["input_ids"][1:]] for row in rows)
    assert all(row["num_tokens"] <= 50 for row in rows)
    assert [row["row_id"] for row in parts[:3]] == [key("0"), f"{key('0')}#2", f"{key('0')}#3"]
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (2, 2, {})
    assert counts.remarks == (f"2 texts cut into {len(rows)} windows of at most 50 tokens",)


@pytest.mark.parametrize("bos", [None, 2])
def test_bits_per_byte_count_the_bytes_that_are_scored(bos: int | None) -> None:
    """Without BOS the first token of a window is not predicted, and its characters are no part of what is measured."""
    text, starts = "물을 마셔요", np.array([0, 1, 2, 5, 5], dtype=np.int32)  # the last character is two tokens
    ids = np.arange(10, 15, dtype=np.int32)
    found = tokenize.windows(text, ids, starts, max_tokens=3 if bos is None else 4, bos_id=bos)
    assert [piece for piece, *_ in found] == ["물을", " 마셔요"]
    assert [int((labels != IGNORED).sum()) for _, _, labels, _ in found] == ([1, 2] if bos is None else [2, 3])
    scored = ["을", "요"] if bos is None else ["물을", " 마셔요"]
    assert [num_bytes for *_, num_bytes in found] == [len(part.encode()) for part in scored]


def test_few_texts_of_many_bytes_are_tokenized_by_words(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large texts are tokenized word by word as many rows are, into the same windows of the same ids."""
    texts, renderer = _texts("이 약은 식후에 드세요. 🍎 뷁. " * 20, "짧은 글.\n\n끝"), _dressed(tiny_tokenizer)
    whole, _ = render(texts, renderer, max_tokens=50)
    words = _Blanks(tiny_tokenizer)
    monkeypatch.setattr(tokenize, "words_of", lambda *_: words)
    monkeypatch.setattr(rows_module, "MANY_BYTES", 1)
    again, _ = render(texts, renderer, max_tokens=50)
    assert words.encoded == texts["text"][:]
    assert again.to_dict() == whole.to_dict()


def test_plain_texts_without_bos_or_with_control_tokens(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Without BOS the first token is context only; a text with a control token is dropped."""
    tiny_tokenizer.backend_tokenizer.post_processor = None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>"
    )
    rows, counts = render(_texts("글입니다.", "글 <|im_end|> 글", "  "), _dressed(tokenizer), max_tokens=50)
    assert rows[0]["labels"] == [IGNORED, *tokenizer.encode("글입니다.")[1:]]
    assert dict(counts.dropped) == {"control token in the text: <|im_end|>": 1, "empty text": 1}


def test_empty_answers_and_conversations_without_answers_are_dropped(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Silence is not trained."""
    talks = [_talk("q"), _talk("q", "  "), _talk("q", "<think>\n</think>")]
    _, counts = render(talk_rows(*talks), _dressed(tiny_tokenizer), max_tokens=99)
    assert dict(counts.dropped) == {"no answer": 1, "empty answer": 2}


def test_no_rows_give_no_rows(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """An empty part and a part of which nothing is left both keep their columns."""
    renderer = _dressed(tiny_tokenizer)
    for rows in (talk_rows(_talk("q", "a")).select([]), talk_rows(_talk("q"))):
        done, counts = render(rows, renderer, max_tokens=99)
        assert len(done) == counts.kept == 0
        assert {"text", "input_ids", "labels", "num_tokens", "num_supervised"} <= set(done.column_names)


def test_rows_on_disk_and_in_any_order_are_rendered_alike(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A memory-mapped, shuffled data set over several batches gives each row what it gets alone; no stale cache."""
    talks = [_talk(f"질문 {number}?", f"대답 {number}.") for number in range(2100)]
    talk_rows(*talks).save_to_disk(tmp_path / "rows")
    rows = load_from_disk(tmp_path / "rows").shuffle(seed=1)
    renderer = _dressed(tiny_tokenizer)
    done, counts = render(rows, renderer, max_tokens=99)
    short, _ = render(rows, _dressed(copy.deepcopy(tiny_tokenizer), system="네."), max_tokens=99)
    assert done["row"] == rows["row"]
    assert counts.kept == 2100
    alone = renderer.render(talks[done[2050]["row"] - 1])
    assert done[2050]["text"] == alone.text
    assert done.features["input_ids"].feature.dtype == "int32"
    assert done[7]["messages"] == rows[7]["messages"]
    assert short[0]["text"].count("네.") == 1


def test_a_render_is_text_and_spans(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The picture in the documentation, as a value."""
    tokenizer, template = dressed(tiny_tokenizer, STYLES[0])
    rendered = Renderer(tokenizer, template).render(_talk("아파요?", "쉬세요."))
    text = "<bos><start_of_turn>user\n아파요?<end_of_turn>\n<start_of_turn>model\n쉬세요.<end_of_turn>\n"
    assert rendered == Rendered(text=text, spans=((text.index("쉬"), len(text) - 1),))


def _lowering(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def test_unknown_tokens_in_answers_are_counted_by_row() -> None:
    """A vocabulary without byte fallback writes one token for every character that it does not have."""
    tokenizer = sentencepiece_like(byte_fallback=False)
    renderer = _dressed(tokenizer, next(style for style in STYLES if style.name == "mistral").text)
    talks = [_talk(QUESTIONS[0], ANSWERS[0]), _talk(QUESTIONS[0], "⟦ż ☃⟧"), _talk("⟦ż ☃⟧", ANSWERS[0])]
    rows, counts = render(talk_rows(*talks), renderer, max_tokens=999)
    assert len(rows) == 3
    assert dict(counts.changed) == {UNKNOWN: 1, LOSSY: 1}
    assert [(note.where, note.reason) for note in counts.notes] == [
        ("talk.jsonl:2", UNKNOWN),
        ("talk.jsonl:3", LOSSY),
    ]


def test_a_tokenizer_that_changes_texts_is_noticed(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Lower case, accents, other Unicode forms: what is trained is not what was written."""
    renderer = _dressed(_lowering(tiny_tokenizer))
    _, counts = render(talk_rows(_talk("q", "Paris"), _talk("q", "paris")), renderer, max_tokens=999)
    assert dict(counts.changed) == {LOSSY: 1}
    assert [note.where for note in counts.notes] == ["talk.jsonl:1"]


def test_a_tokenizer_with_a_hole_in_its_ids_is_taken(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Ids may lie beyond the number of entries."""
    state = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    last = max(vocabulary.values())
    state["model"]["vocab"] = {name: id + 500 if id > last - 60 else id for name, id in vocabulary.items()}
    backend = type(tiny_tokenizer.backend_tokenizer).from_str(json.dumps(state))
    base = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    row, _ = _one(_dressed(base), _talk("고혈압이 있는 사람은?", "고혈압이 있는 사람은 짠 음식을 줄여야 합니다."))
    assert max(row["input_ids"]) >= len(base)
    assert row["largest_id"] == max(row["input_ids"])


@pytest.mark.parametrize("is_known", [True, False])
def test_a_huge_plain_text_is_encoded_in_pieces(
    tiny_tokenizer: PreTrainedTokenizerFast, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the ids of the whole text; where a tokenizer is not known to allow it, the row is dropped and counted."""
    text = "짠 음식을 줄이세요. " * 40 + "\n\n물을\t드세요."
    renderer = _dressed(tiny_tokenizer)
    whole, _ = render(_texts(text), renderer, max_tokens=50)
    sizes: list[int] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts: sizes.extend(map(len, texts)) or encode(self, texts))
    monkeypatch.setattr(tokenize, "PIECE", 20)
    monkeypatch.setattr(tokenize, "MOST_AT_ONCE", 40)
    words = _Blanks(tiny_tokenizer)
    monkeypatch.setattr(tokenize, "words_of", lambda *_: words if is_known else None)
    rows, counts = render(_texts(text, "짧은 글."), renderer, max_tokens=50)
    assert max([*sizes, *map(len, words.encoded)]) < 40
    if is_known:
        assert rows["input_ids"][:-1] == whole["input_ids"]
        assert rows["text"][:-1] == whole["text"]
    else:
        assert rows["text"] == ["짧은 글."]
        assert list(counts.dropped) == [TOO_LARGE]


class _Blanks:
    """Cuts before blanks, which the tiny tokenizer allows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        self.encoded += texts
        return [self._tokens(text) for text in texts]

    def _tokens(self, text: str) -> Tokens:
        ids, starts, begin = [], [], 0
        for word in self.pieces(text, 0):
            found = self.tokenizer.backend_tokenizer.encode(word, add_special_tokens=False)
            ids += found.ids
            starts += [begin + start for start, _ in found.offsets]
            begin += len(word)
        return np.array(ids, dtype=np.int32), np.array(starts, dtype=np.int32)

    def pieces(self, text: str, size: int) -> list[str]:
        return [part for part in re.split("(?= )", text) if part]


@pytest.mark.parametrize("too_long", ["drop", "cut_question"])
def test_a_huge_row_is_not_encoded_whole(
    tiny_tokenizer: PreTrainedTokenizerFast, too_long: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding takes some 250 bytes a character: rows far above max_tokens are known by their beginning."""
    lengths: list[int] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts: lengths.extend(map(len, texts)) or encode(self, texts))
    renderer = _dressed(tiny_tokenizer)
    talks = [_talk("q", "짠 음식 " * 200_000), _talk("짠 음식 " * 200_000 + "왜?", "네."), _talk("q", "a")]
    rows, counts = render(talk_rows(*talks), renderer, max_tokens=50, too_long=too_long)
    assert max(lengths) < 5000
    assert rows["row"] == ([3] if too_long == "drop" else [2, 3])
    assert sum(counts.dropped.values()) == 3 - len(rows)
    if too_long == "cut_question":
        assert rows[0]["text"].endswith("왜?<|im_end|>\n<|im_start|>assistant\n네.<|im_end|>\n")
        assert 40 <= rows[0]["num_tokens"] <= 50
