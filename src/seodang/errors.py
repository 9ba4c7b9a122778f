"""Every error a user can meet.

::

    SeodangError                exit code 2: the user's mistake, one message
    ├── RecipeError             a recipe that cannot be read; carries all faults at once
    ├── SourceError             a data file, column or row that cannot be used
    ├── TemplateError           a chat template that does not fit tokenizer or data
    ├── ModelError              a model or tokenizer that cannot be loaded
    ├── ResourceError           too little memory, disk or hardware
    ├── RunError                a run folder that exists, is missing or cannot be resumed
    ├── HubError                a hub that cannot be reached, or does not let the user read or write
    ├── StartError              several of these: all that keeps a run from starting
    └── GateError               exit code 1: readable input that must not be trained on, a failed proof
    KeyboardInterrupt
    └── Stopped                 exit code 130: a run that was interrupted and can be resumed

An error says *where* (file:row or recipe key), *what* is wrong, and how to fix it (*hint*). Names of files and text of
data stand in it as they are shown everywhere: control characters visible, so that no message steers a terminal.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Control characters but tab and newline, direction overrides, and lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
WHERE_CHARACTERS = 1000  # of a place; a path has at most 4096


def visible(text: str) -> str:
    """Control characters and lone surrogates replaced by pictures (␛, �); CR LF becomes LF."""
    return UNPRINTABLE.sub(_picture, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    """The same on one line: a line break in the name of a file is a picture too."""
    return visible(text).replace("\n", "␊").replace("\t", "␉")


def shortened(text: str, most_characters: int) -> str:
    """Its beginning, and how much more there is."""
    more = len(text) - most_characters
    return f"{text[:most_characters]} … ({more:,} more characters)" if more > 0 else text


def plural(count: int, word: str) -> str:
    """`1 row`, `4,173 rows`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def first_line(error: Exception) -> str:
    """The first line of a foreign error's text that is not blank, or its type where there is none."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)


def os_reason(error: OSError) -> str:
    """Why the system did not do it: `Permission denied`."""
    return error.strerror or first_line(error)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean 'answer'?` where a known name is near: as difflib's ratio has it, at least `cutoff`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"


class SeodangError(Exception):
    """A mistake that the user can fix. ``str(error)`` is ``where: what`` and, on a new line, the hint."""

    exit_code = 2
    most_characters = 2000  # of `what`: a name or a row in it may have millions

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.hint = shortened(visible(str(what)), self.most_characters), visible(str(hint))
        self.where = shortened(visible_line(str(where)), WHERE_CHARACTERS)
        head = f"{self.where}: {self.what}" if where else self.what
        super().__init__(f"{head}\n  → {self.hint}" if hint else head)

    def __reduce__(self) -> tuple[Any, ...]:
        """Passed from process to process unchanged: `__init__` would take the whole sentence for `what`."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class RecipeError(SeodangError):
    """All faults of one recipe, a line each; of a file that cannot be read as one, only why."""

    most_characters = 20_000

    def __init__(self, faults: Sequence[str], *, where: str = "", hint: str = "", is_read: bool = True) -> None:
        self.faults = tuple(shortened(visible(fault), SeodangError.most_characters) for fault in faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        listed = f"{count} in the recipe" + "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(listed if is_read else "; ".join(self.faults), where=where, hint=hint)


class StartError(SeodangError):
    """All that keeps a run from starting, each with its own hint."""

    most_characters = 20_000

    def __init__(self, errors: Sequence[SeodangError]) -> None:
        self.errors = tuple(errors)
        items = (f"\n  - {error}".replace("\n  →", "\n    →") for error in errors)
        super().__init__(f"{len(errors)} things keep this from starting{''.join(items)}")


class Faults:
    """Errors of several checks, to be reported together."""

    def __init__(self) -> None:
        self.errors: list[SeodangError] = []

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Inside, an error is kept for later."""
        try:
            yield
        except SeodangError as error:
            self.errors.append(error)

    def report(self) -> None:
        """Raise what was gathered, if there is any.

        Raises:
            SeodangError: the one that was gathered, or a StartError with all of them.
        """
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else StartError(self.errors)


class SourceError(SeodangError):
    """A source that cannot be read or does not hold what the recipe says."""


class TemplateError(SeodangError):
    """A chat template that the tokenizer or the data does not fit."""


class ModelError(SeodangError):
    """A model or tokenizer that cannot be found, read or used."""


class ResourceError(SeodangError):
    """Too little memory or disk, or hardware that cannot do what was asked."""


class RunError(SeodangError):
    """A run folder that is in the way, is missing, or cannot be resumed."""


class HubError(SeodangError):
    """A hub that cannot be reached, does not know the user, or refuses what was asked of it or sent."""


class Stopped(KeyboardInterrupt):
    """A run that Ctrl-C, SIGTERM or SIGHUP stopped; ``str(stopped)`` is how far it came, and what to type to resume."""


class GateError(SeodangError):
    """Readable input that must not be trained on, or a proof that failed."""

    exit_code = 1
