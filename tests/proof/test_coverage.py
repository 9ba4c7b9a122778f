"""Intervals hold as often as they say, on the rows of a real run: a fast version of benchmarks/coverage.py."""

import runpy
from typing import Any

import pytest

from paths import ROOT
from seodang.proof import statistics

DRAWS = 200
coverage = runpy.run_path(str(ROOT / "benchmarks" / "coverage.py"), run_name="coverage")
POPULATIONS = {f"{one.source} {one.measurement}": one for one in coverage["populations"]()}


@pytest.fixture(autouse=True)
def _shared_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_resample_counts", statistics._resample_counts)  # put back afterwards
    coverage["share_resamples"]()


def _simulated(name: str, clusters: int) -> Any:
    return coverage["simulate"](POPULATIONS[name], clusters, DRAWS)


@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_hold_as_often_as_they_say(name: str) -> None:
    """Of 200 draws of 100 rows: 95 % hold the true value, one in twenty moves by chance, one in forty is lost."""
    line = _simulated(name, 100)
    assert line.shown > 0.9
    assert 0.88 < line.coverage < 0.995
    assert line.moved < 0.12
    assert line.lost < 0.08


def test_rows_that_lack_the_long_ones_show_nothing() -> None:
    """Of the general source 24 and 50 rows are too few, since its lengths are known; of the medical one 50 suffice."""
    assert _simulated("ko_general answer", 24).shown == _simulated("ko_general answer", 50).shown == 0
    assert _simulated("ko_medical answer", 50).shown == 1
    assert _simulated("ko_general answer", 24).alone == 0


def test_rows_of_an_equal_answer_do_not_narrow_an_interval() -> None:
    """One answer of the medical source stands in 39 of 550 rows, all in one half of a holdout: intervals still hold."""
    drawn = {f"{one.source} {one.measurement}": one for one in coverage["populations"](drawn="proof")}
    line = coverage["simulate"](drawn["ko_medical answer"], 300, 100)
    assert line.shown == 1
    assert line.coverage >= 0.9
    assert line.lost <= 0.08
