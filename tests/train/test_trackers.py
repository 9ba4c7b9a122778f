"""Experiment trackers: what they get, how they are resumed, and that training does not depend on them."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from events import eval_event, train_event
from run_folder import RECIPE
from seodang.errors import RecipeError, ResourceError
from seodang.recipe import Recipe, load_recipe
from seodang.run.folder import TRAINER_STATE, Run
from seodang.run.start import create
from seodang.train import trackers
from seodang.train.metrics import MetricsLog
from seodang.train.trackers import Trackers, tracked_settings

LOSSES = {"의료_질문": 1.5, "일반대화": 2.5}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The folder of a run that has begun."""
    run = Run(folder=tmp_path / "의료-run")
    create(run, Recipe.model_validate(RECIPE))
    return run


def track(run: Run, names: Sequence[str], *, on_note: Callable[[str], None] = pytest.fail, step: int = 0) -> None:
    """An evaluation and a step of training, as training logs them; after step 0, from a checkpoint."""
    if step:
        (run.checkpoints / f"checkpoint-{step - 1}").mkdir(parents=True)
        (run.checkpoints / f"checkpoint-{step - 1}" / TRAINER_STATE).write_text("{}")
    with Trackers(names, run, on_note=on_note) as opened, MetricsLog(run, opened) as log:
        log(eval_event(step, LOSSES))
        log(train_event(step + 1, 2.0))


class _Remembering:
    """A tracker that keeps what it gets."""

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        self.id, self.name, self.settings, self.resumed = "id-1", name, settings, run_id
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.is_closed = False

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self.logged.append((step, scalars))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[_Remembering]:
    """Each `wandb` that was opened."""
    found: list[_Remembering] = []

    def remember(*args: Any) -> _Remembering:
        found.append(_Remembering(*args))
        return found[-1]

    monkeypatch.setattr(trackers, "KINDS", {"wandb": remember})
    return found


def test_a_tracker_gets_the_base_and_every_step_under_tensorboards_names(run: Run, opened: list[_Remembering]) -> None:
    """Source names keep their letters; the run is called after its folder."""
    track(run, ["wandb"])
    (found,) = opened
    assert found.name == "의료-run"
    assert found.is_closed
    (first, evaluated), (second, trained) = found.logged
    assert (first, second) == (0, 1)
    assert evaluated["eval/의료_질문/loss"] == 1.5
    assert set(trained) == {
        f"train/{key}" for key in ["loss", "probability", "learning_rate", "grad_norm", "tokens_per_second"]
    }


def test_a_run_that_is_resumed_is_one_run_for_the_tracker(run: Run, opened: list[_Remembering]) -> None:
    """Its id is kept in the run's folder."""
    track(run, ["wandb"])
    track(run, ["wandb"])
    assert [tracker.resumed for tracker in opened] == [None, "id-1"]


def test_trackers_get_settings_but_neither_texts_nor_paths() -> None:
    """Rows, questions, system text and folders of this machine stay here."""
    recipe = Recipe.model_validate({**RECIPE, "model": "/home/someone/gemma", "system": "비밀"})
    settings = tracked_settings(recipe)
    assert settings["train.learning_rate"] == 2.0e-5
    assert settings["model"] == "gemma"
    for private in ("/home", "/data", "비밀", "당뇨병"):
        assert private not in str(settings)


def test_a_tracker_that_fails_is_reported_once_and_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events reach metrics.jsonl all the same."""

    class Failing(_Remembering):
        def log(self, scalars: Mapping[str, float], step: int) -> None:
            raise OSError("connection lost")

    monkeypatch.setattr(trackers, "KINDS", {"mlflow": Failing})
    notes: list[str] = []
    track(run, ["mlflow"], on_note=notes.append)
    assert notes == ["mlflow failed and is left out from here on (connection lost); metrics.jsonl has it all"]
    assert len(run.read_lines("metrics.jsonl")) == 2


def test_a_tracker_that_cannot_start_is_an_error_with_the_way_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing login, for example, stops before the first step and can be resumed."""

    def refuse(*_: Any) -> _Remembering:
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(trackers, "KINDS", {"wandb": refuse})
    with pytest.raises(ResourceError, match=r"train.report_to: wandb cannot be started: api_key.*\n.*--resume"):
        Trackers(["wandb"], run, on_note=pytest.fail)


def test_a_tracker_that_started_before_another_failed_is_closed_and_resumed(
    run: Run, opened: list[_Remembering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run neither stays open nor is begun a second time."""

    def refuse(*_: Any) -> _Remembering:
        raise RuntimeError("no server")

    monkeypatch.setattr(trackers, "KINDS", {**trackers.KINDS, "mlflow": refuse})
    with pytest.raises(ResourceError, match="mlflow cannot be started"):
        Trackers(["wandb", "mlflow"], run, on_note=pytest.fail)
    assert opened[0].is_closed
    track(run, ["wandb"])
    assert [tracker.resumed for tracker in opened] == [None, "id-1"]


def test_one_tracker_or_several() -> None:
    """`report_to: wandb` stands for a list of one; another name is an error."""
    assert load_recipe("demo", ["train.report_to=wandb"]).train.report_to == ("wandb",)
    with pytest.raises(RecipeError, match=r"train\.report_to"):
        load_recipe("demo", ["train.report_to=[wandb, comet]"])


def test_wandb_offline(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without account and network: one folder for each start, with the same id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    for step in (0, 2):
        track(run, ["wandb"], step=step)
    number = run.read_json("trackers.json")["wandb"]
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")} == {number}


def test_mlflow_in_a_local_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run with the base's loss at step 0, resumed under the same id."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for step in (0, 2):
        track(run, ["mlflow"], step=step)
    (found,) = mlflow.search_runs(output_format="list")
    assert found.info.run_id == run.read_json("trackers.json")["mlflow"]
    assert found.data.params["train.learning_rate"] == "2e-05"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "eval/의료_질문/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.5), (2, 1.5)]


def test_trackio_on_this_machine(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in a local database, with the base's loss at step 0."""
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    for step in (0, 2):
        track(run, ["trackio"], step=step)
    (database,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("의료-run", step) for step in (0, 1, 2, 3)]
