"""The alpha curve in words, as rows of tables, as a picture and in the terminal. Reads the `AlphaCurve` alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seodang.alpha.curve import AlphaCurve, AlphaPoint, read_curve
from seodang.proof.losses import SourceLoss
from seodang.proof.statistics import Estimate
from seodang.run.evidence import Evidence
from seodang.show.curve_names import (
    STROKES,
    CurveEnd,
    height_above,
    make_room,
    name_above,
    name_ends,
    source_colors,
    stroke_of,
)
from seodang.show.formatting import duration, plural, size, visible, visible_line
from seodang.show.language import ENGLISH, Texts
from seodang.show.plots import INK, RULE, new_figure, styled
from seodang.show.terminal.console import get_console, quiet_table
from seodang.types import CurveCost
from seodang.user_paths import path_argument, shown_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = tuple[str, ...]


def curve_of(evidence: Evidence) -> AlphaCurve | None:
    """The run's alpha curve, if it was measured.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    return read_curve(evidence.alpha)


def lead(curve: AlphaCurve, texts: Texts = ENGLISH) -> str:
    """What is recommended, and by what."""
    point = curve.chosen
    if point is None:
        return texts("alpha.none" if any(one.domain for one in curve.points) else "alpha.no_domain")
    key = "alpha.recommended_tuned" if point.alpha == 1 else "alpha.recommended"
    return texts(key, alpha=f"{point.alpha:g}")


def notes(curve: AlphaCurve, texts: Texts = ENGLISH) -> list[str]:
    """What a reader needs beside the recommendation."""
    return list(_notes(curve, texts))


def heads(curve: AlphaCurve, texts: Texts = ENGLISH) -> Cells:
    """The columns of the curve's table: alpha, each source with its unit, whether the rise is within tolerance."""
    sources = curve.points[0].sources
    named = (f"{name}, {texts(f'unit_short.{loss.unit}')}" for name, loss in sources.items())
    return (texts("alpha.alpha"), *named, texts("alpha.within"))


def rows(curve: AlphaCurve, texts: Texts = ENGLISH) -> list[Cells]:
    """A row for each alpha: the change of each source with its interval."""
    return [
        (
            texts("alpha.marked", alpha=f"{point.alpha:g}") if point is curve.chosen else f"{point.alpha:g}",
            *(_cell(loss.change, texts, loss.tolerance) for loss in point.sources.values()),
            _within(point, texts),
        )
        for point in curve.points
    ]


def proof_heads(curve: AlphaCurve, texts: Texts = ENGLISH) -> Cells:
    """The columns of the table that compares the recommended alpha with the tuned model."""
    alpha = f"{curve.recommended:g}" if curve.recommended is not None else ""
    keys = ("tuned_base", "blend_base", "blend_tuned")
    return (texts("table.source"), texts("table.loss_in"), *(texts(f"alpha.{key}", alpha=alpha) for key in keys))


def proof_rows(curve: AlphaCurve, texts: Texts = ENGLISH) -> list[Cells]:
    """A row for each source; empty where nothing is compared."""
    if (proof := curve.proof) is None:
        return []
    return [
        (
            name,
            texts(f"unit_short.{loss.unit}"),
            _judged(proof.tuned[name], texts),
            _judged(loss, texts),
            _cell(proof.difference[name], texts),
        )
        for name, loss in proof.blend.items()
    ]


@styled()
def alpha_figure(
    curve: AlphaCurve,
    *,
    order: Sequence[str] = (),
    narrow: bool = False,
    texts: Texts = ENGLISH,
) -> "Figure":
    """Each source's change over alpha with its intervals, a panel a unit; tolerances dashed, the choice marked."""
    sources = curve.points[0].sources
    units = list(dict.fromkeys(loss.unit for loss in sources.values()))
    most = max(sum(loss.unit == unit for loss in sources.values()) for unit in units)
    above, below, panel = height_above(most) if narrow else 0.35, 0.48, 1.55  # inches
    figure = new_figure(narrow, height=len(units) * (above + panel) + below)
    height = figure.get_figheight()
    figure.subplots_adjust(top=1 - above / height, bottom=below / height, hspace=above / panel)
    if narrow:
        figure.subplots_adjust(left=0.17, right=0.97)
    else:
        make_room(figure, sources, left=0.1)
    panels = figure.subplots(len(units), 1, squeeze=False, sharex=True)[:, 0]
    for axes, unit in zip(panels, units, strict=True):
        axes.axhline(0, color=INK, linewidth=0.8)
        ends = {}
        colors = source_colors([*order, *sources])
        for place, (name, color) in enumerate(colors.items()):
            if name not in sources or sources[name].unit != unit:
                continue
            changes = [point.sources[name].change for point in curve.points]
            x = [point.alpha + 0.008 * place for point in curve.points]  # intervals beside each other, not in one line
            stroke, values = stroke_of(name, colors), [change.value for change in changes]
            axes.plot(x, values, color=color, linewidth=1.6, linestyle=STROKES[stroke][0], marker="o", markersize=4)
            for at, change in zip(x, changes, strict=True):
                if interval := change.interval:
                    axes.plot([at] * 2, [interval.low, interval.high], color=color, linewidth=1.2)
            if (tolerance := sources[name].tolerance) is not None:
                axes.axhline(tolerance, color=color, linewidth=0.9, linestyle=(0, (3, 2)))
            ends[visible_line(name)] = CurveEnd(changes[-1].value, color, stroke)
        if curve.recommended is not None:
            axes.axvline(curve.recommended, color=INK, linewidth=0.7)
        axes.set_ylabel(texts(f"unit.{unit}"))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        name_above(axes, ends) if narrow else name_ends(axes, ends)
    if (recommended := curve.recommended) is not None:
        words = texts("alpha.mark", alpha=f"{recommended:g}")
        side = "right" if recommended > 0.5 else "left"
        panels[0].text(
            recommended, 1.02, words, transform=panels[0].get_xaxis_transform(), color=INK, ha=side, va="bottom"
        )
    panels[-1].set_xticks([point.alpha for point in curve.points])
    panels[-1].set_xlabel(texts("alpha.axis"))
    return figure


def show_curve(curve: AlphaCurve, run: Path, page: Path, *, out: Console | None = None) -> None:
    """The recommendation, the curve, and how the recommended alpha does on other rows."""
    out = out or get_console()
    out.print()
    out.print(Text(lead(curve), style="bold"))
    for note in notes(curve):
        out.print(Text(visible(note), style="dim"))
    for head, body in (
        (heads(curve), rows(curve)),
        (proof_heads(curve), proof_rows(curve)),
    ):
        if body:
            out.print()
            out.print(_table(head, body))
    out.print()
    if curve.recommended is not None and curve.recommended < 1:
        out.print(Text(f"save it: seodang blend {visible_line(path_argument(run))} --alpha {curve.recommended:g}"))
    out.print(Text(f"report  {visible_line(shown_path(page))}"))


def show_curve_cost(cost: CurveCost, *, out: Console | None = None) -> None:
    """What measuring the curve will read, how long it will take and what it holds in memory: one line."""
    about = f"about {duration(cost.seconds)}" if cost.seconds is not None else "of unknown duration"
    known = f" ({cost.known} of them were measured before)" if cost.known else ""
    text = (
        f"the alpha curve, {about}: {plural(cost.alphas, 'model')} between base and tuned model{known}, "
        f"{plural(cost.sequences, 'sequence')} and {plural(cost.tokens, 'token')} for each"
    )
    if cost.proving_sequences:
        text += (
            f"; base, tuned and recommended model read {plural(cost.proving_sequences, 'sequence')} more, "
            f"{plural(cost.proving_tokens, 'token')} in all"
        )
    if cost.weight_bytes:
        text += f". Two copies of the weights are held in memory: {size(cost.weight_bytes)}"
    (out or get_console()).print(Text(text, style="dim"))


def _notes(curve: AlphaCurve, texts: Texts) -> Iterator[str]:
    if (point := curve.chosen) is None:
        return
    if not curve.limited_by:
        yield texts("alpha.nothing_limits")
    else:
        sources = texts.listing(curve.limited_by)
        yield texts("alpha.is_shown" if point.within == "shown" else "alpha.is_measured", sources=sources)
    if same := curve.same_rows:
        yield texts("alpha.same_rows", sources=texts.listing(same))


def _within(point: AlphaPoint, texts: Texts) -> str:
    return texts(f"alpha.within_{point.within}")


def _judged(loss: SourceLoss, texts: Texts) -> str:
    return texts(
        "alpha.judged", change=_cell(loss.change, texts, loss.tolerance), outcome=texts.known("outcome", loss.outcome)
    )


def _cell(change: Estimate, texts: Texts, tolerance: float | None = None) -> str:
    """`−0.598 (−0.684 to −0.512)`."""
    value, interval, _ = texts.change(change, tolerance)
    return f"{value} ({interval})" if change.interval else value


def _table(head: Cells, body: list[Cells]) -> Table:
    table = quiet_table(*map(visible_line, head))
    for row in body:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table
