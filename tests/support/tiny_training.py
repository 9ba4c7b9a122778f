"""One training of a tiny random model on 20 random rows, begun or resumed, as the pipeline does it."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback

from seodang.model.engine.engine import choose_engine
from seodang.proof.evaluate import evaluate
from seodang.recipe import Train
from seodang.run.events import EvalEvent, Event, SaveEvent, TrainEvent
from seodang.run.folder import Run
from seodang.train.adapter import add_adapter
from seodang.train.setup import Optimizer, make_setup
from seodang.train.trainer import TrainingResult, train
from seodang.types import Metric
from tiny import make_config, make_model
from tiny_rows import tiny_rows

KINDS: dict[str, type[TrainEvent | EvalEvent | SaveEvent]] = {"train": TrainEvent, "eval": EvalEvent, "save": SaveEvent}


def train_tiny(
    folder: Path,
    settings: Train,
    *,
    model: PreTrainedModel | None = None,
    on_event: Callable[[Event], object] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    measure: Callable[[PreTrainedModel], Mapping[str, Metric]] | None = None,
    score: Callable[[EvalEvent], float] | None = None,
    training_dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, TrainingResult, list[Event]]:
    """Train, or resume where the folder holds a checkpoint; an evaluation every second step.

    Args:
        measure: instead of the loss on six held-out rows.
        score: ranks evaluations in place of that loss.
        training_dtype: of the products of passes that train, without a trial.
    """
    model = model or make_model(make_config("gemma3"))
    rows, tests = tiny_rows(20, 0), {"medical": tiny_rows(6, 1)}
    trainee: Any = add_adapter(model, settings.adapter, seed=settings.seed) if settings.adapter else model
    engine = choose_engine(model, [np.array(row, dtype=np.int32) for row in rows[:2]["input_ids"]])
    engine = replace(engine, training_dtype=training_dtype)
    run, events = Run(folder=folder), list[Event]()
    run.checkpoints.mkdir(parents=True, exist_ok=True)

    def record(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(event)

    setup = make_setup(
        run, settings.model_copy(update={"eval_every": settings.eval_every or 2}), trainee, engine,
        num_rows=len(rows), optimizer=Optimizer(name="adamw_torch_fused"), pack_tokens=64,
    )  # fmt: skip
    result = train(
        trainee, rows, settings, setup,
        measure=lambda: measure(model) if measure else evaluate(model, engine, tests, pack_tokens=64),
        chosen_loss=lambda metrics: metrics["medical"].loss,
        on_event=record, score=score, callbacks=callbacks,
    )  # fmt: skip
    return model, result, events


def signal_at(step: int, number: int = signal.SIGINT, *, event: str = "train") -> Callable[[Event], None]:
    """Sends this process a signal when the event of this step happens."""

    def send(happened: Event) -> None:
        if isinstance(happened, KINDS[event]) and happened.step == step:
            os.kill(os.getpid(), number)

    return send


def steps_of(events: Sequence[Event], kind: str = "train") -> list[int]:
    """The steps of all events of a kind."""
    return [event.step for event in events if isinstance(event, KINDS[kind])]


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models' weights are equal, bit for bit."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(a, b) for (name, a), (other_name, b) in pairs)
