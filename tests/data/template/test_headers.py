"""Plain-text formats given as headers: what is written, what is supervised, what is served, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chat_styles import Conversation
from qa_rows import talk_rows
from seodang.data.encode.rows import render
from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.errors import RecipeError, TemplateError
from seodang.recipe import Headers, Template, load_recipe
from served import check_served

SYSTEM = {"role": "system", "content": "짧게 답하세요."}
TALK: Conversation = [
    {"role": "user", "content": "머리가 아파요."},
    {"role": "assistant", "content": "언제부터요?"},
    {"role": "user", "content": "어제부터요."},
    {"role": "assistant", "content": "물을 드세요."},
]
SOLAR = Headers(system="### System:\n", user="### User:\n", assistant="### Assistant:\n")
EEVE = Headers(system="", user="Human: ", assistant="Assistant:\n", between="\n")
KULLM = Headers(system="", user="### 명령어:\n", assistant="### 응답:\n")
BLANK = Headers(user="Q: ", assistant="A: ", between="\n")
FORMATS = {
    "solar": (
        SOLAR,
        "### System:\n짧게 답하세요.\n\n### User:\n머리가 아파요.\n\n### Assistant:\n",
        ["언제부터요?<eos>", "물을 드세요.<eos>"],
    ),
    "eeve": (
        EEVE,
        "짧게 답하세요.\nHuman: 머리가 아파요.\nAssistant:\n",
        ["언제부터요?<eos>", "물을 드세요.<eos>"],
    ),
    "kullm": (
        KULLM,
        "짧게 답하세요.\n\n### 명령어:\n머리가 아파요.\n\n### 응답:\n",
        ["언제부터요?<eos>", "물을 드세요.<eos>"],
    ),
    "blank": (BLANK, "Q: 머리가 아파요.\nA:", [" 언제부터요?<eos>", " 물을 드세요.<eos>"]),
}


def _find(tokenizer: PreTrainedTokenizerFast, headers: Headers, *, system: str | None = None) -> ChatTemplate:
    template = find_template(
        tokenizer,
        Template(headers=headers),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        system=system,
    )
    apply_template(tokenizer, template)
    return template


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bos", [None, "<bos>"])
def test_mask_served_prompt_and_saved_template_agree(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str, bos: str | None
) -> None:
    """Every answer is supervised with the end of text, behind what the saved tokenizer serves for it."""
    headers, prompt, answers = FORMATS[name]
    tiny_tokenizer.bos_token = bos
    talk = TALK if headers.system is None else [SYSTEM, *TALK]
    template = _find(tiny_tokenizer, headers, system=None if headers.system is None else SYSTEM["content"])
    assert (template.turn_end, template.origin, template.added) == ("<eos>", "headers of the recipe", ())
    renderer = Renderer(tiny_tokenizer, template, loss_on="answers")
    rendered = renderer.render(talk)
    assert [rendered.text[begin:end] for begin, end in rendered.spans] == answers
    tiny_tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    served = saved.apply_chat_template(talk[:-3], tokenize=False, add_generation_prompt=True)
    assert served.removeprefix(bos or "") == prompt
    rows, counts = render(talk_rows(talk), renderer, max_tokens=999)
    assert not counts.dropped
    found = check_served(saved, talk, None, rows, turn_ends=[template.turn_end_id])
    assert found == [number for number, turn in enumerate(talk) if turn["role"] == "assistant"]


def test_quotes_and_backslashes_stand_as_they_are(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Headers are text, never template."""
    tiny_tokenizer.bos_token = None
    _find(tiny_tokenizer, Headers(user="'Q\\n{{ x }}':\t\"\r\n", assistant="{% A %}\n"))
    served = tiny_tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    assert served == "'Q\\n{{ x }}':\t\"\r\n머리가 아파요.\n\n{% A %}\n"


def test_a_system_text_without_its_header_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The recipe's system text would be left out."""
    with pytest.raises(TemplateError, match="no header for the role system"):
        _find(tiny_tokenizer, BLANK, system="짧게.")


def test_a_tokenizer_without_an_end_of_text_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Nothing would end an answer."""
    tiny_tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="would not learn to stop"):
        _find(tiny_tokenizer, SOLAR)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ({"borrow": "gemma", "headers": {"user": "Q:", "assistant": "A:"}}, "keep one of them"),
        ({"headers": {"user": "Q:"}}, "assistant"),
        ({"headers": {"user": "Q:", "assistant": " \n"}}, "assistant"),
    ],
)
def test_headers_of_a_recipe_are_checked(template: Mapping[str, Any], fault: str) -> None:
    """Two templates, or a header that is missing or blank, are refused when the recipe is read."""
    recipe = {"model": "m", "template": template, "sources": [{"name": "a", "path": "a.jsonl", "role": "domain"}]}
    with pytest.raises(RecipeError, match=fault):
        load_recipe(recipe)
