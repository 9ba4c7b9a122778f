"""The run folder's first and last files: what is known before training, and the proof and the report at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.encode.rows import Renderer
from seodang.data.prepare import Prepared
from seodang.model.save import describe
from seodang.proof.proof import proof, turned_at
from seodang.proof.questions import repeat_settings
from seodang.recipe import Recipe
from seodang.run import evidence, record
from seodang.run.events import evaluations
from seodang.run.folder import Run
from seodang.run.start import create
from seodang.show import tables
from seodang.show.report import report
from seodang.stages.measure import Measured
from seodang.types import Finding, Placement


def begin_run(
    run: Run,
    recipe: Recipe,
    placement: Placement,
    renderer: Renderer,
    prepared: Prepared,
    findings: Sequence[Finding],
    *,
    resume: bool = False,
) -> None:
    """Make the run's folder, and write down what is known before training."""
    with distributed.agreed():
        if distributed.is_main():
            create(run, recipe, resume=resume)
            record.record_data(run, recipe, placement, renderer.template, prepared, findings)
    with distributed.agreed():
        distributed.wait_for(run.manifest_file)


def finish(
    run: Run,
    recipe: Recipe,
    before: Measured,
    after: Measured,
    model: PreTrainedModel,
    renderer: Renderer,
    seconds: Mapping[str, float],
    *,
    base: str | None = None,
    tuned: str,
) -> None:
    """Write proof, manifest and report; show the verdict and the answers. The main rank does.

    Args:
        model: the tuned one.
        seconds: that each stage took.
        base: where the base is from; by default the recipe's model.
        tuned: where the tuned model is.
    """
    with distributed.agreed():
        if not distributed.is_main():
            return
        answers = [*before.answers, *after.answers]
        record.record_answers(run, answers)
        found = proof(
            name=recipe.name,
            base=base or recipe.model.path,
            tuned=tuned,
            roles={source.name: source.role for source in recipe.sources},
            before=before.metrics,
            after=after.metrics,
            answers=answers,
            training=training_of(run),
            temperature=repeat_settings(recipe.ask).temperature,
        )
        record.record_proof(run, found)
        record.record_facts(run, model=describe(model, renderer.tokenizer), seconds=seconds)
        page = report(run.folder)
        tables.show_answers(answers)
        tables.show_losses(found)
        tables.show_end(run.folder, page, sum(seconds.values()))


def training_of(run: Run) -> dict[str, Any]:
    """What the proof says of the training; nothing where none was."""
    ended = evidence.read_training(run)
    return {**ended, "turned_at": turned_at(evaluations(evidence.read_events(run)))} if ended else {}
