"""Rows of rows.jsonl with planted losses, without a model."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from seodang.proof.measured_rows import Half, MeasuredRow, RowContrast
from seodang.run.base_measurement import PromptLosses, RowLoss

FOREIGN = 3  # prompts of other rows


def measured_row(
    number: int,
    source: str = "medical",
    *,
    base: float = 3.0,
    tuned: float = 2.0,
    tokens: int = 20,
    ends: int = 1,
    base_ending: float = 5.0,
    tuned_ending: float = 1.0,
    half: Half = "both",
    contrast: RowContrast | None = None,
) -> MeasuredRow:
    """One row; `base` and `tuned` are nats per content token. Four bytes a token."""
    return MeasuredRow(
        row_id=f"{source}{number:08d}",
        source=source,
        where=f"/data/{source}.jsonl:{number + 1}",
        cluster=f"{source} {number}",
        half=half,
        content_tokens=tokens,
        end_tokens=ends,
        num_bytes=4 * tokens,
        base=RowLoss(content=base * tokens, ending=base_ending if ends else 0.0),
        tuned=RowLoss(content=tuned * tokens, ending=tuned_ending if ends else 0.0),
        contrast=contrast,
    )


def planted_contrast(
    tokens: int = 20,
    *,
    ending: float = 4.0,
    form: float = 0.2,
    style: float = 0.5,
    substance: float = 0.1,
    base_substance: float = 0.2,
    base: float = 3.0,
) -> RowContrast:
    """A contrast with these parts: `ending` in nats, the others in nats per content token; `base` is asked plainly.

    Args:
        base_substance: S of the base in its form, nats per token.
    """
    own = base * tokens
    foreign = own + base_substance * tokens
    tuned_foreign = foreign - style * tokens
    tuned_own = tuned_foreign - (base_substance + substance) * tokens
    return RowContrast(
        content_tokens=tokens,
        prompts=tuple(f"other{n}" for n in range(FOREIGN)),
        form="plain" if form else "template",
        base_template=own + form * tokens,
        base_plain=own if form else None,
        base=PromptLosses(own=own, foreign=(foreign,) * FOREIGN),
        tuned=PromptLosses(own=tuned_own, foreign=(tuned_foreign,) * FOREIGN),
        base_ending=ending + 1.0,
        tuned_ending=1.0,
    )


def noisy_rows(
    count: int, source: str = "medical", *, change: float = -1.0, noise: float = 0.3, ends: int = 1, seed: int = 0,
    half: Half = "both", base: float = 3.0,
    contrast: Callable[[random.Random, int], RowContrast] | None = None,
) -> list[MeasuredRow]:  # fmt: skip
    """Rows of different lengths whose loss per content token changes by `change` ± `noise`; the turn end by −4 nats."""
    luck = random.Random(seed)
    rows = []
    for number in range(count):
        tokens = luck.randint(10, 40)
        tuned = base + luck.gauss(change, noise)
        found = contrast(luck, tokens) if contrast else None
        rows.append(
            measured_row(number, source, base=base, tuned=tuned, tokens=tokens, ends=ends, half=half, contrast=found)
        )
    return rows


def text_rows(
    count: int, source: str = "wiki", *, change: float = 0.1, noise: float = 0.02, seed: int = 1
) -> list[MeasuredRow]:
    """Plain text: no turn end; `change` in nats per token, of four bytes."""
    return noisy_rows(count, source, change=change, noise=noise, ends=0, seed=seed)


def in_both_halves(rows: Iterable[MeasuredRow]) -> list[MeasuredRow]:
    """Every second row chooses, the others prove."""
    return [replace(row, half="choose" if n % 2 else "prove") for n, row in enumerate(rows)]
