"""Rendered rows → how long they are, by split and source: numbers for a table and a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from seodang.data.arrow import read_columns
from seodang.types import Histogram, Lengths, LengthStats, SourceLengths

MAX_BINS = 40
CURVE_POINTS = 200


def lengths(rows: Mapping[str, Dataset], *, max_tokens: int, cut: Mapping[str, Mapping[str, int]]) -> Lengths:
    """Measure rendered rows.

    Args:
        rows: `train` and `holdout`; columns `source`, `num_tokens`, `num_supervised`.
        max_tokens: limit of one row.
        cut: split → source → rows above it.
    """
    return Lengths(
        max_tokens=max_tokens,
        train=_by_source(rows["train"]),
        holdout=_by_source(rows["holdout"]),
        cut=dict(cut.get("train", {})),
        cut_holdout=dict(cut.get("holdout", {})),
    )


def _by_source(rows: Dataset) -> dict[str, SourceLengths]:
    table = read_columns(rows, "source", "num_tokens", "num_supervised")
    measured = {}
    for name in sorted(pc.unique(table["source"]).to_pylist()):  # the rows are shuffled, the sources need not be
        of_source = table.filter(pc.equal(table["source"], name))
        tokens, supervised = (of_source[column].to_numpy() for column in ("num_tokens", "num_supervised"))
        measured[name] = SourceLengths(
            tokens=measure(tokens), supervised=measure(supervised), histogram=histogram(tokens)
        )
    return measured


def measure(tokens: NDArray[np.integer[Any]]) -> LengthStats:
    """Statistics of tokens [rows], at least one row; percentiles are interpolated linearly."""
    median, p90, p95, p99 = (float(value) for value in np.percentile(tokens, [50, 90, 95, 99]))
    return LengthStats(
        count=len(tokens),
        total=int(tokens.sum(dtype=np.int64)),
        mean=float(tokens.mean()),
        median=median,
        min=int(tokens.min()),
        max=int(tokens.max()),
        std=float(tokens.std()),
        p90=p90,
        p95=p95,
        p99=p99,
    )


def histogram(tokens: NDArray[np.integer[Any]]) -> Histogram:
    """Rows per bin of lengths, and a density curve.

    The curve is a Gaussian kernel density with Silverman's bandwidth (Silverman 1986, eq. 3.31), per token.
    """
    low, high = int(tokens.min()), int(tokens.max()) + 1
    width = -(-(high - low) // MAX_BINS)  # whole tokens in a bin, so that none holds more lengths than its neighbour
    edges = np.arange(low, high + width, width)
    counts, _ = np.histogram(tokens, edges)
    q25, q75 = np.percentile(tokens, [25, 75])
    spread = min(float(tokens.std()), float(q75 - q25) / 1.34) or float(tokens.std())
    bandwidth = max(0.9 * spread * len(tokens) ** -0.2, 0.5)  # lengths are whole numbers: no finer than half a token
    curve_x = np.linspace(max(low - 3 * bandwidth, 0.0), high - 1 + 3 * bandwidth, CURVE_POINTS)
    values, rows = np.unique(tokens, return_counts=True)
    kernels = np.exp(-0.5 * ((curve_x[:, None] - values) / bandwidth) ** 2)  # [points, lengths]
    curve_y = kernels @ rows / (len(tokens) * bandwidth * np.sqrt(2 * np.pi))
    return Histogram(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        density_x=tuple(round(float(x), 2) for x in curve_x),
        density_y=tuple(float(f"{y:.4g}") for y in curve_y),
    )
