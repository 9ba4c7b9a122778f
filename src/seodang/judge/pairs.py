"""Two models' answers to the same questions, paired. Knows no judge."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seodang.data.read.clean import normal_form
from seodang.proof.statistics import union_clusters
from seodang.types import Answer, AnswerKind

SIMILAR_LENGTH = 1.2  # longer / shorter, up to which two answers count as of similar length


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One question with the answers of two models."""

    question: str
    ours: str  # the answer of the model that is judged
    theirs: str  # the answer that it is compared with
    reference: str | None = None
    source: str | None = None
    row_id: str | None = None
    cluster: str | None = None  # pairs of equal value are one piece of evidence; so are equal questions and references

    @property
    def is_same_text(self) -> bool:
        """Whether nothing is left to judge."""
        return self.ours.split() == self.theirs.split()

    @property
    def has_similar_length(self) -> bool:
        low, high = sorted((len(self.ours), len(self.theirs)))
        return high <= SIMILAR_LENGTH * low


def pair_answers(
    ours: Sequence[Answer], theirs: Sequence[Answer], clusters: Mapping[str, str] | None = None
) -> tuple[list[Pair], int]:
    """The questions that both models answered, in the order of `ours`; and the number of answers that have no partner.

    A question that was asked again and again has no one answer: it is left out, and not counted.

    Args:
        clusters: row_id → cluster.
    """
    known = clusters or {}
    own, other = ({_key(one): one for one in answers if one.kind != "repeat"} for answers in (ours, theirs))
    pairs = [
        Pair(
            question=answer.question,
            ours=answer.text,
            theirs=other[key].text,
            reference=answer.reference,
            source=answer.source,
            row_id=answer.row_id,
            cluster=known.get(answer.row_id or ""),
        )
        for key, answer in own.items()
        if key in other
    ]
    return pairs, len(own.keys() ^ other.keys())


def choose(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many of the pairs, evenly over their order, so that each group keeps its share."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[place * len(pairs) // most] for place in range(most)]


def clusters_of(pairs: Sequence[Pair]) -> list[int]:
    """[pairs] the cluster of each."""
    questions = [normal_form(pair.question) for pair in pairs]
    references = [normal_form(pair.reference) if pair.reference else None for pair in pairs]
    return union_clusters(questions, references, [pair.cluster for pair in pairs])


def fingerprint(pairs: Sequence[Pair]) -> str:
    """SHA-256 of the questions and answers: a judgement is of these and no others."""
    content = [[pair.question, pair.ours, pair.theirs, pair.reference] for pair in pairs]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _key(answer: Answer) -> tuple[AnswerKind, str, str | None]:
    return answer.kind, answer.question, answer.row_id
