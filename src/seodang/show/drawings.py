"""Small drawings that stand inside the report's tables: SVG with CSS variables for colours, and no text of its own."""

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from seodang.proof.gain_parts import PARTS, GainParts
from seodang.proof.losses import SourceLoss
from seodang.proof.statistics import Estimate

WIDTH, HEIGHT = 240, 22  # of a cell, in SVG units
MARGIN = 6


class Scale:
    """Values → x in a cell; 0 is always inside."""

    def __init__(self, values: Iterable[float]) -> None:
        found = [0.0, *values]
        low, high = min(found), max(found)
        self._low, self._per_unit = low, (WIDTH - 2 * MARGIN) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(MARGIN + (value - self._low) * self._per_unit, 1)


def forest_scales(sources: Mapping[str, SourceLoss]) -> dict[str, Scale]:
    """Unit → the scale that all of its sources share."""
    reach: dict[str, list[float]] = {}
    for loss in sources.values():
        reach.setdefault(loss.unit, []).extend([*_ends(loss.change), loss.tolerance or 0.0])
    return {unit: Scale(values) for unit, values in reach.items()}


def forest_cell(loss: SourceLoss, scale: Scale, *, color: str, label: str) -> Markup:
    """A source's change as a dot, its interval as a bar, what its tolerance allows as a shade."""
    zero, middle = scale(0), HEIGHT / 2
    shapes = []
    if loss.tolerance:
        shapes.append(_rectangle(zero, scale(loss.tolerance), 2, HEIGHT - 4, "var(--shade)"))
    shapes.append(_line(zero, 0, zero, HEIGHT, "var(--ink)", 1))
    if interval := loss.change.interval:
        shapes.append(_line(scale(interval.low), middle, scale(interval.high), middle, color, 3))
    shapes.append(f'<circle cx="{scale(loss.change.value)}" cy="{middle}" r="4.5" fill="{color}"/>')
    return _cell(shapes, label)


def waterfall_cells(parts: GainParts, *, color: str, labels: Mapping[str, str]) -> dict[str, Markup]:
    """Part → its step of the way to the whole gain, and the gain itself from 0; lines are intervals."""
    steps, reached = {}, 0.0
    for part in PARTS:
        steps[part] = reached
        reached += getattr(parts, part).value
    steps["gain"] = 0.0
    scale = Scale(
        end + start for part, start in steps.items() for end in (0.0, *_ends(getattr(parts, part)))
    )  # fmt: skip
    return {part: _step(getattr(parts, part), start, scale, color, labels[part]) for part, start in steps.items()}


def _step(estimate: Estimate, start: float, scale: Scale, color: str, label: str) -> Markup:
    middle, zero = HEIGHT / 2, scale(0)
    shapes = [
        _rectangle(scale(start), scale(start + estimate.value), 4, HEIGHT - 8, color, 0.65),
        _line(zero, 0, zero, HEIGHT, "var(--ink)", 1),
    ]
    if interval := estimate.interval:
        shapes.append(_line(scale(start + interval.low), middle, scale(start + interval.high), middle, "var(--ink)", 1))
    return _cell(shapes, label)


def _ends(estimate: Estimate) -> tuple[float, ...]:
    return (estimate.value, *((estimate.interval.low, estimate.interval.high) if estimate.interval else ()))


def _rectangle(x1: float, x2: float, y: float, height: float, fill: str, opacity: float = 1) -> str:
    left, width = min(x1, x2), max(1.0, round(abs(x2 - x1), 1))
    return f'<rect x="{left}" y="{y}" width="{width}" height="{height}" fill="{fill}" fill-opacity="{opacity}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}" stroke-width="{width}"/>'


def _cell(shapes: list[str], label: str) -> Markup:
    start = Markup('<svg class="cell" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return start + Markup("".join(shapes)) + Markup("</svg>")
