"""folder: the run folder has one owner."""

import ast
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT
from run_folder import write_run
from seodang.errors import RunError, SeodangError
from seodang.pipeline import prove
from seodang.run import folder
from seodang.run.folder import Run, run_at, write_text

SOURCE = ROOT / "src" / "seodang"
NAMES = {
    value for name, value in vars(folder).items() if name.isupper() and isinstance(value, str) and len(value) > 7
} - {folder.RECIPE}  # a recipe beside the data bears that name too
OTHERS = sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "run")


def _literals(path: Path) -> Iterator[str]:
    """Every text literal, docstrings included, f-strings piece by piece."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_name(text: str) -> bool:
    is_key = text.startswith("train.")
    return not (is_key or " " in text or text.endswith(".jinja")) and any(name in text for name in NAMES)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_module_spells_a_name_of_the_run_folder(path: Path) -> None:
    """File names of a run come from run/folder.py; docstrings and sentences may mention them."""
    spelled = [text for text in _literals(path) if _is_name(text)]
    assert spelled == []


def test_the_names_are_there() -> None:
    """The search above looks for the names that matter."""
    assert {"manifest.json", "proof.json", "answers.jsonl", "metrics.jsonl", "base.json", "checkpoints"} <= NAMES


def test_json_is_strict_and_of_any_text(tmp_path: Path) -> None:
    """A number that is not finite is refused before the file is touched; a name that is no UTF-8 comes back."""
    run = Run(folder=tmp_path)
    row = {"path": b"\xb0\xa1.csv".decode("utf-8", "surrogateescape")}
    run.write_json("a.json", row)
    run.write_lines("a.jsonl", [row])
    run.append("a.jsonl", row)
    before = (tmp_path / "a.jsonl").read_bytes()
    for write in (run.write_json, run.append, lambda name, row: run.write_lines(name, [row])):
        with pytest.raises(SeodangError, match=r"a.jsonl: loss is nan"):
            write("a.jsonl", {"loss": float("nan")})
    assert (run.read_json("a.json"), run.read_lines("a.jsonl")) == (row, [row, row])
    assert ((tmp_path / "a.jsonl").read_bytes(), len(list(tmp_path.iterdir()))) == (before, 2)


def test_a_recipe_in_the_folder_permits_no_code(tmp_path: Path) -> None:
    """Only the caller may allow code that comes with a model; a recipe without it needs no permission."""
    text = (
        "name: x\nmodel: {path: some/model, trust_remote_code: %s}\n"
        "sources: [{name: a, role: domain, path: sample:ko_medical}]\n"
    )
    run = Run(folder=tmp_path)
    run.recipe_file.write_text(text % "true")
    with pytest.raises(RunError, match=r"some/model[^→]*→ if you trust it, allow it with --trust-remote-code"):
        run.trusted_recipe(trust_remote_code=False)
    assert run.trusted_recipe(trust_remote_code=True).model.trust_remote_code
    with pytest.raises(RunError, match="--trust-remote-code"):  # nothing is loaded before
        prove(tmp_path_with_model(run))
    run.recipe_file.write_text(text % "false")
    assert not run.trusted_recipe(trust_remote_code=False).model.trust_remote_code


def tmp_path_with_model(run: Run) -> Path:
    """The folder of a run that was trained."""
    run.model.mkdir()
    (run.model / "config.json").write_text("{}")
    return run.folder


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    """Only a last line may be cut off by a kill; any other is damage, and says which file to look at."""
    run = Run(folder=tmp_path)
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"step": 2, "loss{"step": 3}\n{"st', encoding="utf-8")
    with pytest.raises(RunError, match="damaged") as caught:
        run.read_lines("a.jsonl")
    assert caught.value.where == str(tmp_path / "a.jsonl")


def test_a_run_shows_how_far_it_came(tmp_path: Path) -> None:
    """One line in a terminal or a list, whatever state the folder is in; a damaged proof is no error."""
    run = Run(folder=tmp_path / "run")
    assert repr(run) == f"Run {run.folder}: no run here"
    write_run(run.folder)
    assert repr(run) == f"Run {run.folder}: domain improved, general kept, retention lost"
    (run.folder / "proof.json").write_text("{", encoding="utf-8")
    assert repr(run) == f"Run {run.folder}: begun, no checkpoint yet"
    assert "no checkpoint" in run._repr_html_()


@pytest.mark.parametrize(
    "proof", ["[]", '{"sources": []}', '{"verdict": "lost", "sources": {"wiki": {"unit": 1}}}', '{"sources": {"a": 2}}']
)
def test_a_damaged_proof_does_not_keep_a_run_from_showing_itself(tmp_path: Path, proof: str) -> None:
    """Sections that are missing or of another shape are left out."""
    run = Run(folder=write_run(tmp_path / "run"))
    (run.folder / "proof.json").write_text(proof, encoding="utf-8")
    assert "begun, no checkpoint yet" in run._repr_html_()
    assert "<table>" not in run._repr_html_()


def test_what_a_proof_holds_is_text_in_a_notebook(tmp_path: Path) -> None:
    """A run may be someone else's: nothing in its proof becomes HTML."""
    run = Run(folder=write_run(tmp_path / "run"))
    file = run.folder / "proof.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"improved"', '"<img src=x>"').replace('"wiki"', '"<img src=y>"'), encoding="utf-8")
    shown = run._repr_html_()
    assert "<img" not in shown
    assert shown.count("&lt;img") >= 3


def test_a_run_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    """Verdict, losses, pictures as they lie in the folder, and where the report is; names are escaped."""
    run = Run(folder=write_run(tmp_path / "a<b"))
    run.pictures.mkdir()
    (run.pictures / "loss.png").write_bytes(b"picture")
    run.report.write_text("report", encoding="utf-8")
    shown = run._repr_html_()
    assert "a&lt;b</b>: domain improved, general kept, retention lost" in shown
    assert "<td>wiki</td><td>retention</td><td>1.082 → 1.154</td><td>bits per byte</td><td>lost</td>" in shown
    assert f'src="data:image/png;base64,{base64.b64encode(b"picture").decode()}"' in shown
    assert "report.html</a>" in shown


def test_a_run_is_found_by_its_folder_or_its_own_recipe(tmp_path: Path) -> None:
    """Wherever it was moved; a recipe.yaml that a user wrote beside other files is not a run's."""
    (tmp_path / "recipe.yaml").touch()
    assert run_at(tmp_path / "recipe.yaml") is run_at(tmp_path) is run_at("demo") is None
    (tmp_path / "manifest.json").touch()
    for path in (tmp_path, str(tmp_path / "recipe.yaml")):
        run = run_at(path)
        assert run
        assert run.folder == tmp_path


@pytest.mark.parametrize("place", ["missing", "taken"])
def test_a_file_that_cannot_be_written_is_named_as_the_user_knows_it(place: str, tmp_path: Path) -> None:
    """Not the name under which it is written first: a folder that is not there, a folder that bears the file's name."""
    report = tmp_path / place / "report.html"
    if place == "taken":
        report.mkdir(parents=True)
    with pytest.raises(OSError, match="report") as error:
        write_text(report, "<p>")
    assert (error.value.filename, error.value.filename2) == (str(report), None)
    assert list(report.parent.glob(".*")) == []
