"""Events with the fields that a test cares about; the others hold something plausible."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from seodang.run.events import AnswersEvent, EvalEvent, GivenAnswer, SourceEvaluation, TrainEvent


def train_event(step: int, loss: float, **changes: Any) -> TrainEvent:
    """One optimizer step."""
    fields = {
        "epoch": step / 200, "probability": math.exp(-loss), "learning_rate": 2e-5, "grad_norm": 1.1, "steps": 1,
        "tokens": 4100, "supervised_tokens": 2300, "flops": 1e9, "seconds": 2.1, "tokens_per_second": 1950.0,
    }  # fmt: skip
    return TrainEvent(step=step, loss=loss, **{**fields, **changes})


def eval_event(
    step: int,
    losses: Mapping[str, float],
    *,
    loss: float | None = None,
    bits_per_byte: Mapping[str, float] | None = None,
) -> EvalEvent:
    """One evaluation: source → loss, and the one loss that chooses."""
    bits = bits_per_byte or {}
    return EvalEvent(
        step=step,
        epoch=step / 200,
        loss=loss,
        probability=None if loss is None else math.exp(-loss),
        sources={
            name: SourceEvaluation(
                loss=value, probability=math.exp(-value), tokens=20000, rows=190, bits_per_byte=bits.get(name)
            )
            for name, value in losses.items()
        },
    )


def answers_event(step: int, stopped: Sequence[bool]) -> AnswersEvent:
    """Answers during training, each of which ended by itself or was cut off."""
    given = [GivenAnswer(kind="domain", question=f"{n}?", text="네", stopped=one) for n, one in enumerate(stopped)]
    return AnswersEvent(step=step, answers=tuple(given), seconds=1.0)
