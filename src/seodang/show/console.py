"""What is seen while it happens: bars on a terminal, lines in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.text import Text

from seodang.show import tables
from seodang.show.formatting import duration, number, percent, visible

LINES_OF_A_RUN = 10  # training lines where there is no bar


def show_note(sentence: str) -> None:
    """One sentence the user should know."""
    tables.console().print(Text("· " + visible(sentence), style="yellow"))


def show_line(sentence: str) -> None:
    """One line of what was done."""
    tables.console().print(Text(visible(sentence), style="dim"), soft_wrap=True)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar while something is counted up to `total`, and one line when it is done; yields what advances it."""
    begun = time.perf_counter()
    with tables.progress() as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
    show_line(f"{title}: {total:,} in {duration(time.perf_counter() - begun)}")


@contextmanager
def training(total_steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Training as it goes: a bar with loss and speed, one line an evaluation; yields what takes the run's events."""
    out = tables.console()
    begun = time.perf_counter()
    every = max(1, total_steps // LINES_OF_A_RUN)
    with tables.progress() as bar:
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
