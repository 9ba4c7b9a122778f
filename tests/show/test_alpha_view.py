"""alpha_view: the curve in words and tables, in both languages."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from planted_curve import planted_curve
from seodang.show import alpha_view
from seodang.show.language import ENGLISH
from seodang.show.plots import as_html


@pytest.mark.parametrize(
    ("cost", "lead"),
    [
        (0.02, "Recommended: α = 1, the tuned model itself"),
        (0.1, "Recommended: α = 0.5, the largest gain on the domain"),
        (2.0, "No α is recommended: none above 0 gains"),
    ],
)
def test_the_recommendation_is_one_sentence(cost: float, lead: str) -> None:
    """An alpha between, the tuned model itself, or none; a warning where rows chose and prove."""
    curve = planted_curve(cost)
    assert alpha_view.lead(curve).startswith(lead)
    notes = alpha_view.notes(curve)
    assert bool(notes) == (curve.recommended is not None)
    assert all("wiki" in note for note in notes)


def test_the_terminal_has_the_curve_and_the_comparison() -> None:
    """A row for each alpha, one for each source of the comparison, and how to save what is recommended."""
    curve, texts = planted_curve(0.1), ENGLISH
    out = Console(width=140, record=True, file=None, quiet=False)
    with out.capture() as printed:
        alpha_view.show_curve(curve, Path("runs/one"), Path("runs/one/report.html"), out=out)
    text = printed.get()
    assert texts("alpha.marked", alpha="0.5") in text
    assert texts("alpha.blend_tuned", alpha="0.5") in text
    assert "seodang blend runs/one --alpha 0.5" in text
    assert len(alpha_view.rows(curve, texts)) == 5
    assert [row[0] for row in alpha_view.proof_rows(curve, texts)] == ["medical", "wiki"]


def test_the_picture_has_a_panel_for_each_unit() -> None:
    """Domain and plain text have axes of their own; narrow and wide."""
    curve = planted_curve(0.1)
    for narrow in (False, True):
        figure = alpha_view.alpha_figure(curve, narrow=narrow)
        assert [axes.get_ylabel() for axes in figure.axes] == ["nats per token", "bits per byte"]
        assert [text.get_text() for text in figure.axes[0].texts].count("recommended: α = 0.5") == 1
    assert "over α" in as_html(figure, label=ENGLISH("alpha.label"), salt="x")


@pytest.mark.parametrize("narrow", [False, True])
def test_names_of_many_sources_stay_apart_and_inside(narrow: bool) -> None:
    """No name covers another one, or is cut off at the picture's edge."""
    curve = planted_curve(0.1)
    many = [
        replace(point, sources={f"{name}-{n}": loss for n in range(4) for name, loss in point.sources.items()})
        for point in curve.points
    ]
    figure = alpha_view.alpha_figure(replace(curve, points=tuple(many)), narrow=narrow)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
    assert len(boxes) == 9
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(one.shrunk(1, 0.7).overlaps(other.shrunk(1, 0.7)) for one, other in combinations(boxes, 2))
