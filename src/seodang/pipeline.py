"""The pipeline: one recipe in; a model, its chat template and the proof of what changed out. Read this file first.

::

    recipe → read → convert → split → audit → encode → mix → pack → train → prove → report

Split comes before mix, so that repeating a source cannot leak across splits; encoding comes before mix, because shares
are shares of tokens. Stages take plain arguments; those of `prepare` return values, with what they kept, dropped and
changed in `Counts`; later ones also write the run folder and change the model in place. Findings are gathered here, in
one list. Rows are packed step by step while training; to prove is to measure base and tuned model alike.

Recipe and run folder are opened first, and mistakes in them reported at once; the stages, and with them the heavy
libraries, are imported after that. Several processes (torchrun) run the same pipeline: `distributed` says who goes
first, who writes, and what all wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seodang import distributed
from seodang.errors import GateError, RunError
from seodang.json_values import json_text, to_json
from seodang.recipe import Recipe, Template, load_recipe
from seodang.run.clock import StageClock
from seodang.run.folder import Run
from seodang.run.lock import acquire, guarded
from seodang.run.sealed import refuse_unsaved
from seodang.run.start import open_run
from seodang.types import Finding

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from seodang.data.prepare import Prepared
    from seodang.data.template.renderer import Renderer
    from seodang.proof.seeds import SeedsProof
    from seodang.stages.measure import EvaluationSet
    from seodang.stages.preflight import Base
    from seodang.types import Placement, ProofCost


@guarded()
def tune(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    callbacks: "Sequence[TrainerCallback]" = (),
) -> Run:
    """Run the whole pipeline: prepare, measure the base, train, measure the tuned model, report.

    Args:
        out: the run's folder; by default runs/NAME.
        resume: resume a run that was stopped or killed.
        callbacks: transformers' own, for what happens during training.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it; what had begun to be measured can be resumed.
        KeyboardInterrupt: the run was stopped by Ctrl-C, SIGTERM or SIGHUP; what it had reached is saved.
    """
    distributed.join(recipe.model.device)
    with distributed.agreed():
        run = open_run(out or Path("runs") / recipe.name, recipe, resume=resume)
    from seodang.show import tables
    from seodang.stages import finish, measure, preflight, saved_model
    from seodang.stages.proof_cost import proof_cost

    settings, clock = recipe.train, StageClock()
    with clock.stage("prepare"):
        with distributed.main_first():
            placement = preflight.place(recipe.model, settings.adapter, will_train=True)
            base, renderer, prepared, findings = prepare(recipe, placement)
        if resume:
            finish.check_inputs(run, recipe, placement, renderer, prepared)
            saved_model.check_saved(run)
        with distributed.agreed():
            plan = preflight.plan_training(base, settings, renderer, prepared.rows["train"])
            findings += plan.findings
            show_data(prepared, findings, renderer)
            preflight.refuse_findings(findings)
            tables.show_memory(plan.memory, as_table=False)
    with clock.stage("load"), distributed.agreed():
        model = preflight.load_base(base, renderer, seed=settings.seed, four_bit=settings.is_four_bit)
        preflight.check_tensors(model, base)
        preflight.check_disk(run, settings, model, renderer, plan.optimizer)
        engine = preflight.make_engine(model, base, settings, prepared, will_train=not run.is_trained)
    finish.begin_run(run, recipe, placement, renderer, prepared, findings, resume=resume)
    clock.attach(run)
    held_out = measure.make_evaluation_set(recipe, prepared, renderer, plan.pack_tokens)
    tables.show_cost(proof_cost(held_out, base))
    with clock.stage("before"):
        before = measure.measure_base(run, model, engine, held_out, placement, four_bit=settings.is_four_bit)
    with clock.stage("train"):
        from seodang.stages.training import train_model  # brings transformers' Trainer, which takes seconds

        rows, ask = prepared.rows["train"], recipe.ask
        model = train_model(run, base, model, engine, rows, held_out, settings, plan, ask, recipe.save, callbacks)
    with clock.stage("after"):
        after = measure.measure_tuned(run, model, engine, held_out)
    finish.finish_run(run, recipe, held_out, before, after, model, clock.total, tuned=str(run.model))
    return run


def prepare(recipe: Recipe, placement: "Placement") -> "tuple[Base, Renderer, Prepared, list[Finding]]":
    """Everything that comes before a model's weights: the base, what renders its rows, the rows, and what was found.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    from seodang.show import tables
    from seodang.stages import measure, preflight, preparation

    tables.show_plan(recipe, placement)
    base = preflight.resolve_base(recipe.model, placement)
    row_cache = preparation.open_row_cache()
    sources = preparation.read_sources(recipe.sources, recipe.split, row_cache)  # read → convert → split → audit
    renderer = preparation.make_renderer(
        base.tokenizer,
        recipe.template,
        num_embeddings=base.num_embeddings,
        has_thinking=sources.has_thinking,
        system=recipe.system,
        loss_on=recipe.train.loss_on,
    )
    encoded = preparation.encode(sources, renderer, recipe.train, row_cache)
    prepared = preparation.mix_sources(encoded, recipe.mix, max_tokens=recipe.train.max_tokens)
    findings = [*encoded.findings, *preparation.check_rows(prepared, renderer, num_embeddings=base.num_embeddings)]
    asked = measure.all_questions(recipe.ask, recipe.sources, prepared, renderer)
    findings += preflight.check_context(base, prepared, asked)
    return base, renderer, prepared, findings


def show_data(prepared: "Prepared", findings: Sequence[Finding], renderer: "Renderer") -> None:
    """Everything that is known of the rows, in the terminal."""
    from seodang.show import tables

    tables.show_counts(prepared.counts)
    tables.show_findings(findings)
    tables.show_template(renderer.template)
    tables.show_samples(prepared.samples)
    tables.show_lengths(prepared.lengths)


def init(
    files: Sequence[str | Path] = (),
    *,
    domain: Sequence[str | Path] = (),
    general: Sequence[str | Path] = (),
    retention: Sequence[str | Path] = (),
    model: str | None = None,
    name: str | None = None,
    out: Path = Path("recipe.yaml"),
    dry_run: bool = False,
) -> Path:
    """Write a starter recipe from data files; roles that are not given are asked on a terminal, guessed elsewhere.

    Args:
        files: files, folders, archives, or patterns.
        model: the base: a folder, a run, `package:NAME` or a hub id; by default one that fits this machine.
        dry_run: print the recipe, write nothing.

    Raises:
        SeodangError: a file that cannot be used, or a recipe that is there already.
    """
    from seodang.model.placement import memory_gb
    from seodang.show import console, tables
    from seodang.starter.propose import propose, write_starter

    main, gpu = memory_gb()
    starter = propose(
        files,
        domain=domain,
        general=general,
        retention=retention,
        name=name,
        model=model,
        ask=console.choose if console.can_ask() else None,
        memory_gb=main,
        gpu_gb=gpu,
        out=out,
        is_dry_run=dry_run,
        counting=console.watching,
    )
    if not dry_run:
        write_starter(starter)
    tables.show_starter(starter.path, starter.yaml, starter.remarks, is_written=not dry_run)
    return starter.path


@guarded()
def inspect(recipe: Recipe, *, out: Path | None = None) -> "Prepared":
    """Everything that can be known before training; no weights are loaded.

    Args:
        out: a folder for the same files that a run would hold; none: print only.

    Raises:
        GateError: something in the data must not be trained on.
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    distributed.join(recipe.model.device)
    with distributed.agreed():
        run = open_run(out, recipe, resume=False) if out else None
    from seodang.show import tables
    from seodang.stages import finish, measure, preflight
    from seodang.stages.proof_cost import proof_cost

    with distributed.main_first():
        placement = preflight.place(recipe.model, recipe.train.adapter, will_train=False)
        base, renderer, prepared, findings = prepare(recipe, placement)
    with distributed.agreed():
        plan = preflight.plan_training(base, recipe.train, renderer, prepared.rows["train"])
        findings += plan.findings
        show_data(prepared, findings, renderer)
        tables.show_memory(plan.memory)
        held_out = measure.make_evaluation_set(recipe, prepared, renderer, plan.pack_tokens)
        tables.show_cost(proof_cost(held_out, base))
    if run:
        finish.begin_run(run, recipe, placement, renderer, prepared, findings, has_weights=False)
    with distributed.agreed():
        preflight.refuse_findings(findings)
    return replace(prepared, findings=tuple(findings))


@guarded()
def prove(
    tuned: str | Path,
    *,
    against: str | None = None,
    recipe: str | Path | None = None,
    out: Path | None = None,
    trust_remote_code: bool = False,
    use_cache: bool = True,
    is_quick: bool = False,
) -> Run:
    """Measure a model against its base, with the tuned model's own template.

    Args:
        tuned: a run's folder, or a model (folder, hub id, package).
        against: the base; by default the one the recipe names.
        recipe: what to measure; by default the run's own.
        out: where to write; by default the run's folder, or runs/NAME-proof for a model.
        trust_remote_code: run Python code that comes with the model; what the run's own recipe says is ignored.
        use_cache: take what the base measured in an earlier run under the same settings.
        is_quick: measure fewer rows, and ask fewer questions.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    wanted, asked, trained = _proof_recipes(tuned, recipe, trust_remote_code=trust_remote_code)
    base_path = against or wanted.model.path
    distributed.join(asked.model.device)
    with distributed.agreed():
        folder = out or Path("runs") / f"{wanted.name}-proof"
        run = trained if trained and not out else open_run(folder, wanted, resume=False)
        if run is trained and distributed.is_main():
            acquire(run)
    from seodang.stages import finish, measure, preflight

    clock = StageClock()
    with clock.stage("prepare"):
        ours, theirs = _prepare_proof(wanted, asked, base_path, is_quick=is_quick)
    placement, renderer, prepared = ours.base.placement, ours.held_out.renderer, ours.prepared
    if trained and recipe is None:
        finish.check_inputs(trained, wanted, placement, renderer, prepared, has_base=against is None, of_rows=False)
    if run is not trained:
        finish.begin_run(run, wanted, placement, renderer, prepared, ours.findings)
    with clock.stage("base"):  # one model in memory at a time
        loaded = preflight.load_measured(
            theirs.base, base_path, theirs.held_out.renderer, theirs.prepared, wanted.train
        )
        before = measure.measure_base(run, *loaded, theirs.held_out, placement, will_train=False, use_cache=use_cache)
        del loaded
    with clock.stage("tuned"):
        model, engine = preflight.load_measured(ours.base, asked.model.path, renderer, prepared, wanted.train)
        after = measure.measure_tuned(run, model, engine, ours.held_out, has_same_tokenizer=ours is theirs)
    finish.finish_run(
        run, wanted, ours.held_out, before, after, model, clock.total,
        base=base_path, tuned=asked.model.path, of_base=None if ours is theirs else theirs.held_out,
    )  # fmt: skip
    return run


@dataclass(frozen=True, kw_only=True)
class _ProofInputs:
    """What a model is measured with: the same value for both models where their tokenizers are the same."""

    base: "Base"
    prepared: "Prepared"
    findings: "Sequence[Finding]"
    held_out: "EvaluationSet"


def plan_proof(
    tuned: str | Path,
    *,
    against: str | None = None,
    recipe: str | Path | None = None,
    trust_remote_code: bool = False,
    is_quick: bool = False,
) -> "ProofCost":
    """What `prove` with the same arguments would read and write, and about how long it would take. Loads no weights.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    wanted, asked, _ = _proof_recipes(tuned, recipe, trust_remote_code=trust_remote_code)
    distributed.join(asked.model.device)
    from seodang.show import tables
    from seodang.stages.proof_cost import proof_cost

    ours, _ = _prepare_proof(wanted, asked, against or wanted.model.path, is_quick=is_quick)
    cost = proof_cost(ours.held_out, ours.base)
    tables.show_cost(cost)
    return cost


def _prepare_proof(
    wanted: Recipe, asked: Recipe, base_path: str, *, is_quick: bool
) -> tuple[_ProofInputs, _ProofInputs]:
    """Inputs of the tuned model and of the base. A base with another tokenizer is asked in its own template."""
    from seodang.show import console
    from seodang.stages import preflight

    ours = _prepare_inputs(wanted, asked, base_path, is_quick=is_quick)
    if preflight.reads_alike(ours.base, base_path, ours.prepared):
        return ours, ours
    console.show_note("base and tuned model have different tokenizers: each is measured with its own")
    model = asked.model.model_copy(update={"path": base_path})
    return ours, _prepare_inputs(wanted, asked.model_copy(update={"model": model}), base_path, is_quick=is_quick)


def _prepare_inputs(wanted: Recipe, asked: Recipe, base_path: str, *, is_quick: bool) -> _ProofInputs:
    """A model without its weights, the rows as its template renders them, and what is measured on them."""
    from seodang.stages import measure, preflight
    from seodang.train.setup import pack_tokens

    with distributed.main_first():
        placement = preflight.place(asked.model, wanted.train.adapter, will_train=False)
        base, renderer, prepared, findings = prepare(asked, placement)
        show_data(prepared, findings, renderer)
    held_out = measure.make_evaluation_set(
        wanted,
        prepared,
        renderer,
        pack_tokens(wanted.train, placement.device),
        has_trained_template=preflight.has_template(asked.model, base_path),
        is_quick=is_quick,
    )
    return _ProofInputs(base=base, prepared=prepared, findings=findings, held_out=held_out)


def _proof_recipes(
    tuned: str | Path, recipe: str | Path | None, *, trust_remote_code: bool
) -> tuple[Recipe, Recipe, Run | None]:
    """(what to measure, the same with the tuned model and its own template, the run if `tuned` is its folder)."""
    trained = Run(folder=Path(tuned))
    is_run = trained.exists
    if is_run:
        refuse_unsaved(trained)
    if not is_run and recipe is None:
        raise RunError(
            "no run's folder, and no recipe says what to measure a model on",
            where=str(tuned),
            hint="give a run's folder such as runs/NAME, or a recipe by --recipe",
        )
    wanted = load_recipe(recipe) if recipe else trained.trusted_recipe(trust_remote_code=trust_remote_code)
    model = wanted.model.model_copy(update={"path": str(trained.model if is_run else tuned)})
    template = wanted.template if is_run and not trained.has_template else Template()
    asked = wanted.model_copy(update={"model": model, "template": template})
    return wanted, asked, trained if is_run else None


def tune_seeds(recipe: Recipe, seeds: int, *, out: Path | None = None, resume: bool = False) -> "SeedsProof":
    """Tune the recipe several times, as NAME-s1, NAME-s2 …: seeds of training and mix differ, the split never does.

    Args:
        seeds: how many.
        out: the runs' folders without `-s1`; by default runs/NAME.
        resume: resume runs that were stopped; those that are proven stay as they are.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    folder, runs = out or Path("runs") / recipe.name, []
    for number in range(seeds):
        train = recipe.train.model_copy(update={"seed": recipe.train.seed + number})
        mix = recipe.mix.model_copy(update={"seed": recipe.mix.seed + number})
        name = f"{recipe.name}-s{number + 1}"
        one = recipe.model_copy(update={"name": name, "train": train, "mix": mix})
        run = Run(folder=folder.with_name(f"{folder.name}-s{number + 1}"))
        if not (resume and run.is_proven):
            tune(one, out=run.folder, resume=resume and run.exists)
        runs.append(run.folder)
    return prove_seeds(runs)


def prove_seeds(runs: Sequence[Path]) -> "SeedsProof":
    """What several runs of one recipe show together, from the proofs that they hold. Measures nothing.

    Raises:
        RunError: a run has no proof, or was measured otherwise than the first.
    """
    from seodang.proof.proof import proof_of_run
    from seodang.proof.seeds import compare_seeds
    from seodang.show import tables

    found = compare_seeds({run: proof_of_run(Run(folder=run)) for run in runs})
    tables.show_seeds(found)
    return found


def hold_gate(found: "Run | SeedsProof") -> None:
    """Stop where a proof does not show what a gate asks for.

    Raises:
        GateError: the domain did not improve, or something was lost beyond its tolerance.
    """
    from seodang.proof.proof import proof_of_run
    from seodang.proof.verdict import gate_failures

    with distributed.agreed():
        if distributed.is_main():
            shown = proof_of_run(found).verdict if isinstance(found, Run) else found
            if failures := gate_failures(shown.domain, shown.general, shown.retention):
                raise GateError("; ".join(failures), where="the gate", hint="the report shows by how much")


def proof_as_json(found: "Run | SeedsProof") -> str:
    """A run's proof, or that of several runs, as JSON text."""
    from seodang.proof.proof import proof_of_run

    return json_text(to_json(proof_of_run(found) if isinstance(found, Run) else found), where="proof", indent=1)


def demo(*, out: Path | None = None) -> Run:
    """The shipped demo; each call gets a run folder of its own."""
    recipe = load_recipe("demo")
    folder, number = out or Path("runs") / recipe.name, 2
    while out is None and folder.exists():
        folder, number = Path("runs") / f"{recipe.name}-{number}", number + 1
    return tune(recipe, out=folder)
