"""What a judge made of two models' answers, as frozen values: the content of judgement.json.

Knows no judge and no network; every figure can be computed again from `Judgement.judged`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from seodang.judge.planted import Fault
from seodang.proof.behaviour import Share
from seodang.proof.statistics import Interval, PairedShare

FIT_SHARE = 0.9  # of the planted pairs that a judge has to judge rightly
Outcome = Literal["win", "tie", "loss", "error"]
Verdict = Literal["better", "worse", "not shown", "none"]  # of our model; none: the judge cannot be relied on


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One pair, judged in both orders."""

    question: str
    outcome: Outcome  # for our answer; what does not survive the swap is a tie
    flipped: bool  # the two orders have different verdicts
    replies: tuple[str | None, str | None]  # our answer shown first, and second; None: no reply, or the same texts
    first_twice: bool  # the answer shown first was chosen in both orders
    second_twice: bool
    similar_length: bool  # the longer answer is at most a fifth longer
    log_length_ratio: float  # ln(characters of our answer / those of the other), one added to each
    has_reference: bool  # that the judge was shown
    is_same_text: bool  # nothing was asked: a tie
    cluster: int
    source: str | None = None
    row_id: str | None = None
    why: str = ""  # of an error


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedResult:
    """What a judge made of the planted pairs with one fault."""

    fault: Fault
    right: int  # the reference was chosen in both orders
    of: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a judge made of pairs whose better answer is known."""

    faults: tuple[PlantedResult, ...]
    errors: int  # pairs with a reply that could not be read, or none
    first_twice: int  # pairs of which the answer shown first was chosen in both orders
    second_twice: int
    longer: Share | None  # of the pairs decided alike in both orders: the longer answer was chosen; None: no such pair
    examples: tuple[str, ...] = ()  # of replies that could not be read

    @property
    def right(self) -> int:
        return sum(one.right for one in self.faults)

    @property
    def of(self) -> int:
        return sum(one.of for one in self.faults)

    @property
    def is_fit(self) -> bool:
        """Whether the judge may judge."""
        return self.right >= FIT_SHARE * self.of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Wins, ties and losses of our model; errors are not among them."""

    wins: Share  # Wilson's intervals, over clusters
    ties: Share
    losses: Share
    difference: PairedShare  # share of losses, share of wins; wins − losses with its interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthAdjusted:
    """Wins − losses as they would be if both answers of each pair were equally long."""

    value: float  # −1 to 1
    interval: Interval | None  # None: too few clusters
    slope: float  # of the logit, per unit of the log length ratio; above 0: longer answers win


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a judge made of two models' answers: the content of judgement.json."""

    SCHEMA_VERSION: ClassVar[int] = 1

    judge: str  # the model, as its server names it
    url: str
    date: str  # ISO 8601, UTC
    ours: str  # name of the model that is judged
    theirs: str  # of the one that it is compared with
    fingerprint: str  # of questions and answers
    criteria: Mapping[str, str]  # language → text
    calibration: Calibration
    verdict: Verdict
    why_none: str  # empty where there is a verdict
    pairs: int  # that were to be judged
    errors: int
    same_text: int  # pairs of equal answers: ties that the judge was not asked about
    all: Tally | None  # None: no verdict
    similar_length: Tally | None  # of pairs of similar length; None: there is none
    length_adjusted: LengthAdjusted | None
    flips: Share | None  # pairs whose verdict differs with the order
    first_twice: int
    second_twice: int
    requests: int
    cached: int
    repeated: int
    prompt_tokens: int
    reply_tokens: int
    judged: tuple[Judged, ...]
    warnings: tuple[str, ...] = ()
