"""Tensors of a base that are no part of the text model: none of them vanishes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from seodang.errors import ModelError
from seodang.model.checkpoint import shortened, tensor_files
from seodang.model.load import check_untaken, load_model
from seodang.model.save import save_model
from seodang.recipe import Model
from seodang.types import Placement
from tiny import make_config, make_model

CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())
TEXT: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen3_5": {
        "text_config": TEXT | {
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        "vision_config": {
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 16,
        },
    },
    "gemma3": {
        "text_config": TEXT | {"query_pre_attn_scalar": 16, "sliding_window": 8},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    "llama4": {
        "text_config": TEXT | {"intermediate_size_mlp": 128, "num_local_experts": 2, "interleave_moe_layer_step": 2},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14, "vision_output_dim": 64, "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
    },
}  # fmt: skip


def whole_base(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny model that sees images, as its maker publishes it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind])
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved(base: Path, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(load_model(Model(path=str(base)), CPU), tokenizer, folder, turn_end_id=6, base=base)
    return folder


def _tensors(folder: Path) -> dict[str, Any]:
    return {name: value for file in set(tensor_files(folder).values()) for name, value in load_file(file).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_sees_images_is_kept_whole(
    kind: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Every tensor of the base is in the tuned model, under its name, and its class is the base's."""
    base = whole_base(kind, tmp_path / "base", tiny_tokenizer)
    before, after = _tensors(base), _tensors(saved(base, tmp_path / "model", tiny_tokenizer))
    assert {name: tuple(value.shape) for name, value in before.items()} == {
        name: tuple(value.shape) for name, value in after.items()
    }
    assert all(torch.equal(before[name], after[name]) for name in before)
    names = [AutoConfig.from_pretrained(folder).architectures for folder in (base, tmp_path / "model")]
    assert names[0] == names[1] == [type(load_model(Model(path=str(base)), CPU)).__name__]


def test_tensors_that_no_class_takes_are_carried(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Layers that predict ahead, which transformers ignores silently or with a warning, come through untouched."""
    base = whole_base("qwen3_5", tmp_path / "base", tiny_tokenizer)
    extra = {"mtp.fc.weight": torch.randn(3, 4), "mtp.norm.weight": torch.ones(3), "score.weight": torch.ones(2, 64)}
    computed = {"model.language_model.rotary_emb.inv_freq": torch.ones(8)}
    save_file(_tensors(base) | extra | computed, base / "model.safetensors", metadata={"format": "pt"})
    spec = Model(path=str(base))
    note = check_untaken(load_model(spec, CPU), spec)
    assert note
    assert "3 tensors" in note
    assert "mtp.fc.*, mtp.norm.*, score.weight.*" in note
    after = _tensors(saved(base, tmp_path / "model", tiny_tokenizer))
    assert all(torch.equal(after[name], value) for name, value in extra.items())
    assert set(after) == set(_tensors(base)) - set(computed)


def test_tensors_that_cannot_be_carried_are_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Of a pickled checkpoint nothing is read beside the model: what would be lost is named before any training."""
    base = tmp_path / "base"
    model = make_model(make_config("llama", len(tiny_tokenizer)))
    model.config.save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    torch.save(model.state_dict() | {"value_head.weight": torch.ones(2, 64)}, base / "pytorch_model.bin")
    spec = Model(path=str(base))
    with pytest.raises(ModelError, match=r"1 of its tensors.*value_head(.|\n)*allow_lost_tensors"):
        check_untaken(load_model(spec, CPU), spec)
    allowed = Model(path=str(base), allow_lost_tensors=True)
    assert "as allowed" in (check_untaken(load_model(allowed, CPU), allowed) or "")


def test_a_whole_text_model_has_nothing_to_say(tiny_folder: Path) -> None:
    """Nothing is noted of a base whose tensors are all taken."""
    spec = Model(path=str(tiny_folder))
    assert check_untaken(load_model(spec, CPU), spec) is None


def test_names_are_shortened() -> None:
    """A few beginnings stand for thousands of tensors."""
    names = [f"{part}.layers.{number}.weight" for part in "abcdef" for number in range(9)]
    assert shortened(names) == "a.layers.*, b.layers.*, c.layers.*, d.layers.* …"
