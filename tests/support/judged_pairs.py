"""Pairs of answers whose better one is known, on the sample data."""

import json
import random
from collections.abc import Callable
from importlib.resources import files

from seodang.judge.pairs import Pair

ROWS = [
    json.loads(line)
    for name in ("ko_medical", "en_medical")
    for line in (files("seodang") / "samples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
]


def sample_pairs(count: int, ours: Callable[[str], str], theirs: Callable[[str], str]) -> list[Pair]:
    """Pairs on rows of both languages, answers made from the references."""
    rows = [ROWS[number * len(ROWS) // count] for number in range(count)]
    return [
        Pair(question=row["question"], ours=ours(row["answer"]), theirs=theirs(row["answer"]), reference=row["answer"])
        for row in rows
    ]


def spoiled(text: str, *, share: float, seed: int = 0) -> str:
    """The text with so many of its words exchanged; of the same length."""
    draw = random.Random(f"{seed} {text}")
    return " ".join(word[::-1] if draw.random() < share else word for word in text.split(" "))
