"""What fits on which GPU, by the memory estimate that `seodang inspect` prints: the table of docs/hardware.md.

No weights, no GPU: configurations are written out here, and one step runs on tensors without data. Rows have 60 tokens
of prompt and 150 of answer. Each way is tried with the defaults (packs of 8,192, no gradient checkpointing), and where
that does not fit with full checkpointing and packs of 2,048; a tenth of the memory is left free, as a run does.
"""

import argparse
from functools import cache, partial
from typing import Literal

import numpy as np
from transformers import Gemma3TextConfig, PreTrainedConfig, Qwen3Config

from seodang.data.pack import pack_step
from seodang.model.engine import linear_cross_entropy
from seodang.recipe import Adapter, Train
from seodang.train.memory_estimate import STATE_BYTES, make_estimator
from seodang.train.resources import MEMORY_MARGIN
from seodang.types import IGNORED, Placement, Step

CONTEXT_BYTES = 0.6e9  # of CUDA and its libraries
GPUS = {  # bytes as torch counts them; whether the GPU is fast at bf16
    "T4: 16 GB": (15.6e9, False),
    "L4, RTX 4090: 24 GB": (23.6e9, True),
    "A100: 40 GB": (42.3e9, True),
    "A100, H100: 80 GB": (84.9e9, True),
}
GEMMA = partial(Gemma3TextConfig, vocab_size=262144, head_dim=256, num_key_value_heads=1, num_attention_heads=4)
QWEN = partial(Qwen3Config, vocab_size=151936, head_dim=128, num_key_value_heads=8, tie_word_embeddings=True)
MODELS: dict[str, PreTrainedConfig] = {
    "Gemma 3 270M": GEMMA(hidden_size=640, intermediate_size=2048, num_hidden_layers=18),
    "Gemma 3 1B": GEMMA(hidden_size=1152, intermediate_size=6912, num_hidden_layers=26),
    "Qwen3 1.7B": QWEN(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16),
    "Qwen3 4B": QWEN(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32),
    "Qwen3 8B": QWEN(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        tie_word_embeddings=False,
    ),
}  # fmt: skip
ADAMW = "adamw_torch_fused"
WAYS: dict[str, tuple[str, Literal["lora", "qlora"] | None]] = {
    "full": (ADAMW, None),
    "full, 8-bit AdamW": ("paged_adamw_8bit", None),
    "LoRA": (ADAMW, "lora"),
    "QLoRA": (ADAMW, "qlora"),
}


linear_cross_entropy._is_tiled = lambda *_, **__: False  # tensors without data pretend to be a CPU's: the GPU's head


@cache
def _step(budget: int) -> Step:
    """64 rows of 210 tokens, packed."""
    ids = [np.ones(210, dtype=np.int32)] * 64
    labels = [np.concatenate([np.full(60, IGNORED), np.ones(150)]).astype(np.int32)] * 64
    return pack_step(list(range(64)), ids, labels, budget=budget)


@cache
def _peaks(model: str, kind: Literal["lora", "qlora"] | None, fast_bf16: bool) -> tuple[float, float, int]:
    """(bytes at the peak with packs of 8,192, with full checkpointing and packs of 2,048, trained parameters)."""
    compute = "bfloat16" if fast_bf16 else "float32"
    weights = compute if kind == "lora" else "float32"  # frozen weights lose nothing by bf16
    settings = Train(adapter=Adapter(kind=kind) if kind else None)
    placement = Placement(
        device="cpu", dtype=weights, compute_dtype=compute, attention="packed", reasons=(),
        training_dtype=None if fast_bf16 else "float16",
    )  # fmt: skip
    config = MODELS[model]
    made = make_estimator(config, settings, placement, optimizer=ADAMW, num_embeddings=config.vocab_size)
    usual, least = made.estimate(_step(8192).packs, "none"), made.estimate(_step(2048).packs, "full")
    return usual.peak, least.peak, usual.states // STATE_BYTES[ADAMW]


def _cell(model: str, way: str, size: float, fast_bf16: bool) -> str:
    optimizer, kind = WAYS[way]
    usual, least, trained = _peaks(model, kind, fast_bf16)
    saved = trained * (STATE_BYTES[ADAMW] - STATE_BYTES[optimizer])
    most = (1 - MEMORY_MARGIN) * (size - CONTEXT_BYTES)
    if usual - saved <= most:
        return f"{(usual - saved) / 1e9:.0f} GB"
    return f"{(least - saved) / 1e9:.0f} GB\\*" if least - saved <= most else "–"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    print(f"| | | {' | '.join(GPUS)} |\n|---|---|{'---|' * len(GPUS)}")
    for model in parser.parse_args().models:
        for way in WAYS:
            print(f"| {model} | {way} | {' | '.join(_cell(model, way, *gpu) for gpu in GPUS.values())} |", flush=True)


if __name__ == "__main__":
    main()
