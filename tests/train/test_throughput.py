from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
)

from events import eval_event, train_event
from seodang.data.pack import pack
from seodang.recipe import Adapter
from seodang.train import throughput
from seodang.train.adapter import inject_adapter
from seodang.train.throughput import ThroughputMeter, matrix_rate, memory_rate, optimizer_bytes, step_flops
from seodang.types import IGNORED, Pack
from tiny import make_config, make_model

LENGTHS, ANSWERED = (21, 31), (15, 25)  # tokens; the first 6 unsupervised


def _packs() -> tuple[Pack, ...]:
    rows = [np.arange(20, 20 + length, dtype=np.int32) for length in LENGTHS]
    labels = [np.concatenate([np.full(6, IGNORED, dtype=np.int32), row[6:]]) for row in rows]
    return pack(rows, labels, budget=100)


def test_operations_of_a_step_follow_the_formula() -> None:
    """6·N·S + 6·H·A + 6·L·n_h·d_h·ΣS² for a llama of 2 layers, hidden 64, 4 heads of 16 and 2 key heads."""
    model = make_model(make_config("llama"))
    body = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    positions = [length - 1 for length in LENGTHS]
    attention = 6 * 2 * 4 * 16 * sum(n * n for n in positions)
    expected = 6 * body * sum(positions) + 6 * 512 * 64 * sum(ANSWERED) + attention
    assert step_flops(model, _packs()) == expected
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(model.config)
    assert step_flops(shapes, _packs()) == expected


def test_packing_does_not_change_the_operations() -> None:
    """The limit is that of the examples, however they are packed."""
    model = make_model(make_config("gemma3"))
    rows = [np.arange(20, 20 + length, dtype=np.int32) for length in LENGTHS]
    assert len({step_flops(model, pack(rows, rows, budget=budget)) for budget in (0, 100)}) == 1


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    """Under an adapter 4 of 6 operations are left of the frozen weights, and its own 6 are added."""
    pytest.importorskip("peft")
    model = make_model(make_config("llama"))
    whole = step_flops(model, _packs())
    inject_adapter(model, Adapter(rank=1))
    assert 4 / 6 * whole < step_flops(model, _packs()) < 0.8 * whole


def test_of_experts_those_that_a_token_takes_count() -> None:
    """A mixture with twice the experts and the same number taken has the same operations but for its router."""
    few, many = (
        step_flops(
            make_model(
                AutoConfig.for_model(
                    "qwen3_moe", vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=count,
                    num_experts_per_tok=2, moe_intermediate_size=32, pad_token_id=0,
                )
            ),
            _packs(),
        )
        for count in (4, 8)
    )  # fmt: skip
    assert many - few == 6 * 2 * 64 * 4 * sum(length - 1 for length in LENGTHS)


def test_parts_that_read_images_do_not_count() -> None:
    """A model with a vision tower has the operations of its text part: rows hold text alone."""
    text: Any = make_config("gemma3")
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    whole = Gemma3Config(text_config=text.to_dict(), vision_config={**vision, "image_size": 28, "patch_size": 14})
    with torch.device("meta"):
        models = [Gemma3ForConditionalGeneration(whole), Gemma3ForCausalLM(text)]
    one, other = (step_flops(model, _packs()) for model in models)
    assert one == other


def test_layers_of_shapes_of_their_own_count_by_themselves() -> None:
    """In a model whose layers differ, each one's heads count, and its configuration may be asked."""
    model = make_model(make_config("llama"))
    alike, config = step_flops(model, _packs()), model.config
    heads, head_dim = config.num_attention_heads, config.head_dim
    config.per_layer_config = {1: {"num_attention_heads": 2 * heads}}
    squares = sum((length - 1) ** 2 for length in LENGTHS)
    assert step_flops(model, _packs()) - alike == 6 * heads * head_dim * squares


def test_rates_are_measured() -> None:
    """The matrix rate and the memory rate of this machine are plausible numbers."""
    assert 1e8 < matrix_rate(sizes=(128,)) < 1e15
    assert 1e8 < matrix_rate(sizes=(128, 100_000)) < 1e15  # the second would take hours, and 120 GB
    assert 1e7 < memory_rate(num_bytes=2**20) < 1e13


def test_bytes_of_a_step_follow_the_formula() -> None:
    """8 passes of 4 bytes over each trained weight; with bf16 products 2 more for those of the matrices, not of norms.

    A llama of 2 layers, hidden 64, MLP of 128, 2 key heads of 4, 512 tokens, head and embedding tied or not.
    """
    model = make_model(make_config("llama"))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128) + (1 if tied else 2) * 512 * 64
    norms = 64 * 5
    assert optimizer_bytes(model, torch.float32) == 32 * (matrices + norms)
    assert optimizer_bytes(model, torch.bfloat16) == 34 * matrices + 32 * norms
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert optimizer_bytes(model, torch.float32) == 32 * 512 * 64


def test_the_speed_is_reported_once_without_the_first_step() -> None:
    """After the fourth step: the median of steps 2 to 4, and a share of the hardware limit; then nothing more."""
    model = make_model(make_config("llama"))
    meter = ThroughputMeter(model, torch.float32, steps=10)
    reported = [
        meter(train_event(step, 2.0, seconds=seconds, tokens_per_second=100 / seconds))
        for step, seconds in enumerate((50.0, 2.0, 1.0, 4.0, 1.0, 1.0), 1)
    ]
    assert meter(eval_event(7, {})) is None
    (speed,) = [event for event in reported if event]
    assert reported.index(speed) == 3
    assert (speed.event, speed.tokens_per_second) == ("speed", 50.0)
    assert speed.limit_share == pytest.approx(1e9 / (speed.matrix_gflops * 1e9) / 2, rel=0.01, abs=1e-3)
    one_step = ThroughputMeter(model, torch.float32, steps=1)
    assert one_step(train_event(1, 2.0))


def test_a_limit_that_does_not_fit_into_memory_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training may leave less than the tensors that are timed take; it continues, and its speed is reported."""

    def measure(device: str) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(throughput, "memory_rate", measure)
    monkeypatch.setattr(throughput, "matrix_rate", lambda *_: 1e12)
    meter = ThroughputMeter(make_model(make_config("llama")), torch.float32, steps=1)
    speed = meter(train_event(1, 2.0))
    assert speed
    assert speed.tokens_per_second > 0
    assert (speed.limit_share, speed.matrix_gflops) == (None, None)
