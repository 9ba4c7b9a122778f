"""The house stands: floors, single importers, sizes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT

SOURCE = ROOT / "src" / "seodang"
FLOORS = {
    "types": 0, "errors": 0, "user_cache": 0, "__version__": 0,
    "recipe_file": 1, "json_values": 1, "distributed": 1, "recipe": 2, "data": 3, "check": 4, "model": 5,
    "run": 6, "proof": 7, "starter": 8, "train": 9, "show": 10, "publish": 11, "serve": 12, "stages": 13,
    "pipeline": 14, "cli": 15, "__main__": 16,
}  # fmt: skip
MODULES = sorted(path for path in SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def _room(path: Path) -> str:
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "recipe" if name.startswith("recipe_") else name


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also those inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_imports_its_own_room_and_the_floors_below(path: Path) -> None:
    """No module imports from above, or from another room on its floor."""
    room = _room(path)
    if room == "__init__":
        return
    for module, name in _imports(path):
        if module == "seodang":
            other = name if name in FLOORS else "types"  # __version__
        elif module.startswith("seodang."):
            other = re.sub("^recipe_.*", "recipe", module.split(".")[1])
        else:
            continue
        assert other == room or FLOORS[other] < FLOORS[room], f"{path}: {room} imports {other}"


def test_only_one_module_imports_the_trainer_and_one_the_command_line() -> None:
    """trainer.py alone imports transformers.Trainer, cli.py alone typer."""
    importers: dict[str, set[str]] = {"Trainer": set(), "typer": set()}
    for path in MODULES:
        for module, name in _imports(path):
            if module.startswith("transformers") and name == "Trainer":
                importers["Trainer"].add(_name(path))
            if module.split(".")[0] in ("typer", "click"):
                importers["typer"].add(_name(path))
    assert importers == {"Trainer": {"train/trainer.py"}, "typer": {"cli.py"}}


def test_the_data_room_knows_no_torch() -> None:
    """Nothing in data/ imports torch, not even late."""
    for path in (SOURCE / "data").glob("*.py"):
        assert not [module for module, _ in _imports(path) if module.split(".")[0] == "torch"], path


def test_modules_import_without_cycles() -> None:
    """Imports at the top of modules form no cycle."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        name = "seodang." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        top = ast.parse(path.read_text(encoding="utf-8")).body
        graph[name] = {
            target
            for node in top
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seodang.")
            for target in (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        if name in graph and name not in done:
            for target in graph[name]:
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())
