"""The line: one recipe in; a model, its chat template and the evidence of what changed out. Read this file first.

::

    recipe → sources → convert → split → audit → render → mask → mix → pack → train → prove → report

Split comes before mix, so that repeating a source cannot leak across splits; rendering comes before mix, because
shares are shares of tokens. Each step hands back what it kept, dropped and changed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seodang.check.findings import findings
from seodang.data.prepare import Prepared, gather, prepare
from seodang.data.render import Renderer, parse_tools
from seodang.data.template import ChatTemplate, apply_template, find_template
from seodang.errors import GateError, RunError
from seodang.recipe import Ask, Model, Recipe, Template, load_recipe
from seodang.show import live, record, terminal
from seodang.train.run import Run, begin, open_run
from seodang.types import Answer, Metric

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from seodang.model.engine import Engine
    from seodang.model.load import Placement
    from seodang.proof.ask import Question


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

    @property
    def is_four_bit(self) -> bool:
        adapter = self.recipe.train.adapter
        return adapter is not None and adapter.kind == "qlora"

    @property
    def new_tokens(self) -> list[int]:
        """Ids of markers that the base may never have seen: an adapter trains their embeddings too."""
        ids = [id for _, id in self.template.markers if id != self.tokenizer.bos_token_id]
        return ids if self.template.is_new else []


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
        refuse_adapter(recipe)
        desk = set_up(recipe)
        show_data(desk)
        refuse_findings(desk)
    with phase(clock, "load"):
        model = load_base(desk, four_bit=desk.is_four_bit)
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


def init(
    files: Sequence[str | Path] = (),
    *,
    domain: Sequence[str | Path] = (),
    general: Sequence[str | Path] = (),
    retention: Sequence[str | Path] = (),
    name: str | None = None,
    out: Path = Path("recipe.yaml"),
) -> Path:
    """Write a starter recipe from data files; roles that are not said are asked on a terminal, guessed elsewhere.

    Raises:
        SeodangError: a file that cannot be used, or a recipe that is there already.
    """
    from seodang.check.starter import propose, write_starter
    from seodang.model.placement import memory_gb

    main, gpu = memory_gb()
    starter = propose(
        [str(path) for path in (*files, *domain, *general, *retention)],
        domain=[str(path) for path in domain],
        general=[str(path) for path in general],
        retention=[str(path) for path in retention],
        name=name,
        ask=terminal.choose if terminal.can_ask() else None,
        memory_gb=main,
        gpu_gb=gpu,
        out=out,
    )
    written = write_starter(starter)
    terminal.show_starter(written, starter.yaml, starter.remarks)
    return written


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
    import datasets

    from seodang.model.load import choose_placement, load_config, load_tokenizer
    from seodang.train.choice import pack_tokens

    placement = choose_placement(recipe.model, frozen=recipe.train.adapter is not None)
    terminal.show_plan(recipe, placement)
    spec = recipe.model
    num_embeddings = load_config(spec).get_text_config().vocab_size
    datasets.disable_progress_bars()  # what is being done is shown by `live`
    tokenizer = load_tokenizer(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    gathered = gather(recipe)
    template = find_template(
        tokenizer,
        recipe.template,
        num_embeddings=num_embeddings,
        load_tokenizer=load_tokenizer,
        system=recipe.system,
        thinking=gathered.has_thinking,
    )
    apply_template(tokenizer, template)
    renderer = Renderer(tokenizer, template, recipe.system, recipe.train.loss_on)
    with live.counting("rows rendered, tokenised and masked", gathered.num_rows) as advance:
        prepared = prepare(recipe, gathered, renderer, on_rows=advance)
    found = findings(prepared, renderer, num_embeddings=num_embeddings)
    return Desk(
        recipe=recipe,
        placement=placement,
        tokenizer=tokenizer,
        template=template,
        renderer=renderer,
        prepared=replace(prepared, findings=(*prepared.findings, *found)),
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


def refuse_adapter(recipe: Recipe) -> None:
    """Stop before anything is prepared if the recipe's adapter cannot be trained here.

    Raises:
        ResourceError: a package or the hardware is missing.
    """
    if recipe.train.adapter:
        from seodang.model.load import choose_placement
        from seodang.train.adapter import check_adapter

        check_adapter(recipe.train.adapter, choose_placement(recipe.model).device)


def load_base(desk: Desk, spec: Model | None = None, *, four_bit: bool = False) -> "PreTrainedModel":
    """The recipe's model (or another of the same vocabulary), with rows for tokens that the template added."""
    import torch

    from seodang.model.load import load_model
    from seodang.model.quiet import quiet

    model = load_model(spec or desk.recipe.model, desk.placement, four_bit=four_bit)
    if four_bit:
        live.show_note("the base is measured in 4 bits, as it is trained beside; `seodang prove` takes it whole")
    if desk.template.added:
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(desk.recipe.train.seed)  # of the new rows, drawn around the old ones' mean
            model.resize_token_embeddings(len(desk.tokenizer))
    return model


def check_room(run: Run, desk: Desk, model: "PreTrainedModel") -> None:
    """Stop before anything is measured if the disk cannot take what training writes."""
    from seodang.train.adapter import num_adapter_parameters
    from seodang.train.memory import check_disk

    adapter = desk.recipe.train.adapter
    if not run.is_trained:
        check_disk(
            run.folder,
            desk.recipe.train,
            parameters=model.num_parameters(),
            weight_bytes=model.dtype.itemsize,
            device=model.device.type,
            adapter_parameters=num_adapter_parameters(model, adapter, desk.new_tokens) if adapter else None,
        )


def make_engine(desk: Desk, model: "PreTrainedModel") -> "Engine":
    """How packs run on this model, tried on a few of its own rows."""
    import numpy as np
    import torch

    from seodang.model.engine import choose_engine

    rows = next(side for side in desk.prepared.rows.values() if len(side))
    placement = desk.placement
    trained_dtype = "float32" if desk.recipe.train.adapter else placement.dtype  # an adapter's own, beside any weights
    engine = choose_engine(
        model,
        [np.asarray(ids, dtype=np.int32) for ids in rows[:3]["input_ids"]],
        packed=placement.attention == "packed",
        compute_dtype=getattr(torch, placement.compute_dtype) if placement.compute_dtype != trained_dtype else None,
    )
    for remark in engine.remarks:
        live.show_note(remark)
    return engine


def measure(desk: Desk, model: "PreTrainedModel", engine: "Engine", name: Literal["base", "tuned"]) -> Measured:
    """Losses on every holdout, and answers to every question."""
    from seodang.model.evaluate import evaluate

    recipe, tests = desk.recipe, desk.prepared.tests
    with live.counting(f"{name}: rows of the holdout", sum(map(len, tests.values()))) as advance:
        metrics = evaluate(model, engine, tests, pack_tokens=desk.pack_tokens, on_rows=advance)
    spoken = {
        source.name: tests[source.name]
        for source in recipe.sources
        if source.role != "retention" and source.name in tests
    }
    asked = questions_of(desk, recipe.ask, spoken)
    with live.counting(f"{name}: answers", len(asked)) as advance:
        answers = answers_of(desk, model, name, asked, on_progress=advance)
    return Measured(metrics=metrics, answers=answers)


def questions_of(desk: Desk, ask: Ask, tests: "Mapping[str, Dataset]") -> "list[Question]":
    """What is to be asked, rendered as it is served."""
    from seodang.proof.ask import questions

    return questions(ask, tests, lambda messages, tools: desk.renderer.prompt(messages, parse_tools(tools)))


def answers_of(
    desk: Desk,
    model: "PreTrainedModel",
    name: Literal["base", "tuned"],
    asked: "Sequence[Question]",
    on_progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """One model's answers, in the order of the questions."""
    from seodang.model.generate import generate
    from seodang.proof.ask import answer

    tokenizer = desk.tokenizer
    return answer(
        asked,
        name,
        lambda prompts, settings: generate(
            model,
            tokenizer,
            [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts],
            settings,
            turn_end_id=desk.template.turn_end_id,
            on_progress=on_progress,
        ),
    )


def measure_base(run: Run, desk: Desk, model: "PreTrainedModel", engine: "Engine") -> Measured:
    """The base, measured once: a resumed run reads what was found."""
    from seodang.train.choice import best_loss
    from seodang.train.metrics import evaluation_event

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
    from seodang.train.adapter import add_adapter
    from seodang.train.asking import Asking
    from seodang.train.choice import best_loss
    from seodang.train.metrics import Event, MetricsLog
    from seodang.train.trainer import make_setup, train

    if run.is_trained:
        load_tuned(run, desk, model)
        return
    settings, rows, tests = desk.recipe.train, desk.prepared.rows["train"], desk.prepared.tests
    adapter = settings.adapter
    trainee = add_adapter(model, adapter, desk.new_tokens, seed=settings.seed) if adapter else model
    setup = make_setup(run, settings, trainee, engine, num_rows=len(rows), pack_tokens=desk.pack_tokens)
    for remark in setup.remarks:
        live.show_note(remark)
    with live.training(setup.total_steps) as show, MetricsLog(run) as log:

        def tell(event: Event) -> None:
            show(log(event))

        asking = [Asking(settings.ask_every, ask_again(desk, model), tell)] if settings.ask_every else []
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
        live.show_note(f"stopped after step {trained.steps} of {setup.total_steps}; go on with --resume")
        raise KeyboardInterrupt
    run.write_json("training.json", {"best_step": trained.best_step, "best_by": settings.best_by})
    save_tuned(run, desk, trainee)


def ask_again(desk: Desk, model: "PreTrainedModel") -> Callable[[], list[dict[str, Any]]]:
    """What answers the domain and general questions amid training, each with the model as it is then."""
    asked = questions_of(desk, desk.recipe.ask.model_copy(update={"repeat": None, "holdout": 0}), {})
    keys = ("kind", "question", "text", "stopped")
    return lambda: [{key: getattr(said, key) for key in keys} for said in answers_of(desk, model, "tuned", asked)]


def save_tuned(run: Run, desk: Desk, trainee: "PreTrainedModel | PeftModel") -> None:
    """The tuned model as plain weights, and an adapter by itself too."""
    from seodang.model.load import save_model
    from seodang.train.adapter import merge, save_adapter

    if desk.recipe.train.adapter:
        save_adapter(trainee, run.adapter)
        trainee = merge(trainee, run.adapter)
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
    from seodang.proof.ask import repeat_settings
    from seodang.proof.proof import proof

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
