"""The terminal's console: everything that is printed goes through it; errors, notes, and questions to the user.

Knows no run folder. Text that comes from data or a model is never read as markup, and its control characters are
shown, not obeyed.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from seodang.distributed import is_main
from seodang.errors import SeodangError
from seodang.show.formatting import visible, visible_line

CRASH_CHARACTERS = 200  # of an unforeseen error; all of it is in the log file
LOG_WIDTH = 100  # columns where the output is no terminal and COLUMNS is not set


class _SafeConsole(Console):
    """Whatever is printed, by whomever: its control characters are shown, not obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def get_console(*, stderr: bool = False, any_rank: bool = False) -> Console:
    """A console that takes text literally; without colour where it is no terminal or NO_COLOR is set.

    The environment's COLUMNS is its width, whether it is a terminal or not.
    Of several processes only the main one prints, unless `any_rank`.
    """
    options: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    plain = _SafeConsole(**options, quiet=not (any_rank or is_main()))
    has_width = plain.is_terminal or re.fullmatch("0*[1-9][0-9]*", os.environ.get("COLUMNS", ""))  # which rich reads
    return plain if has_width else _SafeConsole(**options, quiet=plain.quiet, width=LOG_WIDTH)


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


def show_title(out: Console, title: str) -> None:
    out.print()
    out.print(Rule(Text(visible_line(title), style="bold"), align="left", style="dim", characters="─"))


def quiet_table(*heads: str) -> Table:
    """A quiet table; a head that ends with > stands above numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for head in heads:
        justify: Literal["left", "right"] = "right" if head.endswith(">") else "left"
        table.add_column(head.removesuffix(">"), justify=justify, overflow="fold", no_wrap=justify == "right")
    return table


def can_ask() -> bool:
    """Whether a person can be asked: both stdin and stdout are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _typed(out: Console, question: str) -> str:
    try:
        return out.input("> ")
    except EOFError:
        out.print()
        hint = "give each file's role by --domain, --general or --retention; without a terminal guesses are taken"
        raise SeodangError(f"the input ended at the question: {question}", hint=hint) from None
    except KeyboardInterrupt:
        out.print()  # what is shown next begins a line
        raise


def choose(question: str, choices: Mapping[str, str], guess: str) -> str:
    """Ask for one of `choices`, by number, name or its first letters; the guess is taken if nothing is typed.

    Args:
        choices: each with what it means, which may be empty.

    Raises:
        SeodangError: the input ends before an answer.
    """
    out = get_console()
    out.print(Text(visible(question), style="bold"))
    width, names = max(map(len, choices)), list(choices)
    for place, (choice, meaning) in enumerate(choices.items(), 1):
        line = Text(f"  {place} {visible(choice):<{width}}  ").append(visible(meaning), style="dim")
        out.print(line.append("  (guess: Enter)" if choice == guess else "", style="green"))
    while True:
        typed = _typed(out, question).strip()
        if not typed:
            return guess
        if typed.isdecimal() and 1 <= int(typed) <= len(names):
            return names[int(typed) - 1]
        begun = [name for name in names if name.casefold().startswith(typed.casefold())]
        if typed in choices or len(begun) == 1:
            return typed if typed in choices else begun[0]
        out.print(Text(f"type a number from 1 to {len(names)} or a name", style="yellow"))
