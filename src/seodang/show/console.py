"""The terminal: one console for everything that is printed, progress while something runs, and questions to the user.

Knows no run folder; what is printed of a run's evidence is in `tables`.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from seodang.distributed import is_main
from seodang.errors import SeodangError
from seodang.run.events import EvalEvent, Event, NoteEvent, SpeedEvent, TrainEvent
from seodang.show.formatting import duration, number, percent, visible, visible_line

NUM_LOG_LINES = 10  # training lines where there is no bar
CRASH_CHARACTERS = 200  # of an unforeseen error; all of it is in the log file
LINE_SECONDS = 5.0  # between lines of progress where there is no bar; later a tenth of the time so far
BAR_SECONDS = 0.2  # between changes of a bar
LOG_WIDTH = 100  # columns where the output is no terminal


class _SafeConsole(Console):
    """Whatever is printed, by whomever: its control characters are shown, not obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def get_console(*, stderr: bool = False, any_rank: bool = False) -> Console:
    """A console that takes text literally; without colour where it is no terminal or NO_COLOR is set.

    Of several processes only the main one prints, unless `any_rank`.
    """
    options: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    plain = _SafeConsole(**options, quiet=not (any_rank or is_main()))
    return plain if plain.is_terminal else _SafeConsole(**options, quiet=plain.quiet, width=LOG_WIDTH)


def show_line(sentence: str) -> None:
    """One line of what was done."""
    get_console().print(Text(visible(sentence), style="dim"), soft_wrap=True)


def show_note(sentence: str) -> None:
    """One sentence the user should know."""
    get_console().print(Text("· " + visible(sentence), style="yellow"))


def show_error(error: SeodangError, *, out: Console | None = None) -> None:
    """Where, what and how to fix it, on stderr, whichever process reports it."""
    text = Text().append("error: ", style="bold red").append(visible(str(error)))
    (out or get_console(stderr=True, any_rank=True)).print(text, soft_wrap=True)


def show_crash(error: Exception, log: Path | None) -> None:
    """One line about a fault in seodang itself: what it is, and the file that a report of it needs."""
    first = next(iter(str(error).strip().splitlines()), "")
    what = visible_line(f"{type(error).__name__}: {first}"[:CRASH_CHARACTERS].removesuffix(": "))
    place = f"with {visible_line(str(log))}" if log else "(no log file could be written)"
    text = Text().append("internal error: ", style="bold red")
    text.append(f"{what}; this is a fault in seodang, please report it {place}")
    get_console(stderr=True, any_rank=True).print(text, soft_wrap=True)


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


def can_ask() -> bool:
    """Whether a person can be asked: both stdin and stdout are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def choose(question: str, choices: Mapping[str, str], guess: str) -> str:
    """Ask for one of `choices`, by number, name or its first letters; the guess is taken if nothing is typed.

    Args:
        choices: each with what it means, which may be empty.
    """
    out = get_console()
    out.print(Text(visible(question), style="bold"))
    width, names = max(map(len, choices)), list(choices)
    for place, (choice, meaning) in enumerate(choices.items(), 1):
        line = Text(f"  {place} {visible(choice):<{width}}  ").append(visible(meaning), style="dim")
        out.print(line.append("  (guess: Enter)" if choice == guess else "", style="green"))
    while True:
        typed = out.input("> ").strip()
        if not typed:
            return guess
        if typed.isdecimal() and 1 <= int(typed) <= len(names):
            return names[int(typed) - 1]
        begun = [name for name in names if name.casefold().startswith(typed.casefold())]
        if typed in choices or len(begun) == 1:
            return typed if typed in choices else begun[0]
        out.print(Text(f"type a number from 1 to {len(names)} or a name", style="yellow"))
