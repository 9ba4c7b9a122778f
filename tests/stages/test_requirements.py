"""What a recipe needs and this machine lacks is reported at once, before anything that takes long is imported."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import Workplace, seodang
from seodang.errors import HubError, ModelError, RunError, SeodangError, SourceError, StartError, TemplateError
from seodang.model import packaged
from seodang.recipe import Recipe, Train, load_recipe
from seodang.stages import requirements

HEAVY = ("torch", "transformers", "datasets", "pandas", "peft", "bitsandbytes")


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A user's folder with one sound recipe, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    return Workplace(folder=tmp_path, model=tiny_folder)


def recipe_of(place: Workplace, *changes: str) -> Recipe:
    return load_recipe(*place.recipe()[:1], changes)


def found(recipe: Recipe, **options: Any) -> list[tuple[type[SeodangError], str]]:
    return [(type(error), error.where) for error in requirements.missing(recipe, **options)]


def test_all_that_is_missing_is_named_before_heavy_imports(place: Workplace) -> None:
    """Three mistakes of a command are one error, in a process that has imported none of the large libraries."""
    arguments = ["tune", *place.recipe("model.path=./bsae", "template.borrow=chatlm", "sources.medical.path=nope.csv")]
    code = (
        "import sys; from seodang.cli import main; sys.argv = ['seodang', *sys.argv[1:]]\n"
        f"try: main()\nfinally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    head, *faults = done.stderr.split("\n  - ")
    assert head == "error: 3 things keep this from starting"
    for fault, where, hint in zip(
        faults,
        ("model.path: ", "template.borrow: ", "sources.medical.path: "),
        ("give a folder", "give a folder", "check the path"),
        strict=True,
    ):
        assert fault.startswith(where)
        assert f"\n    → {hint}" in fault


def test_every_kind_of_need_is_looked_at(place: Workplace) -> None:
    """Models, templates and data of every kind, in the order of the recipe; each with its key."""
    place.write("there.jsonl", "{}")
    sources = (
        "sources=[{name: a, role: domain, path: [there.jsonl, none.jsonl, 'none/*.csv', 'sample:none']},"
        " {name: b, role: general, hub: nobody/none}, {name: c, role: general, hub: ./none}]"
    )
    changed = recipe_of(place, "model.path=nobody/none", "template.borrow=./none.jinja", sources)
    assert found(changed) == [
        (HubError, "model.path: nobody/none"),
        (TemplateError, "template.borrow"),
        (SourceError, "sources.a.path: none.jsonl"),
        (SourceError, "sources.a.path: none/*.csv"),
        (SourceError, "sources.a.path: sample:none"),
        (HubError, "sources.b.hub: nobody/none"),
        (SourceError, "sources.c.hub: ./none"),
    ]
    assert found(recipe_of(place)) == []
    borrowed = recipe_of(place, "template.borrow=nobody/none", "model.path=package:none")
    assert found(borrowed) == [(ModelError, "model.path: package:none"), (HubError, "template.borrow: nobody/none")]


def test_a_package_of_a_model(place: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A packaged model that is not installed is missing, unless it was converted before."""
    wanted = recipe_of(place, "model.path=package:smollm2-135m-instruct")
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "is_installed", lambda name: False)
    [error] = requirements.missing(wanted)
    assert (error.where, error.what) == (
        "model.path: package:smollm2-135m-instruct",
        "the package gguf is not installed",
    )
    assert "pip install" in error.hint
    (tmp_path / "cache" / "models" / "smollm2-135m-instruct-v1").mkdir(parents=True)
    assert not found(wanted)


def test_packages_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting that needs an optional package names it, with what to type; others need none."""
    monkeypatch.setattr(requirements, "is_installed", lambda name: False)
    settings = Train(adapter={"kind": "qlora"}, report_to=["wandb", "mlflow"])
    errors = list(requirements.missing_packages(settings))
    assert [(error.where, error.what, error.hint) for error in errors] == [
        ("train.adapter", "peft is not installed", 'pip install "seodang[adapters]"'),
        (
            "train.adapter.kind",
            "qlora needs bitsandbytes, which is not installed",
            'pip install "seodang[cuda]", or use kind: lora',
        ),
        (
            "train.report_to",
            "wandb and mlflow are not installed",
            'pip install "seodang[wandb,mlflow]", or leave train.report_to out',
        ),
    ]
    assert [(finding.where, finding.severity) for finding in requirements.package_findings(settings)] == [
        (error.where, "warn") for error in errors
    ]
    assert not list(requirements.missing_packages(Train()))


@pytest.mark.parametrize("command", [["tune"], ["inspect"], ["demo"]], ids=" ".join)
def test_commands_report_the_run_folder_too(command: list[str], place: Workplace) -> None:
    """A run folder that is in the way and a model that is not there are one error of every command."""
    place.write("runs/mine/notes.txt", "")
    changes = ["model.path=./none", "sources.medical.path=./none", "--out", "runs/mine"]
    recipe = place.recipe()[:1] if command != ["demo"] else []
    ended = seodang(command[0], *recipe, *command[1:], *changes)
    assert ended.code == 2
    assert "error: 3 things keep this from starting\n  - runs/mine: already exists" in ended.err
    for key in ("model.path", "sources.medical.path"):
        assert f"\n  - {key}: " in ended.err


def test_a_proof_reports_both_models_and_the_data(place: Workplace) -> None:
    """`prove` looks for the model, its base and the data; one that is from the hub is to be given by --against."""
    place.recipe()
    Path("data.jsonl").unlink()
    for more in ([], ["--dry-run"]):
        ended = seodang("prove", "./none", "--against", "nobody/none", "--recipe", "recipe.yaml", *more)
        assert ended.code == 2
        assert "error: 3 things keep this from starting\n  - ./none: no such folder" in ended.err
        assert "\n  - nobody/none: no such folder here; the hub cannot be reached" in ended.err
        assert "--against /path/to/folder" in ended.err
        assert "\n  - sources.medical.path: " in ended.err


def test_the_override_in_the_hint_works(place: Workplace) -> None:
    """A source on the hub is replaced by files with the two keys that the hint names."""
    place.recipe()
    sources = "sources=[{name: medical, role: domain, hub: nobody/none, holdout: 4}]"
    [error] = requirements.missing(recipe_of(place, sources))
    hub, path = error.hint.split(" and set ")[1].split(",")[0].split()
    assert (hub, path) == ("sources.medical.hub=null", "sources.medical.path=/path/to/files")
    changed = recipe_of(place, sources, hub, path.replace("/path/to/files", "data.jsonl"))
    assert found(changed) == []


def test_one_thing_is_its_own_error_and_several_pass_between_processes() -> None:
    """What is alone stays what it is; ranks pass a StartError on as it was raised."""
    one, other = ModelError("gone", where="model.path", hint="look"), RunError("in the way", where="runs/x")
    several = StartError([one, other])
    assert str(several) == (
        "2 things keep this from starting\n  - model.path: gone\n    → look\n  - runs/x: in the way"
    )
    assert str(pickle.loads(pickle.dumps(several))) == str(several)
