"""The pictures of a run: how long the rows are, how the losses went, what changed, and of what a gain is made.

Drawn once with matplotlib; written as PNG and SVG, and handed to the report as SVG whose colours are CSS variables,
so that one drawing serves light and dark pages. Knows no run folder.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Proof, Training
from seodang.run.events import EvalEvent, RecordedEvent, TrainEvent
from seodang.show.curve_names import (
    CELL,
    SERIES,
    STROKES,
    TITLE_CELLS,
    CurveEnd,
    Ends,
    cells,
    height_above,
    line_height,
    make_room,
    name_above,
    name_ends,
    shortened_name,
    source_colors,
    stroke_of,
)
from seodang.show.formatting import visible_line, whole
from seodang.show.language import ENGLISH, Texts
from seodang.types import Histogram, Lengths, LengthStats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, TRAIN, PAPER = "#1d1b19", "#6b665e", "#ddd8ce", "#968f84", "#fdfcfa"
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", TRAIN: "train"} | {
    c: f"series-{i}" for i, c in enumerate(SERIES)
}
WIDE, NARROW = 7.6, 3.9  # inches
CURVE_POINTS = 400
LATIN = "DejaVu Sans"  # comes with matplotlib
KOREAN = ("Pretendard", "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "AppleGothic",
          "Malgun Gothic", "Noto Sans CJK JP", "UnDotum", "Baekmuk Dotum")  # fmt: skip
KOREAN_FILE = re.compile(r"pretendard|noto.?sans.*(cjk|kr)|nanum|malgun|gothicneo|applegothic|undotum|baekmuk", re.I)


@contextmanager
def styled() -> Iterator[None]:
    """Text stays text in SVG; Latin letters come from matplotlib's own font, Korean ones from the system's."""
    import matplotlib as mpl  # late: half a second that other commands need not wait for

    korean = korean_font()
    settings: dict[Any, Any] = {  # Any: the stub wants each key as a literal
        "svg.fonttype": "none",
        "font.family": [LATIN, korean] if korean else [LATIN],
        "font.size": 8.5,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.axisbelow": True,
        "ytick.major.size": 0,
    }
    settings |= {f"{axis}tick.{key}": color for axis in "xy" for key, color in (("color", RULE), ("labelcolor", MUTED))}
    settings |= {f"axes.spines.{side}": False for side in ("left", "right", "top")}
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)  # a Korean font without a bold weight is drawn in the nearest one
    try:
        with mpl.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw SVG text
            yield
    finally:
        fonts.setLevel(level)


@styled()
def lengths_figure(
    lengths: Lengths,
    *,
    order: Sequence[str] = (),
    narrow: bool = False,
    names: Mapping[str, str] | None = None,
    texts: Texts = ENGLISH,
) -> "Figure":
    """Histogram and density of the rows' lengths in tokens, one strip per source, with the `max_tokens` line.

    A source that is only held out shows its holdout. `order` (of the recipe) gives sources their colours, `names`
    replaces their names.
    """
    strips = {**lengths.holdout, **lengths.train}
    colors = source_colors([*order, *lengths.train, *strips])
    shown = [name for name in colors if name in strips]
    figure = new_figure(narrow, height=0.55 + 0.92 * len(shown))
    longest = max((edge for row in strips.values() for edge in row.histogram.edges[-1:]), default=1)
    limit = lengths.max_tokens
    is_near = limit <= 1.5 * longest
    right = 1.03 * max(longest, limit if is_near else 0)
    for number, name in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, number + 1)
        held_out = name not in lengths.train
        _strip(axes, strips[name].histogram, color=colors[name])
        _titles(
            axes,
            visible_line((names or {}).get(name, name)),
            _summary(strips[name].tokens, held_out, narrow, texts),
            colors[name],
        )
        axes.set_xlim(0, right)
        if is_near:
            axes.axvline(limit, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        if number < len(shown) - 1:
            axes.tick_params(labelbottom=False)
    figure.axes[-1].set_xlabel(texts("lengths.axis_limit" if is_near else "lengths.axis_beyond", limit=whole(limit)))
    left, top, low = (0.012, 1 - 0.26 / figure.get_figheight(), 0.5 / figure.get_figheight())
    figure.subplots_adjust(left=left, right=1 - left, top=top, bottom=low, hspace=0.62)
    return figure


@styled()
def loss_figure(
    metrics: Sequence[RecordedEvent],
    *,
    order: Sequence[str] = (),
    training: Training | None = None,
    narrow: bool = False,
    names: Mapping[str, str] | None = None,
    texts: Texts = ENGLISH,
) -> "Figure":
    """Training loss and each source's evaluation loss over the steps (nats per token), best and turning step marked.

    `metrics` are the events of `metrics.jsonl`; `order` and `names` as in `lengths_figure`.
    """
    curves = 1 + len(_sources(metrics))
    above = height_above(curves) if narrow else 0.4  # inches: the marks' words, and names without a side
    figure = new_figure(narrow, height=above + (2.45 if narrow else 3.1))
    axes = figure.add_subplot()
    figure.subplots_adjust(top=1 - above / figure.get_figheight(), bottom=0.48 / figure.get_figheight())
    ends = _draw_curves(axes, metrics, order, names or {}, texts)
    best, turned = (training.best_step, training.turned_at) if training else (None, None)
    marks = {"curve.kept": best, "curve.turned": None if turned == best else turned}
    _mark_steps(axes, marks, line_height(axes), texts)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.locator_params(axis="x", integer=True)  # there is no half step
    axes.set_xlabel(texts("curve.step"))
    axes.set_ylabel(texts("curve.loss"))
    if narrow:
        name_above(axes, ends)
        figure.subplots_adjust(left=0.17, right=0.97)
    else:
        name_ends(axes, ends)
        make_room(figure, ends, left=0.095)
    return figure


@styled()
def changes_figure(
    proof: Proof, *, order: Sequence[str] = (), names: Mapping[str, str] | None = None, texts: Texts = ENGLISH
) -> "Figure":
    """A forest plot: each source's change of loss with its interval, one panel a unit; a tick marks its tolerance."""
    colors = source_colors([*order, *proof.sources])
    units = list(dict.fromkeys(loss.unit for loss in proof.sources.values()))
    sizes = [sum(loss.unit == unit for loss in proof.sources.values()) for unit in units]
    figure = new_figure(False, height=sum(0.62 + 0.36 * size for size in sizes))
    panels = figure.subplots(len(units), 1, squeeze=False, height_ratios=[0.4 + size for size in sizes])[:, 0]
    for axes, unit in zip(panels, units, strict=True):
        shown = [(name, loss) for name, loss in proof.sources.items() if loss.unit == unit]
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (name, loss) in enumerate(shown):
            change, color = loss.change, colors[name]
            if change.interval:
                axes.plot([change.interval.low, change.interval.high], [-place, -place], color=color, linewidth=1.8)
            axes.plot([change.value], [-place], color=color, marker="o", markersize=4.5)
            if loss.tolerance is not None:
                axes.plot([loss.tolerance] * 2, [-place - 0.28, -place + 0.28], color=MUTED, linewidth=0.9)
        labels = [shortened_name(visible_line((names or {}).get(name, name)), TITLE_CELLS) for name, _ in shown]
        axes.set_yticks([-place for place in range(len(shown))], labels)
        axes.set_ylim(-len(shown) + 0.4, 0.6)
        axes.set_xlabel(texts("picture.change", unit=texts(f"unit.{unit}")))
    longest = min(max(map(cells, proof.sources), default=0), TITLE_CELLS)
    left = (0.2 + CELL * longest) / figure.get_figwidth()
    figure.subplots_adjust(left=left, right=0.97, top=0.97, bottom=0.48 / figure.get_figheight(), hspace=1.1)
    return figure


@styled()
def parts_figure(
    proof: Proof, *, order: Sequence[str] = (), names: Mapping[str, str] | None = None, texts: Texts = ENGLISH
) -> "Figure":
    """A waterfall a source: what each part takes off the loss, up to the whole gain; lines are intervals."""
    colors = source_colors([*order, *proof.sources])
    figure = new_figure(False, height=0.3 + 1.75 * len(proof.parts))
    for number, (name, parts) in enumerate(proof.parts.items()):
        axes = figure.add_subplot(len(proof.parts), 1, number + 1)
        reached = 0.0
        for place, part in enumerate((*PARTS, "gain")):
            estimate, start = getattr(parts, part), 0.0 if part == "gain" else reached
            axes.bar(
                place,
                estimate.value,
                bottom=start,
                width=0.62,
                color=colors[name],
                alpha=0.9 if part == "gain" else 0.45,
            )
            if interval := estimate.interval:
                axes.plot([place] * 2, [start + interval.low, start + interval.high], color=INK, linewidth=0.9)
            reached = start + estimate.value
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(PARTS) + 1), [texts(f"part.{part}") for part in (*PARTS, "gain")])
        axes.set_ylabel(texts("unit.nats per token"))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        _titles(axes, visible_line((names or {}).get(name, name)), texts.count("example", parts.rows), colors[name])
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.09, right=0.97, top=1 - 0.26 / height, bottom=0.3 / height, hspace=0.5)
    return figure


def write_pictures(
    folder: Path,
    *,
    lengths: Lengths | None,
    metrics: Sequence[RecordedEvent],
    order: Sequence[str] = (),
    proof: Proof | None = None,
    texts: Texts = ENGLISH,
) -> list[Path]:
    """Write `lengths`, `loss`, `changes` and `parts` as .png and .svg into `folder`; what has no data is left out.

    A PNG is in English where no font here has Hangul.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [*order, *([*lengths.train, *lengths.holdout] if lengths else []), *_sources(metrics)]
    found += proof.sources if proof else ()
    font = korean_font()
    written, drawn = [], None
    for suffix, names, words in (("png", renamed(found, font), texts if font else ENGLISH), ("svg", {}, texts)):
        if drawn != (names, words.language):
            drawn = names, words.language
            shared: dict[str, Any] = {"order": order, "names": names, "texts": words}
            figures = {"lengths": lengths_figure(lengths, **shared)} if lengths else {}
            if metrics:
                figures["loss"] = loss_figure(metrics, training=proof.compared.training if proof else None, **shared)
            if proof and proof.sources:
                figures["changes"] = changes_figure(proof, **shared)
            if proof and proof.parts:
                figures["parts"] = parts_figure(proof, **shared)
        for name, figure in figures.items():
            path = folder / f"{name}.{suffix}"
            path.write_bytes(_save(figure, suffix, salt=name, paper=PAPER))
            written.append(path)
    return written


def as_html(figure: "Figure", *, label: str, salt: str) -> str:
    """The figure as an inline `<svg>` that bears `label` for screen readers, with CSS variables for colours.

    `salt` keeps the ids of several figures on one page apart.
    """
    svg = _save(figure, "svg", salt=salt, paper=None).decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # HTML knows both; and the page names no address at all
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and two figures name theirs alike
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)  # the page's own font
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return re.sub(
        r'<svg [^>]*(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(label)}">', svg, count=1
    )


def new_figure(narrow: bool, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(NARROW if narrow else WIDE, height), dpi=200)


def _save(figure: "Figure", suffix: str, *, salt: str, paper: str | None) -> bytes:
    import matplotlib as mpl

    out = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else None
    with styled(), mpl.rc_context({"svg.hashsalt": salt}):
        for axes in figure.axes:
            axes.set_facecolor("none")
        figure.savefig(out, format=suffix, facecolor=paper or "none", metadata=metadata)
    return out.getvalue()


@cache
def korean_font() -> str | None:
    """The name of an installed font with Hangul, also one installed after matplotlib's font cache was made."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    if not known.intersection(KOREAN):
        for path in font_manager.findSystemFonts():
            if KOREAN_FILE.search(Path(path).name):
                font_manager.fontManager.addfont(path)
        known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in KOREAN if name in known), None)


def renamed(names: Sequence[str], font: str | None) -> dict[str, str]:
    """What a PNG shows in place of names: without a Korean font those beyond Latin become `source 2`, in order."""
    return {
        name: f"source {number}"
        for number, name in enumerate(dict.fromkeys(names), start=1)
        if not font and any(ord(char) >= 0x250 for char in name)
    }


def _sources(metrics: Sequence[RecordedEvent]) -> list[str]:
    return list(dict.fromkeys(name for event in metrics if isinstance(event, EvalEvent) for name in event.sources))


def _strip(axes: "Axes", histogram: Histogram, *, color: str) -> None:
    """One source's histogram as bars and its density as a line of the same area."""
    edges, counts = histogram.edges, histogram.counts
    if counts:
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=color, alpha=0.28, linewidth=0)
        area = sum(count * width for count, width in zip(counts, widths, strict=True))
        axes.plot(histogram.density_x, [area * y for y in histogram.density_y], color=color, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])


def _titles(axes: "Axes", name: str, summary: str, color: str) -> None:
    words = shortened_name(name, TITLE_CELLS)
    axes.text(0, 1.06, words, transform=axes.transAxes, color=color, fontweight="bold", va="bottom")
    axes.text(1, 1.06, summary, transform=axes.transAxes, color=MUTED, ha="right", va="bottom")


def _summary(stats: LengthStats, held_out: bool, narrow: bool, texts: Texts) -> str:
    rows = texts.count("example", stats.count)
    return texts(
        "lengths.summary_narrow" if narrow else "lengths.summary",
        rows=texts("lengths.held_out", rows=rows) if held_out else rows,
        median=whole(stats.median),
        longest=whole(stats.max),
    )


def _points(pairs: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in pairs if loss is not None and math.isfinite(loss)]


def _draw_curves(
    axes: "Axes", metrics: Sequence[RecordedEvent], order: Sequence[str], names: Mapping[str, str], texts: Texts
) -> Ends:
    """Draw the training loss and each source's evaluations."""
    ends: dict[str, CurveEnd] = {}
    train = training_points(metrics)
    if train:
        trend = smooth(train)
        only = "o" if len(train) == 1 else None  # no line goes through one point
        axes.plot(*zip(*train, strict=True), color=TRAIN, linewidth=0.7, alpha=0.55)
        axes.plot(*zip(*trend, strict=True), color=TRAIN, linewidth=1.6, marker=only, markersize=3)
        ends[texts("curve.train")] = CurveEnd(trend[-1][1], MUTED)
    evals = [event for event in metrics if isinstance(event, EvalEvent)]
    colors = source_colors([*order, *_sources(evals)])
    for name, color in colors.items():
        points = _points((event.step, event.sources[name].loss) for event in evals if name in event.sources)
        if points:
            marker = "o" if len(points) <= 50 else None
            stroke = stroke_of(name, colors)
            line = STROKES[stroke][0]
            axes.plot(
                *zip(*points, strict=True), color=color, linewidth=1.8, linestyle=line, marker=marker, markersize=3
            )
            ends[visible_line(names.get(name, name))] = CurveEnd(points[-1][1], color, stroke)
    return ends


def training_points(metrics: Sequence[RecordedEvent]) -> list[tuple[int, float]]:
    """(step, training loss), at most `CURVE_POINTS` of them."""
    return _thin(_points((event.step, event.loss) for event in metrics if isinstance(event, TrainEvent)))


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `CURVE_POINTS` points, each the mean of its neighbours: a long run must not make a heavy page."""
    width = math.ceil(len(points) / CURVE_POINTS) or 1
    blocks = [points[i : i + width] for i in range(0, len(points), width)]
    return [(block[-1][0], sum(y for _, y in block) / len(block)) for block in blocks]


def smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean over a twelfth of the points: the trend without the steps' noise."""
    reach = max(1, len(points) // 24)
    windows = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [(step, sum(y for _, y in w) / len(w)) for (step, _), w in zip(points, windows, strict=True)]


def _mark_steps(axes: "Axes", marks: Mapping[str, int | None], line_height: float, texts: Texts) -> None:
    """A vertical line per marked step, its words above the axes, each on a level of its own."""
    low, high = axes.get_xlim()
    where = axes.get_xaxis_transform()
    for level, (key, step) in enumerate((key, step) for key, step in marks.items() if step is not None):
        axes.axvline(step, color=INK, linewidth=0.7, linestyle=(0, (1, 1.5)) if level else "solid")
        side = "right" if (step - low) / (high - low) > 0.5 else "left"
        y = 1.02 + line_height * level
        axes.text(step, y, texts(key, step=whole(step)), transform=where, color=INK, ha=side, va="bottom")
