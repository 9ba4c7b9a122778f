"""Evidence → the run folder's files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seodang.data.prepare import Prepared
from seodang.data.read.sources import local_files
from seodang.data.template.find import ChatTemplate
from seodang.json_values import to_json
from seodang.recipe import Recipe
from seodang.run.folder import (
    ANSWERS,
    BASE,
    COUNTS,
    DROPPED,
    FINDINGS,
    LENGTHS,
    MANIFEST,
    METRICS,
    PROOF,
    SAMPLES,
    TRAINING,
    Run,
)  # fmt: skip
from seodang.types import Answer, Metric

if TYPE_CHECKING:
    from seodang.model.load import Placement


def record_data(run: Run, recipe: Recipe, placement: "Placement", template: ChatTemplate, prepared: Prepared) -> None:
    """What is known before training."""
    from seodang.run.manifest import manifest, sha256

    run.write_json(COUNTS, [{**asdict(counts), "notes": len(counts.notes)} for counts in prepared.counts])
    run.write_lines(
        DROPPED,
        (
            {"stage": counts.stage, "source": counts.source, **asdict(note)}
            for counts in prepared.counts
            for note in counts.notes
        ),
    )
    run.write_json(FINDINGS, [asdict(finding) for finding in prepared.findings])
    run.write_json(LENGTHS, to_json(prepared.lengths))
    samples = {
        source: {split: to_json(row) for split, row in splits.items()} for source, splits in prepared.samples.items()
    }
    run.write_json(SAMPLES, samples)
    told = {"origin": template.origin, "turn_end": template.turn_end, "text_sha256": sha256(template.text)}
    files = {source.name: local_files(source) for source in recipe.sources}
    run.write_json(MANIFEST, manifest(recipe, placement=asdict(placement), template=told, files=files))


def record_base(run: Run, metrics: Mapping[str, Metric], answers: Sequence[Answer], event: Mapping[str, Any]) -> None:
    """The base's measures, which a resumed run reads again; base.json comes last: once it is there, all is."""
    run.write_lines(METRICS, [event])
    record_answers(run, answers)
    measured = {name: asdict(metric) for name, metric in metrics.items()}
    run.write_json(BASE, {"metrics": measured, "answers": [asdict(answer) for answer in answers]})


def read_base(run: Run) -> tuple[dict[str, Metric], list[Answer]] | None:
    """What `record_base` wrote, if it did."""
    if not (run.folder / BASE).is_file():
        return None
    stored = run.read_json(BASE)
    metrics = {name: Metric(**metric) for name, metric in stored["metrics"].items()}
    return metrics, [Answer(**answer) for answer in stored["answers"]]


def record_facts(run: Run, facts: Mapping[str, Any]) -> None:
    """Add to the manifest what became known later: of the model, of the time taken."""
    before = run.read_json(MANIFEST) if (run.folder / MANIFEST).is_file() else {}
    run.write_json(MANIFEST, {**before, **facts})


def record_training(run: Run, *, best_step: int | None, best_by: str) -> None:
    """How training ended: the step whose weights are kept, and the loss that chose it."""
    run.write_json(TRAINING, {"best_step": best_step, "best_by": best_by})


def read_training(run: Run) -> dict[str, Any] | None:
    """What `record_training` wrote, if it did."""
    return run.read_json(TRAINING) if (run.folder / TRAINING).is_file() else None


def record_answers(run: Run, answers: Sequence[Answer]) -> None:
    """Every answer of base and tuned model."""
    run.write_lines(ANSWERS, map(asdict, answers))


def read_answers(run: Run) -> list[Answer]:
    """What `record_answers` wrote."""
    return [Answer(**row) for row in run.read_lines(ANSWERS)]


def record_proof(run: Run, proof: Mapping[str, Any]) -> None:
    """What was gained and what was lost."""
    run.write_json(PROOF, proof)


def read_proof(run: Run) -> dict[str, Any]:
    """What `record_proof` wrote."""
    found: dict[str, Any] = run.read_json(PROOF)
    return found
