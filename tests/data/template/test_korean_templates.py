"""The built-in templates of Korean models against renders of the templates that their makers publish."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import Conversation
from qa_rows import talk_rows
from seodang.data.encode.rows import render
from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.recipe import Template
from served import check_served

SYSTEM = {"role": "system", "content": "짧게 답하세요."}
TALK: Conversation = [
    {"role": "user", "content": "머리가 아파요."},
    {"role": "assistant", "content": "언제부터요?"},
    {"role": "user", "content": "어제부터요."},
    {"role": "assistant", "content": "물을 드세요."},
]
THOUGHTFUL: Conversation = [*TALK[:3], {**TALK[3], "reasoning_content": "어제부터라면 급성."}]
EXAONE_TOKENS = ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]")
SOLAR_TOKENS = ("<|begin|>", "<|end|>", "<|content|>", "<|think|>", "<|flush|>")


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What a published template writes for the talk above."""

    name: str
    tokens: tuple[str, ...]
    turn_end: str
    talk: str  # without system text
    system: str  # what stands in front of the first question with a system text
    opening: str = ""  # the same without one
    prompt: str  # what is served behind the last question
    answers: tuple[str, str]  # what is supervised


GOLDEN = (
    Golden(
        name="exaone3",  # EXAONE-3.5-7.8B-Instruct
        tokens=EXAONE_TOKENS,
        turn_end="[|endofturn|]",
        opening="[|system|][|endofturn|]\n",
        system="[|system|]짧게 답하세요.[|endofturn|]\n",
        talk="[|user|]머리가 아파요.\n[|assistant|]언제부터요?[|endofturn|]\n"
        "[|user|]어제부터요.\n[|assistant|]물을 드세요.[|endofturn|]\n",
        prompt="[|assistant|]",
        answers=("언제부터요?[|endofturn|]", "물을 드세요.[|endofturn|]"),
    ),
    Golden(
        name="exaone4",  # EXAONE-4.0-32B, enable_thinking off
        tokens=EXAONE_TOKENS,
        turn_end="[|endofturn|]",
        system="[|system|]\n짧게 답하세요.[|endofturn|]\n",
        talk="[|user|]\n머리가 아파요.[|endofturn|]\n"
        "[|assistant|]\n<think>\n\n</think>\n\n언제부터요?[|endofturn|]\n"
        "[|user|]\n어제부터요.[|endofturn|]\n"
        "[|assistant|]\n<think>\n\n</think>\n\n물을 드세요.[|endofturn|]\n",
        prompt="[|assistant|]\n<think>\n\n</think>\n\n",
        answers=("언제부터요?[|endofturn|]", "물을 드세요.[|endofturn|]"),
    ),
    Golden(
        name="solar_open",  # Solar-Open-100B, default_system_prompt off
        tokens=SOLAR_TOKENS,
        turn_end="<|end|>",
        system="<|begin|>system<|content|>## System Prompt\n\n짧게 답하세요.<|end|>",
        talk="<|begin|>user<|content|>머리가 아파요.<|end|><|begin|>assistant<|content|>언제부터요?<|end|>"
        "<|begin|>user<|content|>어제부터요.<|end|><|begin|>assistant<|content|>물을 드세요.<|end|>",
        prompt="<|begin|>assistant",
        answers=("<|content|>언제부터요?<|end|>", "<|content|>물을 드세요.<|end|>"),
    ),
)
each = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)


def _dressed(
    tokenizer: PreTrainedTokenizerFast, golden: Golden, *, system: str | None = None, thinking: bool = False
) -> ChatTemplate:
    """The built-in template, verified with a tokenizer that has its markers, and applied to it."""
    tokenizer.add_tokens(list(golden.tokens), special_tokens=True)
    template = find_template(
        tokenizer,
        Template(borrow=golden.name),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        system=system,
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return template


@each
def test_what_is_written_is_what_the_maker_publishes(tiny_tokenizer: PreTrainedTokenizerFast, golden: Golden) -> None:
    """Two rounds, with and without a system text, and the prompt that is served."""
    tiny_tokenizer.bos_token = None
    template = _dressed(tiny_tokenizer, golden, system=SYSTEM["content"])
    assert (template.turn_end, template.origin) == (golden.turn_end, f"built-in {golden.name}")

    def text(talk: Conversation, *, prompt: bool = False) -> str:
        return str(tiny_tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt))

    assert text(TALK) == golden.opening + golden.talk
    assert text([SYSTEM, *TALK]) == golden.system + golden.talk
    served = text(TALK[:3], prompt=True)
    assert served.endswith(golden.prompt)
    assert text(TALK).startswith(served)


@each
def test_every_answer_stands_behind_the_prompt_that_is_served_for_it(
    tiny_tokenizer: PreTrainedTokenizerFast, golden: Golden
) -> None:
    """With its turn end, as a token; transformers itself renders what it is compared with."""
    template = _dressed(tiny_tokenizer, golden)
    renderer = Renderer(tiny_tokenizer, template, loss_on="answers")
    rendered = renderer.render(TALK)
    assert tuple(rendered.text[begin:end] for begin, end in rendered.spans) == golden.answers
    rows, counts = render(talk_rows(TALK), renderer, max_tokens=999)
    assert not counts.dropped
    assert check_served(tiny_tokenizer, TALK, None, rows, turn_ends=[template.turn_end_id]) == [1, 3]


@each
def test_the_vocabulary_alone_finds_the_template(tiny_tokenizer: PreTrainedTokenizerFast, golden: Golden) -> None:
    """A base of the family needs no `borrow`; EXAONE 3 has no token for thoughts."""
    think = () if golden.name == "exaone3" else ("<think>", "</think>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bare(tiny_tokenizer), eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_tokens([*golden.tokens, *think], special_tokens=True)
    found = find_template(
        tokenizer, Template(), num_embeddings=len(tokenizer), load_tokenizer=lambda name: pytest.fail(name)
    )
    assert found.origin == f"built-in {golden.name}"


def _bare(tokenizer: PreTrainedTokenizerFast) -> Any:
    """The byte-level tokens alone, without those of any maker's template."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = ("<eos>", "<pad>")
    gone = [token["content"] for token in state["added_tokens"] if token["content"] not in kept]
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in kept]
    state["post_processor"] = None
    state["model"]["vocab"] = {
        (f"removed {number}" if token in gone else token): number for token, number in state["model"]["vocab"].items()
    }
    return type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


def test_exaone4_trains_thoughts_behind_the_opening_that_is_served(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """With thoughts in the data the prompt ends in `<think>`, as its makers' with enable_thinking on."""
    template = _dressed(tiny_tokenizer, GOLDEN[1], thinking=True)
    renderer = Renderer(tiny_tokenizer, template, loss_on="last_answer")
    rendered = renderer.render(THOUGHTFUL)
    begin, end = rendered.spans[0]
    assert rendered.text[:begin].endswith("[|assistant|]\n<think>\n")
    assert rendered.text[begin:end] == "어제부터라면 급성.\n</think>\n\n물을 드세요.[|endofturn|]"
    rows, _ = render(talk_rows(THOUGHTFUL), renderer, max_tokens=999)
    found = check_served(tiny_tokenizer, THOUGHTFUL, None, rows, turn_ends=[template.turn_end_id])
    assert found == [3]
