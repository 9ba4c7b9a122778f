from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mamba2Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from seodang.data.pack import pack
from seodang.model.engine.attention import PACKED, attention
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.engine.self_test import packing_error
from seodang.types import IGNORED
from tiny import make_config, make_model

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KINDS = ["llama", "qwen3", "gemma2", "gemma3"]


def _rows(lengths: tuple[int, ...] = (30, 17, 9, 25)) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 300, length).astype(np.int32) for length in lengths]
    labels = []
    for row in ids:
        label = row.copy()
        label[: len(row) // 2] = IGNORED
        label[-2:] = IGNORED
        labels.append(label)
    return ids, labels


def _reference(model: PreTrainedModel, ids: list[np.ndarray], labels: list[np.ndarray]) -> torch.Tensor:
    """Sum of −log p, one row after another, by the model's own logits."""
    total = torch.zeros(())
    for row, label in zip(ids, labels, strict=True):
        logits = model(input_ids=torch.from_numpy(row.astype(np.int64))[None]).logits[0]
        target = torch.from_numpy(label.astype(np.int64))[1:]
        total = total + F.cross_entropy(logits[:-1], target, ignore_index=IGNORED, reduction="sum")
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_packed_loss_and_gradients_are_those_of_each_row_alone(kind: str) -> None:
    """Packing, answer-only logits and the own head change nothing beyond rounding, sliding windows included."""
    model = make_model(make_config(kind)).train()
    ids, labels = _rows()
    engine = choose_engine(model, ids)
    assert engine.packed
    assert engine.linear_cross_entropy
    with engine.installed(model):
        loss = sum(model(pack=p) for p in pack(ids, labels, budget=64))
        loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = _reference(model, ids, labels)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(found[name], parameter.grad, atol=float(1e-5 * scale), rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_do_not_see_each_other(kind: str) -> None:
    """Packed logits are those of each sequence alone."""
    model = make_model(make_config(kind))
    ids, _ = _rows()
    assert packing_error(model, ids) < 1e-5


@pytest.mark.parametrize(
    "config",
    [CohereConfig(**SMALL), GraniteConfig(**SMALL, logits_scaling=8.0),
     GptOssConfig(**SMALL, head_dim=16, num_local_experts=4, sliding_window=8)],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_logit_scales_and_attention_sinks_are_honoured(config: PreTrainedConfig) -> None:
    """Architectures that scale their logits or have sinks run packed under the own head, and equal their own logits."""
    model = AutoModelForCausalLM.from_config(config)
    ids, labels = _rows()
    engine = choose_engine(model, ids)
    assert engine.packed
    assert engine.linear_cross_entropy
    with torch.no_grad(), engine.installed(model):
        loss = sum(model(pack=p) for p in pack(ids, labels, budget=100))
    with torch.no_grad():
        assert loss.item() == pytest.approx(_reference(model, ids, labels).item(), rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4),
     Mamba2Config(vocab_size=300, hidden_size=64, num_heads=8, head_dim=16, state_size=16, n_groups=1,
                  num_hidden_layers=2)],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_architectures_that_leak_are_found_and_run_one_row_at_a_time(config: PreTrainedConfig) -> None:
    """A model whose packed rows would see each other is not packed, with a remark, and its loss is right."""
    model = AutoModelForCausalLM.from_config(config)
    ids, labels = _rows()
    engine = choose_engine(model, ids)
    assert not engine.packed
    assert "one example per row" in engine.remarks[0]
    with torch.no_grad(), engine.installed(model):
        loss = sum(model(pack=p) for p in pack(ids, labels, budget=engine.budget(100)))
    with torch.no_grad():
        assert loss.item() == pytest.approx(_reference(model, ids, labels).item(), rel=1e-5)


@pytest.mark.parametrize("where", ["copy_error", "packing_error"])
def test_a_trial_that_gives_nan_is_not_trusted(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packed logits are NaN, of the tiny copy or of the model itself, rows go one at a time, with a remark."""
    monkeypatch.setattr(f"seodang.model.engine.engine.{where}", lambda *_: float("nan"))
    chosen = choose_engine(make_model(make_config("llama")), [np.arange(3, 20, dtype=np.int32)])
    assert not chosen.packed
    assert "one example per row" in chosen.remarks[0]


def test_packed_attention_without_lengths_raises() -> None:
    """A call that would let sequences see each other is refused."""
    model = make_model(make_config("llama"))
    with attention(model, PACKED), pytest.raises(AssertionError, match="without the lengths"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_the_model_is_its_own_again_after_the_engine() -> None:
    """Outside the engine the model's forward and attention are what they were."""
    model = make_model(make_config("gemma3"))
    ids, _ = _rows()
    batch = torch.from_numpy(ids[0].astype(np.int64))[None]
    before, name = model(input_ids=batch).logits, model.config._attn_implementation
    with choose_engine(model, ids).installed(model):
        pass
    assert model.config._attn_implementation == name
    torch.testing.assert_close(model(input_ids=batch).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("linear_cross_entropy", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_padding_token_within_a_text_is_learnt(linear_cross_entropy: bool, tied: bool) -> None:
    """Where it ends a turn as well, its embedding has the gradient that it has where padding is another token."""
    ids, labels = _rows()
    for row in ids:
        row[2] = 7
    gradients = []
    for pad in (0, 7):
        model = make_model(make_config("llama", pad_token_id=pad, tie_word_embeddings=tied)).train()
        with Engine(packed=True, linear_cross_entropy=linear_cross_entropy).installed(model):
            for single in pack(ids, labels, budget=100):
                model(pack=single).backward()
        embedding = model.get_input_embeddings()
        assert embedding.padding_idx == pad
        gradients.append(embedding.weight.grad)
    assert gradients[0][7].norm() > 0
    torch.testing.assert_close(*gradients)


def test_rows_of_single_words_are_enough_for_a_trial() -> None:
    """A beginning and a word, or a word and an end: packed all the same."""
    rows = [np.array([2, word], dtype=np.int32) for word in (5, 6, 7)]
    engine = choose_engine(make_model(make_config("gemma3")), rows, training_dtype=torch.float16)
    assert engine.packed
    assert engine.linear_cross_entropy


class _StrictBody(LlamaModel):
    def forward(self, input_ids: Any = None, position_ids: Any = None, use_cache: Any = None) -> Any:
        return super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)


class _Strict(LlamaForCausalLM):
    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.model = _StrictBody(config)

    def forward(self, input_ids: Any = None, position_ids: Any = None, use_cache: Any = None) -> CausalLMOutputWithPast:
        output = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)
        return CausalLMOutputWithPast(logits=self.lm_head(output.last_hidden_state))


@pytest.mark.parametrize("linear_cross_entropy", [True, False])
def test_code_that_takes_named_arguments_alone_runs_one_row_at_a_time(linear_cross_entropy: bool) -> None:
    """As models bring it that are older than transformers' own: it knows neither lengths nor which logits to keep."""
    model = _Strict(make_config("llama")).eval()
    ids, labels = _rows()
    engine = choose_engine(model, ids)
    assert not engine.packed
    assert engine.linear_cross_entropy
    engine = replace(engine, linear_cross_entropy=linear_cross_entropy)
    with torch.no_grad():
        expected = float(_reference(model, ids, labels))
        with engine.installed(model), engine.installed(model):  # as an evaluation during training
            packs = pack(ids, labels, budget=engine.budget(100))
            assert sum(float(model(pack=one)) for one in packs) == pytest.approx(expected, rel=1e-5)
            losses = [model(pack=one, per_token=True).losses_S for one in packs]
    assert float(torch.cat(losses).sum()) == pytest.approx(expected, rel=1e-5)
