"""Each command ends with the commands that come next, as a shell takes them."""

import argparse
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import run_folder
from seodang.run.folder import Run
from seodang.show.terminal import next_commands
from seodang.show.terminal.next_commands import Next


def _printed(commands: list[Next]) -> list[str]:
    out = Console(file=io.StringIO(), width=60, highlight=False, markup=False, emoji=False)
    next_commands.show_next(commands, out=out)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell finds `seodang`."""
    program = tmp_path / "bin" / "seodang"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def _measured(folder: Path, **verdict: str) -> Run:
    run = Run(folder=run_folder.write_run(folder))
    run.model.mkdir(exist_ok=True)
    (run.model / "config.json").write_text("{}", encoding="utf-8")
    proof = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    proof["verdict"] |= verdict
    (folder / "proof.json").write_text(json.dumps(proof), encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("verdict", "then"),
    [
        ({"domain": "improved", "general": "kept", "retention": "lost", "answers": "not judged"}, "blend"),
        ({"domain": "improved", "general": "kept", "retention": "kept", "answers": "not judged"}, "serve"),
        ({"domain": "not shown", "general": "kept", "retention": "lost", "answers": "not judged"}, "serve"),
        ({"domain": "improved", "general": "kept", "retention": "kept", "answers": "not usable"}, None),
    ],
)
def test_what_comes_after_a_run_follows_from_its_verdict(
    tmp_path: Path, verdict: dict[str, str], then: str | None
) -> None:
    """A talk first; then a blend where the gain cost something, or serving, unless the answers cannot be used."""
    run = _measured(tmp_path / "두 번째 run", **verdict)
    found = [line.command for line in next_commands.after_run(run)]
    folder = f"'{run.folder}'"
    assert found == [f"seodang chat {folder} --both", *([f"seodang {then} {folder}"] if then else [])]


def test_a_command_is_never_broken(on_path: None) -> None:
    """A line wider than the terminal stays one line below what it is for; the others are aligned without it."""
    long = next_commands.command("tune", "/a/long/folder/of/recipes/의료.yaml", "train.steps=200", "name=한 번 더")
    shown = _printed([Next(long, "train"), Next("seodang init", "begin"), Next("seodang demo --quick", "try")])
    assert shown == [
        *("", "next", "  # train", f"  {long}"),
        *("  seodang init           # begin", "  seodang demo --quick   # try"),
    ]


def test_purposes_are_aligned_as_far_as_they_fit(on_path: None) -> None:
    """No line is wider than the terminal because of its neighbour."""
    shown = _printed([Next("seodang " + "x" * 40, "a"), Next("seodang init", "w" * 38)])
    assert shown[2:] == [f"  seodang {'x' * 40}   # a", f"  seodang init{' ' * 6}# {'w' * 38}"]
    assert max(map(len, shown)) <= 60


def test_what_comes_after_init_fits_into_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines that a new user sees are not wrapped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(next_commands, "load_recipe", lambda recipe: argparse.Namespace(name="my-recipe"))
    lines = next_commands.after_init(Path("recipe.yaml"))
    assert max(len(f"  {line.command}   # {line.purpose}") for line in lines) <= 80


def test_where_the_shell_does_not_find_seodang_its_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `make`, no environment is active: without that line none of the others would work."""
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "activate").touch()
    monkeypatch.setattr("sys.executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    first = " ".join(_printed([Next("seodang demo", "")])[2].split())
    assert first == ". .venv/bin/activate # once in each shell"


def test_a_proof_of_a_model_leads_to_that_model(tmp_path: Path) -> None:
    """A proof's folder holds no weights: what can be talked to is the model that was given."""
    run = Run(folder=run_folder.write_run(tmp_path / "proof"))
    assert [line.command for line in next_commands.after_proof(run, "my/model")] == ["seodang chat my/model"]
