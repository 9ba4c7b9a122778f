"""folder: the run folder has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT
from seodang.run import folder

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
    return " " not in text and not text.endswith(".jinja") and any(name in text for name in NAMES)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_module_spells_a_name_of_the_run_folder(path: Path) -> None:
    """File names of a run come from run/folder.py; docstrings and sentences may mention them."""
    spelled = [text for text in _literals(path) if _is_name(text)]
    assert spelled == []


def test_the_names_are_there() -> None:
    """The search above looks for the names that matter."""
    assert {"manifest.json", "proof.json", "answers.jsonl", "metrics.jsonl", "base.json", "checkpoints"} <= NAMES
