"""data/lengths.py: how long rendered rows are."""

import json
import statistics

import numpy as np
import pytest
from datasets import Dataset

from seodang.data.lengths import histogram, lengths, measure
from seodang.json_values import from_json, to_json
from seodang.types import Lengths


def rendered(tokens: dict[str, list[int]]) -> Dataset:
    """Rows with these numbers of tokens in each source, half of them supervised."""
    pairs = [(name, count) for name, counts in tokens.items() for count in counts]
    return Dataset.from_dict(
        {
            "source": [name for name, _ in pairs],
            "num_tokens": np.array([count for _, count in pairs], dtype=np.int32),
            "num_supervised": np.array([count // 2 for _, count in pairs], dtype=np.int32),
        }
    )


def test_statistics_are_those_of_the_standard_library() -> None:
    """Count, sum, mean, median, extremes and standard deviation agree with Python's statistics."""
    tokens = [3, 9, 9, 20, 41, 100]
    stats = measure(np.array(tokens, dtype=np.int32))
    assert (stats.count, stats.total, stats.min, stats.max) == (6, 182, 3, 100)
    assert stats.mean == pytest.approx(statistics.fmean(tokens))
    assert stats.median == statistics.median(tokens)
    assert stats.std == pytest.approx(statistics.pstdev(tokens))
    assert stats.p90 == pytest.approx(statistics.quantiles(tokens, n=10, method="inclusive")[-1])


def test_sums_of_many_rows_do_not_overflow() -> None:
    """Totals go beyond 32 bits, though lengths are stored in 32."""
    assert measure(np.full(3, 2_000_000_000, dtype=np.int32)).total == 6_000_000_000


def test_sources_and_splits_are_measured_apart() -> None:
    """Each source of a shuffled set has its own numbers, for all tokens and for supervised ones."""
    train = rendered({"medical": [10, 20], "general": [40]}).shuffle(seed=1)
    measured = lengths(
        {"train": train, "holdout": rendered({"wiki": [6]})}, max_tokens=50, cut={"train": {"medical": 3}}
    )
    assert list(measured.train) == ["general", "medical"]
    assert measured.train["medical"].tokens.total == 30
    assert measured.train["medical"].supervised.total == 15
    assert measured.holdout["wiki"].tokens.mean == 6.0
    assert (measured.cut, measured.max_tokens) == ({"medical": 3}, 50)


def test_lengths_come_back_from_json() -> None:
    """What is measured is written as JSON with a schema version and read back equal, an empty split included."""
    rows = {"train": rendered({"medical": [5, 800, 31]}), "holdout": rendered({"medical": [1]}).select([])}
    measured = lengths(rows, max_tokens=800, cut={"train": {"medical": 1}})
    text = json.dumps(to_json(measured), allow_nan=False)
    assert from_json(Lengths, json.loads(text), where="lengths.json") == measured
    assert json.loads(text)["schema_version"] == Lengths.SCHEMA_VERSION
    assert measured.holdout == {}


@pytest.mark.parametrize("tokens", [[7], [7] * 50, [1, 2], list(range(1, 1000)), [5] * 99 + [100_000]])
def test_every_row_lies_in_a_bin(tokens: list[int]) -> None:
    """The bins hold all rows, are equally wide in whole tokens, and few enough to draw."""
    drawn = histogram(np.array(tokens))
    assert sum(drawn.counts) == len(tokens)
    assert len(drawn.edges) == len(drawn.counts) + 1 <= 42
    assert len(set(np.diff(drawn.edges))) == 1


@pytest.mark.parametrize("tokens", [[70] * 50, [60, 61], list(range(50, 1000)), [100] * 50 + [300] * 50])
def test_the_curve_is_a_density(tokens: list[int]) -> None:
    """The area under the curve is one, and it is nowhere negative."""
    drawn = histogram(np.array(tokens))
    assert np.trapezoid(drawn.density_y, drawn.density_x) == pytest.approx(1, abs=0.03)
    assert min(drawn.density_y) >= 0


def test_a_repeated_row_counts_each_time() -> None:
    """Lengths describe what is trained on, so that repeats of a source count."""
    rows = {"train": rendered({"medical": [10, 10, 30]}), "holdout": rendered({})}
    assert lengths(rows, max_tokens=100, cut={}).train["medical"].tokens.count == 3
