"""Evidence → the run folder's files. `evidence` reads what this writes."""

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from seodang import distributed
from seodang.__version__ import __version__
from seodang.data.prepare import Prepared
from seodang.data.read.sources import local_files
from seodang.data.row_cache import file_sha256
from seodang.data.template.find import ChatTemplate
from seodang.json_values import to_json
from seodang.recipe import Recipe
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
from seodang.run.manifest import DataFile, Hardware, Manifest, SourceFiles, TemplateFacts
from seodang.types import Answer, Finding, Metric, ModelFacts, Placement

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "bitsandbytes", "numpy")


def record_data(
    run: Run,
    recipe: Recipe,
    placement: Placement,
    template: ChatTemplate,
    prepared: Prepared,
    findings: Sequence[Finding],
) -> None:
    """What is known before training."""
    run.write_json(COUNTS, [{**asdict(counts), "notes": len(counts.notes)} for counts in prepared.counts])
    run.write_lines(
        DROPPED,
        (
            {"stage": counts.stage, "source": counts.source, **asdict(note)}
            for counts in prepared.counts
            for note in counts.notes
        ),
    )
    run.write_json(FINDINGS, [asdict(finding) for finding in findings])
    run.write_json(LENGTHS, to_json(prepared.lengths))
    samples = {
        source: {split: to_json(row) for split, row in splits.items()} for source, splits in prepared.samples.items()
    }
    run.write_json(SAMPLES, samples)
    files = {source.name: local_files(source) for source in recipe.sources}
    write_manifest(run, make_manifest(recipe, placement=placement, template=template, files=files))


def make_manifest(
    recipe: Recipe, *, placement: Placement, template: ChatTemplate, files: Mapping[str, list[Path]]
) -> Manifest:
    """The manifest as it stands before the model is loaded; what the model is and the seconds come later.

    Args:
        files: source → its local files.
    """
    return Manifest(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seodang=__version__,
        command=" ".join(["seodang", *sys.argv[1:]]) if _is_command(Path(sys.argv[0])) else "",
        versions={
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
        hardware=hardware(),
        placement=placement,
        template=TemplateFacts(
            origin=template.origin,
            turn_end=template.turn_end,
            text_sha256=hashlib.sha256(template.text.encode()).hexdigest(),
        ),
        data={source: SourceFiles(files=tuple(map(_file, paths))) for source, paths in files.items()},
        seeds={"split": recipe.split.seed, "mix": recipe.mix.seed, "train": recipe.train.seed},
        model=ModelFacts(path=recipe.model.path),
    )


def write_manifest(run: Run, manifest: Manifest) -> None:
    """Write manifest.json, or replace it."""
    run.write_json(MANIFEST, to_json(manifest))


def record_facts(run: Run, *, model: ModelFacts, seconds: Mapping[str, float]) -> None:
    """Add to the manifest what became known later: of the model, of the time taken."""
    if before := read_manifest(run):
        write_manifest(run, replace(before, model=model, seconds=dict(seconds)))


def record_event(run: Run, event: RecordedEvent) -> None:
    """Append a line to metrics.jsonl."""
    run.append(METRICS, to_json(event))


def record_base(run: Run, metrics: Mapping[str, Metric], answers: Sequence[Answer], event: EvalEvent) -> None:
    """The base's measures, which a resumed run reads again; base.json comes last: once it is there, all is."""
    run.write_lines(METRICS, [to_json(event)])
    record_answers(run, answers)
    measured = {name: asdict(metric) for name, metric in metrics.items()}
    run.write_json(BASE, {"metrics": measured, "answers": [asdict(answer) for answer in answers]})


def record_training(run: Run, *, best_step: int | None, best_by: str) -> None:
    """How training ended: the step whose weights are kept, and the loss that chose it."""
    run.write_json(TRAINING, {"best_step": best_step, "best_by": best_by})


def record_answers(run: Run, answers: Sequence[Answer]) -> None:
    """Every answer of base and tuned model."""
    run.write_lines(ANSWERS, map(asdict, answers))


def record_proof(run: Run, proof: Mapping[str, Any]) -> None:
    """What was gained and what was lost."""
    run.write_json(PROOF, proof)


def hardware() -> Hardware:
    """Processor, memory and GPUs of this machine."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return Hardware(
        system=f"{platform.system()} {platform.machine()}",
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=tuple(gpus),
        processes=distributed.world(),
    )


def _is_command(program: Path) -> bool:
    return program.name == "seodang" or (program.name, program.parent.name) == ("__main__.py", "seodang")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _file(path: Path) -> DataFile:
    return DataFile(path=str(path), sha256=file_sha256(path), bytes=path.stat().st_size)
