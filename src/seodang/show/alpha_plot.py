"""The picture of the alpha curve."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seodang.alpha.curve import AlphaCurve
from seodang.show.formatting import visible_line
from seodang.show.language import ENGLISH, Texts
from seodang.show.plots import INK, RULE, line_height, name_above, name_ends, new_figure, source_colors, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure = new_figure(narrow, height=0.75 + 1.9 * len(units))
    figure.subplots_adjust(left=0.17 if narrow else 0.1, right=0.97 if narrow else 0.8, hspace=0.42)
    panels = figure.subplots(len(units), 1, squeeze=False, sharex=True)[:, 0]
    for axes, unit in zip(panels, units, strict=True):
        axes.axhline(0, color=INK, linewidth=0.8)
        ends = {}
        for place, (name, color) in enumerate(source_colors([*order, *sources]).items()):
            if name not in sources or sources[name].unit != unit:
                continue
            changes = [point.sources[name].change for point in curve.points]
            x = [point.alpha + 0.008 * place for point in curve.points]  # intervals beside each other, not in one line
            axes.plot(x, [change.value for change in changes], color=color, linewidth=1.6, marker="o", markersize=4)
            for at, change in zip(x, changes, strict=True):
                if interval := change.interval:
                    axes.plot([at] * 2, [interval.low, interval.high], color=color, linewidth=1.2)
            if (tolerance := sources[name].tolerance) is not None:
                axes.axhline(tolerance, color=color, linewidth=0.9, linestyle=(0, (3, 2)))
            ends[visible_line(name)] = (changes[-1].value, color)
        if curve.recommended is not None:
            axes.axvline(curve.recommended, color=INK, linewidth=0.7)
        axes.set_ylabel(texts(f"unit.{unit}"))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        name_above(axes, ends, line_height(axes, figure)) if narrow else name_ends(axes, ends)
    panels[-1].set_xlabel(texts("alpha.axis"))
    return figure
