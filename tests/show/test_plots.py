"""plots: the pictures of a run, readable in Korean, and as HTML in a page's own colours."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from events import eval_event, train_event
from run_folder import BEST, run_lengths, run_metrics, run_proof
from seodang.proof.proof import Training
from seodang.show import plots
from seodang.show.curve_names import SERIES, cells, source_colors
from seodang.show.plots import (
    as_html,
    korean_font,
    lengths_figure,
    loss_figure,
    renamed,
    write_pictures,
)


def texts(html: str) -> list[str]:
    """All text that a drawing shows."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def test_pictures_are_written_as_png_and_svg(tmp_path: Path) -> None:
    """Every picture comes as PNG and as SVG whose text is text, Korean names included."""
    written = write_pictures(tmp_path / "pictures", lengths=run_lengths(), metrics=run_metrics(), proof=run_proof())
    names = ("changes", "lengths", "loss", "parts")
    assert sorted(path.name for path in written) == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            shown = " ".join(ET.parse(path).getroot().itertext())
            assert "의료_질문" in shown
            assert "wiki" in shown or "parts" in path.name


@pytest.mark.parametrize(("font", "drawings"), [("NanumGothic", 4), (None, 8)])
def test_pictures_are_drawn_once(
    font: str | None, drawings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One drawing is saved as PNG and as SVG; where no font has Hangul, the PNG of Korean names is another one."""
    drawn: list[None] = []
    new = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", lambda *size, **by_name: drawn.append(None) or new(*size, **by_name))
    monkeypatch.setattr(plots, "korean_font", lambda: font)
    written = write_pictures(tmp_path, lengths=run_lengths(), metrics=run_metrics(), proof=run_proof())
    assert (len(drawn), len(written)) == (drawings, 8)


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    """A run that has neither lengths nor metrics gets no picture."""
    assert write_pictures(tmp_path, lengths=None, metrics=[]) == []


def test_pictures_are_reproducible(tmp_path: Path) -> None:
    """The same data give the same bytes: no date, no random ids."""
    first, second = (
        write_pictures(tmp_path / name, lengths=run_lengths(), metrics=run_metrics()) for name in ("a", "b")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_html_is_a_drawing_in_the_pages_colours() -> None:
    """An inline drawing has no fixed colour, font or address of its own, and a label for screen readers."""
    html = as_html(loss_figure(run_metrics(), training=Training(best_step=BEST)), label='losses "here"', salt="a")
    assert html.startswith('<svg viewBox="')
    assert 'role="img" aria-label="losses &quot;here&quot;"' in html
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(href="|url\()#\w+', "", html)) == []
    assert "font-family" not in html
    assert "http" not in html
    assert "var(--series-0)" in html


def test_ids_of_two_drawings_do_not_meet() -> None:
    """Drawings with different salts share no id, so that one cannot clip the other."""
    ids = [
        set(
            re.findall(
                r' id="([^"]+)"', as_html(loss_figure(run_metrics(), narrow=narrow), label="x", salt=str(narrow))
            )
        )
        for narrow in (True, False)
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_loss_names_every_curve_and_marks_the_kept_step() -> None:
    """Each source, the training loss, the kept step and the step of the rise are named in the drawing."""
    shown = texts(
        as_html(loss_figure(run_metrics(), training=Training(best_step=450, turned_at=500)), label="x", salt="a")
    )
    assert {"의료_질문", "일반대화", "wiki", "train", "kept: step 450", "rose again after step 500"} <= set(shown)


def test_steps_are_whole_numbers() -> None:
    """The axis of a short run counts no parts of a step."""
    axes = loss_figure([train_event(step, 1.0) for step in (1, 2)]).axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_names_at_the_end_keep_apart() -> None:
    """Curves that end at the same loss still have names at different heights."""
    events = [eval_event(step, {"가": 2.0, "나": 2.0, "다": 2.0}) for step in (0, 10)]
    axes = loss_figure(events).axes[0]
    heights = sorted(text.get_position()[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert min(b - a for a, b in pairwise(heights)) >= 0.05 * (high - low)


def test_names_stay_inside_the_axes() -> None:
    """Many curves that end at the top: no name is pushed out of the picture."""
    events = [eval_event(step, {f"s{i}": 2.0 + step + i / 1000 for i in range(12)}) for step in (0, 10)]
    axes = loss_figure(events).axes[0]
    low, high = axes.get_ylim()
    assert all(low <= text.get_position()[1] <= high for text in axes.texts)


def test_a_single_step_is_a_point() -> None:
    """No line goes through one value: it has a marker, or nothing would be seen of it."""
    axes = loss_figure([train_event(1, 2.0)]).axes[0]
    assert any(line.get_marker() == "o" for line in axes.lines)


def test_no_two_sources_look_alike() -> None:
    """Twelve sources have six colours: the seventh has another stroke, in the curve and before its name."""
    events = [eval_event(step, {f"s{i}": float(i) for i in range(12)}) for step in (0, 10)]
    for narrow in (False, True):
        axes = loss_figure(events, narrow=narrow).axes[0]
        looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.lines}
        assert len(looks) == 12
        assert "╌ s6" in {text.get_text() for text in axes.texts}


def test_long_names_keep_both_ends() -> None:
    """Names that differ at their end are told apart, and fit beside the curves."""
    names = [f"a-very-long-name-of-a-source-{number}" for number in (1, 2)]
    events = [eval_event(step, dict.fromkeys(names, 1.0)) for step in (0, 10)]
    for narrow in (False, True):
        figure = loss_figure(events, narrow=narrow)
        shown = [text.get_text() for text in figure.axes[0].texts]
        assert len(set(shown)) == 2
        assert all(cells(name) <= 27 and name.endswith(f"-{end}") for name, end in zip(shown, (1, 2), strict=True))


def test_losses_that_are_not_finite_are_left_out() -> None:
    """A diverged run can still be drawn: points without a finite loss are not points."""
    events = [train_event(1, 2.0), train_event(2, math.inf), eval_event(2, {"가": math.nan}, loss=math.nan)]
    assert set(texts(as_html(loss_figure(events), label="x", salt="a"))) >= {"train"}


def test_long_runs_stay_light() -> None:
    """A hundred thousand steps make a drawing of at most 400 points a curve, with the same mean."""
    events = [train_event(step, 1.0 + step % 2) for step in range(1, 100_001)]
    raw = loss_figure(events).axes[0].lines[0].get_ydata()
    assert len(raw) <= 400
    assert sum(raw) / len(raw) == pytest.approx(1.5)


def test_many_names_fit_above_a_narrow_drawing() -> None:
    """Seven sources' names stand inside the narrow drawing, above its axes."""
    events = [eval_event(step, {f"자료{i}": 2.0 for i in range(7)}) for step in (0, 10)]
    figure = loss_figure(events, training=Training(best_step=10, turned_at=0), narrow=True)
    axes = figure.axes[0]
    tops = [
        axes.transAxes.transform((0, text.get_position()[1]))[1] for text in axes.texts if "자료" in text.get_text()
    ]
    assert len(tops) == 7
    assert max(tops) + 0.12 * figure.dpi < figure.bbox.height


def test_lengths_show_max_tokens_only_where_it_is_near() -> None:
    """A limit far beyond the rows is given in words and does not squeeze the histogram."""
    near, far = lengths_figure(run_lengths()), lengths_figure(replace(run_lengths(), max_tokens=8192))
    assert near.axes[0].get_xlim()[1] == pytest.approx(far.axes[0].get_xlim()[1])
    assert "dashed: max_tokens 320" in near.axes[-1].get_xlabel()
    assert "max_tokens 8,192 lies beyond" in far.axes[-1].get_xlabel()


def test_the_density_has_the_histograms_area() -> None:
    """Bars and curve are drawn to one scale: the areas under them agree."""
    axes = lengths_figure(run_lengths()).axes[0]
    bars = sum(bar.get_width() * bar.get_height() for bar in axes.patches)
    xs, ys = axes.lines[0].get_data()
    curve = sum(ys) * (xs[1] - xs[0])
    assert curve == pytest.approx(bars, rel=0.01)


def test_sources_keep_their_colour_in_both_pictures() -> None:
    """A source has the colour of its place in the recipe, whatever order the files have."""
    order = ["wiki", "의료_질문", "일반대화"]
    color = source_colors(order)["의료_질문"]
    assert color == SERIES[1]
    for figure in (lengths_figure(run_lengths(), order=order), loss_figure(run_metrics(), order=order)):
        named = {text.get_text(): text.get_color() for axes in figure.axes for text in axes.texts}
        assert named["의료_질문"] == color


def test_names_without_a_korean_font_are_numbered() -> None:
    """Without a font for them Korean names become `source N` in a PNG; with one, and in Latin, they stay."""
    names = ["wiki", "의료_질문", "wiki"]
    assert renamed(names, None) == {"의료_질문": "source 2"}
    assert renamed(names, "NanumGothic") == {}


def test_the_korean_font_has_hangul() -> None:
    """The font that is found can draw Hangul; where none is installed, none is claimed."""
    from matplotlib import font_manager, ft2font

    name = korean_font()
    if name is None:
        pytest.skip("no Korean font is installed here")
    assert ft2font.FT2Font(font_manager.findfont(name)).get_char_index(ord("한")) != 0
