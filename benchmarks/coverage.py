"""Do the proof's intervals hold? Holdouts are drawn with replacement from a real run, whose true value is known.

    python benchmarks/coverage.py              the tables of docs/statistics.md; about 10 minutes of one core
    python benchmarks/coverage.py --draws 200  rough ones

The population is tests/proof/fixtures/row_losses.csv (its recipe: `row_losses.py`), drawn in three ways: rows, each a
cluster; clusters of rows with an equal answer, whole; and as a proof draws, which holds out rows, joins those with an
equal answer and, from 100 clusters on, measures half of the clusters. `shown`: draws with an interval; `coverage`: the
share of these that hold the true value; `alone`: the same where the lengths of the source are not known. Nulls: the
sign of each cluster's difference flipped by a coin (`moved`: improved or worse at tolerance 0), and a true change
exactly at the tolerance (`lost`).
"""

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seodang.proof import statistics
from seodang.proof.held_out import HALVED_CLUSTERS
from seodang.proof.statistics import Estimate, effective_clusters, outcome, ratio, ratios

FIXTURE = Path(__file__).parent.parent / "tests" / "proof" / "fixtures" / "row_losses.csv"
SIZES = (12, 24, 50, 100, 300)
PROOF_SIZES = (12, 24, 50, 100, 300, 600)  # rows held out: of many, half are measured
LARGE = 50  # effective clusters: from there on, coverage should be 93 to 97 %
TOLERANCE = 0.05  # nats per token

Floats = NDArray[np.float64]
Drawn = Literal["row", "answer", "proof"]


@dataclass(frozen=True, kw_only=True)
class Population:
    """What can be drawn of one source, and what is measured of it."""

    source: str
    measurement: str
    d: Floats  # [units] tuned − base, in nats
    n: Floats  # [units] tokens
    cluster: NDArray[np.int64] | None  # [units] as a proof draws; None: every unit that is drawn is one

    @property
    def share(self) -> float:
        """Effective units per unit."""
        return effective_clusters(self.n) / len(self.n)

    @property
    def truth(self) -> float:
        """The change per token that every interval should hold."""
        return float(self.d.sum() / self.n.sum())

    def draw(self, size: int, draw: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Differences, tokens and clusters of one holdout, as far as it is measured."""
        chosen = draw.integers(0, len(self.n), size)
        if self.cluster is None:
            return self.d[chosen], self.n[chosen], np.arange(size)
        cluster = self.cluster[chosen]
        if len(np.unique(cluster)) >= HALVED_CLUSTERS:
            chosen = chosen[draw.integers(0, 2, self.cluster.max() + 1)[cluster] == 1]
        return self.d[chosen], self.n[chosen], self.cluster[chosen]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: draws of one size from one population; shares of the intervals that are shown."""

    source: str
    measurement: str
    size: int  # rows or clusters that are drawn
    n_eff: float  # median over the draws
    shown: float
    coverage: float | None
    large: float  # share of the draws with 50 effective clusters or more
    large_coverage: float | None
    moved: float | None
    lost: float | None
    alone: float  # shown without the source's lengths
    alone_coverage: float | None


def populations(path: Path = FIXTURE, *, drawn: Drawn = "row") -> list[Population]:
    """Each source by what is measured: the whole answer (content and turn end), the content alone."""
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = []
    for source in np.unique(table["source"]):
        rows = table[table["source"] == source]
        _, answer = np.unique(rows["cluster"], return_inverse=True)
        unit = answer if drawn == "answer" else np.arange(len(rows))
        content = rows["tuned_content"] - rows["base_content"]
        end = rows["tuned_end"] - rows["base_end"]
        for measurement, d, tokens in (
            ("answer", content + end, rows["tokens"] + 1.0),
            ("content", content, rows["tokens"]),
        ):
            found.append(
                Population(
                    source=str(source),
                    measurement=measurement,
                    d=np.bincount(unit, d).astype(np.float64),
                    n=np.bincount(unit, tokens).astype(np.float64),
                    cluster=answer if drawn == "proof" else None,
                )
            )
    return found


def simulate(population: Population, size: int, draws: int, *, seed: int = 0) -> Line:
    """Draw, estimate, compare with the population's value."""
    truth = population.truth
    drawn = list(_draws(population, size, draws, seed))
    shown = [one for one in drawn if one["known"].interval]
    alone = [one["alone"] for one in drawn if one["alone"].interval]
    large = [one["known"] for one in shown if one["known"].n_eff >= LARGE]
    return Line(
        source=population.source,
        measurement=population.measurement,
        size=size,
        n_eff=float(np.median([one["known"].n_eff for one in drawn])),
        shown=len(shown) / draws,
        coverage=_mean([_holds(one["known"], truth) for one in shown]),
        large=len(large) / draws,
        large_coverage=_mean([_holds(one, truth) for one in large]),
        moved=_mean([outcome(one["flipped"], aim="gain") != "not shown" for one in shown]),
        lost=_mean([outcome(one["centred"], tolerance=TOLERANCE, aim="keep") == "lost" for one in shown]),
        alone=len(alone) / draws,
        alone_coverage=_mean([_holds(one, truth) for one in alone]),
    )


def _draws(population: Population, size: int, draws: int, seed: int) -> Iterator[dict[str, Estimate]]:
    """Estimates of each draw: with and without the source's lengths, signs flipped, the change at the tolerance."""
    draw = np.random.default_rng(seed)
    for _ in range(draws):
        d, n, cluster = population.draw(size, draw)
        measured = {
            "known": d,
            "flipped": d * draw.choice([-1.0, 1.0], cluster.max() + 1)[cluster],
            "centred": d + (TOLERANCE - population.truth) * n,
        }
        yield {**ratios(measured, n, cluster, effective_share=population.share), "alone": ratio(d, n, cluster)}


def _holds(estimate: Estimate, value: float) -> bool:
    assert estimate.interval is not None
    return estimate.interval.low <= value <= estimate.interval.high


def _mean(found: list[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def main() -> None:
    """Print the tables as Markdown, and their lines as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    share_resamples()
    found = {}
    names: Sequence[Drawn] = ("row", "answer", "proof")
    for drawn in names:
        sizes = PROOF_SIZES if drawn == "proof" else SIZES
        lines = [simulate(one, size, args.draws) for one in populations(drawn=drawn) for size in sizes]
        print(f"Drawn by {drawn}:\n\n{table(lines)}\n")
        found[drawn] = [asdict(line) for line in lines]
    print(json.dumps(found))


def share_resamples() -> None:
    """Draws of one size take the same resamples, as calls with one seed do: made once and not 2,000 times."""
    original = statistics._resample_counts

    @functools.lru_cache(1)
    def drawn(clusters: int, seed: int) -> list[Floats]:
        return list(original(clusters, seed))

    statistics._resample_counts = lambda clusters, seed: iter(drawn(clusters, seed))


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table, shares in percent."""
    heads = [
        "source", "loss of", "drawn", "n_eff", "shown", "coverage", "n_eff ≥ 50", "their coverage", "moved", "lost",
        "alone", "coverage alone",
    ]  # fmt: skip
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        shares = (
            line.shown, line.coverage, line.large, line.large_coverage, line.moved, line.lost, line.alone,
            line.alone_coverage,
        )  # fmt: skip
        cells = ["–" if share is None else f"{100 * share:.1f}" for share in shares]
        rows.append([line.source, line.measurement, str(line.size), f"{line.n_eff:.0f}", *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


if __name__ == "__main__":
    main()
