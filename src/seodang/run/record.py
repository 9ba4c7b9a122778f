"""Evidence → the run folder's files. `evidence` reads what this writes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from seodang.json_values import to_json
from seodang.run.base_measurement import BaseMeasurement
from seodang.run.checkpoint_choice import CheckpointChoice
from seodang.run.events import EvalEvent, RecordedEvent
from seodang.run.evidence import read_manifest
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
from seodang.run.manifest import Manifest
from seodang.types import Answer, Finding, ModelFacts

if TYPE_CHECKING:
    from seodang.data.prepare import Prepared


def record_data(run: Run, prepared: "Prepared") -> None:
    """What is known of the rows before training."""
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


def add_finding(run: Run, finding: Finding) -> None:
    """Add what became known later to findings.json, in place of an earlier one of the same check."""
    known = [row for row in run.read_json(FINDINGS) if row["check"] != finding.check]
    run.write_json(FINDINGS, [*known, asdict(finding)])


def write_manifest(run: Run, manifest: Manifest) -> None:
    """Write manifest.json, or replace it."""
    run.write_json(MANIFEST, to_json(manifest))


def record_facts(run: Run, *, model: ModelFacts, seconds: Mapping[str, float]) -> None:
    """Add to the manifest what became known later: of the model, of the time taken."""
    if before := read_manifest(run):
        write_manifest(run, replace(before, model=model, seconds={**before.seconds, **seconds}))


def record_seconds(run: Run, seconds: Mapping[str, float]) -> None:
    """Replace in the manifest how long these stages took until now."""
    if before := read_manifest(run):
        write_manifest(run, replace(before, seconds={**before.seconds, **seconds}))


def record_event(run: Run, event: RecordedEvent) -> None:
    """Append a line to metrics.jsonl."""
    run.append(METRICS, to_json(event))


def record_base(run: Run, measured: BaseMeasurement, event: EvalEvent | None) -> None:
    """The base's measures, which a resumed run reads again; base.json comes last: once it is there, all is.

    Args:
        event: its evaluation, where training follows.
    """
    if event:
        later = [row for row in run.read_lines(METRICS) if row["step"] > 0]
        run.write_lines(METRICS, [to_json(event), *later])
        if not run.is_proven:  # whose answers are those of its proof
            record_answers(run, measured.answers)
    run.write_json(BASE, to_json(measured))


def record_training(run: Run, *, best_step: int | None, best_by: str, choice: CheckpointChoice | None = None) -> None:
    """How training ended: the step whose weights are kept, the loss that chose it, and why where that takes more."""
    why = {"choice": to_json(choice)} if choice else {}
    run.write_json(TRAINING, {"best_step": best_step, "best_by": best_by, **why})


def record_answers(run: Run, answers: Sequence[Answer]) -> None:
    """Every answer of base and tuned model."""
    run.write_lines(ANSWERS, map(asdict, answers))


def record_proof(run: Run, proof: Mapping[str, Any]) -> None:
    """What was gained and what was lost."""
    run.write_json(PROOF, proof)
