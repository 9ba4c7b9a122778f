"""How sure a measured difference is: intervals and tests over held-out rows. Pure functions of numbers.

A loss per token is a ratio of two sums over rows, and rows that share a question or an answer are one piece of
evidence, not several: every interval here resamples clusters, and its width follows their lengths. Knows no model, no
run and no unit: a difference is whatever the caller subtracts (tuned − base of a loss: negative is better).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
FEWEST_CLUSTERS = 12.0  # clusters: below, no interval is shown
FEWEST_ALONE = 40  # clusters of unequal lengths, where no more of the source is known: long ones may be missing
MOST_T = 20.0  # standard errors to either side of a value: a wider interval is none
RESAMPLES = 4999
POWER = 0.8  # with which a change of `Estimate.detectable` would have been seen
_CELLS = 1 << 16  # resample × cluster, held at once: the cache of a core has room for them
_NO_CHANCE = 1e-300  # numbers that are smaller take much longer

Outcome = Literal["improved", "worse", "kept", "lost", "not shown"]
T = TypeVar("T", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float
    level: float  # 0.95: 19 of 20 such intervals hold the true value


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A measured value and how sure it is."""

    value: float
    interval: Interval | None  # None: too few effective clusters
    clusters: int
    n_eff: float  # clusters of equal length that would weigh as much
    detectable: float | None  # the smallest true change that would have been seen in 8 of 10 such holdouts


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedShare:
    """The share of rows for which something holds, under two conditions on the same rows."""

    first: float  # share, 0 to 1
    second: float
    difference: float  # second − first
    interval: Interval | None  # None: too few effective clusters
    p: float  # two-sided, exact: as large a difference by chance alone
    only_first: int  # rows
    only_second: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One measurement of several training seeds on the same rows."""

    values: tuple[float, ...]  # by seed
    mean: float
    low: float  # the smallest of them
    high: float
    sd: float | None  # standard deviation between seeds; None of a single one
    interval: Interval | None  # the hull of the seeds' intervals: within rows; None where a seed has none


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: ArrayLike,
    *,
    level: float = LEVEL,
    effective_share: float | None = None,
    seed: int = 0,
) -> Estimate:
    """Σ numerator / Σ denominator over rows, with an interval over clusters.

    Args:
        numerators: [rows] such as differences of loss sums, in nats.
        denominators: [rows] such as tokens; not negative.
        clusters: [rows] integers or strings; rows of equal value are one piece of evidence.
        effective_share: of the source that the rows were drawn from, if more of its rows are known than these:
            1 / (1 + (std / mean)²) of their lengths. A few rows may lack the long ones that decide: without it, fewer
            than 40 clusters have no interval unless all denominators are equal.
        seed: of the resamples; one seed, one interval.
    """
    one = {"": numerators}
    return ratios(one, denominators, clusters, level=level, effective_share=effective_share, seed=seed)[""]


def ratios(
    numerators: Mapping[str, ArrayLike],
    denominators: ArrayLike,
    clusters: ArrayLike,
    *,
    level: float = LEVEL,
    effective_share: float | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`ratio` of several numerators over the same rows and the same resamples: parts that add up stay comparable.

    The interval is a symmetric bootstrap-t (Hall 1988, "On symmetric bootstrap confidence intervals"): whole clusters
    are resampled, each resample is studentized by the linearized standard error of a ratio (Cochran 1977, "Sampling
    Techniques", 6.3), and the quantile of |t| is multiplied by the jackknife's, which a long cluster does not shrink.
    """
    assert 0 < level < 1, f"level {level}"
    _, cluster_of_row = np.unique(np.asarray(clusters), return_inverse=True)
    n: NDArray[np.float64] = np.bincount(cluster_of_row, _numbers(denominators, cluster_of_row)).astype(np.float64)
    assert (n >= 0).all(), "a denominator is negative"
    assert n.sum() > 0, "all denominators are 0"
    d = np.stack([np.bincount(cluster_of_row, weights=_numbers(one, cluster_of_row)) for one in numerators.values()])
    values = d.sum(axis=1) / n.sum()
    own = effective_clusters(n)
    n_eff = own if effective_share is None else min(own, max(1.0, effective_share * len(n)))  # one counts as one
    is_known = effective_share is not None or len(n) >= FEWEST_ALONE or np.ptp(np.asarray(denominators)) == 0
    is_enough = is_known and n_eff >= FEWEST_CLUSTERS
    halves = _half_widths(d - values[:, None] * n, n, level, seed) if is_enough else np.full(len(d), np.nan)
    if own >= FEWEST_CLUSTERS:
        halves[(d == 0).all(axis=1)] = 0.0  # the same model twice: nothing is left open
    return {
        name: Estimate(
            value=float(value),
            interval=None if math.isnan(half) else _around(value, half, level),
            clusters=len(n),
            n_eff=n_eff,
            detectable=None if math.isnan(half) else float(half) * (1 + NormalDist().inv_cdf(POWER) / _z(level)),
        )
        for name, value, half in zip(numerators, values, halves, strict=True)
    }


def effective_clusters(lengths: ArrayLike) -> float:
    """(Σn)² / Σn² over clusters (Kish 1965): how many of equal length would weigh as much.

    Args:
        lengths: [clusters] sums of the denominators.
    """
    n = np.asarray(lengths, dtype=np.float64)
    return float(n.sum() ** 2 / (n**2).sum())


def wilson(successes: float, n: float, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); of none and of all it has a width too.

    Args:
        successes, n: may be fractions, where rows count for fewer than they are.
    """
    assert 0 <= successes <= n, f"{successes} of {n}"
    assert n > 0, "a share of nothing"
    z = _z(level)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half), level=level)


def paired_share(first: ArrayLike, second: ArrayLike, clusters: ArrayLike, *, level: float = LEVEL) -> PairedShare:
    """The difference of two shares on the same rows.

    p is exact over the flips of whole clusters: without an effect, each goes either way by a fair coin. That is
    McNemar's test where each row is a cluster of its own.

    Args:
        first, second: [rows] whether it holds.
        clusters: [rows] integers or strings.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    _, cluster_of_row = np.unique(np.asarray(clusters), return_inverse=True)
    assert len(a) == len(b) == len(cluster_of_row) > 0, f"{len(a)}, {len(b)} and {len(cluster_of_row)} rows"
    change = np.bincount(cluster_of_row, b.astype(float) - a).astype(np.float64)
    size = np.bincount(cluster_of_row)
    return PairedShare(
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(b.mean() - a.mean()),
        interval=_bonett_price(change, size, level) if effective_clusters(size) >= FEWEST_CLUSTERS else None,
        p=_flip_test(change.astype(int)),
        only_first=int((a & ~b).sum()),
        only_second=int((b & ~a).sum()),
    )


def outcome(estimate: Estimate, *, tolerance: float = 0.0, aim: Literal["gain", "keep"]) -> Outcome:
    """What the interval of a change of loss shows, and nothing else.

    Args:
        tolerance: a change up to it counts as none; in the estimate's unit.
        aim: `gain`: improved, worse or not shown; `keep`: kept, lost or not shown.
    """
    interval = estimate.interval
    if interval is None:
        return "not shown"
    if aim == "gain":
        return "improved" if interval.high < -tolerance else "worse" if interval.low > tolerance else "not shown"
    return "kept" if interval.high <= tolerance else "lost" if interval.low > tolerance else "not shown"


def common_outcome(outcomes: Sequence[T]) -> T | Literal["not shown"]:
    """The one verdict of several seeds: what all of them show."""
    return outcomes[0] if len(set(outcomes)) == 1 else "not shown"


def headline_level(sources: int) -> float:
    """The level of each of `sources` intervals in one headline, so that all of them hold together (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(sources, 1)


def spread(estimates: Sequence[Estimate]) -> Spread:
    """The values of several training seeds on the same rows: what the seed changes, beside what the rows leave open."""
    values = tuple(estimate.value for estimate in estimates)
    intervals = [estimate.interval for estimate in estimates if estimate.interval]
    hull = (
        Interval(
            low=min(one.low for one in intervals), high=max(one.high for one in intervals), level=intervals[0].level
        )
        if len(intervals) == len(values)
        else None
    )
    return Spread(
        values=values,
        mean=sum(values) / len(values),
        low=min(values),
        high=max(values),
        sd=stdev(values) if len(values) > 1 else None,
        interval=hull,
    )


def union_clusters(*keys: Sequence[str | None]) -> list[int]:
    """Rows that share any key are one cluster, also by way of other rows: the connected components.

    Args:
        keys: each [rows], such as question keys, normalized answers, values of the split column. Equal values join only
            within one of them; None joins nothing.

    Returns:
        [rows] numbers from 0, in the order of each cluster's first row.
    """
    assert keys, "no keys"
    assert len({len(one) for one in keys}) == 1, f"keys of {sorted({len(one) for one in keys})} rows"
    parent = list(range(len(keys[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one in keys:
        first: dict[str, int] = {}
        for row, key in enumerate(one):
            if key is not None:
                low, high = sorted((root(row), root(first.setdefault(key, row))))
                parent[high] = low
    number: dict[int, int] = {}
    return [number.setdefault(root(row), len(number)) for row in range(len(parent))]


def _half_widths(
    residuals: NDArray[np.float64], n: NDArray[np.float64], level: float, seed: int
) -> NDArray[np.float64]:
    """Of each part's interval [parts].

    Args:
        residuals: [parts, clusters] numerator − value × denominator.
        n: [clusters]
    """
    columns = np.concatenate([n[None], n[None] ** 2, residuals, residuals**2, residuals * n])
    sums = np.concatenate([columns @ counts.T for counts in _resample_counts(len(n), seed)], axis=1)
    t = np.sort(np.abs(_studentized(sums)), axis=1)[:, min(math.ceil(level * (RESAMPLES + 1)), RESAMPLES) - 1]
    errors: NDArray[np.float64] = np.sqrt(((residuals / (n.sum() - n)) ** 2).sum(axis=1))  # jackknife
    t[t > MOST_T] = np.nan  # one cluster holds nearly all residuals: resamples without it say nothing of the width
    return np.where(errors == 0, 0.0, t) * errors  # what has no residuals is certain, whatever its resamples divide by


def _studentized(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """t of each resample [parts, resamples]: its ratio's distance from the value, over its own standard error.

    Args:
        sums: [2 + 3 × parts, resamples] of n, n², and each part's r, r² and r × n.
    """
    sum_n, sum_nn = sums[:2]
    sum_r, sum_rr, sum_rn = np.split(sums[2:], 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = sum_r / sum_n
        squares = np.maximum(sum_rr - 2 * change * sum_rn + change**2 * sum_nn, 0)
        t: NDArray[np.float64] = sum_r / np.sqrt(squares)
    return np.where(np.isnan(t), 0.0, t)


def _resample_counts(clusters: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is drawn, in blocks of resamples [block, clusters]."""
    draw = np.random.default_rng(seed)
    block = max(1, _CELLS // clusters)
    for first in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - first)
        drawn = draw.integers(0, clusters, (size, clusters), dtype=np.int64)
        drawn += np.arange(size)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)


def _bonett_price(changes: NDArray[np.float64], sizes: NDArray[np.int64], level: float) -> Interval:
    """Of a difference of paired shares: one row more of each change, so that it has a width where all rows agree.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data"; the standard error is that of a ratio over clusters, which is theirs where each row is a cluster.
    """
    d, n = np.append(changes, [1, -1]), np.append(sizes, [1, 1])
    value = d.sum() / n.sum()
    half = _z(level) * math.sqrt(((d - value * n) ** 2).sum()) / n.sum()
    return Interval(low=max(-1.0, float(value - half)), high=min(1.0, float(value + half)), level=level)


def _flip_test(changes: NDArray[np.int64]) -> float:
    """P(|Σ ±change| ≥ |Σ change|) over all signs, each equally likely; exact, by convolution, equal changes at once."""
    total = abs(int(changes.sum()))
    chances = np.ones(1)  # of all sums of the changes so far, from the smallest to the largest
    for step, count in zip(*np.unique(np.abs(changes[changes != 0]), return_counts=True), strict=True):
        heads = _coins(int(count))
        added = np.zeros(len(chances) + 2 * step * count)
        for number in np.flatnonzero(heads):
            added[2 * step * number :][: len(chances)] += heads[number] * chances
        chances = added
    sums = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return min(1.0, float(chances[sums >= total].sum()))


def _coins(count: int) -> NDArray[np.float64]:
    """The chances of 0, 1, 2 … heads of so many fair coins [count + 1]."""
    if count == 0:
        return np.ones(1)
    half = _coins(count // 2)
    both = np.convolve(half, half)
    both[both < _NO_CHANCE] = 0
    return np.convolve(both, [0.5, 0.5]) if count % 2 else both


def _around(value: float, half: float, level: float) -> Interval:
    return Interval(low=float(value - half), high=float(value + half), level=level)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _numbers(values: ArrayLike, cluster_of_row: NDArray[Any]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    assert numbers.shape == cluster_of_row.shape, f"{numbers.shape} numbers of {cluster_of_row.shape} rows"
    assert np.isfinite(numbers).all(), f"{np.count_nonzero(~np.isfinite(numbers))} of {len(numbers)} are not finite"
    return numbers
