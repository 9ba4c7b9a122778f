"""What people read keeps to plain English: words that a newcomer has to translate do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src" / "seodang").glob("*/*.md.jinja")),
    *sorted((ROOT / "src" / "seodang").glob("*/*.html.jinja")),
    *sorted((ROOT / "src" / "seodang").glob("*/catalog/en.toml")),
    *sorted((ROOT / "src" / "seodang" / "recipes").glob("*.yaml")),
]
UNWANTED = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bamid\b": "during",
    r"\bstands twice\b": "duplicate",
    r"(?<![Tt]here )\bis no (?!longer\b)": "is not a …, unknown …, expected …",
    r"(?<![Tt]here )\bare no (?!longer\b|more\b)": "are not …",
    r"\bgoes on with\b": "resumes, continues",
    r"\bgravest\b": "most serious",
    r"^of the \w+( of the \w+)?\.?$": "a whole help text",
}


def _messages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string that is not a docstring, with … for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in bare | parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            values = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield node.lineno, "".join(map(str, values))


def _unwanted(text: str) -> list[str]:
    return [
        f"{found.group()!r} (better: {better})" for word, better in UNWANTED.items() if (found := re.search(word, text))
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_messages_are_plain(path: Path) -> None:
    """Errors, hints, notes and help texts hold none of the unwanted words."""
    assert not [f"{path.name}:{line}: {found}" for line, text in _messages(path) for found in _unwanted(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain(path: Path) -> None:
    """Neither do the README, the documentation, the templates of report and card, and the recipes that ship."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [f"{path.name}:{number}: {found}" for number, text in enumerate(lines, 1) for found in _unwanted(text)]


def test_what_is_unwanted_is_found() -> None:
    """The expressions find what they are made for, and leave usual English alone."""
    assert all(map(_unwanted, ["mend the YAML", "'x' is no device", "key 'x' stands twice", "of the run"]))
    assert not any(
        map(_unwanted, ["there is no run to resume", "it is no longer used", "amended", "of the run that …"])
    )
