"""Adapters of a mixture of experts, whose experts are parameters [experts, …, …] and no linear layers."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedModel

from seodang.errors import ModelError
from seodang.recipe import Adapter, Train
from seodang.train.adapter import adapted_share, adapter_remark, add_adapter
from tiny import make_config, make_model
from tiny_training import same_weights, signal_at, steps_of, train_tiny

peft = pytest.importorskip("peft")


def _mixture(**changes: Any) -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    config = {**make_config("qwen3").to_dict(), **experts, **changes, "model_type": "qwen3_moe"}
    return make_model(AutoConfig.for_model(**config))


def test_fused_experts_are_adapted_and_their_share_is_reported() -> None:
    """Of a mixture of experts nearly all layer weights are adapted, not attention alone; dropout where peft has it."""
    model = _mixture()
    assert adapted_share(model, Adapter(targets=("q_proj", "k_proj", "v_proj", "o_proj"))) < 0.4
    assert adapted_share(model, Adapter()) > 0.95
    remark = adapter_remark(model, Adapter(rank=2, dropout=0.5))
    assert re.fullmatch(r"adapter: [\d,]+ trained parameters beside \d+% .* not at fused experts", remark)
    adapted = add_adapter(model, Adapter(rank=2, dropout=0.5))
    dropouts = [
        type(layer).__name__ for name, layer in adapted.named_modules() if name.endswith("lora_dropout.default")
    ]
    assert set(dropouts) == {"Dropout", "Identity"}
    assert {name.split(".")[-4] for name, _ in adapted.named_parameters() if "experts" in name and "lora_A" in name}


def test_a_resumed_adapter_of_a_mixture_is_the_unbroken_one(tmp_path: Path) -> None:
    """Matrices of experts are saved with a checkpoint and read back bit for bit, dropout included."""
    settings = Train(
        epochs=1, examples_per_step=4, learning_rate=1e-2, adapter=Adapter(rank=2, dropout=0.2), keep_checkpoints=1
    )
    unbroken = train_tiny(tmp_path / "unbroken", settings, model=_mixture())[0]
    assert train_tiny(tmp_path / "broken", settings, model=_mixture(), on_event=signal_at(2))[1].stopped
    resumed, _, events = train_tiny(tmp_path / "broken", settings, model=_mixture())
    assert steps_of(events)[0] > 1
    assert same_weights(resumed, unbroken)
    moved = [
        name for name, value in unbroken.named_parameters() if "experts" in name and "lora_B" in name and value.any()
    ]
    assert len(moved) == 4


def test_a_part_of_fused_experts_suggests_the_whole() -> None:
    """`gate_proj` is a part of `gate_up_proj` in a mixture, and no projection of attention."""
    with pytest.raises(ModelError, match="no linear layer 'gate_proj'; did you mean 'gate_up_proj'"):
        add_adapter(_mixture(), Adapter(targets=("gate_proj",)))
