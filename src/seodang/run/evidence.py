"""A run folder's files, read as they are. What is missing or damaged is reported, not raised: runs get killed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seodang.errors import RunError, SeodangError
from seodang.json_values import from_json
from seodang.run.base_measurement import BaseMeasurement
from seodang.run.events import RecordedEvent, read_event
from seodang.run.folder import (
    ALPHA,
    ANSWERS,
    BASE,
    COUNTS,
    DROPPED,
    FINDINGS,
    JUDGEMENT,
    LENGTHS,
    MANIFEST,
    METRICS,
    PROOF,
    RECIPE,
    SAMPLES,
    TRAINING,
    Run,
    a_run,
)  # fmt: skip
from seodang.run.manifest import Manifest
from seodang.types import Answer, Counts, Finding, Lengths, Sample

T = TypeVar("T")
NAMES = (RECIPE, MANIFEST, COUNTS, DROPPED, FINDINGS, LENGTHS, SAMPLES, METRICS, ANSWERS, PROOF)


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppedRow:
    """A line of dropped.jsonl."""

    stage: str
    source: str
    where: str  # file:row
    row_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that a report is made from. None or empty: the file is not there (yet)."""

    recipe: str | None  # YAML text
    manifest: Manifest | None
    counts: tuple[Counts, ...]  # without their notes, which are `dropped`
    dropped: tuple[DroppedRow, ...]
    findings: tuple[Finding, ...]
    lengths: Lengths | None
    samples: Mapping[str, Mapping[str, Sample]]  # source → split → its first row
    metrics: tuple[RecordedEvent, ...]
    answers: tuple[Answer, ...]
    proof: Mapping[str, Any] | None
    judgement: Mapping[str, Any] | None  # of another model; None: nobody asked one
    alpha: Mapping[str, Any] | None  # the alpha curve; None: nobody measured it
    missing: tuple[str, ...]  # names of files that are not there
    damaged: tuple[str, ...]  # sentences


def read_evidence(run: Path) -> Evidence:
    """Read what there is of a run.

    Raises:
        RunError: `run` is no folder or holds none of a run's files.
        SeodangError: a file was written by another version of seodang.
    """
    missing = tuple(name for name in NAMES if not (run / name).is_file())
    if len(missing) == len(NAMES):
        what = "holds no file of a run" if run.is_dir() else "no such folder"
        raise RunError(what, where=str(run), hint=a_run(run))
    damaged: list[str] = []
    counts = [{**row, "notes": []} if isinstance(row, dict) else row for row in _list(run / COUNTS, damaged)]
    return Evidence(
        recipe=_text(run / RECIPE, damaged),
        manifest=_typed(Manifest, run / MANIFEST, damaged),
        counts=_values(Counts, enumerate(counts, 1), run / COUNTS, damaged),
        dropped=_values(DroppedRow, _numbered(run / DROPPED, damaged), run / DROPPED, damaged),
        findings=_values(Finding, enumerate(_list(run / FINDINGS, damaged), 1), run / FINDINGS, damaged),
        lengths=_typed(Lengths, run / LENGTHS, damaged),
        samples=_samples(run / SAMPLES, damaged),
        metrics=tuple(
            read_event(row, where=f"{run / METRICS}:{number}") for number, row in _numbered(run / METRICS, damaged)
        ),
        answers=_values(Answer, _numbered(run / ANSWERS, damaged), run / ANSWERS, damaged),
        proof=_mapping(run / PROOF, damaged),
        judgement=_mapping(run / JUDGEMENT, damaged),
        alpha=_mapping(run / ALPHA, damaged),
        missing=missing,
        damaged=tuple(damaged),
    )


def _samples(path: Path, damaged: list[str]) -> dict[str, dict[str, Sample]]:
    return {
        source: {split: from_json(Sample, row, where=f"{path}, {source}, {split}") for split, row in splits.items()}
        for source, splits in (_mapping(path, damaged) or {}).items()
        if isinstance(splits, dict)
    }


def read_manifest(run: Run) -> Manifest | None:
    """The manifest, if there is one.

    Raises:
        SeodangError: it was written by another version of seodang.
    """
    return run.read_value(Manifest, MANIFEST)


def read_events(run: Run) -> list[RecordedEvent]:
    """Every event of metrics.jsonl; a last line that a kill cut off is left out.

    Raises:
        SeodangError: a line was written by another version of seodang.
    """
    where = run.folder / METRICS
    return [read_event(row, where=f"{where}:{number}") for number, row in enumerate(run.read_lines(METRICS), 1)]


def read_base(run: Run) -> BaseMeasurement | None:
    """What the base measured, if it was measured already.

    Raises:
        SeodangError: the file is damaged, or was written by another version of seodang.
    """
    return run.read_value(BaseMeasurement, BASE)


def base_answers(run: Run) -> tuple[Answer, ...]:
    """What the base answered, if it was asked already.

    Raises:
        SeodangError: as `read_base`.
    """
    base = read_base(run)
    return base.answers if base else ()


def read_training(run: Run) -> dict[str, Any] | None:
    """How training ended, if it did."""
    return run.read_json(TRAINING) if (run.folder / TRAINING).is_file() else None


def read_answers(run: Run) -> list[Answer]:
    """Every answer of base and tuned model.

    Raises:
        SeodangError: a line is damaged, or was written by another version of seodang.
    """
    return run.read_values(Answer, ANSWERS)


def _typed(cls: type[T], path: Path, damaged: list[str]) -> T | None:
    value = _value(path, damaged)
    return None if value is None else from_json(cls, value, where=str(path))


def _text(path: Path, damaged: list[str]) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeError as error:
        damaged.append(f"{path.name} cannot be read: {error}")
        return None


def _value(path: Path, damaged: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        damaged.append(f"{path.name} cannot be read: {error}")
        return None


def _mapping(path: Path, damaged: list[str]) -> Mapping[str, Any] | None:
    value = _value(path, damaged)
    if value is not None and not isinstance(value, dict):
        damaged.append(f"{path.name} holds {type(value).__name__} where a JSON object is expected")
    return value if isinstance(value, dict) else None


def _list(path: Path, damaged: list[str]) -> list[Any]:
    value = _value(path, damaged)
    if value is not None and not isinstance(value, list):
        damaged.append(f"{path.name} holds {type(value).__name__} where a list is expected")
    return value if isinstance(value, list) else []


def _values(cls: type[T], rows: Iterable[tuple[int, Any]], path: Path, damaged: list[str]) -> tuple[T, ...]:
    """Typed rows; one that is damaged is named and left out."""
    found = []
    for number, row in rows:
        try:
            found.append(from_json(cls, row, where=f"{path.name}:{number}"))
        except SeodangError as error:
            damaged.append(f"{error.where} is left out: {error.what}")
    return tuple(found)


def _numbered(path: Path, damaged: list[str]) -> list[tuple[int, Any]]:
    """JSON Lines with their numbers; one that cannot be read (a killed run's last) is named and left out."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError):
                damaged.append(f"{path.name}:{number} is not a whole line of JSON and is left out")
    return rows
