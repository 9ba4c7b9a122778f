"""Evaluation runs as training does: packed, and nowhere further than it must."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from seodang.data.pack import positions
from seodang.errors import RunError
from seodang.model.engine import loss
from seodang.model.engine.attention import PACKED
from seodang.model.engine.engine import choose_engine
from seodang.proof.evaluate import blocks, check_finite, evaluate, measuring, token_losses
from seodang.types import IGNORED, Metric
from tiny import make_config, make_model


def _rows(count: int = 12) -> Dataset:
    """Rows of a question, an answer, and 5 tokens after it that nothing is learnt from; the last has no answer."""
    draw = np.random.default_rng(0)
    ids = [draw.integers(20, 300, int(length)).tolist() for length in draw.integers(14, 40, count)]
    labels = [[IGNORED] * 6 + row[6:-5] + [IGNORED] * 5 for row in ids]
    labels[-1] = [IGNORED] * len(ids[-1])
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "num_bytes": [10] * count})


def _watch(model: PreTrainedModel) -> list[dict[str, Any]]:
    """What every forward pass of the body is given, and under which attention."""
    seen: list[dict[str, Any]] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.append({**given, "attention": model.config._attn_implementation})

    model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def test_evaluation_packs_rows_under_the_packed_attention() -> None:
    """Several rows go through the body in one pass, isolated by their lengths, within the budget."""
    model, rows = make_model(make_config("gemma3")), _rows()
    engine = choose_engine(model, [np.arange(20, 60, dtype=np.int32)])
    seen = _watch(model)
    metric = evaluate(model, engine, {"medical": rows}, pack_tokens=80)["medical"]
    assert metric.rows == len(rows)
    assert {given["attention"] for given in seen} == {PACKED}
    assert len(seen) < len(rows) / 2
    assert all(given["input_ids"].shape == (1, given["seq_lens"].total) for given in seen)
    assert all(given["seq_lens"].total <= 80 for given in seen)


def test_nothing_is_computed_after_the_last_supervised_token() -> None:
    """A row goes through the body up to where its last supervised token is predicted; one without any, not at all."""
    model, rows = make_model(make_config("llama")), _rows()
    engine = choose_engine(model, [np.arange(20, 60, dtype=np.int32)])
    seen = _watch(model)
    evaluate(model, engine, {"medical": rows}, pack_tokens=80)
    lengths = sorted(length for given in seen for length in given["seq_lens"].each)
    assert lengths == sorted(len(ids) - 6 for ids in rows[: len(rows) - 1]["input_ids"])
    assert lengths == sorted(positions(np.array(row)) for row in rows[: len(rows) - 1]["labels"])


def test_logits_are_computed_for_supervised_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head multiplies one position for each supervised token, and no gradient is taken."""
    model, rows = make_model(make_config("llama")), _rows()
    engine = choose_engine(model, [np.arange(20, 60, dtype=np.int32)])
    apply, heights = loss.target_losses, list[int]()

    def counted(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        heights.append(len(hidden))
        return apply(hidden, *rest)

    monkeypatch.setattr(loss, "target_losses", counted)
    metric = evaluate(model, engine, {"medical": rows}, pack_tokens=80)["medical"]
    assert sum(heights) == metric.tokens == sum(label != IGNORED for row in rows["labels"] for label in row)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["gemma2", "llama"])
@pytest.mark.parametrize("own_head", [True, False])
def test_losses_of_tokens_are_those_of_plain_transformers(kind: str, own_head: bool) -> None:
    """Each row alone through the model's own logits, in float32: the same −log p of each supervised token."""
    model, rows = make_model(make_config(kind)), _rows()
    engine = replace(choose_engine(model, [np.arange(20, 60, dtype=np.int32)]), linear_cross_entropy=own_head)
    ((_, examples),) = blocks(rows)
    with measuring(model, engine):
        found = token_losses(model, examples, budget=80)
    for row, losses in zip(examples, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor(row.input_ids[None].astype(np.int64))).logits[0].log_softmax(-1)
        expected = [-float(logits[at - 1, row.labels[at]]) for at in range(1, len(row.labels)) if row.labels[at] >= 0]
        assert losses.tolist() == pytest.approx(expected, abs=1e-4)
    total = evaluate(model, engine, {"medical": rows}, pack_tokens=80)["medical"]
    assert total.loss_sum == pytest.approx(sum(float(losses.sum(dtype=np.float64)) for losses in found), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_measurement(value: float) -> None:
    """A proof must not hold NaN: the error names model and source."""
    metrics = {name: Metric(source=name, loss_sum=one, tokens=2, rows=1) for name, one in (("a", 1.0), ("b", value))}
    check_finite({"a": metrics["a"]}, "base")
    with pytest.raises(RunError, match=rf"b: the base model's loss on the held-out rows is {value}"):
        check_finite(metrics, "base")
