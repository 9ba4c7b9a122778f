"""A holdout of question/answer rows, rendered for a tiny model, and both models measured on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from chat_styles import STYLES, dressed
from converted import convert_rows
from seodang import distributed
from seodang.data.encode.rows import render
from seodang.data.template.renderer import Renderer
from seodang.json_values import to_json
from seodang.model.engine.engine import choose_engine
from seodang.proof.divergence import Head, HiddenStates
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.row_losses import (
    BaseStates,
    HeldOutSource,
    SampleSizes,
    held_out_source,
    measure_source,
    measured_rows,
)
from seodang.run.base_measurement import ModelRow
from tiny import make_config, make_model, make_tokenizer

CHATML = next(style for style in STYLES if style.name == "chatml")
WORDS = ("감기", "고혈압", "당뇨", "두통", "기침", "위염", "빈혈", "골절", "비염", "천식")
ENDINGS = (
    "쉬면 낫습니다",
    "짠 음식을 줄이세요",
    "물을 많이 드세요",
    "의사와 상담하세요",
    "약을 드시고 주무세요",
    "운동을 하세요",
)


def qa(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions of very different lengths, each with an answer of its own."""
    rng = np.random.default_rng(seed)
    return [
        {
            "question": f"{number}. {' '.join(rng.choice(WORDS, rng.integers(1, 9)))} 어떻게 하나요?",
            "answer": " ".join(f"{rng.choice(WORDS)} {rng.choice(ENDINGS)} {rng.integers(99)}." for _ in range(3)),
        }
        for number in range(count)
    ]


def renderer() -> Renderer:
    return Renderer(*dressed(make_tokenizer(), CHATML))


def prepared(folder: Path, rows: Sequence[dict[str, Any]], with_renderer: Renderer, **keys: Any) -> Dataset:
    """Rows as a model is measured on them."""
    return render(convert_rows(folder, list(rows), **keys)[0], with_renderer, max_tokens=512)[0]


def source(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    sizes: SampleSizes | None = None,
    **keys: Any,
) -> HeldOutSource:
    """What is measured on these rows."""
    own = renderer()
    rows_of_them = prepared(folder, rows, own, **keys)
    return held_out_source("medical", rows_of_them, own, sizes=sizes or SampleSizes(), max_tokens=512, seed=42)


def measure_both(
    held_out: HeldOutSource, base: PreTrainedModel, tuned: PreTrainedModel, folder: Path
) -> tuple[list[ModelRow], list[MeasuredRow]]:
    """(the base's rows, both models' rows), as a run measures them."""
    hidden = HiddenStates(folder=folder / "hidden_states")
    with distributed.agreed():
        hidden.folder.mkdir(exist_ok=True)
    engine = choose_engine(base, [np.arange(20, 60, dtype=np.int32)])
    writer = hidden.writer(held_out.name, held_out.kl_tokens)
    before, _ = measure_source(base, engine, held_out, pack_tokens=256, choose_form=True, writer=writer)
    writer.close()
    with distributed.agreed():
        if distributed.is_main():
            hidden.keep_head(base)
    head = hidden.head(Head.of(tuned))
    assert head
    compared = BaseStates(hidden=hidden.reader(held_out.name), head=head)
    after, kl = measure_source(tuned, engine, held_out, pack_tokens=256, choose_form=False, base=compared)
    return before, measured_rows(held_out, before, after, kl)


def measured_by_rank(folder: Path) -> list[dict[str, Any]]:
    """Both models on 24 rows: what each rank finds."""
    (own := folder / f"rows{distributed.rank()}").mkdir()
    held_out = source(own, qa(24))
    base, tuned = (make_model(make_config("gemma3", 512), seed=seed) for seed in (0, 1))
    _, rows = measure_both(held_out, base, tuned, folder)
    return [json.loads(json.dumps(to_json(row))) for row in rows]
