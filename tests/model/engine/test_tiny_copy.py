"""Tiny copies of architectures: small, of every kind of layer."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from seodang.model.engine.tiny_copy import WINDOW, layers_kept, tiny_copies
from tiny import make_config, make_model


def _without_weights(kind: str, **changes: Any) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes))
    return model


@pytest.mark.parametrize(
    ("kind", "total", "kept"),
    [("llama", 32, 2), ("gemma2", 26, 2), ("gemma3_text", 26, 6), ("deepseek_v3", 61, 4), ("jamba", 32, 5)],
)
def test_every_kind_of_layer_stands_in_a_copy(kind: str, total: int, kept: int) -> None:
    """The first layers are kept until each kind has come: windows and none, dense and experts, state and attention."""
    model = _without_weights(kind)
    assert layers_kept(model) == (total, kept)
    assert next(tiny_copies(model)).config.num_hidden_layers == kept


def test_a_copy_is_small_and_keeps_the_architecture() -> None:
    """A copy is of the model's class, with small windows and few parameters, whatever the model's size."""
    model = _without_weights("gemma3_text", hidden_size=5376, intermediate_size=21504, num_attention_heads=32)
    copy = next(tiny_copies(model))
    assert type(copy) is type(model)
    assert copy.config.sliding_window == WINDOW
    assert copy.config.layer_types == model.config.layer_types[:6]
    assert copy.num_parameters() < 50_000_000
    assert not copy.training
    assert {(p.dtype, p.device.type) for p in copy.parameters()} == {(torch.float32, "cpu")}


def test_copies_are_the_same_every_time() -> None:
    """A resumed run is told the same as the first one."""
    first, again = (next(tiny_copies(make_model(make_config("qwen3"), seed))) for seed in (0, 1))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


def test_settings_of_single_layers_are_cut_with_them() -> None:
    """What a config says of each layer, or of some by number, fits the layers that are left."""
    model = _without_weights("gemma4_text")
    copy = next(tiny_copies(model))
    assert copy.config.per_layer_config[5].head_dim > copy.config.per_layer_config[0].head_dim
    assert len(copy.config.layer_types) == copy.config.num_hidden_layers == 6
