"""How long work still takes: by what was done of it and how long that took; before that, by an estimate.

Knows no terminal. All times are in seconds.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
CHECKPOINT = "checkpoint"  # a kind of interruption


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """Time left."""

    seconds: float
    is_estimate: bool = False  # nothing of it was measured yet


class Work:
    """Work of one kind, such as tokens to read: each takes as long as those before, on average.

    Args:
        total: in any unit.
        estimate: of all of it; none: unknown until some of it is done.
    """

    def __init__(self, total: float, *, estimate: float | None = None, clock: Clock = time.monotonic) -> None:
        self._total, self._estimate, self._clock = total, estimate, clock
        self._begun = self._last = clock()
        self._done = 0.0
        self._pieces = 0

    def advance(self, done: float) -> None:
        """So much more of it is done."""
        self._done, self._pieces, self._last = self._done + done, self._pieces + 1, self._clock()

    @property
    def share(self) -> float:
        """What of it is done, 0 to 1."""
        return min(1.0, self._done / self._total) if self._total else 1.0

    @property
    def elapsed(self) -> float:
        """Since it was begun."""
        return self._clock() - self._begun

    @property
    def left(self) -> Remaining | None:
        """None: not known yet, or the estimate was too low."""
        now = self._clock()
        if not self._done:
            seconds = -1.0 if self._estimate is None else self._estimate - (now - self._begun)
            return Remaining(seconds=seconds, is_estimate=True) if seconds > 0 else None
        to_do = max(self._total - self._done, 0.0)
        pace, piece = (self._last - self._begun) / self._done, min(self._done / self._pieces, to_do)
        if now - self._last <= pace * piece:
            return Remaining(seconds=pace * to_do - (now - self._last))
        pace = (now - self._begun) / (self._done + piece)  # this piece takes longer than those before
        return Remaining(seconds=pace * (to_do - piece))


class TrainingTime:
    """Steps, and what interrupts them: evaluations, checkpoints, answers to questions.

    Args:
        steps: of the whole training.
        step_seconds: estimated, of one step.
        every: kind of interruption → steps between two.
        interruption_seconds: estimated, of one of each kind.
        done: steps that were taken before.
    """

    def __init__(
        self,
        steps: int,
        *,
        step_seconds: float | None = None,
        every: Mapping[str, int] | None = None,
        interruption_seconds: Mapping[str, float | None] | None = None,
        done: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._steps, self._estimate, self._every, self._clock = steps, step_seconds, dict(every or {}), clock
        self._seconds = {kind: (interruption_seconds or {}).get(kind) for kind in self._every}
        self._done = dict.fromkeys(self._every, done)  # the step of the last one
        self._begun = self._last = clock()
        self._step = done
        self._counted, self._counted_seconds, self._events = 0, 0.0, 0
        self._now: tuple[str, float] | None = None  # what interrupts the steps, and since when

    def begin(self) -> None:
        """It begins now: what was before does not count."""
        self._begun = self._last = self._clock()

    def stepped(self, step: int, *, steps: int, seconds: float) -> None:
        """Training has come to `step`; the last `steps` took `seconds` without interruptions."""
        if not self._events:
            self._done = {kind: max(done, step - steps) for kind, done in self._done.items()}  # it may be resumed
        if self._events == 1:  # the first one warmed up
            self._counted, self._counted_seconds = 0, 0.0
        self._events += 1
        self._counted, self._counted_seconds = self._counted + steps, self._counted_seconds + seconds
        self._step, self._last = step, self._clock()

    def interrupted(self, kind: str) -> None:
        """Something of this kind begins."""
        self._now = kind, self._clock()

    def continued(self, step: int) -> None:
        """It has ended; it belongs to this step."""
        assert self._now, "nothing interrupted training"
        (kind, since), self._now = self._now, None
        self._last = self._clock()
        self._seconds[kind], self._done[kind] = self._last - since, step

    @property
    def share(self) -> float:
        """Of its time that has passed, below 1 before its end."""
        if (left := self.left) is None:
            return 0.0
        passed = self._clock() - self._begun
        return passed / (passed + left.seconds) if passed + left.seconds else 0.0

    @property
    def left(self) -> Remaining | None:
        """None: not known yet."""
        now = self._clock()
        pace = self._counted_seconds / self._counted if self._counted else self._estimate
        if pace is None:
            return None
        seconds = pace * (self._steps - self._step)
        if self._now is None and self._step < self._steps:
            seconds -= min(now - self._last, pace)
        for kind, every in self._every.items():
            each = self._seconds[kind] or 0.0
            seconds += each * (self._steps // every - self._done[kind] // every)
            if self._now and self._now[0] == kind:
                seconds -= min(now - self._now[1], each)
        return Remaining(seconds=max(seconds, 0.0), is_estimate=not self._counted)


class WholeRun:
    """The stages of a run that take long.

    Args:
        seconds: estimated; stage → seconds, in their order; none: unknown.
        alike: stage → a later one that takes as long.
    """

    def __init__(
        self,
        seconds: Mapping[str, float | None],
        *,
        alike: Mapping[str, str] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._left, self._alike, self._clock = dict(seconds), dict(alike or {}), clock
        self._begun = clock()

    def ended(self, stage: str, took: float) -> None:
        """A stage is over; what comes before it is over, too."""
        for name in list(self._left)[: list(self._left).index(stage) + 1] if stage in self._left else ():
            del self._left[name]
        later = self._alike.get(stage, "")
        if later in self._left:
            self._left[later] = took

    def expected(self, stage: str) -> float | None:
        """Seconds of a stage that is to come; None: not known."""
        return self._left.get(stage)

    @property
    def elapsed(self) -> float:
        """Since it was begun."""
        return self._clock() - self._begun

    def left(self, stage: str, of_stage: Remaining | None) -> Remaining | None:
        """During `stage`, of which so much is left. None: not known, or nothing comes after it."""
        names = list(self._left)
        later = [self._left[name] for name in names[names.index(stage) + 1 :]] if stage in names else []
        if not later or of_stage is None or any(seconds is None for seconds in later):
            return None
        return Remaining(seconds=of_stage.seconds + sum(filter(None, later)), is_estimate=True)
