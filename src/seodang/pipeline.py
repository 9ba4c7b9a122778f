"""The line: one recipe in; a model, its chat template and the evidence of what changed out. Read this file first.

::

    recipe → sources → convert → split → audit → render → mask → mix → pack → train → prove → report

Split comes before mix, so that repeating a source cannot leak across splits; rendering comes before mix, because
shares are shares of tokens. Each step hands back what it kept, dropped and changed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seodang.data.prepare import Prepared, gather, prepare
from seodang.data.render import Renderer, parse_tools
from seodang.data.template import ChatTemplate, apply_template, find_template
from seodang.errors import GateError, RunError
from seodang.recipe import Model, Recipe, Template, load_recipe
from seodang.show import live, record, terminal
from seodang.train.run import Run, begin, open_run
from seodang.types import Answer, Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from seodang.model.engine import Engine
    from seodang.model.load import Placement


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the data part of the line leaves on the desk: everything but a model."""

    recipe: Recipe
    placement: "Placement"
    tokenizer: "PreTrainedTokenizerBase"  # as it will be saved, with the template that is trained
    template: ChatTemplate
    renderer: Renderer
    prepared: Prepared
    pack_tokens: int  # positions of one forward pass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model, measured."""

    metrics: Mapping[str, Metric]  # source → loss on its holdout
    answers: Sequence[Answer]


def tune(
    recipe: Recipe, *, out: Path | None = None, resume: bool = False, callbacks: "Sequence[TrainerCallback]" = ()
) -> Run:
    """Run the whole line: prepare, measure the base, train, measure the tuned model, report.

    Args:
        out: the run's folder; by default runs/NAME.
        resume: go on with a run that was stopped or killed.
        callbacks: transformers' own, for what happens during training.

    Raises:
        SeodangError: the user's mistake, with the mend; what had begun to be measured can be resumed.
        KeyboardInterrupt: training was stopped by Ctrl-C, and a checkpoint saved.
    """
    run = open_run(out or Path("runs") / recipe.name, recipe, resume=resume)
    clock: dict[str, float] = {}
    with phase(clock, "prepare"):
        desk = set_up(recipe)
        show_data(desk)
        refuse_findings(desk)
    with phase(clock, "load"):
        model = load_base(desk)
        check_room(run, desk, model)
        engine = make_engine(desk, model)
    begin(run, recipe, resume=resume)
    record.record_data(run, desk.recipe, desk.placement, desk.template, desk.prepared)
    with phase(clock, "before"):
        before = measure_base(run, desk, model, engine)
    with phase(clock, "train"):
        train_model(run, desk, model, engine, callbacks)
    with phase(clock, "after"):
        after = measure(desk, model, engine, "tuned")
    record_proof(run, desk, before, after, base=recipe.model.path, tuned=str(run.model))
    finish(run, desk, model, clock)
    return run


def inspect(recipe: Recipe, *, out: Path | None = None) -> Prepared:
    """Everything that can be known before training; no weights are loaded.

    Args:
        out: a folder for the same files that a run would hold; none: print only.

    Raises:
        GateError: something in the data must not be trained on.
        SeodangError: the user's mistake, with the mend.
    """
    run = open_run(out, recipe, resume=False) if out else None
    desk = set_up(recipe)
    show_data(desk)
    if run:
        begin(run, recipe)
        record.record_data(run, desk.recipe, desk.placement, desk.template, desk.prepared)
    refuse_findings(desk)
    return desk.prepared


def prove(
    tuned: str | Path, *, against: str | None = None, recipe: str | Path | None = None, out: Path | None = None
) -> Run:
    """Measure a model against its base, with the tuned model's own template.

    Args:
        tuned: a run's folder, or a model (folder, hub id, package).
        against: the base; by default the one the recipe names.
        recipe: what to measure; by default the run's own.
        out: where to write; by default the run's folder, or runs/NAME-proof for a model.

    Raises:
        SeodangError: the user's mistake, with the mend.
    """
    trained = Run(folder=Path(tuned))
    is_run = (trained.folder / "recipe.yaml").is_file()
    if is_run and not trained.is_trained:
        raise RunError(
            "its training has not ended", where=str(tuned), mend=f"seodang tune {tuned}/recipe.yaml --resume"
        )
    if not is_run and recipe is None:
        raise RunError(
            "no run's folder, and no recipe says what to measure a model on",
            where=str(tuned),
            mend="give a run's folder such as runs/NAME, or a recipe by --recipe",
        )
    wanted = load_recipe(recipe) if recipe else trained.recipe()
    model_path = str(trained.model if is_run else tuned)
    base_path = against or wanted.model.path
    asked = wanted.model_copy(
        update={"model": wanted.model.model_copy(update={"path": model_path}), "template": Template()}
    )
    run = (
        trained if is_run and not out else open_run(out or Path("runs") / f"{wanted.name}-proof", wanted, resume=False)
    )
    clock: dict[str, float] = {}
    with phase(clock, "prepare"):
        desk = set_up(asked)
        show_data(desk)
        if run is not trained:
            begin(run, wanted)
            record.record_data(run, desk.recipe, desk.placement, desk.template, desk.prepared)
    measured = []
    for path, name in ((base_path, "base"), (model_path, "tuned")):
        with phase(clock, name):
            model = load_base(desk, asked.model.model_copy(update={"path": path}))
            measured.append(measure(desk, model, make_engine(desk, model), "base" if name == "base" else "tuned"))
    before, after = measured
    record_proof(run, desk, before, after, base=base_path, tuned=model_path)
    finish(run, desk, model, clock)
    return run


def demo(*, out: Path | None = None) -> Run:
    """The shipped demo; each call gets a run folder of its own."""
    recipe = load_recipe("demo")
    folder, number = out or Path("runs") / recipe.name, 2
    while out is None and folder.exists():
        folder, number = Path("runs") / f"{recipe.name}-{number}", number + 1
    return tune(recipe, out=folder)


def set_up(recipe: Recipe) -> Desk:
    """The data part of the line: no weights are loaded."""
    from seodang.model.load import choose_placement, load_config, load_tokenizer
    from seodang.train.choice import pack_tokens

    placement = choose_placement(recipe.model)
    terminal.show_plan(recipe, placement)
    spec = recipe.model
    config = load_config(spec)
    tokenizer = load_tokenizer(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    gathered = gather(recipe)
    template = find_template(
        tokenizer,
        recipe.template,
        num_embeddings=config.get_text_config().vocab_size,
        load_tokenizer=load_tokenizer,
        system=recipe.system,
        thinking=gathered.has_thinking,
    )
    apply_template(tokenizer, template)
    renderer = Renderer(tokenizer, template, recipe.system, recipe.train.loss_on)
    return Desk(
        recipe=recipe,
        placement=placement,
        tokenizer=tokenizer,
        template=template,
        renderer=renderer,
        prepared=prepare(recipe, gathered, renderer),
        pack_tokens=pack_tokens(recipe, placement.device),
    )


def show_data(desk: Desk) -> None:
    """Everything the data part found, in the terminal."""
    terminal.show_counts(desk.prepared.counts)
    terminal.show_findings(desk.prepared.findings)
    terminal.show_template(desk.template)
    terminal.show_samples(desk.prepared.samples)
    terminal.show_lengths(desk.prepared.lengths)


def refuse_findings(desk: Desk) -> None:
    """Stop before anything is trained if the data must not be trained on.

    Raises:
        GateError: names what was found and the mend.
    """
    refused = [finding for finding in desk.prepared.findings if finding.severity == "refuse"]
    if refused:
        raise GateError("; ".join(f.what for f in refused), where=refused[0].where, mend=refused[0].mend)


def load_base(desk: Desk, spec: Model | None = None) -> "PreTrainedModel":
    """The recipe's model (or another of the same vocabulary), with rows for tokens that the template added."""
    from seodang.model.load import load_model

    model = load_model(spec or desk.recipe.model, desk.placement)
    if desk.template.added:
        model.resize_token_embeddings(len(desk.tokenizer))
    return model


def check_room(run: Run, desk: Desk, model: "PreTrainedModel") -> None:
    """Stop before anything is measured if the disk cannot take what training writes."""
    from seodang.train.memory import check_disk

    if not run.is_trained:
        check_disk(
            run.folder,
            desk.recipe.train,
            parameters=model.num_parameters(),
            weight_bytes=model.dtype.itemsize,
            device=model.device.type,
        )


def make_engine(desk: Desk, model: "PreTrainedModel") -> "Engine":
    """How packs run on this model, tried on a few of its own rows."""
    import numpy as np
    import torch

    from seodang.model.engine import choose_engine

    rows = next(side for side in desk.prepared.rows.values() if len(side))
    placement = desk.placement
    engine = choose_engine(
        model,
        [np.asarray(ids, dtype=np.int32) for ids in rows[:3]["input_ids"]],
        packed=placement.attention == "packed",
        compute_dtype=getattr(torch, placement.compute_dtype) if placement.compute_dtype != placement.dtype else None,
    )
    for remark in engine.remarks:
        live.show_note(remark)
    return engine


def measure(desk: Desk, model: "PreTrainedModel", engine: "Engine", name: Literal["base", "tuned"]) -> Measured:
    """Losses on every holdout, and answers to every question."""
    from seodang.model.evaluate import evaluate
    from seodang.model.generate import generate
    from seodang.prove.ask import answer, questions

    recipe, tests, tokenizer = desk.recipe, desk.prepared.tests, desk.tokenizer
    with live.counting(f"{name}: rows of the holdout", sum(map(len, tests.values()))) as advance:
        metrics = evaluate(model, engine, tests, pack_tokens=desk.pack_tokens, on_rows=advance)
    spoken = {
        source.name: tests[source.name]
        for source in recipe.sources
        if source.role != "retention" and source.name in tests
    }
    asked = questions(recipe.ask, spoken, lambda messages, tools: desk.renderer.prompt(messages, parse_tools(tools)))
    with live.counting(f"{name}: answers", len(asked)) as advance:
        answers = answer(
            asked,
            name,
            lambda prompts, settings: generate(
                model,
                tokenizer,
                [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts],
                settings,
                turn_end_id=desk.template.turn_end_id,
                on_progress=advance,
            ),
        )
    return Measured(metrics=metrics, answers=answers)


def measure_base(run: Run, desk: Desk, model: "PreTrainedModel", engine: "Engine") -> Measured:
    """The base, measured once: a resumed run reads what was found."""
    from seodang.train.choice import best_loss
    from seodang.train.trainer import evaluation_event

    if stored := record.read_base(run):
        return Measured(metrics=stored[0], answers=stored[1])
    found = measure(desk, model, engine, "base")
    loss = best_loss(desk.recipe, found.metrics)
    event = evaluation_event(found.metrics, loss(found.metrics) if loss else None, step=0, epoch=0.0)
    record.record_base(run, found.metrics, found.answers, event)
    return found


def train_model(
    run: Run, desk: Desk, model: "PreTrainedModel", engine: "Engine", callbacks: "Sequence[TrainerCallback]"
) -> None:
    """Train, and save the best model; what was trained before a kill is read instead."""
    from seodang.model.evaluate import evaluate
    from seodang.model.load import load_weights, save_model
    from seodang.train.choice import best_loss
    from seodang.train.metrics import MetricsLog
    from seodang.train.trainer import make_setup, train

    if run.is_trained:
        load_weights(model, run.model)
        return
    settings, rows, tests = desk.recipe.train, desk.prepared.rows["train"], desk.prepared.tests
    setup = make_setup(run, settings, model, engine, num_rows=len(rows), pack_tokens=desk.pack_tokens)
    for remark in setup.remarks:
        live.show_note(remark)
    with live.training(setup.total_steps) as show, MetricsLog(run) as log:
        trained = train(
            model,
            rows,
            settings,
            setup,
            measure=lambda: evaluate(model, engine, tests, pack_tokens=desk.pack_tokens),
            chosen_loss=best_loss(desk.recipe, tests),
            on_event=lambda event: show(log(event)),
            callbacks=callbacks,
        )
    if trained.stopped:
        live.show_note(f"stopped after step {trained.steps} of {setup.total_steps}; go on with --resume")
        raise KeyboardInterrupt
    run.write_json("training.json", {"best_step": trained.best_step, "best_by": settings.best_by})
    save_model(model, desk.tokenizer, run.model, turn_end_id=desk.template.turn_end_id)


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
    from seodang.prove.ask import repeat_settings
    from seodang.prove.proof import proof

    recipe = desk.recipe
    answers = [*before.answers, *after.answers]
    run.write_lines("answers.jsonl", map(asdict, answers))
    found = proof(
        name=recipe.name,
        base=base,
        tuned=tuned,
        roles={source.name: source.role for source in recipe.sources},
        before=before.metrics,
        after=after.metrics,
        answers=answers,
        training=record.training_of(run),
        temperature=repeat_settings(recipe.ask).temperature,
    )
    run.write_json("proof.json", found)


def finish(run: Run, desk: Desk, model: "PreTrainedModel", clock: Mapping[str, float]) -> None:
    """Write the report, and show the verdict and the answers."""
    from seodang.model.load import describe
    from seodang.show.report import report

    record.record_facts(run, {"model": describe(model, desk.tokenizer), "seconds": clock})
    page = report(run.folder)
    terminal.show_answers([Answer(**answer) for answer in run.read_lines("answers.jsonl")])
    terminal.show_losses(run.read_json("proof.json"))
    terminal.show_end(run.folder, page, sum(clock.values()))


@contextmanager
def phase(clock: dict[str, float], name: str) -> Iterator[None]:
    """Time one part of the line, in seconds."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        clock[name] = round(time.perf_counter() - begun, 2)
