"""What the line does with a model: measure it, train it, measure it again, and write down what changed.

All ranks take part; what is written, the main rank writes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seodang import distributed
from seodang.data.encode.rows import parse_tools
from seodang.recipe import Ask, Generate, Recipe
from seodang.run import evidence, record
from seodang.run.events import Event, GivenAnswer, evaluations
from seodang.run.folder import Run, create
from seodang.show import console, tables
from seodang.stages.preparation import Desk, load_base
from seodang.types import Answer, Metric

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, TrainerCallback

    from seodang.model.engine.engine import Engine
    from seodang.proof.questions import Question
    from seodang.train.throughput import ThroughputMeter


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model, measured."""

    metrics: Mapping[str, Metric]  # source → loss on its holdout
    answers: Sequence[Answer]


def begin_run(run: Run, recipe: Recipe, desk: Desk, *, resume: bool = False) -> None:
    """Make the run's folder, and write down what is known before training."""
    with distributed.agreed():
        if distributed.is_main():
            create(run, recipe, resume=resume)
            record.record_data(run, desk.recipe, desk.placement, desk.template, desk.prepared)
    with distributed.agreed():
        distributed.wait_for(run.manifest_file)


def check_room(run: Run, desk: Desk, model: "PreTrainedModel") -> None:
    """Stop before anything is measured if the disk cannot take what training writes."""
    from seodang.train.adapter import num_adapter_parameters
    from seodang.train.resources import check_disk
    from seodang.train.setup import choose_optimizer

    adapter = desk.recipe.train.adapter
    if not run.is_trained:
        check_disk(
            run.folder,
            desk.recipe.train,
            parameters=model.num_parameters(),
            weight_bytes=model.dtype.itemsize,
            optimizer=choose_optimizer(desk.recipe.train.optimizer, model.device.type).name,
            adapter_parameters=num_adapter_parameters(model, adapter, desk.new_tokens) if adapter else None,
        )


def measure(
    desk: Desk,
    model: "PreTrainedModel",
    engine: "Engine",
    name: Literal["base", "tuned"],
    metrics: Mapping[str, Metric] | None = None,
) -> Measured:
    """Losses on every holdout, and answers to every question.

    Args:
        metrics: the losses, where these weights were measured already.
    """
    from seodang.proof.evaluate import evaluate

    recipe, tests = desk.recipe, desk.prepared.holdouts
    if metrics is None:
        with console.counting(f"{name}: rows of the holdout", sum(map(len, tests.values()))) as advance:
            metrics = evaluate(model, engine, tests, pack_tokens=desk.pack_tokens, on_rows=advance)
    spoken = {
        source.name: tests[source.name]
        for source in recipe.sources
        if source.role != "retention" and source.name in tests
    }
    asked = questions_of(desk, recipe.ask, spoken)
    with console.counting(f"{name}: answers", len(asked)) as advance:
        answers = answers_of(desk, model, name, asked, on_progress=advance)
    return Measured(metrics=metrics, answers=answers)


def questions_of(desk: Desk, ask: Ask, tests: "Mapping[str, Dataset]") -> "list[Question]":
    """What is to be asked, rendered as it is served."""
    from seodang.proof.questions import questions

    return questions(ask, tests, lambda messages, tools: desk.renderer.prompt(messages, parse_tools(tools)))


def answers_of(
    desk: Desk,
    model: "PreTrainedModel",
    name: Literal["base", "tuned"],
    asked: "Sequence[Question]",
    on_progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """One model's answers, in the order of the questions; the ranks share them."""
    from seodang.model.generate.batch import Completion, generate
    from seodang.proof.questions import answer

    tokenizer, is_sharded = desk.tokenizer, distributed.is_sharded(model)

    def answered(prompts: Sequence[str], settings: Generate) -> list[Completion]:
        def some(indices: Sequence[int]) -> list[Completion]:
            return generate(
                model,
                tokenizer,
                [tokenizer(prompts[index], add_special_tokens=False)["input_ids"] for index in indices],
                settings,
                turn_end_id=desk.template.turn_end_id,
                streams=indices,
                on_progress=on_progress
                and (lambda done: on_progress(done * (1 if is_sharded else distributed.world()))),
            )

        # a model whose weights are spread is run by all ranks at once
        return some(range(len(prompts))) if is_sharded else distributed.spread(len(prompts), some)

    return answer(asked, name, answered)


def measure_base(run: Run, desk: Desk, model: "PreTrainedModel", engine: "Engine") -> Measured:
    """The base, measured once: a resumed run reads what was found."""
    from seodang.train.metrics import evaluation_event
    from seodang.train.setup import best_loss

    with distributed.agreed():  # before one of them writes it
        stored = evidence.read_base(run)
    if stored:
        return Measured(metrics=stored[0], answers=stored[1])
    found = measure(desk, model, engine, "base")
    loss = best_loss(desk.recipe, found.metrics)
    event = evaluation_event(found.metrics, loss(found.metrics) if loss else None, step=0, epoch=0.0)
    with distributed.agreed():
        if distributed.is_main():
            record.record_base(run, found.metrics, found.answers, event)
    return found


def train_model(
    run: Run, desk: Desk, model: "PreTrainedModel", engine: "Engine", callbacks: "Sequence[TrainerCallback]"
) -> "tuple[PreTrainedModel, Mapping[str, Metric] | None]":
    """Train, save the best model and return it; what was trained before a kill is read instead.

    Returns:
        The model, and its losses if these very weights were measured in training, neither merged nor in parts.
    """
    from seodang.proof.evaluate import evaluate
    from seodang.train.adapter import add_adapter
    from seodang.train.callbacks import AskCallback
    from seodang.train.setup import best_loss, choose_optimizer, make_setup
    from seodang.train.throughput import ThroughputMeter
    from seodang.train.trainer import train

    if run.is_trained:
        load_tuned(run, desk, model)
        return model, None
    settings, rows, tests = desk.recipe.train, desk.prepared.rows["train"], desk.prepared.holdouts
    adapter = settings.adapter
    trainee = add_adapter(model, adapter, desk.new_tokens, seed=settings.seed) if adapter else model
    setup = make_setup(
        run,
        settings,
        trainee,
        engine,
        num_rows=len(rows),
        optimizer=choose_optimizer(settings.optimizer, trainee.device.type),
        pack_tokens=desk.pack_tokens,
        checkpointing=desk.memory.checkpointing if desk.memory else None,
    )
    for remark in setup.remarks:
        console.show_note(remark)
    pace = ThroughputMeter(model, engine.compute_dtype or model.dtype, steps=setup.total_steps)
    with telling(run, pace, setup.total_steps) as tell:
        asking = [AskCallback(settings.ask_every, ask_again(desk, model), tell)] if settings.ask_every else []
        trained = train(
            trainee,
            rows,
            settings,
            setup,
            measure=lambda: evaluate(model, engine, tests, pack_tokens=desk.pack_tokens),
            chosen_loss=best_loss(desk.recipe, tests),
            on_event=tell,
            callbacks=[*asking, *callbacks],
        )
    if trained.stopped:
        console.show_note(f"stopped after step {trained.steps} of {setup.total_steps}; go on with --resume")
        raise KeyboardInterrupt
    is_sharded = distributed.is_sharded(model)
    if is_sharded:
        trainee = model = make_whole(desk, model)
    with distributed.agreed():
        if distributed.is_main():
            record.record_training(run, best_step=trained.best_step, best_by=settings.best_by)
    save_tuned(run, desk, trainee)
    return model, None if adapter or is_sharded else trained.best_metrics


@contextmanager
def telling(run: Run, pace: "ThroughputMeter", steps: int) -> "Iterator[Callable[[Event], None]]":
    """Yields what takes training's events: the main rank records and shows them, and the speed once."""
    from seodang.train.metrics import MetricsLog

    with console.training(steps) as show, MetricsLog(run) if distributed.is_main() else nullcontext() as log:

        def tell(event: "Event") -> None:
            if log:
                timed = log(event)
                show(timed)
                if speed := pace(timed):
                    show(log(speed))

        yield tell


def make_whole(desk: Desk, sharded: "PreTrainedModel") -> "PreTrainedModel":
    """A model whose weights FSDP2 spread over the ranks, whole on each of them."""
    import torch

    whole = load_base(desk)
    with torch.no_grad():
        for name, parameter in sharded.named_parameters():
            whole.get_parameter(name).copy_(parameter.full_tensor())
    return whole


def ask_again(desk: Desk, model: "PreTrainedModel") -> Callable[[], list[GivenAnswer]]:
    """What answers the domain and general questions amid training, each with the model as it is then."""
    asked = questions_of(desk, desk.recipe.ask.model_copy(update={"repeat": None, "holdout": 0}), {})
    keys = ("kind", "question", "text", "stopped")
    return lambda: [
        GivenAnswer(**{key: getattr(said, key) for key in keys}) for said in answers_of(desk, model, "tuned", asked)
    ]


def save_tuned(run: Run, desk: Desk, trainee: "PreTrainedModel | PeftModel") -> None:
    """The tuned model as plain weights, and an adapter by itself too."""
    from seodang.model.load import save_model
    from seodang.train.adapter import merge, save_adapter

    with distributed.agreed():
        if desk.recipe.train.adapter and distributed.is_main():
            save_adapter(trainee, run.adapter)
    with distributed.agreed():
        if desk.recipe.train.adapter and (distributed.is_main() or not desk.is_four_bit):
            trainee = merge(trainee, run.adapter)
        if distributed.is_main():
            save_model(trainee, desk.tokenizer, run.model, turn_end_id=desk.template.turn_end_id)


def load_tuned(run: Run, desk: Desk, model: "PreTrainedModel") -> None:
    """Turn the base in hand into the model that was saved."""
    from seodang.model.load import load_weights
    from seodang.train.adapter import load_adapter

    if desk.is_four_bit:
        load_adapter(model, run.adapter)
    else:
        load_weights(model, run.model)


def record_proof(
    run: Run,
    desk: Desk,
    before: Measured,
    after: Measured,
    *,
    base: str,
    tuned: str,
) -> None:
    """Put base and tuned side by side: proof.json and answers.jsonl."""
    from seodang.proof.proof import proof
    from seodang.proof.questions import repeat_settings

    recipe = desk.recipe
    answers = [*before.answers, *after.answers]
    record.record_answers(run, answers)
    found = proof(
        name=recipe.name,
        base=base,
        tuned=tuned,
        roles={source.name: source.role for source in recipe.sources},
        before=before.metrics,
        after=after.metrics,
        answers=answers,
        training=training_of(run),
        temperature=repeat_settings(recipe.ask).temperature,
    )
    record.record_proof(run, found)


def training_of(run: Run) -> dict[str, Any]:
    """What the proof says of the training; nothing where none was."""
    from seodang.proof.proof import turned_at

    found = evidence.read_training(run)
    return {**found, "turned_at": turned_at(evaluations(evidence.read_events(run)))} if found else {}


def finish(run: Run, desk: Desk, model: "PreTrainedModel", clock: Mapping[str, float]) -> None:
    """Write the report, and show the verdict and the answers."""
    from seodang.model.load import describe
    from seodang.show.report import report

    record.record_facts(run, model=describe(model, desk.tokenizer), seconds=clock)
    page = report(run.folder)
    tables.show_answers(evidence.read_answers(run))
    tables.show_losses(evidence.read_proof(run))
    tables.show_end(run.folder, page, sum(clock.values()))


@contextmanager
def phase(clock: dict[str, float], name: str) -> Iterator[None]:
    """Time one part of the line, in seconds."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        clock[name] = round(time.perf_counter() - begun, 2)
