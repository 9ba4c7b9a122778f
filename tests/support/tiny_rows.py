"""Prepared rows without a text: random ids, as trainer and evaluation take them."""

import numpy as np
from datasets import Dataset

from seodang.types import IGNORED


def tiny_rows(rows: int, seed: int) -> Dataset:
    """Rows of 8 to 23 ids, the first four of each not supervised."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(20, 300, int(rng.integers(8, 24))).tolist() for _ in range(rows)]
    labels = [[IGNORED] * 4 + row[4:] for row in ids]
    return Dataset.from_dict(
        {
            "input_ids": ids, "labels": labels, "num_bytes": [10] * rows, "file": ["a.jsonl"] * rows,
            "row": list(range(1, rows + 1)),
        }
    )  # fmt: skip
