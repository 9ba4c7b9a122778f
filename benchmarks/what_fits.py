"""What fits on which GPU, by the memory estimate that `seodang inspect` prints: the table of docs/hardware.md.

No weights, no GPU: configurations are written out here, and one step runs on tensors without data. Rows have 60 tokens
of prompt and 150 of answer. Each way takes the plan that a run would: packs of 8,192 without gradient checkpointing
where they fit, else what `seodang.train.resources` tries next; a tenth of the memory is left free.

With --lengths: the hardware limit of an H200 in tokens a second by the length of the rows, and what the memory of a
pack is estimated to be. Nothing of that table is measured but the two rates.
"""

import argparse
from functools import cache, partial
from typing import Literal, get_args

import numpy as np
import torch
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedConfig, Qwen3Config

from seodang.data.pack import pack_step
from seodang.model.engine import linear_cross_entropy
from seodang.recipe import Adapter, Train
from seodang.train.adapter import unwrapped
from seodang.train.memory_estimate import STATE_BYTES, MemoryEstimator, make_estimator
from seodang.train.resources import MEMORY_MARGIN, PackCost, candidates
from seodang.train.throughput import optimizer_bytes, step_flops
from seodang.types import IGNORED, Checkpointing, Placement, Step

CONTEXT_BYTES = 0.6e9  # of CUDA and its libraries
GPUS = {  # bytes as torch counts them; whether the GPU is fast at bf16
    "T4: 16 GB": (15.6e9, False),
    "L4, RTX 4090: 24 GB": (23.6e9, True),
    "A100: 40 GB": (42.3e9, True),
    "A100, H100: 80 GB": (84.9e9, True),
}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
STEP_TOKENS, PACK_TOKENS = 65_536, 8192
BUDGETS = (8192, 4096, 2048, 1024)  # down to the default of train.max_tokens
H200 = (778e12, 4.16e12)  # bf16 operations and bytes a second, measured: see README.md
GEMMA = partial(Gemma3TextConfig, vocab_size=262144, head_dim=256, num_key_value_heads=1, num_attention_heads=4)
QWEN = partial(Qwen3Config, vocab_size=151936, head_dim=128, num_key_value_heads=8, tie_word_embeddings=True)
MODELS: dict[str, PreTrainedConfig] = {
    "SmolLM2 135M": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "Gemma 3 270M": GEMMA(hidden_size=640, intermediate_size=2048, num_hidden_layers=18),
    "Qwen3 0.6B": QWEN(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16),
    "Gemma 3 1B": GEMMA(hidden_size=1152, intermediate_size=6912, num_hidden_layers=26),
    "Qwen3 1.7B": QWEN(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16),
    "Qwen3 4B": QWEN(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32),
    "Qwen3 8B": QWEN(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        tie_word_embeddings=False,
    ),
}  # fmt: skip
SMALL = ("SmolLM2 135M", "Qwen3 0.6B")  # fit everywhere: not in the first table
ADAPTED = ("Qwen3 4B", "Qwen3 8B")  # LoRA in the second table
ADAMW = "adamw_torch_fused"
WAYS: dict[str, tuple[str, Literal["lora", "qlora"] | None]] = {
    "full": (ADAMW, None),
    "full, 8-bit AdamW": ("paged_adamw_8bit", None),
    "LoRA": (ADAMW, "lora"),
    "QLoRA": (ADAMW, "qlora"),
}


linear_cross_entropy._is_tiled = lambda *_, **__: False  # tensors without data pretend to be a CPU's: the GPU's head


@cache
def _step(budget: int, length: int = 210, count: int = 64) -> Step:
    """Rows of equal length, two sevenths of them prompt, packed."""
    prompt = length * 2 // 7
    ids = [np.ones(length, dtype=np.int32)] * count
    labels = [np.concatenate([np.full(prompt, IGNORED), np.ones(length - prompt)]).astype(np.int32)] * count
    return pack_step(list(range(count)), ids, labels, budget=budget)


def _estimator(model: str, kind: Literal["lora", "qlora"] | None, fast_bf16: bool) -> MemoryEstimator:
    compute = "bfloat16" if fast_bf16 else "float32"
    weights = compute if kind == "lora" else "float32"  # frozen weights lose nothing by bf16
    settings = Train(adapter=Adapter(kind=kind) if kind else None)
    placement = Placement(
        device="cpu", dtype=weights, compute_dtype=compute, attention="packed", reasons=(),
        training_dtype=None if fast_bf16 else "float16",
    )  # fmt: skip
    config = MODELS[model]
    return make_estimator(config, settings, placement, optimizer=ADAMW, num_embeddings=config.vocab_size)


@cache
def _made(model: str, kind: Literal["lora", "qlora"] | None, fast_bf16: bool) -> tuple[MemoryEstimator, int]:
    """(estimator, trained parameters)."""
    made = _estimator(model, kind, fast_bf16)
    return made, sum(weight.numel() for weight in made.model.parameters() if weight.requires_grad)


@cache
def _peak(
    model: str, kind: Literal["lora", "qlora"] | None, fast_bf16: bool, budget: int, level: Checkpointing
) -> int:  # fmt: skip
    """Bytes at the peak of a step."""
    return _made(model, kind, fast_bf16)[0].estimate(_step(budget).packs, level).peak


def _cell(model: str, way: str, size: float, fast_bf16: bool) -> str:
    """Gigabytes of the first plan that fits, with what differs from the defaults."""
    optimizer, kind = WAYS[way]
    _, trained = _made(model, kind, fast_bf16)
    saved = trained * (STATE_BYTES[ADAMW] - STATE_BYTES[optimizer])
    most = (1 - MEMORY_MARGIN) * (size - CONTEXT_BYTES)
    if _peak(model, kind, fast_bf16, BUDGETS[-1], "full") - saved > most:
        return "–"
    cost: PackCost = "graphs" if fast_bf16 and kind != "qlora" else "cuda"
    for budget, _, level in candidates(BUDGETS, get_args(Checkpointing), cost, _step):
        peak = _peak(model, kind, fast_bf16, budget, level) - saved
        if peak <= most:
            plan = [f"{budget // 1024}k"] * (budget < BUDGETS[0]) + [level] * (level != "none")
            return f"{peak / 1e9:.0f} GB{', ' * bool(plan)}{' '.join(plan)}"
    return "–"


def _by_length(model: str) -> str:
    """A row of the second table: way, gigabytes, thousands of tokens a second for each length."""
    kind: Literal["lora"] | None = "lora" if model in ADAPTED else None
    made = _estimator(model, kind, fast_bf16=True)
    shapes, (operations, moved) = unwrapped(made.model), H200
    optimizer_seconds = optimizer_bytes(shapes, torch.bfloat16) / moved
    steps = [_step(PACK_TOKENS, length, STEP_TOKENS // length).packs for length in LENGTHS]
    limits = [step_flops(shapes, packs) / operations + optimizer_seconds for packs in steps]
    speeds = [f"{STEP_TOKENS / seconds / 1e3:,.0f}" for seconds in limits]
    peaks = [f"{made.estimate(packs, 'none').peak / 1e9:.0f}" for packs in (steps[0], steps[-1])]
    memory = " to ".join(dict.fromkeys(peaks))
    return f"| {model} | {'LoRA' if kind else 'full'} | {memory} GB | {' | '.join(speeds)} |"


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=list(MODELS))
    parser.add_argument("--lengths", action="store_true", help="the limit by the length of the rows instead")
    args = parser.parse_args()
    if args.lengths:
        header = ("Model", "Training", "Memory", *map("{:,}".format, LENGTHS))
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
        for model in args.models or (name for name in MODELS if name != "Qwen3 1.7B"):
            print(_by_length(model), flush=True)
        return
    print(f"| Model | Training | {' | '.join(GPUS)} |\n|---|---|{'---|' * len(GPUS)}")
    for model in args.models or (name for name in MODELS if name not in SMALL):
        for way in WAYS:
            print(f"| {model} | {way} | {' | '.join(_cell(model, way, *gpu) for gpu in GPUS.values())} |", flush=True)


if __name__ == "__main__":
    main()
