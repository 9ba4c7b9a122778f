"""How alike the answers to one question are, when it is asked many times. Alike is not correct."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

from seodang.errors import RunError


def stability(texts: Sequence[str]) -> dict[str, Any]:
    """How alike the answers are: `distinct`, `duplicate_share` and `chrf`.

    `distinct` counts different answers, white space aside. `duplicate_share` is (answers − distinct) / (answers − 1):
    0 where all differ, 1 where all are the same. `chrf` is the mean chrF2 over all ordered pairs of answers, 0 to 100
    (Popović 2015; sacrebleu's defaults: character 6-grams, β = 2): Korean words change their endings.

    Raises:
        RunError: fewer than two answers.
    """
    if len(texts) < 2:
        raise RunError(f"{len(texts)} answer to compare", where="ask.repeat", hint="ask the question at least twice")
    counts = Counter(" ".join(text.split()) for text in texts)
    return {
        "distinct": len(counts),
        "duplicate_share": (len(texts) - len(counts)) / (len(texts) - 1),
        "chrf": _mean_pairwise_chrf(counts),
    }


def _mean_pairwise_chrf(counts: Counter[str]) -> float:
    """Each pair of different texts is scored once and weighs as often as it occurs; equal texts score 100."""
    from sacrebleu.metrics import CHRF  # late: 0.3 s that other commands need not wait for

    metric = CHRF()
    total = counts.total()
    equal = sum(number * (number - 1) for number in counts.values())
    score = 100.0 * equal
    for one, other in permutations(counts, 2):
        score += counts[one] * counts[other] * metric.sentence_score(one, [other]).score
    return score / (total * (total - 1))
