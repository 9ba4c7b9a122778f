"""Token-weighted loss of a model on held-out rows, a source at a time, each rank its share."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.pack import pack
from seodang.errors import RunError
from seodang.model.engine.engine import Engine
from seodang.types import Metric


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    engine: Engine,
    tests: Mapping[str, Dataset],
    *,
    pack_tokens: int,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Metric]:
    """Loss of each source: the sum over its supervised tokens, so that it does not depend on batches.

    Several ranks share the rows; all of them get the same numbers.

    Args:
        tests: source → prepared rows (`input_ids`, `labels`, `num_bytes`).
        pack_tokens: positions of one forward pass.
        on_rows: called with the number of rows measured since the last call.
    """
    training = model.training
    model.eval()
    try:
        with engine.installed(model):
            return {
                source: _evaluate_source(model, source, rows, engine.budget(pack_tokens), on_rows)
                for source, rows in tests.items()
                if len(rows)
            }
    finally:
        model.train(training)


def check_finite(metrics: Mapping[str, Metric], name: str) -> None:
    """Stop before a model is judged by losses that are no numbers.

    Args:
        name: of the model, for people.

    Raises:
        RunError: a loss is NaN or infinite.
    """
    for source, metric in metrics.items():
        if not math.isfinite(metric.loss_sum):
            raise RunError(
                f"the {name} model's loss on the held-out rows is {metric.loss}",
                where=source,
                hint="set model.dtype=float32; if that does not help, the model's weights are damaged",
            )


def _evaluate_source(
    model: PreTrainedModel, source: str, rows: Dataset, budget: int, on_rows: Callable[[int], None] | None
) -> Metric:
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    tokens = num_bytes = 0
    for first in range(0, len(rows), 256):  # bounded memory: a slice of rows at a time
        part = rows[first : first + 256]
        ids = [np.asarray(row, dtype=np.int32) for row in part["input_ids"]]
        labels = [np.asarray(row, dtype=np.int32) for row in part["labels"]]
        num_bytes += sum(part["num_bytes"])
        for packed in pack(ids, labels, budget=budget, share=(distributed.rank(), distributed.world())):
            total += model(pack=packed).double()
            tokens += int((packed.targets >= 0).sum())
            if on_rows:
                on_rows(len(packed.members) * distributed.world())
    shares = distributed.exchange((float(total), tokens))
    return Metric(
        source=source,
        loss_sum=sum(loss for loss, _ in shares),
        tokens=sum(count for _, count in shares),
        rows=len(rows),
        num_bytes=num_bytes,
    )
