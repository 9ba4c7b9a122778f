"""Draws architecture.svg: the stages of the pipeline, and the layers that architecture.md lists. Knows no library."""

import ast
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "seodang"
WIDTH, MARGIN = 1000, 20
STAGE_HEIGHT, LAYER_HEIGHT, GAP = 34, 34, 6
NAMES_WIDTH = 350  # of the boxes of a layer; what they hold stands right of them
PLACES = {  # stage → where its code is
    "recipe": "recipe", "read": "data/read", "convert": "data/read", "split": "data", "audit": "check",
    "encode": "data/encode", "mix": "data", "pack": "data", "train": "train", "prove": "proof", "report": "show",
}  # fmt: skip
STYLE = """
svg { background: #ffffff; font: 14px system-ui, sans-serif; }
text { fill: #1f2933; }
.tight { font-size: 12px; } .small { font-size: 11px; fill: #52606d; } .title { font-weight: 600; }
rect { fill: #e6f4f1; stroke: #2a9d8f; } path { stroke: #52606d; fill: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #1e2129; } text { fill: #e4e7eb; } .small { fill: #9aa5b1; }
  rect { fill: #16302d; stroke: #2a9d8f; } path { stroke: #9aa5b1; }
}
"""


def layers() -> list[tuple[str, ...]]:
    """The packages of architecture.md, from the ground up; those of one layer together."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return [tuple(line.split()) for line in re.findall(r"^```layers\n(.*?)^```", page, re.S | re.M)[0].splitlines()]


def stages() -> list[str]:
    """The stages of architecture.md, in order."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^(recipe → .*)$", page, re.MULTILINE)[0].split(" → ")


def picture() -> str:
    """The drawing as SVG text, light or dark as the reader's system is."""
    rows = list(_stages()) + list(_layers())
    height = _layers_top() + len(layers()) * (LAYER_HEIGHT + GAP) + MARGIN
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Stages of the pipeline, and layers of packages">'
    )
    return "\n".join([opening, f"<style>{STYLE}</style>", *rows, "</svg>", ""])


def _stages() -> Iterator[str]:
    names = stages()
    width = (WIDTH - 2 * MARGIN + GAP * 2) / len(names)
    yield _text(MARGIN, MARGIN + 10, "The pipeline, and where each stage's code is", "title")
    for number, name in enumerate(names):
        left, top = MARGIN + number * width, MARGIN + 24
        yield _box(left, top, width - GAP * 2, STAGE_HEIGHT)
        yield _text(left + (width - GAP * 2) / 2, top + 22, name, anchor="middle")
        yield _text(left + (width - GAP * 2) / 2, top + STAGE_HEIGHT + 16, PLACES[name], "small", anchor="middle")
        if number < len(names) - 1:
            middle, right = top + STAGE_HEIGHT / 2, left + width
            yield f'<path d="M{right - GAP * 2:.1f} {middle} H{right - 2:.1f} m-4 -3 l4 3 l-4 3"/>'


def _layers() -> Iterator[str]:
    yield _text(MARGIN, _layers_top() - 12, "Layers: each imports only from below it", "title")
    for number, names in enumerate(reversed(layers())):
        top = _layers_top() + number * (LAYER_HEIGHT + GAP)
        width = (NAMES_WIDTH + GAP) / len(names)
        for place, name in enumerate(names):
            left = MARGIN + place * width
            yield _box(left, top, width - GAP, LAYER_HEIGHT)
            yield _text(
                left + (width - GAP) / 2, top + 22, name.strip("_"), "" if len(names) < 3 else "tight", anchor="middle"
            )
        yield _text(MARGIN + NAMES_WIDTH + 16, top + 22, _purpose(names), "small")


def _layers_top() -> int:
    return MARGIN + 24 + STAGE_HEIGHT + 70


def _purpose(names: Sequence[str]) -> str:
    """The first sentence of the package's or module's own docstring."""
    name = names[0]
    file = SOURCE / name / "__init__.py" if (SOURCE / name).is_dir() else SOURCE / f"{name}.py"
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    return re.split(r"(?<=\.)\s", text)[0].rstrip(".")


def _box(left: float, top: float, width: float, height: float) -> str:
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="5"/>'


def _text(left: float, top: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
