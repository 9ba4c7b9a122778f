"""gain_parts: planted parts come out as they were planted, and add up to the gain."""

import random
from dataclasses import replace

import pytest

from planted_rows import FOREIGN, noisy_rows, planted_contrast
from seodang.proof.gain_parts import PARTS, GainParts, gain_parts, skipped
from seodang.proof.measured_rows import MeasuredRow, RowContrast


def parts_of(rows: list[MeasuredRow]) -> GainParts:
    """The parts of these rows, which are contrasted."""
    found = gain_parts(rows, level=0.95)
    assert found
    return found


def random_contrast(luck: random.Random, tokens: int) -> RowContrast:
    """Parts of any sign."""
    return planted_contrast(
        tokens, ending=luck.gauss(1, 3), form=luck.gauss(0, 1), style=luck.gauss(0, 1), substance=luck.gauss(0, 1),
        base_substance=luck.gauss(0, 1),
    )  # fmt: skip


def test_the_parts_add_up_to_the_loss_gained() -> None:
    """Whatever their signs: the sum of the four is the gain, the loss that went away per token and turn end."""
    rows = noisy_rows(50, contrast=random_contrast)
    parts = parts_of(rows)
    contrasts = [row.contrast for row in rows if row.contrast]
    lost = sum(c.base_template + c.base_ending - c.tuned.own - c.tuned_ending for c in contrasts)
    assert parts.tokens == sum(c.content_tokens + 1 for c in contrasts)
    assert parts.gain.value == pytest.approx(lost / parts.tokens, rel=1e-12)
    assert sum(getattr(parts, part).value for part in PARTS) == pytest.approx(parts.gain.value, rel=1e-12)


def test_planted_parts_are_found() -> None:
    """Each part is what was planted, with its sign: a gain is positive, and a part can take away."""
    rows = noisy_rows(
        40, contrast=lambda _, tokens: planted_contrast(tokens, ending=4, form=0.2, style=-0.3, substance=0.1)
    )
    parts = parts_of(rows)
    per_row = parts.tokens / parts.rows
    content = (parts.tokens - parts.rows) / parts.tokens
    assert parts.ending.value == pytest.approx(4 / per_row)
    assert parts.format.value == pytest.approx(0.2 * content)
    assert parts.style.value == pytest.approx(-0.3 * content)
    assert parts.substance.value == pytest.approx(0.1 * content)
    assert parts.substance_per_answer.value == pytest.approx(0.1 * (per_row - 1))
    assert parts.dependence == "more"
    assert parts.form == "plain"


def test_a_base_that_knows_the_template_has_no_format_part() -> None:
    """Asked in the trained template, the format part is exactly 0."""
    parts = parts_of(noisy_rows(20, contrast=lambda _, tokens: planted_contrast(tokens, form=0)))
    assert parts.form == "template"
    assert parts.format.value == 0
    assert parts.format.interval
    assert (parts.format.interval.low, parts.format.interval.high) == (0, 0)


def test_a_constant_answer_shows_ending_and_style_only() -> None:
    """The same loss behind every prompt: substance is lost, and a row's own question never wins."""
    rows = noisy_rows(
        40, contrast=lambda luck, tokens: planted_contrast(tokens, style=luck.gauss(0.8, 0.1), substance=-0.2, form=0)
    )
    parts = parts_of(rows)
    assert parts.dependence == "less"
    assert (parts.own_question_wins.first, parts.own_question_wins.second) == (1, 0)
    assert parts.own_question_wins.p < 1e-6
    assert parts.chance == 1 / (FOREIGN + 1)


def test_substance_that_scatters_around_nothing_is_not_shown() -> None:
    """Without a mean there is no dependence, and without a gain there are no percentages."""
    rows = noisy_rows(
        40,
        contrast=lambda luck, tokens: planted_contrast(
            tokens, ending=luck.gauss(0, 9), form=0, style=luck.gauss(0, 0.5), substance=luck.gauss(0, 0.5)
        ),
    )
    parts = parts_of(rows)
    assert parts.dependence == "not shown"
    assert [parts.share(part) for part in PARTS] == [None] * 4


def test_shares_add_up_to_one() -> None:
    """Where the gain is shown, its parts are shares of it."""
    parts = parts_of(noisy_rows(40, contrast=lambda _, tokens: planted_contrast(tokens)))
    assert sum(parts.share(part) or 0 for part in PARTS) == pytest.approx(1)


def test_rows_without_a_contrast_are_counted_by_their_reason() -> None:
    """No row, no parts; and each reason with its rows."""
    rows = noisy_rows(5)
    assert gain_parts(rows, level=0.95) is None
    rows = [replace(row, no_contrast="tools" if n < 2 else "too long") for n, row in enumerate(rows)]
    assert skipped(rows) == {"tools": 2, "too long": 3}
