"""Which checkpoint is kept where the domain is to improve within the tolerances: `best_by: domain_within_tolerance`.

Every evaluation is compared with the base's, that of step 0. Reads events alone: a resumed run, which reads them again,
chooses as an unbroken one does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seodang.run.events import AnswersEvent, EvalEvent, GivenAnswer, RecordedEvent, SourceEvaluation
from seodang.types import Answer

STOPPING_SHARE = 0.5  # of the answers asked during training: where fewer stop, the text has collapsed
SMALLEST_TOLERANCE = 0.001  # by which a rise is divided where none is allowed
OUTSIDE, COLLAPSED = 1e6, 2e6  # scores begin here: above every loss, so that one number ranks all evaluations
ASKED_AGAIN = ("domain", "general")  # kinds of questions that `train.ask_every` repeats

Unit = Literal["nats per token", "bits per byte"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """How much the loss on one source may rise over the base's."""

    source: str
    unit: Unit
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rise:
    """How much the loss on one source rose over the base's; negative: it fell."""

    value: float
    unit: Unit
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessed:
    """One evaluation, compared with the base's."""

    step: int
    loss: float  # on the domain, nats per token
    rises: Mapping[str, Rise]  # by source
    stopped: float | None  # share of the newest answers to what is asked during training; None: nothing is asked
    is_base_asked: bool = False  # these are the base's: none was given since

    @property
    def stops(self) -> bool:
        """Whether enough answers end by themselves, as far as any was asked."""
        return self.stopped is None or self.stopped >= STOPPING_SHARE

    @property
    def is_within(self) -> bool:
        """Whether every rise is within its tolerance, and answers stop."""
        return self.stops and all(rise.value <= rise.tolerance for rise in self.rises.values())

    @property
    def score(self) -> float:
        """By which evaluations are ranked, the lowest first.

        Within tolerance: the loss on the domain. Outside: the largest excess over a tolerance, in multiples of it.
        Collapsed text comes last, in the same order.
        """
        excess = [(one.value - one.tolerance) / max(one.tolerance, SMALLEST_TOLERANCE) for one in self.rises.values()]
        largest = max(excess, default=0.0)
        return (0.0 if self.stops else COLLAPSED) + (OUTSIDE + largest if largest > 0 else self.loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointChoice:
    """What was chosen, and from what."""

    evaluations: int
    within: int  # evaluations within all tolerances
    kept: Assessed


class Assessor:
    """Compares evaluations with the base's, as they come."""

    def __init__(
        self, limits: Sequence[Limit], events: Iterable[RecordedEvent] = (), base_answers: Iterable[Answer] = ()
    ) -> None:
        """Args:
        events: what was recorded before, the base's evaluation among them.
        base_answers: the base's, where questions are asked during training; they count until those are. Else an
            evaluation before the first would be ranked above all later ones whenever answers do not end.
        """
        self._limits = limits
        self._base: Mapping[str, SourceEvaluation] = {}
        self._stopped = _stopped([answer for answer in base_answers if answer.kind in ASKED_AGAIN])
        self._is_base_asked = self._stopped is not None
        for event in events:
            self.see(event)

    def see(self, event: object) -> None:
        """Take in the base's evaluation, and answers."""
        if isinstance(event, EvalEvent) and event.step == 0:
            self._base = event.sources
        elif isinstance(event, AnswersEvent) and event.answers:
            self._stopped, self._is_base_asked = _stopped(event.answers), False

    def assess(self, event: EvalEvent) -> Assessed:
        """An evaluation after the base's."""
        assert event.loss is not None, f"step {event.step} has no loss on the domain"
        rises = {
            limit.source: Rise(
                value=_rise(self._base[limit.source], event.sources[limit.source], limit.unit),
                unit=limit.unit,
                tolerance=limit.tolerance,
            )
            for limit in self._limits
            if limit.source in self._base and limit.source in event.sources
        }
        return Assessed(
            step=event.step, loss=event.loss, rises=rises, stopped=self._stopped, is_base_asked=self._is_base_asked
        )


def choice_of(
    events: Iterable[RecordedEvent], limits: Sequence[Limit], step: int | None, base_answers: Iterable[Answer] = ()
) -> CheckpointChoice | None:
    """Why the checkpoint of a step was kept; None where no evaluation chose it."""
    assessor, found = Assessor(limits, base_answers=base_answers), list[Assessed]()
    for event in events:
        assessor.see(event)
        if isinstance(event, EvalEvent) and event.step:
            found.append(assessor.assess(event))
    kept = next((one for one in found if one.step == step), None)
    within = sum(one.is_within for one in found)
    return CheckpointChoice(evaluations=len(found), within=within, kept=kept) if kept else None


def _stopped(answers: Sequence[Answer | GivenAnswer]) -> float | None:
    """The share that ended by themselves; None without any."""
    return sum(answer.stopped for answer in answers) / len(answers) if answers else None


def _rise(base: SourceEvaluation, now: SourceEvaluation, unit: Unit) -> float:
    """Both count the same tokens and bytes."""
    if unit == "nats per token" or not base.bits_per_byte:
        return now.loss - base.loss
    return (now.loss - base.loss) * base.bits_per_byte / base.loss
