"""Rows of the shapes that are measured."""

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seodang.data.pack import pack
from seodang.types import IGNORED, Pack

SHAPES = {  # mean tokens of prompt and answer
    "tutorial": (60, 150),
    "prompt-heavy": (1000, 100),
}
SPREAD = 0.35  # of the lengths' logarithm


def rows_of(stream: NDArray[np.int64], shape: str, count: int, *, seed: int = 0) -> Iterator[dict[str, list[int]]]:
    """`count` rows cut from a stream of ids; `mixed` takes lengths from both shapes in turn."""
    draw = np.random.default_rng(seed)
    position = 0
    for number in range(count):
        means = SHAPES[shape if shape != "mixed" else ("tutorial", "prompt-heavy")[number % 4 == 0]]
        prompt, answer = (max(4, int(mean * draw.lognormal(-(SPREAD**2) / 2, SPREAD))) for mean in means)
        ids = np.take(stream, range(position, position + prompt + answer), mode="wrap").tolist()
        position += prompt + answer
        yield {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}


def write_rows(path: Path, stream: NDArray[np.int64], shape: str, count: int, *, seed: int = 0) -> None:
    """The same as JSON Lines."""
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows_of(stream, shape, count, seed=seed))


def text_stream(tokenizer: Any) -> NDArray[np.int64]:
    """The ids of the sample texts, end to end."""
    texts = []
    for name in ("ko_text", "ko_medical", "ko_general", "en_text", "en_medical", "en_general"):
        for line in files("seodang").joinpath("samples", f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            texts.append("\n".join(json.loads(line).values()))
    return np.array(tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"])


def step_of(rows: Sequence[dict[str, list[int]]]) -> tuple[Pack, ...]:
    """The rows as one pack: what `seodang.train.throughput.step_flops` counts operations of."""
    ids, labels = ([np.array(row[key], dtype=np.int32) for row in rows] for key in ("input_ids", "labels"))
    return pack(ids, labels, budget=sum(map(len, ids)))
