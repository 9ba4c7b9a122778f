"""Losses of a model on held-out rows, of each supervised token or summed by source; each rank takes its share."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.pack import pack
from seodang.errors import RunError
from seodang.model.engine.engine import Engine
from seodang.model.engine.layers.norms import fused_norms
from seodang.model.engine.linear_cross_entropy import OnTile
from seodang.types import IGNORED, Metric

OnRows = Callable[[int, int], None]
BLOCK = 256  # rows that are in memory, and packed, at a time


class PackObserver(Protocol):
    """Sees what goes into the head of each pack of examples, and its logits."""

    def begin(self, members: Sequence[int]) -> OnTile | None:
        """The pack holds these examples; what is returned sees its logits (`target_losses`)."""

    def end(self, members: Sequence[int], counts: Sequence[int], hidden_SD: Tensor | None) -> None:
        """The pack is done.

        Args:
            counts: scored tokens of each example.
            hidden_SD: what went into the head, in their order; none where the model computes its own logits.
        """


class Example(NamedTuple):
    """A sequence of which some tokens are scored."""

    input_ids: NDArray[np.int32]  # [tokens]
    labels: NDArray[np.int32]  # [tokens], unshifted, IGNORED where nothing is scored


def blocks(rows: Dataset) -> Iterator[tuple[int, list[Example]]]:
    """(number of the first, rows) of prepared rows, a block at a time: memory is bounded."""
    columns = rows.select_columns(["input_ids", "labels"])
    for first in range(0, len(rows), BLOCK):
        part = columns[first : first + BLOCK]
        ids, labels = ([np.asarray(row, dtype=np.int32) for row in part[key]] for key in ("input_ids", "labels"))
        yield first, [Example(*pair) for pair in zip(ids, labels, strict=True)]


@contextmanager
def measuring(model: PreTrainedModel, engine: Engine) -> Iterator[None]:
    """Inside, packs run on the model as they are evaluated: without dropout or gradients."""
    training = model.training
    model.eval()
    try:
        norms = fused_norms(model) if model.device.type == "cuda" else nullcontext()
        with torch.no_grad(), engine.installed(model), norms:
            yield
    finally:
        model.train(training)


def token_losses(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    budget: int,
    on_rows: OnRows | None = None,
    observer: PackObserver | None = None,
) -> list[NDArray[np.float32]]:
    """−log p of each scored token of each example, in nats; call it inside `measuring`.

    Several ranks share the examples; all of them get the same values.

    Args:
        budget: positions of one forward pass (`Engine.budget`).
        on_rows: called with the number of examples measured since the last call, and that of their tokens.
        observer: of this rank's packs.

    Returns:
        [scored tokens] of each example.
    """
    own: list[tuple[list[int], list[int], Tensor]] = []
    share = (distributed.rank(), distributed.world())
    for packed in pack(*zip(*examples, strict=True), budget=budget, share=share) if examples else ():
        on_tile = observer.begin(packed.members) if observer and packed.members else None
        found: Any = model(pack=packed, per_token=True, on_tile=on_tile)
        counts = [scored_tokens(examples[member]) for member in packed.members]
        own.append(([*packed.members], counts, found.losses_S))
        if observer and packed.members:
            observer.end(packed.members, counts, found.hidden_SD)
        if on_rows:
            on_rows(len(packed.members) * distributed.world(), packed.input_ids.size * distributed.world())
    parts = [
        (members, np.split(losses.cpu().numpy(), np.cumsum(counts)[:-1]))  # waits for a GPU once, at the end
        for members, counts, losses in own
        if members
    ]
    losses_of = {
        member: losses
        for shared in distributed.exchange(parts)
        for members, arrays in shared
        for member, losses in zip(members, arrays, strict=True)
    }
    empty = np.zeros(0, dtype=np.float32)
    return [losses_of.get(number, empty) for number in range(len(examples))]


def scored_tokens(example: Example) -> int:
    """How many tokens of an example are scored: the first is never, as nothing comes before it."""
    return int((example.labels[1:] != IGNORED).sum())


def evaluate(
    model: PreTrainedModel,
    engine: Engine,
    tests: Mapping[str, Dataset],
    *,
    pack_tokens: int,
    on_rows: OnRows | None = None,
) -> dict[str, Metric]:
    """Loss of each source: the sum over its supervised tokens, so that it does not depend on batches.

    Several ranks share the rows; all of them get the same numbers.

    Args:
        tests: source → prepared rows (`input_ids`, `labels`, `num_bytes`).
        pack_tokens: positions of one forward pass.
        on_rows: called with the number of rows measured since the last call, and that of their tokens.
    """
    with measuring(model, engine):
        budget = engine.budget(pack_tokens)
        return {
            source: _evaluate_source(model, source, rows, budget, on_rows)
            for source, rows in tests.items()
            if len(rows)
        }


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


def _evaluate_source(model: PreTrainedModel, source: str, rows: Dataset, budget: int, on_rows: OnRows | None) -> Metric:
    loss_sum, tokens = 0.0, 0
    for _, examples in blocks(rows):
        losses = token_losses(model, examples, budget=budget, on_rows=on_rows)
        loss_sum += sum(float(row.sum(dtype=np.float64)) for row in losses)
        tokens += sum(map(len, losses))
    return Metric(
        source=source,
        loss_sum=loss_sum,
        tokens=tokens,
        rows=len(rows),
        num_bytes=sum(rows["num_bytes"]),
    )
