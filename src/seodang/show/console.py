"""What is seen while it happens: bars on a terminal, lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from seodang.distributed import is_main
from seodang.errors import SeodangError
from seodang.show.formatting import duration, number, percent, visible

LINES_OF_A_RUN = 10  # training lines where there is no bar


WIDTH = 100  # where the output is no terminal


def show_note(sentence: str) -> None:
    """One sentence the user should know."""
    get_console().print(Text("· " + visible(sentence), style="yellow"))


def show_line(sentence: str) -> None:
    """One line of what was done."""
    get_console().print(Text(visible(sentence), style="dim"), soft_wrap=True)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar while something is counted up to `total`, and one line when it is done; yields what advances it."""
    begun = time.perf_counter()
    with progress() as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
    show_line(f"{title}: {total:,} in {duration(time.perf_counter() - begun)}")


@contextmanager
def training(total_steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Training as it goes: a bar with loss and speed, one line an evaluation; yields what takes the run's events."""
    out = get_console()
    begun = time.perf_counter()
    every = max(1, total_steps // LINES_OF_A_RUN)
    with progress() as bar:
        task = bar.add_task("training", total=total_steps)
        lines = out if bar.disable else bar.console  # without a bar, all that is told of a run is in one stream
        first: int | None = None

        def show(event: dict[str, Any]) -> None:
            nonlocal first
            step = event.get("step", 0)
            if event["event"] == "train":
                first = step - 1 if first is None else first
                told = f"loss {number(event['loss'])}, {event['tokens_per_second']:,.0f} tokens/s"
                bar.update(task, completed=step, description=f"training: {told}")
                if bar.disable and step % every == 0:
                    left = (time.perf_counter() - begun) / (step - first) * (total_steps - step)
                    lines.print(Text(f"step {step:,}/{total_steps:,}: {told}, {duration(left)} left", style="dim"))
            elif event["event"] == "note":
                lines.print(Text("· " + visible(event["what"]), style="yellow"))
            elif event["event"] == "speed":
                lines.print(_speed(event))
            elif event["event"] == "eval":
                lines.print(_evaluation(event))

        yield show


def _evaluation(event: dict[str, Any]) -> Text:
    told = Text(f"step {event['step']:,}: held-out loss ")
    sources = [f"{visible(name)} {number(metric['loss'])}" for name, metric in event["sources"].items()]
    told.append(", ".join(sources))
    if event["loss"] is not None:
        told.append(f"  (chosen by {number(event['loss'])}, p {event['probability']:.3f})", style="dim")
    return told


def _speed(event: dict[str, Any]) -> Text:
    told = f"speed: {event['tokens_per_second']:,.0f} tokens/s"
    if share := event.get("floor_share"):
        told += f", {percent(share)} of this machine's floor ({event['matrix_gflops']:,.0f} GFLOP/s in matrix products)"
    return Text(told, style="dim")


def get_console(*, stderr: bool = False, any_rank: bool = False) -> Console:
    """A console that takes text literally; without colour where it is no terminal or NO_COLOR is set.

    Of several processes only the main one is heard, unless `any_rank`.
    """
    how: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    plain = Console(**how, quiet=not (any_rank or is_main()))
    return plain if plain.is_terminal else Console(**how, quiet=plain.quiet, width=WIDTH)


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


def show_error(error: SeodangError, *, out: Console | None = None) -> None:
    """Where, what and the mend, on stderr, whichever process says it."""
    text = Text().append("error: ", style="bold red").append(visible(str(error)))
    (out or get_console(stderr=True, any_rank=True)).print(text, soft_wrap=True)


def can_ask() -> bool:
    """Whether a person sits at the other end."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def choose(question: str, choices: Sequence[str]) -> str:
    """Ask for one of `choices`; the first stands if nothing is typed."""
    out = get_console()
    out.print(Text(question, style="bold"))
    for place, choice in enumerate(choices, 1):
        out.print(Text(f"  {place} {choice}" + ("  (guess)" if place == 1 else "")))
    while True:
        typed = out.input("> ").strip()
        if not typed:
            return choices[0]
        if typed.isdigit() and 1 <= int(typed) <= len(choices):
            return choices[int(typed) - 1]
        if typed in choices:
            return typed
        out.print(Text(f"type a number from 1 to {len(choices)}", style="yellow"))
