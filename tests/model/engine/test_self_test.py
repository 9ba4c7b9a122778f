"""Which architectures keep packed sequences apart, asked of tiny copies of models of their real size."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Llama4TextConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    StableLmConfig,
)

from seodang.data.pack import pack
from seodang.model.engine.engine import choose_engine
from seodang.model.engine.layers.rope import length_boundary
from seodang.model.engine.self_test import can_pad, copy_error, packing_error
from tiny import make_config, make_model

EXACT = [
    "cohere2", "deepseek_v3", "exaone4", "gemma2", "gemma3_text", "gemma4_text", "glm4", "gpt2", "gpt_neox", "gpt_oss",
    "granite", "llama", "ministral3", "mistral", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe",
    "smollm3",
]  # fmt: skip
LEAKING: dict[str, dict[str, Any]] = {
    "bloom": {},
    "jamba": {},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 5, "num_hidden_layers": 15},
    "llama4_text": {},
    "mamba2": {},
    "mpt": {},
    "qwen3_5_text": {},
    "recurrent_gemma": {},
    "stablelm": {},
}


def _without_weights(kind: str, **changes: Any) -> PreTrainedModel:
    """A model of the architecture's default size, billions of parameters, that takes no memory."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes))
    return model


def _rows(vocab_size: int = 300) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab_size, length).astype(np.int32) for length in (30, 17, 9)]


@pytest.mark.parametrize("kind", EXACT)
def test_exact_architectures_stay_packed(kind: str) -> None:
    """Windows, soft-caps, sinks, experts and scales included, packed logits are those of each row alone."""
    error = copy_error(_without_weights(kind))
    assert error is not None
    assert error < 1e-5


@pytest.mark.parametrize("kind", LEAKING)
def test_architectures_that_leak_are_found(kind: str) -> None:
    """State that runs over from one sequence to the next, or an attention of its own, shows far above rounding."""
    error = copy_error(_without_weights(kind, **LEAKING[kind]))
    assert error is not None
    assert error > 1e-2


SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [Llama4TextConfig(**SMALL, head_dim=16, intermediate_size_mlp=96, num_local_experts=4), StableLmConfig(**SMALL)],
    ids=lambda config: config.model_type,
)
def test_what_leaks_runs_one_row_at_a_time_with_a_message(config: PreTrainedConfig) -> None:
    """An architecture whose copy is not exact is not packed, and a sentence says so."""
    model = AutoModelForCausalLM.from_config(config)
    engine = choose_engine(model, _rows())
    assert not engine.packed
    assert engine.budget(1000) == 0
    assert engine.remarks[0].startswith(f"{type(model).__name__} mixes packed sequences")
    assert engine.remarks[0].endswith(": one example per row")


def test_a_copy_shows_what_short_rows_of_the_model_cannot() -> None:
    """Llama 4 attends in chunks of 8,192 positions: rows shorter than that agree, and yet it cannot be packed."""
    config = Llama4TextConfig(**SMALL, head_dim=16, intermediate_size_mlp=96, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert packing_error(model, _rows()) < 1e-5
    assert (copy_error(model) or 0.0) > 1e-2


class _Llama(LlamaForCausalLM):
    """Code of someone's own that cannot be copied in another size."""

    def __init__(self, config: PreTrainedConfig) -> None:
        if config.vocab_size != 512:
            raise ZeroDivisionError
        super().__init__(config)


class _Bloom(BloomForCausalLM):
    def __init__(self, config: PreTrainedConfig) -> None:
        if config.vocab_size != 512:
            raise ZeroDivisionError
        super().__init__(config)


def test_without_a_copy_the_model_itself_is_asked() -> None:
    """Where no tiny copy can be built, the model's own rows tell whether it can be packed."""
    exact = _Llama(make_config("llama")).eval()
    leaking = _Bloom(BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4)).eval()
    assert copy_error(exact) is copy_error(leaking) is None
    assert choose_engine(exact, _rows()).packed
    assert not choose_engine(leaking, _rows()).packed


def test_asking_leaves_no_trace() -> None:
    """The model and torch's random state are what they were."""
    model = make_model(make_config("gemma3"))
    ids = torch.from_numpy(_rows()[0].astype(np.int64))[None]
    before, state, config = model(input_ids=ids).logits, torch.get_rng_state(), model.config.to_dict()
    copy_error(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config.to_dict() == config
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)


LENGTH_DEPENDENT = {
    "longrope": (
        "phi3",
        {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + n for n in range(48)]},
    ),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 4.0}),
}


@pytest.mark.parametrize("name", LENGTH_DEPENDENT)
def test_frequencies_that_follow_the_length_are_crossed(name: str) -> None:
    """A copy's rows lie on both sides of the length at which rotary frequencies change, unless no real row does."""
    kind, rope = LENGTH_DEPENDENT[name]
    rope = rope | {"rope_theta": 10_000.0, "original_max_position_embeddings": 4096}
    limits = {"max_position_embeddings": 4096} if name == "dynamic" else {}
    model = _without_weights(kind, rope_parameters=rope, **limits)
    assert length_boundary(model.config) == 4096
    assert (copy_error(model) or 0.0) > 1e-2
    assert (copy_error(model, longest=4097) or 0.0) > 1e-2
    assert (copy_error(model, longest=4096) or 1.0) < 1e-5
    assert not can_pad(model)


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt2", "llama", "mamba", "qwen3_5_text"])
def test_what_knows_padding_is_padded(kind: str) -> None:
    """Windows, learnt positions and states whose padding is masked give the same answers in a batch."""
    assert can_pad(_without_weights(kind))


@pytest.mark.parametrize("kind", ["recurrent_gemma", "rwkv"])
def test_states_that_padding_runs_into_are_found(kind: str) -> None:
    """Such models' answers change beside a longer prompt."""
    assert not can_pad(_without_weights(kind))


def test_a_loss_does_not_depend_on_those_before() -> None:
    """transformers keeps a dynamic model's frequencies of its longest row; a row's loss stays the same after it."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    model = make_model(make_config("llama", rope_parameters=rope, max_position_embeddings=16))
    short, long = (np.arange(3, 3 + length, dtype=np.int32) for length in (20, 200))
    engine = choose_engine(model, [short, long])
    assert not engine.packed
    with engine.installed(model), torch.no_grad():
        losses = [float(model(pack=pack([row], [row], budget=0)[0])) for row in (short, long, short)]
    assert losses[0] == losses[2]
    assert choose_engine(model, [short, long], longest=16).packed
