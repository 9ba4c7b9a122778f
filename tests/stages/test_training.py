"""training: the report of a run that is being trained."""

from pathlib import Path

import pytest

import run_folder
from seodang.run.folder import Run
from seodang.stages import training


def test_the_report_is_written_during_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an evaluation, but not before some time has passed; without pictures, which nobody waits for."""
    run = Run(folder=run_folder.write_run(tmp_path / "run"))
    for name in ("proof.json", "answers.jsonl", "metrics.jsonl", "lengths.json"):
        (run.folder / name).unlink()
    training.reporter(run)()
    assert not run.report.exists()
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    training.reporter(run)()
    assert "proof.json" in run.report.read_text(encoding="utf-8")
    assert not run.pictures.exists()


def test_a_report_that_fails_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be written is a note."""
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    run = Run(folder=run_folder.write_run(tmp_path / "run"))
    (run.folder / "lengths.json").write_text('{"schema_version": 99}', encoding="utf-8")
    training.reporter(run)()
    assert "was not written" in " ".join(capsys.readouterr().out.split())
