"""How often a judge's statistics claim an improvement of two equal models, and find one that there is; a minute.

    python benchmarks/judge_false_alarms.py

Judgements flip with the order in 13 % of the pairs (FastChat#3911). Pairs are independent, or come in clusters of one
to four whose true preference is the same. `gain`: P(ours is preferred) − P(theirs is), of the pairs that do not flip.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache

import numpy as np

from seodang.judge.judgement import Judged, Outcome
from seodang.judge.tally import adjust_for_length, shown, tally
from seodang.proof.statistics import paired_share

PAIRS, FLIPS = 200, 0.13


@cache
def _claim(wins: int, losses: int) -> str:
    """Of independent pairs the counts alone decide."""
    won = np.arange(PAIRS) < wins
    lost = np.arange(PAIRS) >= PAIRS - losses
    return shown(paired_share(lost, won, np.arange(PAIRS)))


def independent(simulations: int, gain: float, seed: int) -> dict[str, float]:
    """Shares of better, worse and not shown."""
    draw = np.random.default_rng(seed)
    first = draw.random((simulations, PAIRS)) < (1 + gain) / 2
    second = first ^ (draw.random((simulations, PAIRS)) < FLIPS)
    counts = zip((first & second).sum(axis=1), (~first & ~second).sum(axis=1), strict=True)
    return _shares([_claim(int(wins), int(losses)) for wins, losses in counts])


def clustered(simulations: int, gain: float, seed: int) -> tuple[dict[str, float], float]:
    """The same in clusters, through the whole tally; and how often the length-adjusted interval excludes 0."""
    draw = np.random.default_rng(seed)
    found, excluded = [], 0
    for _ in range(simulations):
        sizes = draw.integers(1, 5, PAIRS)
        cluster = np.repeat(np.arange(PAIRS), sizes)[:PAIRS]
        ratios = draw.normal(0, 0.4, PAIRS)
        first = (draw.random(PAIRS) < (1 + gain) / 2)[cluster]
        second = first ^ (draw.random(PAIRS) < FLIPS)
        judged = [_judged(*row) for row in zip(first, second, cluster, ratios, strict=True)]
        whole, adjusted = tally(judged), adjust_for_length(judged)
        assert whole
        assert adjusted
        assert adjusted.interval
        found.append(shown(whole.difference))
        excluded += not adjusted.interval.low <= 0 <= adjusted.interval.high
    return _shares(found), excluded / simulations


def _judged(first: bool, second: bool, cluster: int, ratio: float) -> Judged:
    outcome: Outcome = "tie" if first != second else "win" if first else "loss"
    return Judged(
        question="", outcome=outcome, flipped=bool(first != second), replies=(None, None), first_twice=False,
        second_twice=False, similar_length=True, log_length_ratio=float(ratio), has_reference=True, is_same_text=False,
        cluster=int(cluster),
    )  # fmt: skip


def _shares(found: Sequence[str]) -> dict[str, float]:
    return {what: found.count(what) / len(found) for what in ("better", "worse", "not shown")}


def main() -> None:
    """Print each simulation's shares, and all as JSON on the last line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--simulations", type=int, default=10_000, help="of independent pairs; a tenth of clusters")
    given = options.parse_args()
    result = {}
    for gain in (0.0, 0.1, 0.2, 0.3):
        result[f"independent, gain {gain}"] = independent(given.simulations, gain, seed=0)
        print(f"gain {gain:.1f}, independent: {result[f'independent, gain {gain}']}")
    for gain in (0.0, 0.3):
        shares, excluded = clustered(given.simulations // 10, gain, seed=1)
        result[f"clustered, gain {gain}"] = {**shares, "length-adjusted excludes 0": excluded}
        print(f"gain {gain:.1f}, clustered: {shares}; length-adjusted excludes 0: {excluded:.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
