"""Intervals and tests of the proof agree with hand-computed values and hold what they promise."""

import numpy as np
import pytest

from seodang.proof.statistics import mcnemar, outcome, ratio, union_clusters, wilson


def test_differences_of_zero_are_certain() -> None:
    """A base measured against itself: the interval is [0, 0], nothing improved, nothing lost."""
    estimate = ratio(np.zeros(40), np.full(40, 7), range(40))
    assert estimate.value == 0
    assert estimate.interval is not None
    assert (estimate.interval.low, estimate.interval.high) == (0, 0)
    assert outcome(estimate, aim="gain") == "not shown"
    assert outcome(estimate, aim="keep") == "kept"


def test_wilson_and_mcnemar_by_hand() -> None:
    """12 of 12 leaves 24 % open; 3 against 9 changed rows are no proof."""
    assert wilson(12, 12).low == pytest.approx(12 / (12 + 1.959964**2))
    assert mcnemar(3, 9) == pytest.approx(0.14599609375)


def test_rows_that_share_any_key_are_one_cluster() -> None:
    """Rows 0 and 3 share a question, 1 and 2 an answer."""
    assert union_clusters(["a", "b", "c", "a"], ["1", "2", "2", "3"]) == [0, 1, 1, 0]
