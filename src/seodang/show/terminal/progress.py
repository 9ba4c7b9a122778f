"""Progress in the terminal while something runs: a bar, or lines where the output is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from seodang.run.events import EvalEvent, Event, NoteEvent, SpeedEvent, TrainEvent
from seodang.show.formatting import duration, number, percent, visible
from seodang.show.terminal.console import get_console, show_line

NUM_LOG_LINES = 10  # training lines where there is no bar
LINE_SECONDS = 5.0  # between lines of progress where there is no bar; later a tenth of the time so far
BAR_SECONDS = 0.2  # between changes of a bar


def progress() -> Progress:
    """A progress display on stderr: what, bar, number, time left. Use as a context manager; it vanishes when done.

    Without a terminal it stays silent.
    """
    out = get_console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]left"),
        console=out,
        transient=True,
        disable=out.quiet or not out.is_terminal,
    )


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress while something is counted up to `total`, and one line when it is done; yields what advances it."""
    started = time.perf_counter()
    with _progress_of(title, total, is_shown=True) as advance:
        yield advance
    show_line(f"{title}: {total:,} in {duration(time.perf_counter() - started)}")


def watching(title: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """As `counting` for what is mostly over at once, of which nothing is shown; `total` may be unknown (None)."""
    return _progress_of(title, total, is_shown=False)


@contextmanager
def _progress_of(title: str, total: int | None, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar, without a terminal a line every few seconds."""
    bar, done, started = progress(), 0, time.perf_counter()
    changed = started
    task = bar.add_task(title, total=total)
    if is_shown:
        bar.start()

    def advance(more: int) -> None:
        nonlocal done, changed, is_shown
        done += more
        now = time.perf_counter()
        if now - changed < (max(LINE_SECONDS, (now - started) / 10) if bar.disable else BAR_SECONDS):
            return
        changed = now
        if bar.disable:
            show_line(f"{title}: {done:,}" + (f" of {total:,}" if total else ""))
            return
        if not is_shown:
            bar.start()
            is_shown = True
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        if is_shown:
            bar.stop()


@contextmanager
def training(total_steps: int) -> Iterator[Callable[[Event], None]]:
    """Training progress: a bar with loss and speed, a line for each evaluation; yields what takes the run's events."""
    out = get_console()
    started = time.perf_counter()
    every = max(1, total_steps // NUM_LOG_LINES)
    with progress() as bar:
        task = bar.add_task("training", total=total_steps)
        lines = out if bar.disable else bar.console  # without a bar, everything about a run is in one stream
        first: int | None = None

        def show(event: Event) -> None:
            nonlocal first
            match event:
                case TrainEvent(step=step):
                    first = step - 1 if first is None else first
                    summary = f"loss {number(event.loss)}, {event.tokens_per_second:,.0f} tokens/s"
                    bar.update(task, completed=step, description=f"training: {summary}")
                    if bar.disable and step % every == 0:
                        left = duration((time.perf_counter() - started) / (step - first) * (total_steps - step))
                        lines.print(Text(f"step {step:,}/{total_steps:,}: {summary}, {left} left", style="dim"))
                case NoteEvent():
                    lines.print(Text("· " + visible(event.what), style="yellow"))
                case SpeedEvent():
                    lines.print(_speed(event))
                case EvalEvent():
                    lines.print(_evaluation(event))

        yield show


def _evaluation(event: EvalEvent) -> Text:
    line = Text(f"step {event.step:,}: held-out loss ")
    line.append(", ".join(f"{visible(name)} {number(found.loss)}" for name, found in event.sources.items()))
    if event.loss is not None:
        line.append(f"  (chosen by {number(event.loss)}, p {event.probability:.3f})", style="dim")
    return line


def _speed(event: SpeedEvent) -> Text:
    line = f"speed: {event.tokens_per_second:,.0f} tokens/s"
    if share := event.limit_share:
        line += f", {percent(share)} of the hardware limit ({event.matrix_gflops:,.0f} GFLOP/s in matrix products)"
    return Text(line, style="dim")
