"""Intervals and tests of the proof agree with hand-computed values and hold what they promise."""

import itertools
import math
import time
import tracemalloc
from dataclasses import astuple, replace
from statistics import NormalDist

import numpy as np
import pytest

from seodang.proof.statistics import (
    Estimate,
    Interval,
    Outcome,
    PairedShare,
    _flip_test,
    common_outcome,
    effective_clusters,
    headline_level,
    outcome,
    paired_share,
    ratio,
    ratios,
    spread,
    union_clusters,
    wilson,
)


def _ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.interval is not None
    return estimate.interval.low, estimate.interval.high


def _estimate(low: float, high: float, value: float | None = None) -> Estimate:
    middle = (low + high) / 2 if value is None else value
    interval = Interval(low=low, high=high, level=0.95)
    return Estimate(value=middle, interval=interval, clusters=40, n_eff=30.0, detectable=0.1)


def _changed(only_first: int, only_second: int) -> PairedShare:
    """Of rows that changed either way, and three that did not."""
    first = [True] * only_first + [False] * only_second + [True] * 3
    second = [False] * only_first + [True] * only_second + [True] * 3
    return paired_share(first, second, range(len(first)))


def _coins(fewer: int, changed: int) -> float:
    """Two-sided p of so many fair coins."""
    return 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed


def _rows(count: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Differences in nats and tokens of rows whose lengths differ."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(5, 60, count).astype(float)
    return tokens * (draw.standard_t(4, count) * 0.3 - 0.2), tokens


def test_a_ratio_is_the_sum_over_the_sum() -> None:
    """Long rows weigh by their tokens: (−2 − 30) / (4 + 16), not the mean of −0.5 and −1.875."""
    estimate = ratio([-2, -30], [4, 16], ["a", "b"])
    assert estimate.value == pytest.approx(-1.6)
    assert estimate.clusters == 2
    assert estimate.n_eff == pytest.approx(20**2 / (4**2 + 16**2))


def test_effective_clusters_count_lengths() -> None:
    """Equal lengths count fully; one cluster that has almost everything counts as one."""
    assert effective_clusters([7, 7, 7, 7]) == 4
    assert effective_clusters([1000, 1, 1]) == pytest.approx(1.004, abs=1e-3)


def test_few_effective_clusters_have_no_interval() -> None:
    """Eleven equal rows show a value alone; so do sixty of which one has half of all tokens."""
    for tokens, share in (([5] * 11, 1.0), ([5] * 59 + [295], None)):
        estimate = ratio(np.linspace(-1, 0, len(tokens)), tokens, range(len(tokens)), effective_share=share)
        assert estimate.interval is None
        assert estimate.detectable is None
        assert outcome(estimate, aim="gain") == outcome(estimate, aim="keep") == "not shown"
    assert ratio(np.linspace(-1, 0, 12), [5] * 12, range(12), effective_share=1.0).interval is not None


def test_few_rows_do_not_speak_for_lengths_that_they_lack() -> None:
    """30 short rows: enough if the source's lengths are even, too few if they are not or if nobody knows."""
    changes, tokens = np.linspace(-1, 0, 30), [5, 6] * 15
    even = ratio(changes, tokens, range(30), effective_share=0.5)
    assert even.interval is not None
    assert even.n_eff == 15
    assert ratio(changes, tokens, range(30), effective_share=0.2).interval is None
    assert ratio(changes[:3], tokens[:3], range(3), effective_share=0.2).n_eff == 1  # a row counts as one
    assert ratio(changes, tokens, range(30)).interval is None
    assert ratio(changes, [1] * 30, range(30)).interval is not None  # a mean has no lengths
    assert ratio(np.linspace(-1, 0, 40), [5, 6] * 20, range(40)).interval is not None


def test_differences_of_zero_are_certain() -> None:
    """A base measured against itself: the interval is [0, 0], nothing improved, nothing lost."""
    estimate = ratio(np.zeros(40), np.full(40, 7), range(40))
    assert estimate.value == 0
    assert _ends(estimate) == (0, 0)
    assert estimate.detectable == 0
    assert outcome(estimate, aim="gain") == "not shown"
    assert outcome(estimate, aim="keep", tolerance=0.05) == outcome(estimate, aim="keep") == "kept"


def test_the_same_change_of_every_token_is_certain() -> None:
    """What does not differ between rows leaves no doubt, whatever their lengths."""
    tokens = np.arange(10, 70)
    assert _ends(ratio(-0.5 * tokens, tokens, range(60))) == (-0.5, -0.5)


def test_rows_of_equal_length_have_students_interval() -> None:
    """With normal differences the bootstrap-t comes to Student's t, whose quantile for 30 rows is 2.045."""
    draw = np.random.default_rng(3)
    changes = draw.normal(-0.2, 1.0, 30)
    half = 2.045 * changes.std(ddof=1) / math.sqrt(30)
    low, high = _ends(ratio(changes * 8, np.full(30, 8), range(30), effective_share=1.0))
    assert (low, high) == pytest.approx((changes.mean() - half, changes.mean() + half), abs=0.2 * half)


def test_rows_of_one_cluster_count_once() -> None:
    """A row that stands there four times is one piece of evidence: the interval is that of the rows' sums."""
    changes, tokens = _rows()
    clusters = [f"{number:02}" for number in range(60)]
    once = ratio(changes * 4, tokens * 4, clusters)
    repeated = ratio(np.repeat(changes, 4), np.repeat(tokens, 4), np.repeat(clusters, 4))
    assert repeated == once
    taken_for_rows = ratio(np.repeat(changes, 4), np.repeat(tokens, 4), range(240))
    assert np.subtract(*_ends(taken_for_rows)) > 0.6 * np.subtract(*_ends(once))  # both negative: half as wide


def test_the_order_of_rows_does_not_matter() -> None:
    """The same rows in another order have the same interval."""
    changes, tokens = _rows()
    order = np.random.default_rng(1).permutation(60)
    forth, back = ratio(changes, tokens, np.arange(60)), ratio(changes[order], tokens[order], order)
    assert _ends(back) == pytest.approx(_ends(forth), rel=1e-12)


def test_an_interval_depends_on_the_seed_alone() -> None:
    """One seed gives one interval, another nearly the same."""
    changes, tokens = _rows()
    first, again, other = (ratio(changes, tokens, range(60), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.interval != other.interval
    assert _ends(other) == pytest.approx(_ends(first), abs=0.1 * (_ends(first)[1] - _ends(first)[0]))


def test_gain_and_loss_are_measured_alike() -> None:
    """Exchanging base and tuned mirrors the interval."""
    changes, tokens = _rows()
    low, high = _ends(ratio(changes, tokens, range(60)))
    assert _ends(ratio(-changes, tokens, range(60))) == pytest.approx((-high, -low))


def test_a_higher_level_is_wider() -> None:
    """An interval of a headline with three sources holds the one of a single source."""
    changes, tokens = _rows()
    low, high = _ends(ratio(changes, tokens, range(60)))
    wide_low, wide_high = _ends(ratio(changes, tokens, range(60), level=headline_level(3)))
    assert wide_low < low < high < wide_high
    assert headline_level(3) == pytest.approx(1 - 0.05 / 3)
    assert headline_level(1) == pytest.approx(0.95)


def test_parts_add_up_and_share_their_resamples() -> None:
    """Parts of a difference sum to it; each has the interval that it has alone."""
    changes, tokens = _rows()
    parts = {"half": 0.5 * changes, "rest": 0.5 * changes + tokens * 0.1, "all": changes + tokens * 0.1}
    found = ratios(parts, tokens, range(60))
    assert found["half"].value + found["rest"].value == pytest.approx(found["all"].value)
    for name, part in parts.items():  # one product for all may round another last digit than each alone
        alone = ratio(part, tokens, range(60))
        whole = found[name]
        assert alone.interval is not None
        assert whole.interval is not None
        assert astuple(alone.interval) == pytest.approx(astuple(whole.interval))
        numbers = [(each.value, each.clusters, each.n_eff, each.detectable) for each in (alone, whole)]
        assert numbers[0] == pytest.approx(numbers[1])


def test_the_detectable_change_is_larger_than_the_half_width() -> None:
    """A change as large as the half-width is seen every other time; 8 times in 10 it takes 1.43 times as much."""
    estimate = ratio(*_rows(), range(60))
    low, high = _ends(estimate)
    assert estimate.detectable == pytest.approx((high - low) / 2 * (1.959964 + 0.841621) / 1.959964)


def test_numbers_that_are_none_are_refused() -> None:
    """A loss that is not finite has no interval: the caller reports it before."""
    with pytest.raises(AssertionError, match="1 of 12 are not finite"):
        ratio([math.nan] + [1.0] * 11, [3] * 12, range(12))
    with pytest.raises(AssertionError, match="denominators"):
        ratio([1.0] * 12, [0] * 12, range(12))


@pytest.mark.parametrize(
    ("successes", "n", "level", "low", "high"),
    [
        (0, 12, 0.95, 0.0, 0.242494),
        (12, 12, 0.95, 0.757506, 1.0),
        (10, 20, 0.95, 0.299298, 0.700702),
        (37, 50, 0.95, 0.604468, 0.841285),
        (3, 1000, 0.9875, 0.000786, 0.011376),
    ],
)
def test_wilson(successes: int, n: int, level: float, low: float, high: float) -> None:
    """Wilson's interval is that of statsmodels 0.15, `proportion_confint(method="wilson")`."""
    interval = wilson(successes, n, level=level)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(3, 9, 0.14599609375), (9, 3, 0.14599609375), (0, 6, 0.03125), (5, 5, 1.0), (12, 30, 0.007915897334896727),
     (0, 0, 1.0)],
)  # fmt: skip
def test_mcnemar(only_first: int, only_second: int, p: float) -> None:
    """Where each row is a cluster, p is that of statsmodels 0.15, `mcnemar(exact=True)`."""
    assert _changed(only_first, only_second).p == pytest.approx(p)


def test_mcnemar_of_many_rows() -> None:
    """Hundreds of changed rows are counted exactly too."""
    assert _changed(500, 500).p == pytest.approx(1)
    assert _changed(450, 550).p == pytest.approx(_coins(450, 1000))


def test_paired_shares_of_single_rows() -> None:
    """Where each row is a cluster, p is McNemar's and the interval Bonett and Price's: 1 and 7 of 24 rows."""
    first = np.array([True] * 9 + [False] * 15)
    second = np.array([True] * 8 + [False] + [True] * 7 + [False] * 8)
    found = paired_share(first, second, range(24))
    assert (found.first, found.second) == (9 / 24, 15 / 24)
    assert (found.only_first, found.only_second) == (1, 7)
    assert found.p == pytest.approx(_coins(1, 8))
    fell, rose = 2 / 26, 8 / 26
    half = 1.959964 * math.sqrt((fell + rose - (rose - fell) ** 2) / 26)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((rose - fell - half, rose - fell + half))


def test_paired_shares_that_are_all_equal_have_a_width() -> None:
    """12 of 12 before and after: nothing changed, and nobody knows by how little."""
    found = paired_share([True] * 12, [True] * 12, range(12))
    assert found.p == 1
    assert found.interval is not None
    assert -0.2 < found.interval.low < 0 < found.interval.high < 0.2
    assert paired_share([True] * 12, [True] * 12, [0] * 6 + [1] * 6).interval is None


def test_flips_of_many_clusters_take_no_time() -> None:
    """Fifty thousand clusters of one to three rows have the chance that a normal distribution gives."""
    sizes = np.random.default_rng(0).integers(1, 4, 50_000)
    signs = np.where(np.arange(50_000) % 1000 < 496, -1, 1)
    started = time.process_time()
    found = _flip_test(sizes * signs)
    assert time.process_time() - started < 10  # of a slow machine; one flip after the other takes minutes
    z = abs((sizes * signs).sum()) / math.sqrt((sizes**2).sum())
    assert found == pytest.approx(2 * NormalDist().cdf(-z), rel=0.01)


def test_paired_shares_flip_whole_clusters() -> None:
    """p is the share of all signs of the clusters' changes under which the shares differ as much."""
    draw = np.random.default_rng(2)
    first, second, clusters = draw.random(30) < 0.4, draw.random(30) < 0.7, draw.integers(0, 9, 30)
    changes = [int((second[clusters == c].astype(int) - first[clusters == c]).sum()) for c in range(9)]
    flips = [sum(np.multiply(signs, changes)) for signs in itertools.product((-1, 1), repeat=9)]
    expected = np.mean(np.abs(flips) >= abs(sum(changes)))
    assert paired_share(first, second, clusters).p == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "tolerance", "gain", "keep"),
    [
        (-0.4, -0.1, 0.0, "improved", "kept"),
        (-0.4, 0.1, 0.0, "not shown", "not shown"),
        (0.1, 0.4, 0.0, "worse", "lost"),
        (-0.1, 0.04, 0.05, "not shown", "kept"),
        (0.01, 0.04, 0.05, "not shown", "kept"),
        (0.04, 0.06, 0.05, "not shown", "not shown"),
        (0.06, 0.09, 0.05, "worse", "lost"),
        (-0.09, -0.06, 0.05, "improved", "kept"),
    ],
)
def test_outcomes_are_read_from_the_interval(
    low: float, high: float, tolerance: float, gain: Outcome, keep: Outcome
) -> None:
    """Of a change of loss: only an interval that lies on one side of the tolerance shows something."""
    estimate = _estimate(low, high)
    assert outcome(estimate, tolerance=tolerance, aim="gain") == gain
    assert outcome(estimate, tolerance=tolerance, aim="keep") == keep


def test_seeds_agree_or_show_nothing() -> None:
    """One verdict of several runs is what each of them shows."""
    assert common_outcome(["improved", "improved"]) == "improved"
    assert common_outcome(["improved", "not shown"]) == "not shown"
    assert common_outcome(["kept", "lost"]) == "not shown"


def test_the_spread_of_seeds_stands_beside_their_intervals() -> None:
    """Mean, range and standard deviation of the values; the hull of the intervals, none where a seed has none."""
    one, two, three = _estimate(-0.3, -0.1), _estimate(-0.5, -0.3), _estimate(-0.45, -0.15)
    found = spread([one, two, three])
    assert found.values == pytest.approx((-0.2, -0.4, -0.3))
    assert (found.mean, found.low, found.high, found.sd) == pytest.approx((-0.3, -0.4, -0.2, 0.1))
    assert found.interval == Interval(low=-0.5, high=-0.1, level=0.95)
    assert spread([one, replace(two, interval=None)]).interval is None
    assert spread([one]).sd is None


def test_rows_that_share_any_key_are_one_cluster() -> None:
    """Rows 0 and 3 share a question, 1 and 2 an answer; 4 shares a key with 2 and one with 0: one cluster."""
    assert union_clusters(["a", "b", "c", "a"], ["1", "2", "2", "3"]) == [0, 1, 1, 0]
    assert union_clusters(["a", "b", "c", "a", "c"], ["1", "2", "2", "3", "1"]) == [0, 0, 0, 0, 0]


def test_keys_join_within_themselves() -> None:
    """An answer that reads like another row's question joins nothing, nor does a missing key."""
    assert union_clusters(["a", "b"], ["b", "c"]) == [0, 1]
    assert union_clusters(["a", "b", "c"], [None, None, "x"]) == [0, 1, 2]


@pytest.mark.parametrize("others", [0.0, 0.1])
def test_one_odd_cluster_leaves_no_interval(others: float) -> None:
    """Resamples without the only cluster that differs have no spread at all: no width follows, finite or not."""
    found = ratio([others] * 23 + [0.5], [1] * 24, list(range(24)))
    assert found.interval is None
    assert found.detectable is None


def test_the_memory_of_an_interval_is_bounded() -> None:
    """Resamples are drawn in blocks of a few thousand counts, however many clusters there are: about 1 MB at once."""
    draw = np.random.default_rng(0)
    differences, tokens = draw.normal(size=20_000), draw.integers(1, 200, 20_000)
    tracemalloc.start()
    estimate = ratio(differences, tokens, np.arange(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert estimate.interval is not None
    assert peak < 16e6, peak
