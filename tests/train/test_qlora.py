"""QLoRA as it runs on any device that bitsandbytes knows: what is adapted, and what the proof measures."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

import seodang
from seodang.model.load import load_model
from seodang.model.placement import choose_placement
from seodang.model.save import save_model
from seodang.recipe import Adapter, Model
from seodang.run.evidence import read_evidence
from seodang.stages import finish, preflight, saved_model
from seodang.train.adapter import adapted_share, adapter_remark, add_adapter, num_adapter_parameters
from tiny import make_config, make_model, make_tokenizer
from tiny_recipe import tiny_recipe

pytest.importorskip("bitsandbytes")
QLORA = Adapter(kind="qlora", rank=2)


def _load(folder: Path, model: PreTrainedModel, *, four_bit: bool) -> PreTrainedModel:
    save_model(model, make_tokenizer(), folder, turn_end_id=1)
    spec = Model(path=str(folder), dtype="float32")
    return load_model(spec, choose_placement(spec), four_bit=four_bit)


def _trained(model: PreTrainedModel) -> int:
    adapted = add_adapter(model, QLORA)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def test_the_adapter_of_packed_weights_is_counted_as_that_of_whole_ones(tmp_path: Path) -> None:
    """4 bits hold a weight as one column: number of parameters and share are those of the layer."""
    model = _load(tmp_path, make_model(make_config("llama")), four_bit=True)
    assert adapted_share(model, QLORA) == 1
    assert num_adapter_parameters(model, QLORA) == _trained(model)


def test_what_stays_frozen_beside_fused_experts_is_reported(tmp_path: Path) -> None:
    """peft takes a shared expert's layers for parts of the fused ones; in 4 bits they stay, and the remark says so."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    shared = {"shared_expert_intermediate_size": 64, "model_type": "qwen2_moe"}
    model = make_model(AutoConfig.for_model(**{**make_config("qwen3").to_dict(), **experts, **shared}))
    model = _load(tmp_path, model, four_bit=True)
    remark = adapter_remark(model, QLORA)
    layers = len(model.model.layers)
    assert re.search(
        rf"beside (?!100)\d+% .*not at {3 * layers} linear layers .*shared_expert\.up_proj.*4 bits", remark
    )
    assert "4 bits" not in adapter_remark(model, QLORA.model_copy(update={"targets": ("q_proj",)}))
    assert num_adapter_parameters(model, QLORA) == _trained(model)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("fits", [True, False])
def test_the_proof_measures_what_was_saved(
    fits: bool, dtype: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saved weights as reloaded, which `prove` finds again; where they do not fit, the findings say what it was."""
    monkeypatch.setattr(finish, "report", lambda folder, _: folder)
    monkeypatch.setattr(preflight, "check_adapter", lambda *_: None)  # a CPU trains 4 bits too, too slowly for use
    if not fits:
        monkeypatch.setattr(saved_model, "available_memory", lambda _: 0)
    adapter = {"kind": "qlora", "rank": 2}
    recipe = tiny_recipe(tmp_path, tiny_folder, ask_every=None, adapter=adapter, learning_rate=0.1)
    recipe = recipe.model_copy(update={"save": recipe.save.model_copy(update={"dtype": dtype})})
    run = seodang.tune(recipe, out=tmp_path / "run")
    found = run.read_json("proof.json")["sources"]["medical"]["tuned"]["nats_per_token"]
    named = [finding for finding in read_evidence(run.folder).findings if finding.check == "measured in 4 bits"]
    assert bool(named) != fits
    (run.folder / "proof.json").unlink()
    seodang.tune(recipe, out=run.folder, resume=True)
    again = run.read_json("proof.json")["sources"]["medical"]["tuned"]["nats_per_token"]
    assert again == pytest.approx(found, rel=1e-6)
    whole = seodang.prove(run.folder, out=tmp_path / "proof").read_json("proof.json")["sources"]["medical"]
    assert (whole["tuned"]["nats_per_token"] == pytest.approx(found, rel=1e-6)) == (fits or dtype == "auto")
    assert torch.isfinite(torch.tensor(found))
