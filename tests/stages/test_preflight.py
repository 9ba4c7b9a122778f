"""The base before training: its vocabulary, its tensors, and what is left of both in the tuned model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import seodang
from held_out import renderer
from seodang.data.template.find import OWN as OWN_TEMPLATE
from seodang.errors import GateError, ModelError
from seodang.model.engine.engine import Engine
from seodang.model.load import grow_vocabulary, load_model
from seodang.proof.evaluate import evaluate
from seodang.recipe import Model, Recipe, Save, Train
from seodang.run.folder import PROOF, Run
from seodang.serve.chat_model import load_chat_model, with_system
from seodang.stages import preflight
from seodang.types import Placement
from tiny import make_config, make_model
from tiny_recipe import tiny_recipe

pytestmark = pytest.mark.usefixtures("no_report")
CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())
OWN = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def padded_base(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: int) -> Path:
    """A base whose embedding has more rows than its tokenizer has tokens, as large vocabularies are padded."""
    make_model(make_config("llama", rows)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe(folder: Path, base: Path) -> Recipe:
    """Two steps, with a template whose markers the vocabulary lacks."""
    made = tiny_recipe(folder, base, steps=2, ask_every=None)
    template = folder / "own.jinja"
    template.write_text(OWN, encoding="utf-8")
    return made.model_copy(
        update={"template": made.template.model_copy(update={"borrow": str(template), "add_tokens": True})}
    )


def embeddings(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"]


def losses(run: Run) -> tuple[float, float]:
    """(base, tuned) on the holdout."""
    found = json.loads((run.folder / PROOF).read_text(encoding="utf-8"))["sources"]["medical"]
    return found["base"]["nats_per_token"], found["tuned"]["nats_per_token"]


@pytest.mark.parametrize("padding", [60, 0])
def test_added_tokens(padding: int, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Rows beyond the tokens are padding and stay, so that the base is measured as it is; `prove` gives the same."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer) + padding)
    made = recipe(tmp_path / "recipe", base)
    run = seodang.tune(made, out=tmp_path / "run")
    rows = max(len(tiny_tokenizer) + padding, len(tiny_tokenizer) + 3)  # user, assistant, end
    assert len(embeddings(run.model)) == rows
    assert json.loads((run.model / "config.json").read_text(encoding="utf-8"))["vocab_size"] == rows
    if padding:
        model = load_model(Model(path=str(base)), CPU)
        holdouts = seodang.inspect(made).holdouts
        engine = Engine(packed=True, linear_cross_entropy=True)
        found = evaluate(model, engine, holdouts, pack_tokens=512)["medical"]
        assert losses(run)[0] == pytest.approx(found.loss, rel=1e-6)
    again = seodang.prove(run.folder, out=tmp_path / "proof")
    assert losses(again) == pytest.approx(losses(run), rel=1e-6)


def test_the_base_of_a_run_that_added_tokens_can_be_asked(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """It gets the rows that it got in the run, bit for bit."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer))
    run = seodang.tune(recipe(tmp_path / "recipe", base), out=tmp_path / "run")
    asked = load_chat_model(run.folder, base=True)
    expected = load_model(Model(path=str(base)), CPU)
    grow_vocabulary(expected, len(tiny_tokenizer) + 3, seed=42)
    assert torch.equal(asked.model.get_input_embeddings().weight, expected.get_input_embeddings().weight)


def test_lost_tensors_are_named_before_the_base_is_measured(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """What could be neither loaded nor carried over stops the run, unless the recipe allows it."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer))
    weights = load_file(base / "model.safetensors") | {"value_head.weight": torch.ones(2, 64)}
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    made = tiny_recipe(tmp_path / "recipe", base, steps=2, ask_every=None)
    with pytest.raises(ModelError, match="value_head"):
        seodang.tune(made, out=tmp_path / "run")
    assert not (tmp_path / "run" / "base.json").exists()
    allowed = made.model_copy(update={"model": made.model.model_copy(update={"allow_lost_tensors": True})})
    assert seodang.tune(allowed, out=tmp_path / "run").is_trained


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "rank": 2}])
def test_the_tuned_folder_is_the_base_up_to_what_was_tuned(
    adapter: dict[str, Any] | None, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """All files: nothing that training sets while it runs stays in them, and nothing of the base is lost."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer) + 60)
    (base / "preprocessor_config.json").write_text('{"size": 3}', encoding="utf-8")
    extra = {"mtp.layers.0.weight": torch.arange(6.0)}
    save_file(load_file(base / "model.safetensors") | extra, base / "model.safetensors", metadata={"format": "pt"})
    run = seodang.tune(
        tiny_recipe(tmp_path / "recipe", base, steps=2, ask_every=None, adapter=adapter), out=tmp_path / "run"
    )
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    after = {file.name: file.read_bytes() for file in run.model.iterdir()}
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "model.safetensors", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"
    }  # fmt: skip
    tensors = load_file(run.model / "model.safetensors")
    assert torch.equal(tensors["mtp.layers.0.weight"], extra["mtp.layers.0.weight"])
    assert not torch.equal(tensors["model.norm.weight"], torch.ones(64)) or adapter


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "rank": 2}])
def test_the_proof_is_of_the_saved_weights(
    adapter: dict[str, Any] | None, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Saved in another dtype, the tuned model is measured as it is loaded again: `prove` gives the same to the bit."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer))
    made = tiny_recipe(tmp_path / "recipe", base, steps=2, ask_every=None, adapter=adapter)
    made = made.model_copy(update={"save": Save(dtype="bfloat16")})
    run = seodang.tune(made, out=tmp_path / "run")
    assert embeddings(run.model).dtype == torch.bfloat16
    again = seodang.prove(run.folder, out=tmp_path / "proof")
    assert losses(again) == losses(run)


def test_a_run_with_a_system_text(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The saved template brings it; `prove` and `chat`, which give it themselves, render it once."""
    base = padded_base(tmp_path / "base", tiny_tokenizer, len(tiny_tokenizer))
    made = tiny_recipe(tmp_path / "recipe", base, steps=2, ask_every=None)
    made = made.model_copy(update={"system": "짧게 답하세요."})
    run = seodang.tune(made, out=tmp_path / "run")
    assert losses(seodang.prove(run.folder, out=tmp_path / "proof")) == losses(run)
    question = [{"role": "user", "content": "약은?"}]
    chat = load_chat_model(run.folder)
    served = AutoTokenizer.from_pretrained(run.model).apply_chat_template(question, add_generation_prompt=True)
    assert chat.prompt(with_system(question, chat.system)) == served["input_ids"]
    assert chat.tokenizer.decode(served["input_ids"]).count("짧게") == 1


@pytest.mark.parametrize(("kind", "severity"), [("gpt2", "refuse"), ("opt", "refuse"), ("llama", "warn")])
def test_rows_beyond_the_context(
    kind: str, severity: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Longer rows than a model has positions are refused where positions are learnt, and a warning elsewhere."""
    base = tmp_path / "base"
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 30}
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, vocab_size=512, word_embed_proj_dim=64, eos_token_id=1, bos_token_id=2, **sizes)
    ).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    made = tiny_recipe(tmp_path / "recipe", base, steps=2)
    asks = made.ask.model_copy(update={"holdout_tokens": 2, "holdout": 0})
    made = made.model_copy(update={"ask": asks})
    if severity == "refuse":
        with pytest.raises(
            GateError, match=r"examples longer than the model's 30 positions: 20 of \d+(.|\n)*train.max_tokens"
        ):
            seodang.inspect(made)
    else:
        found = [finding for finding in seodang.inspect(made).findings if finding.check == "beyond_context"]
        assert [(finding.severity, finding.where) for finding in found] == [
            ("warn", "train"), ("warn", "holdout of medical")
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("ask.holdout_tokens", {"holdout_tokens": 2040}),
        ("ask.generate.max_new_tokens", {"generate": {"max_new_tokens": 2040}}),
    ],
)
def test_answers_beyond_the_context(key: str, changes: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    """Questions that leave no room for their answers stop a run before the base is measured, by the key at fault."""
    made = tiny_recipe(tmp_path / "recipe", tiny_folder, steps=2)
    asks = made.ask.model_validate(made.ask.model_dump() | changes)
    with pytest.raises(GateError, match=rf"^{key}: .*the model has 2,048 positions"):
        seodang.tune(made.model_copy(update={"ask": asks}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "base.json").exists()


@pytest.mark.parametrize(
    ("adapter", "saved", "origin", "stays"),
    [
        (None, "auto", OWN_TEMPLATE, False),
        ({"kind": "lora"}, "auto", OWN_TEMPLATE, True),
        ({"kind": "lora"}, "float32", OWN_TEMPLATE, True),
        ({"kind": "lora"}, "bfloat16", OWN_TEMPLATE, False),
        ({"kind": "qlora"}, "auto", OWN_TEMPLATE, False),
        ({"kind": "lora"}, "auto", "chatml", False),
    ],
)
def test_an_adapter_leaves_the_head(adapter: dict[str, str] | None, saved: str, origin: str, stays: bool) -> None:
    """Unless it is rounded as it is saved, held in 4 bits, or markers are trained that the base may never have seen."""
    with_template = renderer()
    with_template.template = replace(with_template.template, origin=origin)
    settings = Train.model_validate({"adapter": adapter})
    save = Save.model_validate({"dtype": saved})
    assert preflight.head_stays(make_model(make_config("llama")), settings, save, with_template) is stays
