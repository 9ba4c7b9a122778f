"""The pipeline: one recipe in; a model, its chat template and the proof of what changed out. Read this file first.

::

    recipe → read → convert → split → audit → encode → mix → pack → train → prove → report

Split comes before mix, so that repeating a source cannot leak across splits; encoding comes before mix, because shares
are shares of tokens. Stages take plain arguments; those of `prepare` return values, with what they kept, dropped and
changed in `Counts`; later ones also write the run folder and change the model in place. Findings of all
stages are gathered in `Prepared`. Rows are packed step by step while training; to prove is to measure base and tuned
model alike.

Recipe and run folder are opened first, and all that the recipe needs is looked for; what is wrong or missing is
reported at once. The other stages, and with them the heavy libraries, are imported after that. Several processes
(torchrun) run the same pipeline: `distributed` says who goes first, who writes, and what all wait for.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seodang import distributed
from seodang.errors import GateError
from seodang.json_values import json_text, to_json
from seodang.recipe import Recipe, ReportLanguage, load_recipe
from seodang.run.clock import StageClock
from seodang.run.folder import Run
from seodang.run.lock import guarded
from seodang.run.start import (
    free_folder,
    open_proof,
    open_run,
    proof_recipes,
    refuse_existing_seeds,
    refuse_other_recipes,
)
from seodang.stages import requirements

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from seodang.data.prepare import Prepared
    from seodang.proof.seeds import SeedsProof
    from seodang.stages.preflight import Inputs
    from seodang.types import Placement, ProofCost


@guarded(is_tuning=True)
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
        resume: resume a run that was stopped or killed; one that is finished is left as it is.
        callbacks: transformers' own, for what happens during training.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it; what had begun to be measured can be resumed.
        Stopped: the run was stopped by Ctrl-C, SIGTERM or SIGHUP; what it had reached is kept.
    """
    distributed.join(recipe.model.device)
    with distributed.agreed(), requirements.checked(recipe, will_train=True):
        run = open_run(out or Path("runs") / recipe.name, recipe, resume=resume)
    from seodang.stages import finish, measure, preflight, proof_cost, saved_model

    if resume and finish.is_finished(run, recipe):
        return run
    settings, four_bit, clock = recipe.train, recipe.train.is_four_bit, StageClock()
    with clock.stage("prepare"):
        with distributed.main_first():
            placement = preflight.place(recipe.model, settings, will_train=True)
            inputs = prepare(recipe, placement, folder=run.folder, is_known=resume)
        finish.check_inputs(run, recipe, inputs)  # what a run that is resumed was begun with
        saved_model.check_saved(run)
        with distributed.agreed():
            plan = preflight.plan_training(inputs, settings)
            inputs = inputs.with_findings(plan.findings)
            finish.show_inputs(run, settings, inputs, plan.memory, resume=resume)
            preflight.refuse_findings(inputs.prepared.findings)
            held_out = measure.make_evaluation_set(recipe, inputs, plan.pack_tokens)
    base, renderer = inputs.base, inputs.renderer
    with clock.stage("load"), distributed.agreed():
        model = preflight.load_base(base, renderer, seed=settings.seed, four_bit=four_bit)
        preflight.check_tensors(model, base)
        head_stays = preflight.head_stays(model, settings, recipe.save, renderer)
        proof_bytes = proof_cost.base_bytes(model, held_out, head_stays=head_stays)
        preflight.check_disk(run, settings, model, renderer, plan.optimizer, proof_bytes=proof_bytes)
        engine = preflight.make_engine(model, inputs, settings, will_train=not run.is_trained)
    finish.begin_run(run, recipe, inputs, resume=resume)
    clock.attach(run)
    known = measure.known_base(run, model, held_out, placement, four_bit=four_bit)  # by an earlier start or run
    with proof_cost.expected_run(run, held_out, base, settings, inputs.prepared.lengths, known):  # the time left
        with clock.stage("before"):
            before = measure.measure_base(run, model, engine, held_out, known, head_stays=head_stays)
        with clock.stage("train"):
            from seodang.stages.training import train_model  # brings transformers' Trainer, which takes seconds

            model = train_model(run, recipe, inputs, model, engine, held_out, plan, callbacks)
        with clock.stage("after"):
            after = measure.measure_tuned(run, model, engine, held_out)
    finish.finish_run(run, recipe, held_out, before, after, model, clock.total, tuned=str(run.model))
    return run


def prepare(
    recipe: Recipe,
    placement: "Placement",
    *,
    folder: Path | None = None,
    will_train: bool = True,
    is_known: bool = False,
) -> "Inputs":
    """Everything that comes before a model's weights.

    Args:
        folder: the run's, if there is one; will_train: whether the recipe is for training. Both for the plan alone.
        is_known: whether the plan was shown before, so that it is shown again with --verbose alone.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    from seodang.check.rendered import check_rows
    from seodang.data.prepare import mix_sources
    from seodang.show.terminal import plan_view
    from seodang.show.terminal.verbosity import is_verbose
    from seodang.stages import measure, preflight, preparation

    base = preflight.resolve_base(recipe.model, placement)
    size = base.num_parameters
    if not is_known or is_verbose():
        plan_view.show_plan(recipe, placement, num_parameters=size, folder=folder, will_train=will_train)
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
    prepared = mix_sources(encoded, recipe.mix, max_tokens=recipe.train.max_tokens)
    inputs = preflight.Inputs(base=base, renderer=renderer, prepared=prepared)
    asked = measure.all_questions(recipe.ask, recipe.sources, prepared, renderer)
    found = check_rows(prepared, renderer, num_embeddings=base.num_embeddings)
    return inputs.with_findings([*found, *preflight.check_context(base, prepared, asked)])


def init(
    files: Sequence[str | Path] = (),
    *,
    domain: Sequence[str | Path] = (),
    general: Sequence[str | Path] = (),
    retention: Sequence[str | Path] = (),
    hub: Sequence[str] = (),
    model: str | None = None,
    template: str | None = None,
    name: str | None = None,
    out: Path = Path("recipe.yaml"),
    dry_run: bool = False,
) -> Path:
    """Write a starter recipe from data files; roles that are not given are asked on a terminal, guessed elsewhere.

    Args:
        files: files, folders, archives, or patterns; hub:ID for a data set on the hub, here and where a role is given.
        hub: ids of data sets on the hub, whose role is asked or guessed.
        model: the base: a folder, a run, `package:NAME` or a hub id; by default one that fits this machine.
        template: a built-in chat template's name, a .jinja file, a folder or a hub id; by default what the model needs.
        dry_run: print the recipe, write nothing.

    Raises:
        SeodangError: a file that cannot be used, or a recipe that is there already.
    """
    from seodang.model.placement import memory_gb
    from seodang.show.terminal import console, plan_view, progress
    from seodang.starter.propose import propose, write_starter

    main, gpu = memory_gb()
    starter = propose(
        [*files, *(f"hub:{name}" for name in hub)],
        domain=domain,
        general=general,
        retention=retention,
        name=name,
        model=model,
        template=template,
        ask=console.choose if console.can_ask() else None,
        memory_gb=main,
        gpu_gb=gpu,
        out=out,
        is_dry_run=dry_run,
        counting=progress.watching,
    )
    if not dry_run:
        write_starter(starter)
    plan_view.show_starter(starter.path, starter.yaml, starter.remarks, is_written=not dry_run)
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
    with distributed.agreed(), requirements.checked(recipe):
        run = open_run(out, recipe, resume=False) if out else None
    from seodang.show.terminal import plan_view
    from seodang.stages import finish, measure, preflight, preparation
    from seodang.stages.proof_cost import show_run_cost

    with distributed.main_first():
        placement = preflight.place(recipe.model, recipe.train, will_train=False)
        inputs = prepare(recipe, placement, folder=out)
    with distributed.agreed():
        plan = preflight.plan_training(inputs, recipe.train)
        inputs = inputs.with_findings([*plan.findings, *requirements.package_findings(recipe.train)])
        preparation.show_data(inputs.prepared, inputs.renderer)
        plan_view.show_memory(plan.memory)
        held_out = measure.make_evaluation_set(recipe, inputs, plan.pack_tokens)
        show_run_cost(held_out, inputs.base, recipe.train, inputs.prepared.lengths)
    if run:
        finish.begin_run(run, recipe, inputs, has_weights=False)
    with distributed.agreed():
        preflight.refuse_findings(inputs.prepared.findings)
    return inputs.prepared


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
    language: ReportLanguage | None = None,
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
        language: of the report; by default what the recipe wants.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    recipes = proof_recipes(
        tuned, against=against, recipe=recipe, trust_remote_code=trust_remote_code, language=language
    )
    wanted, trained, clock = recipes.wanted, recipes.trained, StageClock()
    distributed.join(wanted.model.device)
    with distributed.agreed(), requirements.checked(recipes.of_tuned, base=recipes.base):
        run = open_proof(recipes, out)
    from seodang.stages import finish, measure, preflight
    from seodang.stages.proof_inputs import proof_inputs

    finish.check_files(run)
    with clock.stage("prepare"):
        ours, theirs = proof_inputs(recipes, partial(prepare, folder=run.folder, will_train=False), is_quick=is_quick)
    placement = ours.base.placement
    if trained and recipe is None:
        finish.check_inputs(trained, wanted, ours, has_base=against is None, of_rows=False)
    if run is not trained:
        finish.begin_run(run, wanted, ours, resume=run.exists)
    with clock.stage("base"):  # one model in memory at a time
        loaded = preflight.load_measured(theirs, recipes.base, wanted.train)
        known = measure.known_base(run, loaded[0], theirs.held_out, placement, use_cache=use_cache)
        before = measure.measure_base(run, *loaded, theirs.held_out, known, will_train=False, use_cache=use_cache)
        del loaded
    with clock.stage("tuned"):
        tuned_path = recipes.of_tuned.model.path
        model, engine = preflight.load_measured(ours, tuned_path, wanted.train)
        after = measure.measure_tuned(run, model, engine, ours.held_out)
    finish.finish_run(
        run, wanted, ours.held_out, before, after, model, clock.total,
        base=recipes.base, tuned=tuned_path, of_base=None if ours is theirs else theirs.held_out,
    )  # fmt: skip
    return run


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
    recipes = proof_recipes(tuned, against=against, recipe=recipe, trust_remote_code=trust_remote_code)
    distributed.join(recipes.wanted.model.device)
    with distributed.agreed(), requirements.checked(recipes.of_tuned, base=recipes.base):
        pass
    from seodang.show.terminal import plan_view
    from seodang.stages.measure import known_without_weights
    from seodang.stages.proof_cost import proof_cost
    from seodang.stages.proof_inputs import proof_inputs

    ours, theirs = proof_inputs(recipes, partial(prepare, will_train=False), is_quick=is_quick)
    known = None
    if recipes.trained and against is None and ours is theirs:
        known = known_without_weights(recipes.trained, ours.held_out, ours.base.placement)
    cost = proof_cost(ours.held_out, ours.base, known)
    plan_view.show_cost(cost)
    return cost


def tune_seeds(recipe: Recipe, seeds: int, *, out: Path | None = None, resume: bool = False) -> "SeedsProof":
    """Tune the recipe several times, as NAME-s1, NAME-s2 …: seeds of training and mix differ, the split never does.

    Args:
        seeds: how many.
        out: the runs' folders without `-s1`; by default runs/NAME.
        resume: resume runs that were stopped; those that are finished are left as they are.

    Raises:
        SeodangError: the user's mistake, with a hint on how to fix it.
    """
    folder = out or Path("runs") / recipe.name
    runs = [folder.with_name(f"{folder.name}-s{number}") for number in range(1, seeds + 1)]
    distributed.join(recipe.model.device)
    with distributed.agreed():
        if not resume:
            refuse_existing_seeds(runs)
    for number, run in enumerate(runs):
        train = recipe.train.model_copy(update={"seed": recipe.train.seed + number})
        mix = recipe.mix.model_copy(update={"seed": recipe.mix.seed + number})
        name = f"{recipe.name}-s{number + 1}"
        one = recipe.model_copy(update={"name": name, "train": train, "mix": mix})
        tune(one, out=run, resume=resume and Run(folder=run).exists)
    return prove_seeds(runs)


def prove_seeds(runs: Sequence[Path]) -> "SeedsProof":
    """What several runs of one recipe show together, from the proofs that they hold. Measures nothing.

    Raises:
        RunError: a run has no proof, is of another recipe than the first, or was measured otherwise.
    """
    from seodang.proof.proof import proof_of_run
    from seodang.proof.seeds import compare_seeds
    from seodang.show.terminal import proof_view

    refuse_other_recipes([Run(folder=run) for run in runs])
    found = compare_seeds({run: proof_of_run(Run(folder=run)) for run in runs})
    proof_view.show_seeds(found)
    return found


def hold_gate(found: "Run | SeedsProof") -> None:
    """Stop where a proof does not show what a gate asks for, or, of several runs, that of any of them.

    Raises:
        GateError: the domain did not improve, or something was lost beyond its tolerance.
    """
    from seodang.proof.proof import proof_of_run
    from seodang.proof.verdict import gate_failures

    with distributed.agreed():
        if distributed.is_main():
            runs = [found] if isinstance(found, Run) else [Run(folder=Path(run)) for run in found.runs]
            failures = [
                failure if len(runs) == 1 else f"{run.folder.name}: {failure}"
                for run in runs
                for failure in gate_failures(proof_of_run(run).verdict)
            ]
            if failures:
                raise GateError("; ".join(failures), where="the gate", hint="the report shows by how much")


def proof_as_json(found: "Run | SeedsProof") -> str:
    """A run's proof, or that of several runs, as JSON text."""
    from seodang.proof.proof import proof_of_run

    return json_text(to_json(proof_of_run(found) if isinstance(found, Run) else found), where="proof", indent=1)


QUICK_DEMO = (  # a whole report in two minutes on 2 CPU cores; what so few rows and steps show is little
    *("name=demo-quick", "prove.quick=true", "train.steps=3", "train.eval_every=3", "train.max_tokens=256"),
    *("sources.medical.holdout=10", "sources.general.holdout=6", "sources.text.holdout=8"),
    *("ask.holdout=2", "ask.holdout_tokens=32", "ask.repeat.times=2", "ask.generate.max_new_tokens=32"),
)


def demo(overrides: Sequence[str] = (), *, out: Path | None = None, is_quick: bool = False) -> Run:
    """The shipped demo; each call gets a run folder of its own.

    Args:
        overrides: `KEY=VALUE` pairs, as `load_recipe` takes them.
        is_quick: fewer rows, steps and questions.
    """
    recipe = load_recipe("demo", (*(QUICK_DEMO if is_quick else ()), *overrides))
    folder = out or free_folder(Path("runs") / recipe.name)
    if is_quick:
        from seodang.show.terminal.console import show_note

        show_note("quick: few rows, questions and steps, enough to see what a report holds; in full: seodang demo")
    return tune(recipe, out=folder)
