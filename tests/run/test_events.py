"""events, manifest: what a run writes is read back as it was, and another version's file ends in one message."""

import json
from pathlib import Path

import pytest

from events import eval_event, train_event
from run_folder import write_run
from seodang.errors import SeodangError
from seodang.json_values import to_json
from seodang.run.events import AnswersEvent, GivenAnswer, RecordedEvent, SpeedEvent, evaluations, read_event
from seodang.run.evidence import read_events, read_evidence, read_manifest
from seodang.run.folder import Run
from seodang.run.record import record_event, write_manifest

ANSWER = GivenAnswer(kind="general", question="사과는?", text="빨갛다", stopped=True)
EVENTS = (
    train_event(1, 2.0, grad_norm=None),
    eval_event(1, {"의료": 2.5, "wiki": 3.0}),
    eval_event(2, {"의료": 2.5}, loss=2.5),
    AnswersEvent(step=2, answers=(ANSWER,), seconds=0.5),
    SpeedEvent(step=4, tokens_per_second=12.5, limit_share=None, matrix_gflops=None, seconds=0.1),
)


def test_events_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Every kind of event, nested values and missing numbers included; a line that a kill cut off is left out."""
    run = Run(folder=tmp_path)
    for event in EVENTS:
        record_event(run, event)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"event": "tr')
    assert read_events(run) == list(EVENTS)
    assert evaluations(EVENTS) == [(2, 2.5)]


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Files, placement and hardware come back as the values that they were."""
    run = Run(folder=write_run(tmp_path / "run"))
    manifest = read_manifest(run)
    assert manifest
    write_manifest(run, manifest)
    assert read_manifest(run) == manifest == read_evidence(run.folder).manifest


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
@pytest.mark.parametrize("version", [None, 0, 2])
def test_an_event_of_another_version_is_refused(event: RecordedEvent, version: int | None) -> None:
    """A line that another schema version wrote names file and line, and says what to do."""
    with pytest.raises(SeodangError, match=r"metrics\.jsonl:3: schema version 1 expected.*\n.*another version"):
        read_event({**to_json(event), "schema_version": version}, where="metrics.jsonl:3")


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    """`seodang report` on such a run ends in one message."""
    run = Run(folder=write_run(tmp_path / "run"))
    old = {"name": "old", "created": "2026-01-01"}
    run.manifest_file.write_text(json.dumps(old), encoding="utf-8")
    for read in (lambda: read_manifest(run), lambda: read_evidence(run.folder)):
        with pytest.raises(SeodangError, match=r"manifest\.json: schema version 1 expected, found none"):
            read()


def test_an_unknown_event_is_refused() -> None:
    """What no version wrote is named."""
    with pytest.raises(SeodangError, match="unknown event 'trian'"):
        read_event({"event": "trian"}, where="metrics.jsonl:1")
