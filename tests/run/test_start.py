"""start: a run is made or resumed whatever an earlier process left in its folder."""

from pathlib import Path

import pytest

from seodang.errors import RunError
from seodang.recipe import Recipe, Tolerance
from seodang.run.folder import Run
from seodang.run.lock import guarded
from seodang.run.record import record_answers
from seodang.run.start import create, open_run
from seodang.types import Answer

RECIPE = Recipe.model_validate(
    {"name": "a", "model": "m", "sources": [{"name": "s", "role": "domain", "path": "sample:ko_medical"}]}
)


def test_a_folder_with_nothing_but_leftovers_can_be_started(tmp_path: Path) -> None:
    """A process that was killed at its first file leaves one that is not in the way; --resume says what to do."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".recipe.yaml.4711", ".seodang.lock"):
        (folder / name).write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=r"no run to resume(?s:.)*without --resume"), guarded():
        open_run(folder, RECIPE, resume=True)
    with guarded():
        create(open_run(folder, RECIPE, resume=False), RECIPE)
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]


def test_leftovers_are_removed_when_a_run_is_resumed(tmp_path: Path) -> None:
    """What was about to become model, adapter or a file goes; what is the run's own stays."""
    run = Run(folder=tmp_path / "run")
    with guarded():
        create(run, RECIPE)
    for folder in (".model-x1_y2", ".adapter", "model", "adapter"):
        (run.folder / folder).mkdir()
        (run.folder / folder / "model.safetensors").write_bytes(b"0")
    for name in (".proof.json.99", ".metrics.jsonl.99", ".report.html.99", "report.html", ".note", "my.txt"):
        (run.folder / name).write_text("", encoding="utf-8")
    with guarded():
        open_run(run.folder, RECIPE, resume=True)
    kept = {"recipe.yaml", "model", "adapter", "report.html", ".note", "my.txt"}
    assert {path.name for path in run.folder.iterdir()} == kept


def test_a_hint_to_resume_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in a hint works as it is: a folder that is known as a run's is enough, blanks are quoted."""
    monkeypatch.chdir(tmp_path)
    default, other = Run(folder=Path("runs/a")), Run(folder=tmp_path / "my runs")
    for run in (default, other):
        with guarded():
            create(run, RECIPE)
    assert default.resume_command == "seodang tune runs/a/recipe.yaml --resume"
    assert other.resume_command == "seodang tune 'my runs/recipe.yaml' --resume --out 'my runs'"
    other.manifest_file.write_text("{}", encoding="utf-8")  # by which a run's folder is known
    assert other.resume_command == "seodang tune 'my runs' --resume"
    moved = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"path": "/moved/model"})})
    with guarded():  # hashes compare what lies there
        assert open_run(default.folder, moved, resume=True) == default
    changed = RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update={"epochs": 9})})
    for run in (default, other):
        with pytest.raises(RunError, match=r"train\.epochs") as caught:
            open_run(run.folder, changed, resume=True)
        assert run.resume_command in caught.value.hint
        with pytest.raises(RunError, match="never overwritten") as caught:
            open_run(run.folder, RECIPE, resume=False)
        assert run.resume_command in caught.value.hint


def test_lines_with_odd_line_breaks_are_read_as_they_were_written(tmp_path: Path) -> None:
    """An answer may hold what Unicode counts as a line break; a file may be cut within a character."""
    run = Run(folder=tmp_path)
    texts = ["하나\u2028둘", "셋\x85넷\x0b", "다섯"]
    answers = [
        Answer(kind="general", model="base", question="q", text=text, stopped=True, prompt_tokens=1, new_tokens=1)
        for text in texts
    ]
    record_answers(run, answers)
    assert [row["text"] for row in run.read_lines("answers.jsonl")] == texts
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex("다섯".encode()) + 4])
    assert [row["text"] for row in run.read_lines("answers.jsonl")] == texts[:2]


@pytest.mark.parametrize(("best_by", "may_change"), [("all", True), ("domain_within_tolerance", False)])
def test_what_chooses_the_checkpoint_does_not_change_on_resume(best_by: str, may_change: bool, tmp_path: Path) -> None:
    """Tolerances and questions have an effect on the weights where they choose the checkpoint, else they may change."""
    recipe = Recipe.model_validate(
        {
            "name": "one",
            "model": str(tmp_path / "base"),
            "sources": [{"name": "a", "role": "domain", "path": str(tmp_path / "a.jsonl")}],
            "train": {"best_by": best_by},
        }
    )
    with guarded():
        create(Run(folder=tmp_path / "run"), recipe)
    other = recipe.model_copy(update={"prove": recipe.prove.model_copy(update={"tolerance": Tolerance(general=1.0)})})
    with guarded():
        if may_change:
            assert open_run(tmp_path / "run", other, resume=True).exists
        else:
            with pytest.raises(RunError, match="other settings: prove"):
                open_run(tmp_path / "run", other, resume=True)
