"""Pairs of answers whose better one is known, on the sample data."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from command import json_lines
from seodang.judge.pairs import Pair
from seodang.types import Answer

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


def write_answers(folder: Path, *, tuned: float, base: float, count: int = 40) -> None:
    """Held-out answers with so many of the reference's words exchanged."""
    answers: list[Answer] = []
    for number, pair in enumerate(
        sample_pairs(count, partial(spoiled, share=tuned), partial(spoiled, share=base, seed=1))
    ):
        known = Answer(
            kind="holdout", model="tuned", question=pair.question, text=pair.ours, stopped=True, prompt_tokens=9,
            new_tokens=9, reference=pair.reference, row_id=f"r{number}", source="의료_질문",
        )  # fmt: skip
        answers += [known, replace(known, model="base", text=pair.theirs)]
    (folder / "answers.jsonl").write_text(json_lines(map(asdict, answers)), encoding="utf-8")
