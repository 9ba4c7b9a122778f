"""Training: the model, its adapter where the recipe asks for one, and what is recorded on the way.

All ranks take part; what is written, the main rank writes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback

from seodang import distributed
from seodang.data.template.renderer import Renderer
from seodang.errors import SeodangError, Stopped
from seodang.model.engine.engine import Engine
from seodang.proof.evaluate import evaluate
from seodang.recipe import Ask, Recipe, Train
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run import evidence
from seodang.run.checkpoint_choice import Assessor
from seodang.run.events import EvalEvent, Event, GivenAnswer
from seodang.run.folder import Run
from seodang.show.report import report_so_far
from seodang.show.terminal import console, progress
from seodang.stages.answering import answers_of, questions_of
from seodang.stages.measure import EvaluationSet
from seodang.stages.preflight import Inputs, TrainingPlan, load_base, new_token_ids
from seodang.stages.proof_cost import ANSWERS, EVALUATION
from seodang.stages.saved_model import has_kept_adapter, load_saved, record_end, save_tuned
from seodang.train.adapter import adapter_remark, add_adapter, load_adapter
from seodang.train.callbacks import AskCallback
from seodang.train.metrics import MetricsLog
from seodang.train.setup import make_setup
from seodang.train.throughput import ThroughputMeter
from seodang.train.trackers import Trackers
from seodang.train.trainer import train
from seodang.types import Metric
from seodang.user_paths import shown_path

if TYPE_CHECKING:
    from peft import PeftModel

REPORT_SECONDS = 120.0  # between reports during training


def train_model(
    run: Run,
    recipe: Recipe,
    inputs: Inputs,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    plan: TrainingPlan,
    callbacks: Sequence[TrainerCallback] = (),
) -> PreTrainedModel:
    """Train and save the best model; load it instead where this run has saved it already.

    Raises:
        Stopped: training was stopped by Ctrl-C, SIGTERM or SIGHUP, and what it had reached is saved.
    """
    base, renderer, rows = inputs.base, inputs.renderer, inputs.prepared.rows["train"]
    settings, has_turns = recipe.train, holds_turns(rows)
    if is_saved_again := has_kept_adapter(run):
        adapted = load_adapter(model, run.adapter)
        save_tuned(run, recipe, adapted, renderer, has_turns=has_turns)
    if is_saved_again or run.is_trained:
        return load_saved(run, base, model, four_bit=settings.is_four_bit)
    trainee = make_trainee(model, settings, renderer)
    setup = make_setup(
        run, settings, trainee, engine,
        num_rows=len(rows), optimizer=plan.optimizer, pack_tokens=plan.pack_tokens,
        checkpointing=plan.checkpointing, has_evaluation=held_out.chosen_loss is not None,
    )  # fmt: skip
    for remark in setup.remarks:
        console.show_note(remark)
    with logged_events(run, model, engine, setup.total_steps, settings) as (logged, shown):
        log, score = assessed(run, held_out, logged, is_asked=settings.ask_every is not None)
        asking = asked_again(settings.ask_every, model, recipe.ask, renderer, shown, log)
        result = train(
            trainee,
            rows,
            settings,
            setup,
            measure=lambda: _evaluate(model, engine, held_out, shown),
            chosen_loss=held_out.chosen_loss,
            on_event=log,
            score=score,
            callbacks=[*asking, *callbacks],
        )
    if result.stopped:
        raise Stopped(f"stopped after step {result.steps} of {setup.total_steps}; to resume:\n  {run.resume_command}")
    if distributed.is_sharded(model):
        trainee = model = make_whole(model, load_base(base, renderer, seed=settings.seed))
    record_end(run, trainee, settings, best_step=result.best_step, limits=held_out.limits)
    save_tuned(run, recipe, trainee, renderer, has_turns=has_turns)
    if result.interrupted:
        what = f"training has ended after step {result.steps}, the model is saved"
        raise Stopped(f"{what}; to measure it:\n  {run.resume_command}")
    return load_saved(run, base, model, four_bit=True) if settings.is_four_bit else model


def holds_turns(rows: Dataset) -> bool:
    """Whether any row is a conversation; plain text teaches no chat template."""
    tables = rows.select_columns(["messages"]).with_format("arrow").iter(batch_size=4096)
    return any(pc.any(pc.greater(pc.list_value_length(table["messages"]), 0)).as_py() for table in tables)


def make_trainee(model: PreTrainedModel, settings: Train, renderer: Renderer) -> "PreTrainedModel | PeftModel":
    """The model itself, or with the recipe's adapter in it."""
    if not settings.adapter:
        return model
    token_ids = new_token_ids(renderer)
    console.show_note(adapter_remark(model, settings.adapter, token_ids))
    return add_adapter(model, settings.adapter, token_ids, seed=settings.seed)


@contextmanager
def logged_events(
    run: Run, model: PreTrainedModel, engine: Engine, steps: int, settings: Train
) -> Iterator[tuple[Callable[[Event], None], progress.TrainingDisplay]]:
    """Yields what takes training's events: the main rank records and shows them, the speed once; and the display."""
    trained_dtype = engine.training_dtype or engine.compute_dtype or model.dtype
    show_base(run)
    meter, report = ThroughputMeter(model, trained_dtype, steps=steps), reporter(run)
    with ExitStack() as opened:
        metrics = None
        with distributed.agreed():
            if distributed.is_main():
                trackers = opened.enter_context(Trackers(settings.report_to, run, on_note=console.show_note))
                metrics = opened.enter_context(MetricsLog(run, trackers))
        show = opened.enter_context(progress.training(steps, is_limited=settings.best_by == BY_TOLERANCE))

        def log(event: Event) -> None:
            if metrics:
                timed = metrics(event)
                show(timed)
                if speed := meter(timed):
                    show(metrics(speed))
                if isinstance(event, EvalEvent):
                    with metrics.untimed():
                        report()

        yield log, show


def reporter(run: Run) -> Callable[[], None]:
    """What writes the report of a run that is being trained, if that is long enough ago; a page takes seconds."""
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        if time.monotonic() - written < REPORT_SECONDS:
            return
        try:
            report_so_far(run.folder)
        except (OSError, SeodangError) as error:  # training does not end for that
            console.show_note(f"{shown_path(run.report)} was not written: {error}")
        written = time.monotonic()

    return write


def assessed(
    run: Run, held_out: EvaluationSet, log: Callable[[Event], None], *, is_asked: bool
) -> tuple[Callable[[Event], None], Callable[[EvalEvent], float] | None]:
    """What takes events, and what ranks evaluations where tolerances limit the choice: by what the run has recorded.

    Args:
        is_asked: questions are asked during training.
    """
    if held_out.limits is None:
        return log, None
    is_main = distributed.is_main()
    events = distributed.exchange(evidence.read_events(run) if is_main else [])[0]
    base_answers = distributed.exchange(evidence.base_answers(run) if is_main and is_asked else ())[0]
    assessor = Assessor(held_out.limits, events, base_answers)

    def seen(event: Event) -> None:
        assessor.see(event)
        log(event)

    return seen, lambda event: assessor.assess(event).score


def show_base(run: Run) -> None:
    """The base's losses, wherever they are from: a line like those of later evaluations."""
    if distributed.is_main():
        for event in evidence.read_events(run):
            if isinstance(event, EvalEvent) and event.step == 0:
                progress.show_evaluation(event)


def _evaluate(
    model: PreTrainedModel, engine: Engine, held_out: EvaluationSet, shown: progress.TrainingDisplay
) -> dict[str, Metric]:
    """The losses that choose a checkpoint, with a bar of their own."""
    count, work = sum(map(len, held_out.choosing.values())), held_out.choosing_tokens
    with shown.interruption(EVALUATION, "held-out examples", count, step=shown.step, work=work) as advance:
        return evaluate(model, engine, held_out.choosing, pack_tokens=held_out.pack_tokens, on_rows=advance)


def asked_again(
    every: int | None,
    model: PreTrainedModel,
    ask: Ask,
    renderer: Renderer,
    shown: progress.TrainingDisplay,
    log: Callable[[Event], None],
) -> list[TrainerCallback]:
    """What answers the domain and general questions after every so many steps, with a bar of its own."""
    if not every:
        return []
    asked = questions_of(ask.model_copy(update={"repeat": None, "holdout": 0}), {}, renderer)
    keys = ("kind", "question", "text", "stopped")
    work = sum(question.settings.max_new_tokens for question in asked)

    def answers(step: int) -> list[GivenAnswer]:
        with shown.interruption(ANSWERS, "answers", len(asked), step=step, work=work) as advance:
            found = answers_of(model, renderer, "tuned", asked, on_progress=advance)
        return [GivenAnswer(**{key: getattr(answer, key) for key in keys}) for answer in found]

    return [AskCallback(every, answers, log)]


def make_whole(sharded: PreTrainedModel, whole: PreTrainedModel) -> PreTrainedModel:
    """Weights that FSDP2 spread over the ranks, put together in another copy of the model, on each of them."""
    with torch.no_grad():
        for name, parameter in sharded.named_parameters():
            whole.get_parameter(name).copy_(parameter.full_tensor())
    return whole
