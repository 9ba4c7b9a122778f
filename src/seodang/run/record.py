"""Evidence → the run folder's files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seodang.data.prepare import Prepared
from seodang.data.read.sources import local_files
from seodang.data.template.find import ChatTemplate
from seodang.proof.proof import turned_at
from seodang.recipe import Recipe
from seodang.run.folder import Run
from seodang.train.metrics import evaluations
from seodang.types import Answer, Metric

if TYPE_CHECKING:
    from seodang.model.load import Placement


def record_data(run: Run, recipe: Recipe, placement: "Placement", template: ChatTemplate, prepared: Prepared) -> None:
    """What is known before training."""
    from seodang.run.manifest import manifest, sha256

    run.write_json("counts.json", [{**asdict(counts), "notes": len(counts.notes)} for counts in prepared.counts])
    run.write_lines(
        "dropped.jsonl",
        (
            {"step": counts.step, "source": counts.source, **asdict(note)}
            for counts in prepared.counts
            for note in counts.notes
        ),
    )
    run.write_json("findings.json", [asdict(finding) for finding in prepared.findings])
    run.write_json("lengths.json", prepared.lengths)
    run.write_json("samples.json", prepared.samples)
    told = {"origin": template.origin, "turn_end": template.turn_end, "text_sha256": sha256(template.text)}
    files = {source.name: local_files(source) for source in recipe.sources}
    run.write_json("manifest.json", manifest(recipe, placement=asdict(placement), template=told, files=files))


def record_base(run: Run, metrics: Mapping[str, Metric], answers: Sequence[Answer], event: Mapping[str, Any]) -> None:
    """The base's measures, which a resumed run reads again; base.json comes last: once it is there, all is."""
    run.write_lines("metrics.jsonl", [event])
    run.write_lines("answers.jsonl", map(asdict, answers))
    measured = {name: asdict(metric) for name, metric in metrics.items()}
    run.write_json("base.json", {"metrics": measured, "answers": [asdict(answer) for answer in answers]})


def read_base(run: Run) -> tuple[dict[str, Metric], list[Answer]] | None:
    """What `record_base` wrote, if it did."""
    if not (run.folder / "base.json").is_file():
        return None
    stored = run.read_json("base.json")
    metrics = {name: Metric(**metric) for name, metric in stored["metrics"].items()}
    return metrics, [Answer(**answer) for answer in stored["answers"]]


def record_facts(run: Run, facts: Mapping[str, Any]) -> None:
    """Add to the manifest what became known later: of the model, of the time taken."""
    before = run.read_json("manifest.json") if (run.folder / "manifest.json").is_file() else {}
    run.write_json("manifest.json", {**before, **facts})


def training_of(run: Run) -> dict[str, Any]:
    """What the proof tells of the training; nothing where none was."""
    if not (run.folder / "training.json").is_file():
        return {}
    return {**run.read_json("training.json"), "turned_at": turned_at(evaluations(run))}
