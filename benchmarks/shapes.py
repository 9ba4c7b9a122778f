"""Rows of the shapes that are measured, made from the sample texts that ship; and the floor of a step."""

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPES = {  # mean tokens of prompt and answer
    "tutorial": (60, 150),
    "prompt-heavy": (1000, 100),
}
SPREAD = 0.35  # of the lengths' logarithm


def write_rows(path: Path, tokenizer: Any, shape: str, count: int, *, seed: int = 0) -> None:
    """`count` tokenised rows as JSON Lines; `mixed` takes prompt and answer lengths from both shapes in turn."""
    stream = _stream(tokenizer)
    draw = np.random.default_rng(seed)
    position = 0
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            means = SHAPES[shape if shape != "mixed" else ("tutorial", "prompt-heavy")[number % 4 == 0]]
            prompt, answer = (max(4, int(mean * draw.lognormal(-(SPREAD**2) / 2, SPREAD))) for mean in means)
            ids = np.take(stream, range(position, position + prompt + answer), mode="wrap").tolist()
            position += prompt + answer
            lines.write(json.dumps({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}) + "\n")


def _stream(tokenizer: Any) -> np.ndarray:
    texts = []
    for name in ("ko_text", "ko_medical", "ko_general", "en_text", "en_medical", "en_general"):
        for line in files("seodang").joinpath("samples", f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            texts.append("\n".join(json.loads(line).values()))
    return np.array(tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"])


def flops(config: Any, rows: list[dict[str, list[int]]]) -> float:
    """Fewest FLOPs of one forward and backward pass over the rows.

    6·N·S + 6·H·A + 6·L·n_h·d_h·S² (causal) for an example of S tokens of which A are supervised; N body weights,
    H = d·V head weights, L layers. Sliding windows are counted as full attention, which is below 1 % here.
    """
    config = config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    keys = getattr(config, "num_key_value_heads", heads)
    attention = config.hidden_size * head_dim * (2 * heads + 2 * keys)
    body = config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    head = config.hidden_size * config.vocab_size
    total = 0.0
    for row in rows:
        length = len(row["input_ids"])
        supervised = sum(label != -100 for label in row["labels"])
        total += 6.0 * body * length + 6.0 * head * supervised
        total += 6.0 * config.num_hidden_layers * heads * head_dim * length**2
    return total


def matrix_rate(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """FLOP/s of the best of several large square products."""
    best = 0.0
    sizes = (2048, 3072, 4096) if device == "cpu" else (4096, 8192, 16384)
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(4):
            _synchronise(device)
            begun = time.perf_counter()
            a @ b
            _synchronise(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
