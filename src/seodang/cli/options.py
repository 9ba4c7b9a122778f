"""Arguments and options that several commands share."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from seodang.errors import Stopped
from seodang.show.terminal.verbosity import set_verbose

RecipeArg = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that ships: demo.")
]
OverridesArg = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: train.steps=20")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write. [default: runs/NAME]")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model. A run's recipe is not enough."
    ),
]
GateOption = Annotated[
    bool,
    typer.Option("--gate", help="Exit code 1 unless the domain improved with nothing lost beyond tolerance."),
]
LanguageOption = Annotated[
    Literal["auto", "en", "ko"] | None,
    typer.Option("--language", help="Language of the report; by default the recipe's."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the proof as JSON to stdout, the rest to stderr.")]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=set_verbose, help="Print every setting, stage, row, question and remark."),
]


def without_dry_run() -> list[str]:
    """The words of this command that does what its dry run did not."""
    return [word for word in sys.argv[1:] if word != "--dry-run"]


def resumed_by_repeating(stopped: KeyboardInterrupt) -> Stopped:
    """The same where one of several runs was stopped: what to type resumes all of them, not that one."""
    came_to = str(stopped).partition("\n")[0] or "interrupted; to resume:"
    return Stopped(f"{came_to}\n  {shlex.join(['seodang', *(w for w in sys.argv[1:] if w != '--resume'), '--resume'])}")


def show_without_dry_run(purpose: str) -> None:
    """After a dry run, the command that does it."""
    from seodang.show.terminal.next_commands import Next, command, show_next

    show_next([Next(command(*without_dry_run()), purpose)])
