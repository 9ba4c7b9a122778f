"""How long a text may be, by a model's configuration."""

from typing import Any

import pytest
from transformers import AutoConfig

from seodang.model.context_length import max_positions, positions_are_learnt


@pytest.mark.parametrize(
    ("kind", "changes", "positions"),
    [
        ("llama", {"max_position_embeddings": 64}, 64),
        ("gpt2", {"n_positions": 32}, 32),
        ("gemma3", {}, 131_072),
        ("mamba", {}, None),
        ("bloom", {}, None),
        ("llama", {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 256),
        ("llama", {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 128),
        (
            "qwen2",
            {
                "max_position_embeddings": 64,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            },
            128,
        ),
    ],
)
def test_positions(kind: str, changes: dict[str, Any], positions: int | None) -> None:
    """What the config names, stretched by the scaling of its rotary positions; nothing where there is no limit."""
    if "rope_parameters" in changes:
        changes = changes | {"rope_parameters": changes["rope_parameters"] | {"rope_theta": 10_000.0}}
    assert max_positions(AutoConfig.for_model(kind, **changes)) == positions


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neo", "llama", "gptj"])
def test_learnt_positions(kind: str) -> None:
    """Asked of the modules, by their sizes: no architecture is known by name, no weight is read."""
    config = AutoConfig.for_model(kind, num_hidden_layers=2, attention_types=[[["global"], 2]])
    assert positions_are_learnt(config) == (kind in ("gpt2", "opt", "gpt_neo"))
