"""The run folder's first and last files: what is known before training, and the proof and the report at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from seodang import distributed
from seodang.errors import RunError, SeodangError
from seodang.json_values import from_json, json_text, to_json
from seodang.judge.of_run import judgement_of, with_judgement
from seodang.model.load import weight_files, weights_are_here
from seodang.model.save import describe
from seodang.proof.divergence import HiddenStates
from seodang.proof.measured_rows import write_rows
from seodang.proof.proof import Compared, Training, proof_of_run, prove_rows, turned_at
from seodang.proof.questions import repeat_settings
from seodang.recipe import Recipe, Train
from seodang.run import evidence, record
from seodang.run.events import evaluations
from seodang.run.folder import PROOF, TRAINING, Run
from seodang.run.inputs import make_manifest
from seodang.run.manifest import Manifest, changed_inputs, changed_surroundings, resumed
from seodang.run.sealed import is_sealed, model_damage
from seodang.run.start import create
from seodang.show.report import in_english, report
from seodang.show.terminal import console, plan_view, progress, proof_view
from seodang.show.terminal.verbosity import is_verbose
from seodang.stages.measure import EvaluationSet, Measured, rows_in_common, rows_of
from seodang.stages.preflight import Inputs
from seodang.stages.preparation import show_data
from seodang.train.resources import MemoryPlan
from seodang.train.setup import total_steps
from seodang.user_paths import path_argument, shown_path


def begin_run(
    run: Run,
    recipe: Recipe,
    inputs: Inputs,
    *,
    has_weights: bool = True,
    resume: bool = False,
) -> None:
    """Make the run's folder, and write down what is known before training; a resumed run is compared first.

    Args:
        has_weights: whether the base's weights are on this machine, to be hashed.

    Raises:
        RunError: the folder cannot be written; or the run that is resumed was begun with other inputs.
    """
    with distributed.agreed():
        if distributed.is_main():
            files = weight_files(recipe.model) if has_weights else None
            manifest = _manifest(recipe, inputs, files)
            if resume:
                manifest = _compared(run, manifest)
            create(run, recipe, resume=resume)
            record.record_data(run, inputs.prepared)
            record.write_manifest(run, manifest)
    with distributed.agreed():
        distributed.wait_for(run.manifest_file)


def _manifest(recipe: Recipe, inputs: Inputs, base_files: Sequence[Path] | None) -> Manifest:
    return make_manifest(recipe, inputs.base.placement, inputs.renderer.template, inputs.prepared, base_files)


def _compared(run: Run, now: Manifest) -> Manifest:
    """The manifest of a run that is resumed."""
    before = evidence.read_manifest(run)
    if before is None:
        if run.has_begun:
            console.show_note(
                f"{shown_path(run.manifest_file)} is missing: what the run was begun with cannot be compared"
            )
        return now
    refuse_other_inputs(run, before, now)
    if others := changed_surroundings(before, now):
        console.show_note(f"resumed with {', '.join(others)}: the result may differ from an unbroken run's")
    return resumed(before, now)


def refuse_other_inputs(run: Run, before: Manifest, now: Manifest, *, of_rows: bool = True) -> None:
    """Stop if what the weights depend on has changed since the run was begun.

    Args:
        of_rows: whether encoded rows and template have to be the same; else only which rows are held out.

    Raises:
        RunError: names what changed since the run was begun.
    """
    if changed := changed_inputs(before, now, of_rows=of_rows):
        raise RunError(
            f"changed since this run was begun: {', '.join(changed)}",
            where=str(run.folder),
            hint="put it back as it was, or start a new run with --out",
        )


def check_inputs(
    run: Run,
    recipe: Recipe,
    inputs: Inputs,
    *,
    has_base: bool = True,
    of_rows: bool = True,
) -> None:
    """Stop before any weights are loaded if a run's inputs changed since it was begun.

    Measured on other rows than it held out, it might be measured on some that it was trained on.

    Args:
        has_base: whether its own base is used. One that has to be fetched first is compared by `begin_run`.
        of_rows: whether encoded rows and template have to be the same; else only which rows are held out.

    Raises:
        RunError: names what changed since the run was begun.
    """
    with distributed.agreed():
        before = evidence.read_manifest(run) if distributed.is_main() else None
        if before:
            files = weight_files(recipe.model) if has_base and weights_are_here(recipe.model) else None
            now = _manifest(recipe, inputs, files)
            refuse_other_inputs(run, before, now, of_rows=of_rows)


def show_inputs(run: Run, settings: Train, inputs: Inputs, memory: MemoryPlan | None, *, resume: bool) -> None:
    """Show what training works on; of a run that is resumed, how far it came: its rows were shown when it was begun."""
    if not resume or is_verbose():
        show_data(inputs.prepared, inputs.renderer)
    if resume:
        plan_view.show_resumed(run, total_steps(settings, len(inputs.prepared.rows["train"])))
    if not run.is_trained:
        plan_view.show_memory(memory, as_table=False)


def check_files(run: Run) -> None:
    """Stop before anything is measured if a file that stays cannot be read by the proof and the report at the end.

    Raises:
        SeodangError: the file is damaged, or was written by another version of seodang.
    """
    with distributed.agreed():
        if distributed.is_main() and run.exists:
            training_of(run)
            judgement_of(run, ())
            evidence.read_evidence(run.folder)


def is_finished(run: Run, recipe: Recipe) -> bool:
    """Whether nothing is left to do, which is shown: trained and proven by this very recipe, the model as saved."""
    found = distributed.is_main() and _is_whole(run, recipe)
    if found:
        again = f"seodang report {path_argument(run.folder)}"
        console.show_note(f"{shown_path(run.folder)} is finished: nothing to resume; its report again: {again}")
    return distributed.exchange(found)[0]


def _is_whole(run: Run, recipe: Recipe) -> bool:
    try:
        is_same = run.recipe().model_dump(mode="json") == recipe.model_dump(mode="json")
        proof_of_run(run)  # can be read
        began, ended = (file.stat().st_mtime_ns for file in (run.recipe_file, run.folder / PROOF))
        is_proven = training_of(run) is not None and began <= ended  # recipe.yaml is written by every start
        return is_same and is_proven and is_sealed(run) and not model_damage(run)
    except (SeodangError, OSError):  # no proof yet, or a file is damaged: it is written again
        return False


def finish_run(
    run: Run,
    recipe: Recipe,
    held_out: EvaluationSet,
    before: Measured,
    after: Measured,
    model: PreTrainedModel,
    seconds: Mapping[str, float],
    *,
    base: str | None = None,
    tuned: str,
    of_base: EvaluationSet | None = None,
) -> None:
    """Write proof, manifest and report; show the verdict and the answers. Only the main rank does this.

    Args:
        model: the tuned one.
        seconds: stage → time taken.
        base: where the base is from; by default the recipe's model.
        tuned: where the tuned model is.
        of_base: what the base was measured on, where it has another tokenizer.
    """
    with distributed.agreed():
        if not distributed.is_main():
            return
        answers = [*before.answers, *after.answers]
        rows = rows_in_common(held_out, after, of_base, before) if of_base else rows_of(held_out, before, after)
        proof = prove_rows(
            rows,
            answers,
            Compared(
                name=recipe.name,
                base=base or recipe.model.path,
                tuned=tuned,
                same_tokenizer=of_base is None,
                base_has_template=held_out.has_trained_template,
                is_quick=held_out.is_quick,
                training=training_of(run),
                no_kl=after.no_divergences,
            ),
            roles={source.name: source.role for source in recipe.sources},
            trained=[source.name for source in recipe.sources if source.is_trained],
            tolerance=recipe.prove.tolerance,
            effective_shares=held_out.effective_shares,
            temperature=repeat_settings(recipe.ask).temperature,
        )
        proof = with_judgement(proof, judgement_of(run, answers))
        found = to_json(proof)
        json_text(found, where=str(run.folder / PROOF))  # before what belongs to an earlier proof is replaced
        record.record_answers(run, answers)
        write_rows(run, rows)
        record.record_proof(run, found)
        record.record_facts(run, model=describe(model, held_out.renderer.tokenizer), seconds=seconds)
        HiddenStates(folder=run.hidden_states).remove()
        with progress.waiting("writing the report"):
            page = report(run.folder, recipe.report.language)
        proof_view.show_answers(answers)
        proof_view.show_proof(proof)
        proof_view.show_end(tuned, page, sum(seconds.values()), in_english=in_english(run.folder))


def training_of(run: Run) -> Training | None:
    """How the tuned model was trained; None where it was not trained here."""
    ended = evidence.read_training(run)
    if ended is None:
        return None
    where = str(run.folder / TRAINING)
    return from_json(Training, {**ended, "turned_at": turned_at(evaluations(evidence.read_events(run)))}, where=where)
