"""Progress in the terminal while something runs: bars with the time left, or lines where the output is no terminal."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.text import Text

from seodang.run.events import (
    AnswersEvent,
    EvalEvent,
    Event,
    NoteEvent,
    SavedEvent,
    SaveEvent,
    SpeedEvent,
    TrainEvent,
)
from seodang.show.formatting import duration, number, percent, visible
from seodang.show.terminal import time_left
from seodang.show.terminal.console import get_console, show_line
from seodang.show.terminal.time_left import Remaining, Work

NUM_LOG_LINES = 10  # training lines where there is no bar
LOG_SECONDS = 60.0  # the longest time without one; later a tenth of the time so far
LINE_SECONDS = 5.0  # between lines of progress where there is no bar; later a tenth of the time so far
BAR_SECONDS = 0.2  # before a bar is drawn of what is mostly over at once
LONG_SECONDS = 2.0  # what took longer gets a line
WIDE, BAR, SHORT_BAR = 100, 28, 12  # columns of a terminal; of a bar there, and in a narrower one
TRAINING = "training"  # a stage of the run


@dataclass
class _Expected:
    """What the run of this process takes, as far as it is known."""

    run: time_left.WholeRun | None = None
    training: time_left.TrainingTime | None = None


_expected = _Expected()
Refresh = Callable[[], tuple[float | None, str, Remaining | None]]  # share done, how many of how many, time left


class Advance(Protocol):
    """Takes what was done since the last call: how many, and how much work that was."""

    def __call__(self, more: int, work: float = 0, /) -> None: ...


@contextmanager
def expecting(
    seconds: Mapping[str, float | None], *, alike: Mapping[str, str], training: time_left.TrainingTime | None = None
) -> Iterator[None]:
    """Inside, the time left of the whole run is shown.

    Args:
        seconds, alike: its stages, as `time_left.WholeRun` takes them.
        training: one of them.
    """
    _expected.run, _expected.training = time_left.WholeRun(seconds, alike=alike), training
    try:
        yield
    finally:
        _expected.run = _expected.training = None


class Bars(Progress):
    """Bars on stderr, one for each thing that is being done; without a terminal they stay silent."""

    def __init__(self) -> None:
        out = get_console(stderr=True)
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR if out.width >= WIDE else SHORT_BAR),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("[dim]{task.fields[left]}"),
            console=out,
            transient=True,
            disable=out.quiet or not out.is_terminal,
            refresh_per_second=4,
        )

    def add(self, title: str, refresh: Refresh) -> Task:
        """A bar that asks `refresh` whenever it is drawn."""
        task = self.add_task(title, total=None, refresh=refresh, count="", left="")
        return next(one for one in self.tasks if one.id == task)

    def add_run(self, stage: str, left: Callable[[], Remaining | None]) -> None:
        """A bar for the whole run, where it is known what comes after this stage."""
        run = _expected.run
        if run is None or run.left(stage, Remaining(seconds=0.0)) is None:
            return

        def refresh() -> tuple[float | None, str, Remaining | None]:
            found = run.left(stage, left())
            return (run.elapsed / (run.elapsed + found.seconds) if found else None), "", found

        self.add("whole run", refresh)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars as they are now."""
        for task in self.tasks:
            share, count, left = task.fields["refresh"]()
            task.total, task.completed = (None, 0) if share is None else (1.0, share)
            task.fields |= {"count": count, "left": time_text(left)}
        yield from super().get_renderables()


def time_text(left: Remaining | None) -> str:
    """`about 3 min 20 s left`; nothing where it is not known."""
    if left is None:
        return ""
    about = "about " if left.is_estimate else ""
    whole = f"{math.ceil(left.seconds)} s" if left.seconds < 60 else duration(left.seconds)
    return f"{about}{whole} left"


@contextmanager
def counting(title: str, total: int, *, work: float | None = None) -> Iterator[Advance]:
    """Progress while something is counted up to `total`, and one line when it is done; yields what advances it.

    Args:
        title: also the name of a stage of the run (`expecting`).
        work: all of it, where things that are counted differ in it (tokens, for example).
    """
    estimate = _expected.run.expected(title) if _expected.run else None
    started = time.perf_counter()
    with _progress_of(title, total, is_shown=True, work=work, estimate=estimate) as advance:
        yield advance
    took = time.perf_counter() - started
    if run := _expected.run:
        run.ended(title, took)
    show_line(f"{title}: {total:,} in {duration(took)}")


@contextmanager
def watching(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """As `counting` for what is mostly over at once, of which nothing is shown; `total` may be unknown (None)."""
    with _progress_of(title, total, is_shown=False) as advance:
        yield advance


@contextmanager
def _progress_of(
    title: str, total: int | None, *, is_shown: bool, work: float | None = None, estimate: float | None = None
) -> Iterator[Advance]:
    """A bar, without a terminal a line every few seconds."""
    bars, done = Bars(), 0
    timed = Work(work or total or 0, estimate=estimate) if total else None
    started = changed = time.perf_counter()

    def refresh() -> tuple[float | None, str, Remaining | None]:
        count = f"{done:,}/{total:,}" if total else f"{done:,}"
        return (timed.share, count, timed.left) if timed else (None, count, None)

    bars.add(title, refresh)
    bars.add_run(title, lambda: timed.left if timed else None)
    if is_shown:
        bars.start()

    def advance(more: int, work_done: float = 0) -> None:
        nonlocal done, changed, is_shown
        done += more
        if timed:
            timed.advance(work_done if work else more)
        now = time.perf_counter()
        if now - changed < (max(LINE_SECONDS, (now - started) / 10) if bars.disable else BAR_SECONDS):
            return
        changed = now
        if bars.disable:
            left = time_text(timed.left if timed else None)
            of_all = f" of {total:,}" if total else ""
            show_line(f"{title}: {done:,}{of_all}" + (f", {left}" if left else ""))
        elif not is_shown:
            bars.start()
            is_shown = True

    try:
        yield advance
    finally:
        if is_shown:
            bars.stop()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner while something is done that cannot be counted; a line afterwards if it took long."""
    out, started = get_console(stderr=True), time.perf_counter()
    if out.is_terminal and not out.quiet:
        with out.status(Text(what)):
            yield
    else:
        yield
    if (took := time.perf_counter() - started) > LONG_SECONDS:
        show_line(f"{what}: {duration(took)}")


class TrainingDisplay:
    """Takes the events of training: a bar with loss and speed, one below for what interrupts it, lines for results."""

    def __init__(self, bars: Bars, steps: int, timed: time_left.TrainingTime, *, is_limited: bool) -> None:
        self._bars, self._steps, self._timed, self._is_limited = bars, steps, timed, is_limited
        self._lines = get_console() if bars.disable else bars.console  # a log file holds all in one stream
        self._every = max(1, steps // NUM_LOG_LINES)
        self._step, self._summary = 0, ""
        self._started = self._changed = time.perf_counter()
        self._task = bars.add(TRAINING, lambda: (timed.share, f"{self._step:,}/{steps:,}", timed.left))
        bars.add_run(TRAINING, lambda: timed.left)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case TrainEvent():
                self._timed.stepped(event.step, steps=event.steps, seconds=event.seconds)
                self._step = event.step
                self._summary = f"loss {number(event.loss)}, {event.tokens_per_second:,.0f} tokens/s"
                self._describe(self._summary)
                self._log_step()
            case NoteEvent():
                self._lines.print(Text("· " + visible(event.what), style="yellow"))
            case SpeedEvent():
                self._lines.print(_speed(event))
            case EvalEvent():
                self._lines.print(_evaluation(event, is_limited=self._is_limited))
            case SaveEvent():
                self._timed.interrupted(time_left.CHECKPOINT)
                self._describe(f"saving the checkpoint of step {event.step:,}")
            case SavedEvent():
                self._timed.continued(event.step)
                self._describe(self._summary)
            case AnswersEvent():
                self._describe(self._summary)

    @contextmanager
    def interruption(self, kind: str, what: str, total: int, *, step: int, work: float = 0) -> Iterator[Advance]:
        """A bar of its own for what is done between two steps.

        Args:
            kind: as `time_left.TrainingTime` counts it.
            step: to which it belongs.
        """
        done, timed = 0, Work(work or total)
        title = f"step {step:,}: {what}"

        def advance(more: int, work_done: float = 0) -> None:
            nonlocal done
            done += more
            timed.advance(work_done if work else more)
            self._log(lambda: f"{title} {done:,}/{total:,}, {time_text(timed.left)}", LINE_SECONDS)

        self._timed.interrupted(kind)
        self._describe(f"waits for {what}")
        task = self._bars.add(title, lambda: (timed.share, f"{done:,}/{total:,}", timed.left))
        try:
            yield advance
        finally:
            self._bars.remove_task(task.id)
            self._timed.continued(step)
            self._describe(self._summary)

    @property
    def step(self) -> int:
        """The last one that was logged."""
        return self._step

    def _describe(self, what: str) -> None:
        self._task.description = f"{TRAINING}: {what}" if what else TRAINING

    def _log_step(self) -> None:
        longest = 0.0 if self._step % self._every == 0 else LOG_SECONDS
        self._log(
            lambda: f"step {self._step:,}/{self._steps:,}: {self._summary}, {time_text(self._timed.left)}", longest
        )

    def _log(self, line: Callable[[], str], longest: float) -> None:
        """A line where there is no bar, if the last is long enough ago."""
        now = time.perf_counter()
        if self._bars.disable and (not longest or now - self._changed > max(longest, (now - self._started) / 10)):
            self._lines.print(Text(line().removesuffix(", "), style="dim"))
            self._changed = now


@contextmanager
def training(steps: int, *, is_limited: bool = False) -> Iterator[TrainingDisplay]:
    """Training progress; yields what takes the run's events, and shows what interrupts the steps.

    Args:
        is_limited: tolerances limit which checkpoint is kept.
    """
    started, timed = time.perf_counter(), _expected.training or time_left.TrainingTime(steps)
    timed.begin()
    with Bars() as bars:
        yield TrainingDisplay(bars, steps, timed, is_limited=is_limited)
    if run := _expected.run:
        run.ended(TRAINING, time.perf_counter() - started)


def show_evaluation(event: EvalEvent) -> None:
    """The line of an evaluation, such as the base's."""
    get_console().print(_evaluation(event))


def _evaluation(event: EvalEvent, *, is_limited: bool = False) -> Text:
    line = Text(f"step {event.step:,}: held-out loss ")
    losses = [f"{visible(name)} {number(found.loss)}" for name, found in event.sources.items()]
    line.append(", ".join(losses) or "not measured, as no rows are held out")
    if event.step == 0:
        line.append("  (the base)", style="dim")
    elif event.loss is not None:
        lowest = "the lowest within the tolerances" if is_limited else "the lowest"
        line.append(f"  (score {number(event.loss)}: the checkpoint with {lowest} is kept)", style="dim")
    return line


def _speed(event: SpeedEvent) -> Text:
    line = f"speed: {event.tokens_per_second:,.0f} tokens/s"
    if share := event.limit_share:
        line += f", {percent(share)} of the hardware limit ({event.matrix_gflops:,.0f} GFLOP/s in matrix products)"
    return Text(line, style="dim")
