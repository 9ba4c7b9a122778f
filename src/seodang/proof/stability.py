"""How alike the answers to one question are, when it is asked many times. Alike is not correct."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from seodang.types import Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerStability:
    """How alike one model's answers to the repeated question are."""

    question: str
    times: int  # how often it was asked
    temperature: float | None
    distinct: int  # different answers, white space aside
    duplicate_share: float  # (times − distinct) / (times − 1): 0 where all differ, 1 where all are the same
    chrf: float  # mean chrF2 over all ordered pairs of answers, 0 to 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Both models' answers to the repeated question: `stability` of proof.json. None: it was not asked."""

    base: AnswerStability | None = None
    tuned: AnswerStability | None = None


def stability(answers: Sequence[Answer], *, temperature: float | None) -> Stability:
    """How alike the answers of base and tuned model to the repeated question are.

    Args:
        temperature: at which it was asked.
    """
    base, tuned = (
        [answer for answer in answers if answer.model == model and answer.kind == "repeat"]
        for model in ("base", "tuned")
    )
    return Stability(base=_of_model(base, temperature), tuned=_of_model(tuned, temperature))


def _of_model(repeated: Sequence[Answer], temperature: float | None) -> AnswerStability | None:
    if len(repeated) < 2:
        return None
    return answer_stability(repeated[0].question, [answer.text for answer in repeated], temperature=temperature)


def answer_stability(question: str, texts: Sequence[str], *, temperature: float | None) -> AnswerStability:
    """How alike the answers to one question are.

    chrF: Popović 2015; sacrebleu's defaults (character 6-grams, β = 2), because Korean words change their endings.

    Args:
        texts: at least two.
    """
    counts = Counter(" ".join(text.split()) for text in texts)
    return AnswerStability(
        question=question,
        times=len(texts),
        temperature=temperature,
        distinct=len(counts),
        duplicate_share=(len(texts) - len(counts)) / (len(texts) - 1),
        chrf=_mean_pairwise_chrf(counts),
    )


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
