"""What curves in a picture are told apart by: colours and strokes of sources, and the names at their ends."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#2a716b", "#9a6710", "#7a4a93", "#3d5a99", "#8c4a38", "#566674")  # one per source, in the recipe's order
STROKES: tuple[tuple[Any, str], ...] = (  # of the first six sources, the next six and all others: line, its sign
    ("-", "—"),
    ((0, (4, 1.5)), "╌"),
    ((0, (1, 1.2)), "···"),
)
CELL = 0.075  # inches, about: a letter, or half of a Hangul syllable
SIDE_CELLS, ABOVE_CELLS, TITLE_CELLS = 27, 21, 30  # of a name at the side, above a narrow drawing, of a strip
LINE = 0.155  # inches: the height of a line of text


class CurveEnd(NamedTuple):
    """Where a curve ends, and how it looks."""

    value: float
    color: str
    stroke: int = 0  # which of `STROKES`


Ends = Mapping[str, CurveEnd]  # by the curve's name


def source_colors(sources: Iterable[str]) -> dict[str, str]:
    """Each source's colour, by its place; the seventh has the first's again, and another stroke."""
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(dict.fromkeys(sources))}


def stroke_of(name: str, colors: Mapping[str, str]) -> int:
    """Which of `STROKES` a source's line has: how many before it have its colour."""
    return min(list(colors).index(name) // len(SERIES), len(STROKES) - 1)


def line_height(axes: "Axes") -> float:
    """A line of text, as a share of the axes' height."""
    figure = axes.get_figure(root=True)
    assert figure, "axes without a figure"
    return LINE / (axes.get_position().height * figure.get_figheight())


def make_room(figure: "Figure", names: Iterable[str], *, left: float) -> None:
    """Leave as much of a wide figure to the names at its side as they need, within limits."""
    longest = min(max(map(cells, names), default=0), SIDE_CELLS)
    figure.subplots_adjust(left=left, right=1 - 0.03 - CELL * longest / figure.get_figwidth())


def name_ends(axes: "Axes", ends: Ends) -> None:
    """Write each curve's name at its right end, pushed apart where they meet."""
    low, high = axes.get_ylim()
    ordered = sorted(ends.items(), key=lambda item: item[1][0])
    gap = (high - low) * min(line_height(axes), 1 / max(1, len(ordered)))
    top = high - gap * len(ordered)
    place = -math.inf
    for number, (name, (value, color, stroke)) in enumerate(ordered, start=1):
        place = max(min(value, top + gap * number), place + gap)  # those above it have room, too
        words = f"{STROKES[stroke][1]} {name}" if stroke else name
        axes.text(
            1.01, place, shortened_name(words, SIDE_CELLS), transform=axes.get_yaxis_transform(), color=color,
            va="center", fontweight="bold",
        )  # fmt: skip


def height_above(curves: int) -> float:
    """Inches that the names of so many curves take above the axes (`name_above`)."""
    return LINE * (3.4 + 1.25 * ((curves - 1) // 2))


def name_above(axes: "Axes", ends: Ends) -> None:
    """Where there is no room at the side: the names in rows of two above the axes and the marks' words."""
    for number, (name, (_, color, stroke)) in enumerate(ends.items()):
        row = (len(ends) - 1) // 2 - number // 2
        x, y = 0.5 * (number % 2), 1.02 + line_height(axes) * (2.2 + 1.25 * row)
        words = shortened_name(f"{STROKES[stroke][1]} {name}", ABOVE_CELLS)
        axes.text(x, y, words, transform=axes.transAxes, color=color, fontweight="bold", va="bottom")


def shortened_name(name: str, most: int) -> str:
    """A name with its middle left out where it is too long: names of one folder differ at their end."""
    if cells(name) <= most:
        return name
    head, tail = len(name), 0
    while cells(name[:head]) > most // 2:
        head -= 1
    while cells(name[len(name) - tail - 1 :]) < most - cells(name[:head]):
        tail += 1
    return f"{name[:head]}…{name[len(name) - tail :]}"


def cells(text: str) -> int:
    """How wide a text is, in letters; a Hangul syllable is two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
