"""Evaluation runs as training does: packed, and nowhere further than it must."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from seodang.data.pack import positions
from seodang.errors import RunError
from seodang.model.engine.attention import PACKED
from seodang.model.engine.engine import choose_engine
from seodang.model.engine.linear_cross_entropy import LinearCrossEntropy
from seodang.proof.evaluate import check_finite, evaluate
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
    apply, heights = LinearCrossEntropy.apply, list[int]()

    def counted(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        heights.append(len(hidden))
        return apply(hidden, *rest)

    monkeypatch.setattr(LinearCrossEntropy, "apply", counted)
    metric = evaluate(model, engine, {"medical": rows}, pack_tokens=80)["medical"]
    assert sum(heights) == metric.tokens == sum(label != IGNORED for row in rows["labels"] for label in row)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_measurement(loss: float) -> None:
    """A proof must not hold NaN: the error names model and source."""
    metrics = {name: Metric(source=name, loss_sum=value, tokens=2, rows=1) for name, value in (("a", 1.0), ("b", loss))}
    check_finite({"a": metrics["a"]}, "base")
    with pytest.raises(RunError, match=rf"b: the base model's loss on the held-out rows is {loss}"):
        check_finite(metrics, "base")
