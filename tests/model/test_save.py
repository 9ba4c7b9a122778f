"""Saving: a folder that plain transformers loads and stops with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.errors import ModelError
from seodang.model.engine.attention import PACKED, attention
from seodang.model.load import load_model, load_tokenizer, load_weights
from seodang.model.save import describe, end_ids, round_weights, save_model
from seodang.recipe import Generate, Model, Template
from seodang.types import Placement
from tiny import make_config, make_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())


@pytest.fixture
def tuned_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tiny_tokenizer.chat_template = TEMPLATE
    tiny_tokenizer.eos_token = "<end_of_turn>"
    return tiny_tokenizer


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    save_model(model, tokenizer, folder, turn_end_id=tokenizer.convert_tokens_to_ids("<end_of_turn>"))
    return folder


@pytest.mark.slow
def test_plain_transformers_loads_it(
    tmp_path: Path, tiny_model: PreTrainedModel, tuned_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Without seodang, transformers' own classes and pipeline load the folder, render its template, and stop."""
    folder = saved(tiny_model, tuned_tokenizer, tmp_path / "model")
    code = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
messages = [{"role": "user", "content": "감기"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
answer = pipeline("text-generation", model=folder)(messages, max_new_tokens=3)[0]["generated_text"][-1]
with torch.no_grad():
    total = model(torch.arange(20)[None]).logits.double().sum().item()
print(json.dumps({"ids": ids, "eos": model.generation_config.eos_token_id, "pad": model.generation_config.pad_token_id,
    "role": answer["role"], "sum": total, "own": "seodang" in sys.modules, "attn": model.config._attn_implementation}))
"""
    shown = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    found = json.loads(shown.stdout.splitlines()[-1])
    expected = tuned_tokenizer("<bos><start_of_turn>user\n감기<end_of_turn>\n<start_of_turn>model\n").input_ids[1:]
    assert found["ids"] == expected
    assert found["eos"] == [tuned_tokenizer.convert_tokens_to_ids("<end_of_turn>"), 1]
    assert (found["pad"], found["role"], found["own"], found["attn"]) == (0, "assistant", False, "sdpa")
    with torch.no_grad():
        assert found["sum"] == pytest.approx(tiny_model(torch.arange(20)[None]).logits.double().sum().item(), rel=1e-5)


def test_packed_attention_is_not_saved(tmp_path: Path, tuned_tokenizer: PreTrainedTokenizerFast) -> None:
    """A model saved during training under packed attention names no attention of seodang's in its config."""
    model = make_model(make_config("gemma3", len(tuned_tokenizer)))
    with attention(model, PACKED):
        folder = saved(model, tuned_tokenizer, tmp_path / "model")
    for file in folder.glob("*.json"):
        assert "seodang" not in file.read_text(encoding="utf-8")
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "chat_template.jinja", "tokenizer.json"}


def test_invalid_sampling_settings_of_the_base(
    tmp_path: Path, tuned_tokenizer: PreTrainedTokenizerFast, tiny_folder: Path
) -> None:
    """A base whose generation config contradicts itself is saved without it; a valid one is kept."""
    model = load_model(Model(path=str(tiny_folder)), CPU)
    model.generation_config = GenerationConfig(do_sample=False, temperature=0.3, eos_token_id=1)
    folder = saved(model, tuned_tokenizer, tmp_path / "model")
    assert GenerationConfig.from_pretrained(folder).temperature is None
    assert model.generation_config.temperature == 0.3
    model.generation_config = GenerationConfig(do_sample=True, top_k=64, eos_token_id=[1, 4])
    kept = GenerationConfig.from_pretrained(saved(model, tuned_tokenizer, folder))
    assert (kept.top_k, kept.eos_token_id) == (64, [6, 1, 4])


def test_replaces_and_leaves_nothing_behind(
    tmp_path: Path, tiny_model: PreTrainedModel, tuned_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Saving again replaces the folder as a whole; a save that fails leaves the old one as it was."""
    folder = saved(tiny_model, tuned_tokenizer, tmp_path / "model")
    (folder / "stale").write_text("")
    saved(tiny_model, tuned_tokenizer, folder)
    assert not (folder / "stale").exists()
    before = sorted(file.name for file in folder.iterdir())
    own = tiny_model.generation_config
    tuned_tokenizer.save_pretrained = None
    with pytest.raises(TypeError):
        saved(tiny_model, tuned_tokenizer, folder)
    assert sorted(file.name for file in folder.iterdir()) == before
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert tiny_model.generation_config is own


def test_weights_come_back(tmp_path: Path, tuned_tokenizer: PreTrainedTokenizerFast) -> None:
    """load_weights puts saved weights back bit for bit, added vocabulary rows included."""
    model = make_model(make_config("llama", len(tuned_tokenizer)))
    model.resize_token_embeddings(len(tuned_tokenizer) + 3)
    folder = saved(model, tuned_tokenizer, tmp_path / "model")
    other = make_model(make_config("llama", len(tuned_tokenizer)), seed=1)
    load_weights(other, folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight


def test_end_ids(tiny_model: PreTrainedModel) -> None:
    """An answer ends at the turn end, or where a text ends for the base."""
    assert end_ids(tiny_model, 6) == [6, 1]
    assert end_ids(tiny_model, 1) == [1]


def test_a_turn_of_calls_ends_an_answer_too(
    tmp_path: Path, tiny_model: PreTrainedModel, tuned_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Whoever serves the saved model stops at the token that ends a tool call, where that is another."""
    save_model(tiny_model, tuned_tokenizer, tmp_path / "m", turn_end_id=6, call_end_id=7)
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [6, 7, 1]


def test_description_tells_models_apart(tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The manifest's facts: sizes, and a fingerprint that the same weights share and one changed value does not."""
    first, second = (load_model(Model(path=str(tiny_folder)), CPU) for _ in range(2))
    facts = describe(first, load_tokenizer(str(tiny_folder)))
    assert facts == describe(second, tiny_tokenizer)
    assert (facts.architecture, facts.layers, facts.vocabulary) == ("LlamaForCausalLM", 2, 512)
    assert facts.parameters == sum(tensor.numel() for tensor in first.parameters())
    assert facts.path == str(tiny_folder)
    with torch.no_grad():
        second.model.norm.weight[0] += 1e-3
    assert describe(second, tiny_tokenizer).sha256 != facts.sha256


SHIPPED = {"gemma": "before the question", "chatml": "a turn", "llama3": "a turn", "plain": "a turn", "qwen3": "a turn"}
SYSTEM = "한의학 '상담사' \"입니다\".\n짧게 {{ 답 }} %} 하세요\\."


@pytest.mark.parametrize("name", SHIPPED)
def test_the_saved_template_brings_the_system_text(
    name: str, tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Plain transformers gives conversations without a system turn the ids of training, and keeps one that is there."""
    found = find_template(
        tiny_tokenizer, Template(borrow=name), num_embeddings=len(tiny_tokenizer), load_tokenizer=load_tokenizer,
        system=SYSTEM,
    )  # fmt: skip
    apply_template(tiny_tokenizer, found)
    renderer = Renderer(tiny_tokenizer, found, SYSTEM)
    trained = tiny_tokenizer.chat_template
    save_model(tiny_model, tiny_tokenizer, tmp_path / "m", turn_end_id=found.turn_end_id, system=SYSTEM)
    assert tiny_tokenizer.chat_template == trained
    served = AutoTokenizer.from_pretrained(tmp_path / "m")
    said = ("user", "감기는요?"), ("assistant", "쉬세요."), ("user", "왜?")
    turns = [{"role": role, "content": content} for role, content in said]
    for asked in (turns[:1], turns, [{"role": "system", "content": "다른 말"}, *turns]):
        expected = tiny_tokenizer(renderer.prompt(asked), add_special_tokens=False).input_ids
        assert served.apply_chat_template(asked, add_generation_prompt=True, return_dict=True).input_ids == expected
    assert SYSTEM in served.apply_chat_template(turns[:1], tokenize=False)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (False, None, None, None, None)),
        ({"temperature": 0}, (False, None, None, None, None)),
        ({"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}, (True, 0.7, 0.9, 0, 1.1)),
        ({"temperature": 0.3, "top_k": 20}, (True, 0.3, 1.0, 20, None)),
    ],
)
def test_sampling_settings_of_the_recipe(
    asked: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path, tuned_tokenizer: PreTrainedTokenizerFast
) -> None:
    """What answers were drawn with is what plain transformers draws with, whatever the base's own settings were."""
    model = make_model(make_config("llama", len(tuned_tokenizer)))
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_k=64, min_p=0.1, eos_token_id=1)
    save_model(model, tuned_tokenizer, tmp_path / "m", turn_end_id=6, sampling=Generate.model_validate(asked))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "m").generation_config
    kept = (bool(found.do_sample), found.temperature, found.top_p, found.top_k, found.repetition_penalty)
    assert kept == expected
    assert found.min_p is None
    found.validate(strict=True)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_weights_are_saved_in_a_dtype(kind: str, tmp_path: Path, tuned_tokenizer: PreTrainedTokenizerFast) -> None:
    """Half the bytes, the config says so, tied weights stay one, and what is in memory is what is loaded again."""
    base, folder = tmp_path / "base", tmp_path / "m"
    make_model(make_config(kind, len(tuned_tokenizer))).save_pretrained(base)
    model = load_model(Model(path=str(base)), CPU)
    round_weights(model, torch.bfloat16)
    save_model(model, tuned_tokenizer, folder, turn_end_id=6, base=base, dtype=torch.bfloat16)
    sizes = [(where / "model.safetensors").stat().st_size for where in (base, folder)]
    assert sizes[1] < 0.55 * sizes[0]
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    again = load_model(Model(path=str(folder)), CPU)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_weights_that_a_dtype_cannot_hold(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """float16 ends at 65,504: a larger weight is an error, and no infinity in a file."""
    model = make_model(make_config("llama", len(tiny_tokenizer)))
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    with pytest.raises(ModelError, match=r"float16 cannot hold(.|\n)*bfloat16"):
        round_weights(model, torch.float16)
