"""Which template is taken, what is learnt of it, what is refused, and what the tokenizer becomes."""

import copy
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chat_styles import CHATML_LIKE, DATED, DEEPSEEK, NO_LAST_END, STYLES, Style, dressed, with_style_tokens
from seodang.data.template.find import BUILT_IN, ChatTemplate, apply_template, find_template
from seodang.data.template.jinja import PINNED_DATE
from seodang.data.template.renderer import Renderer
from seodang.errors import TemplateError
from seodang.recipe import Template

ASKED = [{"role": "user", "content": "왜 아파요?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "쉬세요."}]

CALLED = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look_up", "arguments": {"말": "약"}}}]},
]
REPORT = {"role": "tool", "name": "look_up", "content": "있음"}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"말": {"items": ["a"]}}}}}
TOOL_USE = (  # with a macro that calls itself, and white space at both ends, which Jinja takes off or keeps
    "{%- macro names(value) %}{% for key in value %}{{ key }} {% if value[key] is mapping %}{{ names(value[key]) }}"
    "{% endif %}{% endfor %}{% endmacro %}\n"
    "  {% for tool in tools %}{{ tool.function.name }}: {{ names(tool.function) }}{% endfor %}\n"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}\n"
)


def _find(
    tokenizer: PreTrainedTokenizerFast,
    borrow: str | None = None,
    *,
    donor: PreTrainedTokenizerFast | None = None,
    add_tokens: bool = False,
    num_embeddings: int | None = None,
    system: str | None = None,
    thinking: bool = False,
) -> ChatTemplate:
    def load(name: str) -> PreTrainedTokenizerFast:
        assert donor is not None, f"{name} was loaded although nothing is borrowed"
        return donor

    return find_template(
        tokenizer,
        Template(borrow=borrow, add_tokens=add_tokens),
        num_embeddings=len(tokenizer) if num_embeddings is None else num_embeddings,
        load_tokenizer=load,
        system=system,
        thinking=thinking,
    )


def _without(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> PreTrainedTokenizerFast:
    """The tokenizer as if these control tokens were not in its vocabulary."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in tokens]
    state["model"]["vocab"] = {
        (f"removed {token_id}" if token in tokens else token): token_id
        for token, token_id in state["model"]["vocab"].items()
    }
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    pad = None if "<pad>" in tokens else "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token=pad)


def test_the_tokenizers_own_template_comes_first(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Without `borrow` an own template is kept as it is."""
    tiny_tokenizer.chat_template = CHATML_LIKE
    found = _find(tiny_tokenizer)
    assert found.text == CHATML_LIKE
    assert found.origin == "the tokenizer's own"


def test_rows_with_tools_get_the_template_that_transformers_chooses(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Of several named templates, tool_use writes conversations with tools, default those without: in one text, which
    is saved, and for each conversation exactly what `apply_chat_template` writes with the templates by name."""
    theirs = copy.deepcopy(tiny_tokenizer)
    theirs.chat_template = {"default": f"\n{CHATML_LIKE}\n", "tool_use": TOOL_USE, "rag": "{{ documents }}"}
    found = _find(theirs)
    assert found.origin == "the tokenizer's own"
    apply_template(tiny_tokenizer, found)
    assert isinstance(tiny_tokenizer.chat_template, str)
    theirs.eos_token, theirs.pad_token = tiny_tokenizer.eos_token, tiny_tokenizer.pad_token
    renderer = Renderer(tiny_tokenizer, found)
    for tools in (None, [TOOL]):
        for turns, prompts in ((ASKED, True), (ANSWERED, False), (CALLED, False), ([*CALLED, REPORT], True)):
            written = theirs.apply_chat_template(turns, tools, tokenize=False, add_generation_prompt=prompts)
            ours = tiny_tokenizer.apply_chat_template(turns, tools, tokenize=False, add_generation_prompt=prompts)
            assert ours == written
            assert ("look_up" in written) == bool(tools), "the two templates differ"
            if tools or turns in (ASKED, ANSWERED):
                assert (renderer.prompt(turns, tools) if prompts else renderer.render(turns, tools).text) == written


def test_the_end_of_calls_is_found_in_the_template_for_tools(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Where `default` writes no calls, their end is read off `tool_use`."""
    end = "{{ '<|eot_id|>' if m.tool_calls else '<|im_end|>' }}{{ '\n' }}"
    tiny_tokenizer.chat_template = {
        "default": CHATML_LIKE,
        "tool_use": TOOL_USE.replace("{{ '<|im_end|>\n' }}", end),
    }
    found = _find(tiny_tokenizer)
    assert (found.turn_end, found.call_end) == ("<|im_end|>", "<|eot_id|>")


def test_one_named_template_is_taken_as_it_is(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A single template by name, or two that are the same, need no choice."""
    for named in ({"default": CHATML_LIKE}, {"default": CHATML_LIKE, "tool_use": CHATML_LIKE}, {"chat": CHATML_LIKE}):
        tiny_tokenizer.chat_template = named
        assert _find(tiny_tokenizer).text == CHATML_LIKE


def test_a_base_without_template_gets_the_first_built_in_that_fits(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The vocabulary decides: gemma's markers, else llama3's, qwen3's, chatml's, else plain words."""
    names = []
    for gone in ((), ("<start_of_turn>",), ("<|eot_id|>",), ("<think>",), ("<|im_end|>",)):
        tiny_tokenizer = _without(tiny_tokenizer, *gone)
        names.append(_find(tiny_tokenizer).origin)
    assert names == [f"built-in {name}" for name in ("gemma", "llama3", "qwen3", "chatml", "plain")]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_header_and_turn_end_are_read_off_the_render(tiny_tokenizer: PreTrainedTokenizerFast, style: Style) -> None:
    """Each maker's turn end is found, and its markers are single ids."""
    tokenizer, template = dressed(with_style_tokens(tiny_tokenizer), style)
    assert template.turn_end == style.turn_end
    assert template.turn_end_id == tokenizer.convert_tokens_to_ids(style.turn_end)
    assert (style.turn_end, template.turn_end_id) in template.markers
    assert all(tokenizer.encode(name, add_special_tokens=False) == [token] for name, token in template.markers)
    headers = {
        "gemma": "<start_of_turn>model\n",
        "qwen3": "<|im_start|>assistant\n",
        "mistral": "",
        "plain": "Assistant:",
    }
    assert template.header == headers.get(style.name, template.header)


def test_a_template_that_closes_every_turn_but_the_last_closes_that_too(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Else it would train a model that never stops; what it serves stays as it is, and the origin says so."""
    tiny_tokenizer.chat_template = NO_LAST_END
    template = _find(tiny_tokenizer)
    apply_template(tiny_tokenizer, template)
    assert template.turn_end == "<|im_end|>"
    assert template.origin == "the tokenizer's own, its last turn ended as the earlier ones are"
    assert not template.is_new
    served = tiny_tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert served == "<|im_start|>user\n왜 아파요?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_tokenizer.apply_chat_template(ANSWERED, tokenize=False) == served + "쉬세요.<|im_end|>"


@pytest.mark.parametrize("before", ["", "{{ bos_token }}"])
def test_a_template_without_a_turn_end_is_refused(tiny_tokenizer: PreTrainedTokenizerFast, before: str) -> None:
    """Nothing ends an answer, or the beginning of the next text alone does: the model would not learn to stop."""
    tiny_tokenizer.chat_template = (
        f"{{% for m in messages %}}{{% if m.role == 'user' %}}{before}{{{{ 'Q: ' + m.content + '\nA:' }}}}"
        "{% else %}{{ ' ' + m.content + '\n' }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="the model would not learn to stop"):
        _find(tiny_tokenizer)


def test_a_template_with_a_fixed_date_is_still_the_tokenizers_own(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Its markers are no new tokens for the base."""
    tiny_tokenizer.chat_template = DATED
    template = _find(tiny_tokenizer)
    assert "date fixed" in template.origin
    assert not template.is_new


def test_a_template_that_ends_turns_with_plain_text_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Stopping needs one token, not the word END."""
    tiny_tokenizer.chat_template = CHATML_LIKE.replace("<|im_end|>", " END ")
    with pytest.raises(TemplateError, match="not a control token: ' END"):
        _find(tiny_tokenizer)


def test_a_template_that_ignores_the_generation_prompt_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Served prompts would lack the header that every answer was trained with."""
    tiny_tokenizer.chat_template = CHATML_LIKE.replace("if add_generation_prompt", "if false")
    with pytest.raises(TemplateError, match="ignores add_generation_prompt"):
        _find(tiny_tokenizer)


def test_a_served_prompt_that_differs_from_training_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The message shows both continuations."""
    other = CHATML_LIKE.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>model\n' }}")
    tiny_tokenizer.chat_template = other
    with pytest.raises(TemplateError, match=r"goes on 'model\\n' where the trained text has 'assistant"):
        _find(tiny_tokenizer)


def test_a_header_that_merges_with_the_answer_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A header that ends in a blank joins the answer's first token: served prompts would have other ids."""
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    tiny_tokenizer.chat_template = plain + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    with pytest.raises(TemplateError, match="joins the end of 'assistant: ' with the answer"):
        _find(tiny_tokenizer)


def test_missing_markers_are_named(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A borrowed template whose markers fall to pieces is refused, marker by marker."""
    base = _without(tiny_tokenizer, "<|im_start|>", "<|im_end|>")
    with pytest.raises(TemplateError, match=r"<\|im_start\|> \(\d+ tokens\), <\|im_end\|>") as raised:
        _find(base, "chatml")
    assert "add_tokens: true" in str(raised.value)
    base.chat_template = tiny_tokenizer.chat_template or "{{ messages }}"
    with pytest.raises(TemplateError, match=r"remove `template:`: this model has its own; or .*add_tokens: true"):
        _find(base, "chatml")


def test_missing_markers_can_be_added(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """With add_tokens each becomes one new id, the one that was predicted."""
    base = _without(tiny_tokenizer, "<|im_start|>", "<|im_end|>")
    template = _find(base, "chatml", add_tokens=True)
    size = len(base)
    apply_template(base, template)
    assert template.added == ("<|im_start|>", "<|im_end|>")
    assert len(base) == size + 2
    assert base.eos_token_id == template.turn_end_id == base.encode("<|im_end|>", add_special_tokens=False)[0]
    assert base.decode(base.apply_chat_template(ANSWERED)["input_ids"], skip_special_tokens=True).count("im_") == 0


def test_markers_that_are_only_undeclared_need_no_permission(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """An entry of the vocabulary that the tokenizer does not cut out is declared a control token; nothing is added."""
    state = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if "im_" not in token["content"]]
    backend = type(tiny_tokenizer.backend_tokenizer).from_str(json.dumps(state))
    base = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    assert len(base.encode("<|im_end|>", add_special_tokens=False)) > 1
    template = _find(base, "chatml")
    size = len(base)
    apply_template(base, template)
    assert base.encode("<|im_end|>", add_special_tokens=False) == [template.turn_end_id]
    assert template.turn_end_id == tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(base) == size


def test_an_unknown_marker_is_not_mistaken_for_the_unknown_token() -> None:
    """A vocabulary that turns every unknown word into one <unk> has no chat markers."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "the": 2}, unk_token="<unk>"))
    base = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    with pytest.raises(TemplateError, match=r"does not have <\|im_start\|> \(1 tokens\)"):
        _find(base, "chatml")


def test_a_marker_beyond_the_embedding_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """An id without an embedding row would end in a device assert."""
    with pytest.raises(TemplateError, match=r"beyond the model's 6 embedding rows"):
        _find(tiny_tokenizer, "gemma", num_embeddings=6)


def test_a_system_text_must_be_rendered(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A template that refuses or swallows the recipe's system text is reported before training."""
    tiny_tokenizer.chat_template = CHATML_LIKE.replace(
        "{% for m",
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m",
    )
    with pytest.raises(TemplateError, match="System role not supported"):
        _find(tiny_tokenizer, system="짧게 답하세요.")
    tiny_tokenizer.chat_template = CHATML_LIKE.replace("in messages %}", "in messages if m.role != 'system' %}")
    with pytest.raises(TemplateError, match="leaves out the system text"):
        _find(tiny_tokenizer, system="짧게 답하세요.")
    assert _find(tiny_tokenizer, "gemma", system="짧게 답하세요.").turn_end == "<end_of_turn>"


def test_a_broken_template_file_is_reported_with_its_line(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Jinja's line number reaches the user."""
    path = tmp_path / "broken.jinja"
    path.write_text("{{ bos_token }}\n{% for m in messages %}\n{{ m.content }\n{% endfor %}", encoding="utf-8")
    with pytest.raises(TemplateError, match=r"broken.jinja:3"):
        _find(tiny_tokenizer, str(path))


def test_a_template_can_be_borrowed_from_a_file(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A .jinja file is taken, and its markers are known by their looks."""
    path = tmp_path / "own.jinja"
    path.write_text(CHATML_LIKE, encoding="utf-8")
    found = _find(tiny_tokenizer, str(path))
    assert dict(found.markers).keys() == {"<|im_start|>", "<|im_end|>"}
    assert found.origin == f"borrowed from {path}"
    with pytest.raises(TemplateError, match=r"\(\d+ tokens\)"):
        _find(_without(tiny_tokenizer, "<|im_end|>"), str(path))
    with pytest.raises(TemplateError, match="No such file"):
        _find(tiny_tokenizer, str(tmp_path / "none.jinja"))


def test_a_template_can_be_borrowed_from_an_instruct_tokenizer(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Text and special tokens come along, so that `eos_token` in the template still means the donor's."""
    donor = copy.deepcopy(tiny_tokenizer)
    donor.chat_template = CHATML_LIKE.replace("'<|im_end|>\n'", "'<|im_end|>' + eos_token + bos_token + '\n'")
    donor.eos_token, donor.bos_token = "<|endoftext|>", "<unused1>"
    tokenizer = tiny_tokenizer
    template = _find(tokenizer, str(tmp_path), donor=donor)
    apply_template(tokenizer, template)
    assert template.turn_end == "<|im_end|>"
    assert dict(template.markers).keys() == {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unused1>"}
    assert tokenizer.apply_chat_template(ANSWERED, tokenize=False) == donor.apply_chat_template(
        ANSWERED, tokenize=False
    )


def test_a_donor_without_a_template_or_an_unknown_name_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The nearest built-in name is offered."""
    with pytest.raises(TemplateError, match="no chat template"):
        _find(tiny_tokenizer, str(tmp_path), donor=tiny_tokenizer)
    with pytest.raises(TemplateError, match="did you mean 'chatml'"):
        _find(tiny_tokenizer, "chatlm")


def test_a_tokenizer_that_nothing_fits_gets_every_reason(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Every built-in's own reason is listed."""
    base = _without(tiny_tokenizer, "<start_of_turn>", "<|eot_id|>", "<|im_end|>")
    base.eos_token = None
    with pytest.raises(TemplateError) as raised:
        _find(base)
    assert all(f"built-in {name}" in str(raised.value) for name in BUILT_IN)


def test_the_saved_tokenizer_is_what_was_trained(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Reloaded from disk it renders the same, ends with the turn end and pads with something else."""
    template = _find(tiny_tokenizer, "gemma")
    apply_template(tiny_tokenizer, template)
    tiny_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (tiny_tokenizer, again):
        assert tokenizer.chat_template == template.text
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<end_of_turn>", "<pad>")
        assert tokenizer.apply_chat_template(ANSWERED, tokenize=False) == (
            "<bos><start_of_turn>user\n왜 아파요?<end_of_turn>\n<start_of_turn>model\n쉬세요.<end_of_turn>\n"
        )
    assert len(again) == len(tiny_tokenizer)


@pytest.mark.parametrize(
    ("own", "expected"),
    [("<pad>", "<pad>"), ("<|im_end|>", "<pad>"), ("<eos>", "<pad>"), (None, "<pad>"), ("<unused1>", "<unused1>")],
)
def test_the_pad_token_is_never_one_that_ends_something(
    tiny_tokenizer: PreTrainedTokenizerFast, own: str | None, expected: str
) -> None:
    """Pad as turn end would unteach stopping."""
    tiny_tokenizer.pad_token = own
    apply_template(tiny_tokenizer, _find(tiny_tokenizer, "chatml"))
    assert tiny_tokenizer.pad_token == expected
    assert tiny_tokenizer.pad_token_id != tiny_tokenizer.eos_token_id


def test_a_spare_token_pads_where_there_is_no_pad(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A token that no text uses is taken, and the vocabulary does not grow."""
    base = _without(tiny_tokenizer, "<pad>")
    size = len(base)
    apply_template(base, _find(base, "chatml"))
    assert base.pad_token == "<unused0>"
    assert len(base) == size


def test_without_a_spare_token_the_old_end_of_text_pads_or_nothing_can(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The base's own end of text ends no turn any more; where it is the turn end itself, nothing is left."""
    base = _without(tiny_tokenizer, "<pad>", "<unused0>", "<unused1>", "<|endoftext|>")
    plain = copy.deepcopy(base)
    apply_template(base, _find(base, "chatml"))
    assert base.pad_token == "<eos>"
    with pytest.raises(TemplateError, match="no token for padding"):
        apply_template(plain, _find(plain, "plain"))


def test_thinking_is_off_by_default_in_what_is_saved(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A plain apply_chat_template serves the empty think block that was trained, and can still be asked to think."""
    template = _find(tiny_tokenizer, "qwen3")
    apply_template(tiny_tokenizer, template)
    served = tiny_tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert template.kwargs == {"enable_thinking": False}
    assert served.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tiny_tokenizer.apply_chat_template(ANSWERED, tokenize=False).startswith(served)
    asked = tiny_tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert asked.endswith("<|im_start|>assistant\n")


def test_data_with_thoughts_leaves_thinking_on(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Then the served prompt ends at the header, and the model thinks by itself."""
    template = _find(tiny_tokenizer, "qwen3", thinking=True)
    apply_template(tiny_tokenizer, template)
    assert template.kwargs == {}
    assert tiny_tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True).endswith("assistant\n")


def test_a_template_that_leaves_thoughts_out_is_refused_for_data_with_thoughts(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """A template that drops thoughts would silently lose them; one that shows them inside the content is taken."""
    tokenizer = with_style_tokens(_without(tiny_tokenizer, "<think>", "</think>"))
    tokenizer.chat_template = DEEPSEEK
    with pytest.raises(TemplateError, match="leaves out the thought"):
        _find(tokenizer, thinking=True)
    assert _find(tokenizer, "gemma", thinking=True).header == "<start_of_turn>model\n"


def test_a_date_in_the_template_is_pinned(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Training and serving see the same day, in the template's own format."""
    tiny_tokenizer.chat_template = DATED
    template = _find(tiny_tokenizer)
    apply_template(tiny_tokenizer, template)
    rendered = tiny_tokenizer.apply_chat_template(ANSWERED, tokenize=False)
    assert rendered.startswith(f"<|im_start|>system\nToday is {PINNED_DATE:%d %B %Y}.<|im_end|>\n<|im_start|>user\n")
    assert "date fixed" in template.origin


def test_a_tokenizer_that_adds_bos_keeps_it_in_borrowed_plain_formats(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """ChatML and plain words write BOS only where the tokenizer itself would."""
    first = {}
    for name in ("chatml", "plain"):
        for adds in (True, False):
            tokenizer = copy.deepcopy(tiny_tokenizer)
            if not adds:
                tokenizer.backend_tokenizer.post_processor = None
                tokenizer = PreTrainedTokenizerFast(
                    tokenizer_object=tokenizer.backend_tokenizer,
                    bos_token="<bos>",
                    eos_token="<eos>",
                    pad_token="<pad>",
                )
            apply_template(tokenizer, _find(tokenizer, name))
            first[name, adds] = tokenizer.apply_chat_template(ANSWERED, tokenize=False).startswith("<bos>")
    assert first == {("chatml", True): True, ("chatml", False): False, ("plain", True): True, ("plain", False): False}


def test_another_tokenizer_than_the_verified_one_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A template is applied only where its markers have the ids that were proven."""
    template = _find(tiny_tokenizer, "chatml")
    with pytest.raises(TemplateError, match=r"not the tokenizer.*<\|im_end\|>"):
        apply_template(_without(tiny_tokenizer, "<|im_end|>"), template)
