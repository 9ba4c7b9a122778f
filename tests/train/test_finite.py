"""What is not a number ends a run before it replaces anything, and the last step is always looked at."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seodang.errors import RunError
from seodang.recipe import Train
from seodang.run.events import Event, TrainEvent
from seodang.run.folder import Run
from seodang.types import Metric
from tiny import make_config, make_model
from tiny_training import steps_of, train_tiny

SETTINGS = Train(epochs=2, examples_per_step=4, learning_rate=1e-3, eval_every=2, keep_checkpoints=9)
RARELY = SETTINGS.model_copy(update={"eval_every": 100})


class _LogsAsOnGpu(TrainerCallback):
    """Every tenth step, which on a GPU spares the waiting."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.logging_steps = 10


class _Poison(TrainerCallback):
    """One weight that no row's loss depends on becomes NaN or infinite in an optimizer step."""

    def __init__(self, step: int, value: float = math.nan) -> None:
        self.step, self.value = step, value

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                model.get_input_embeddings().weight[400, 3] = self.value


@pytest.mark.parametrize(("steps", "logged"), [(6, [6]), (25, [10, 20, 25])])
def test_the_last_step_is_logged(tmp_path: Path, steps: int, logged: list[int]) -> None:
    """However rarely steps are logged, the last one is, with what came since the one before."""
    settings = RARELY.model_copy(update={"steps": steps})
    events = train_tiny(tmp_path, settings, callbacks=[_LogsAsOnGpu()])[2]
    assert steps_of(events) == logged
    assert sum(event.steps for event in events if isinstance(event, TrainEvent)) == steps


def test_what_is_evaluated_or_saved_is_logged(tmp_path: Path) -> None:
    """A step whose weights are kept was looked at first."""
    events = train_tiny(tmp_path, SETTINGS.model_copy(update={"eval_every": 3}), callbacks=[_LogsAsOnGpu()])[2]
    assert steps_of(events) == steps_of(events, "save") == [3, 6, 9, 10]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float) -> None:
    """A weight that became NaN or infinite in the last optimizer step ends the run; the checkpoints before it stay."""
    model = make_model(make_config("llama", tie_word_embeddings=False))  # of whose tokens a holdout uses but a few
    with pytest.raises(RunError, match=rf"weight model\.embed_tokens\.weight is {value} at step 10"):
        train_tiny(tmp_path, SETTINGS, model=model, callbacks=[_Poison(10, value)])
    assert (Run(folder=tmp_path).last_checkpoint() or Path()).name == "checkpoint-8"


def test_a_gradient_norm_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """The loss of a step is finite and its gradient is not: the optimizer's step made NaN of the weights."""

    class _Infinite(TrainerCallback):
        def on_step_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
        ) -> None:
            if state.global_step == 4:
                weight = model.get_input_embeddings().weight
                weight.register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(RunError, match=r"gradient norm is (nan|inf) at step 5"):
        train_tiny(tmp_path, SETTINGS, callbacks=[_Infinite()])
    assert (Run(folder=tmp_path).last_checkpoint() or Path()).name == "checkpoint-4"


@pytest.mark.parametrize("last", [False, True])
def test_an_evaluation_that_is_not_finite_replaces_nothing(tmp_path: Path, last: bool) -> None:
    """NaN on one source's holdout ends the run, by its name: neither recorded nor saved, nor the best."""
    count = 0

    def measure(_: PreTrainedModel) -> dict[str, Metric]:
        nonlocal count
        count += 1
        broken = math.nan if count == (5 if last else 2) else 1.0
        return {name: Metric(source=name, loss_sum=loss, tokens=10, rows=2)
                for name, loss in (("medical", 10.0 - count), ("general", broken))}  # fmt: skip

    events: list[Event] = []
    with pytest.raises(RunError, match=rf"general: the loss on general is nan at step {10 if last else 4}"):
        train_tiny(tmp_path, SETTINGS, measure=measure, on_event=events.append)
    before = 8 if last else 2
    assert steps_of(events, "eval")[-1] == before
    assert (Run(folder=tmp_path).last_checkpoint() or Path()).name == f"checkpoint-{before}"


def test_a_step_with_many_rows_names_a_few(tmp_path: Path) -> None:
    """The error of a step of twenty rows names five of them and counts the others."""
    settings = SETTINGS.model_copy(update={"examples_per_step": 20})

    def poison(event: Event) -> None:
        if isinstance(event, TrainEvent):
            model.get_input_embeddings().weight.data.fill_(math.nan)

    model = make_model(make_config("llama"))
    settings = settings.model_copy(update={"eval_every": 50})
    with pytest.raises(RunError) as caught:
        train_tiny(tmp_path, settings, model=model, on_event=poison)
    assert str(caught.value.where).count("a.jsonl:") == 5
    assert str(caught.value.where).endswith("15 more rows")
