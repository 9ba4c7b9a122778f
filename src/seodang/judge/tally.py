"""Judged pairs → wins, ties and losses with intervals, and what is left of them at equal length. Pure functions."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seodang.judge.judgement import Judged, LengthAdjusted, Tally
from seodang.proof.behaviour import share
from seodang.proof.statistics import (
    FEWEST_CLUSTERS,
    LEVEL,
    Interval,
    PairedShare,
    effective_clusters,
    paired_share,
)

_STEPS = 50  # of Newton's method; it takes fewer than 10


def tally(judged: Sequence[Judged]) -> Tally | None:
    """Wins, ties and losses; None where no pair was judged without an error."""
    sound = [one for one in judged if one.outcome != "error"]
    if not sound:
        return None
    clusters = [one.cluster for one in sound]
    won, lost = ([one.outcome == outcome for one in sound] for outcome in ("win", "loss"))
    tied = [one.outcome == "tie" for one in sound]
    return Tally(
        wins=share(won, clusters),
        ties=share(tied, clusters),
        losses=share(lost, clusters),
        difference=paired_share(lost, won, clusters),
    )


def shown(difference: PairedShare) -> Literal["better", "worse", "not shown"]:
    """What wins − losses shows: better or worse where the interval lies beyond 0 and so does the exact test."""
    interval = difference.interval
    if interval is None or difference.p >= 1 - LEVEL or interval.low <= 0 <= interval.high:
        return "not shown"
    return "better" if interval.low > 0 else "worse"


def adjust_for_length(judged: Sequence[Judged]) -> LengthAdjusted | None:
    """Wins − losses at equal length, by a logit on the log length ratio; None where nothing was judged.

    P(our answer wins) = σ(a + b · ln(our length / the other's)), a tie counting as half a win; at equal length wins −
    losses is 2σ(a) − 1 = tanh(a / 2). The fractional logit and its standard error follow Papke and Wooldridge 1996
    ("Econometric methods for fractional response variables"), summed over clusters. One win and one loss more, half at
    either end of the lengths' spread, keep a and b finite where lengths decide every pair.
    """
    sound = [one for one in judged if one.outcome != "error"]
    if not sound:
        return None
    ratios = np.array([one.log_length_ratio for one in sound])
    won = np.array([{"win": 1.0, "tie": 0.5, "loss": 0.0}[one.outcome] for one in sound])
    _, clusters = np.unique([one.cluster for one in sound], return_inverse=True)
    spread = float(np.sqrt((ratios**2).mean())) or 1.0
    last = int(clusters.max())
    x = np.append(ratios, [spread, spread, -spread, -spread])
    y = np.append(won, [1.0, 0.0, 1.0, 0.0])
    weights = np.append(np.ones(len(sound)), [0.5] * 4)
    (a, b), error = _logit(x, y, weights, np.append(clusters, last + np.arange(1, 5)))
    interval = None
    if effective_clusters(np.bincount(clusters)) >= FEWEST_CLUSTERS:
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
        interval = Interval(low=math.tanh((a - half) / 2), high=math.tanh((a + half) / 2), level=LEVEL)
    return LengthAdjusted(value=math.tanh(a / 2), interval=interval, slope=b)


def _logit(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64], clusters: NDArray[np.intp]
) -> tuple[tuple[float, float], float]:
    """Intercept and slope of a weighted fractional logit, and the intercept's standard error over clusters."""
    columns = np.stack([np.ones_like(x), x], axis=1)
    beta = np.zeros(2)
    for _ in range(_STEPS):
        mean = 1 / (1 + np.exp(-np.clip(columns @ beta, -30, 30)))
        hessian = (columns * (weights * mean * (1 - mean))[:, None]).T @ columns
        step = np.linalg.solve(hessian, columns.T @ (weights * (y - mean)))
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    scores = columns * (weights * (y - mean))[:, None]
    sums = np.zeros((int(np.max(clusters)) + 1, 2))
    np.add.at(sums, clusters, scores)
    bread = np.linalg.inv(hessian)
    covariance = bread @ (sums.T @ sums) @ bread
    return (float(beta[0]), float(beta[1])), float(np.sqrt(covariance[0, 0]))
