"""The application, which the commands join, and what becomes of one that is interrupted."""

import shlex
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from seodang import distributed
from seodang.__version__ import __version__

RESUMED_BY_REPEATING = ("prove", "blend", "judge")  # commands that keep what they have measured


# in the order in which they are needed; `--help` lists them so
ORDER = (
    *("demo", "init", "inspect", "tune", "prove", "report", "chat"),
    *("serve", "verify", "judge", "blend", "push"),
)


class _Commands(TyperGroup):
    """Whichever command is interrupted says how far it came, and what to type to resume."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            if distributed.is_main():
                anew = "--no-cache" if ctx.invoked_subcommand == "judge" else None  # would ask once more from the start
                words = ("seodang", *(word for word in sys.argv[1:] if word != anew))
                again = f"what was finished is kept; to resume:\n  {shlex.join(words)}"
                is_kept = ctx.invoked_subcommand in RESUMED_BY_REPEATING
                typer.echo(str(stopped) or (f"interrupted; {again}" if is_kept else "interrupted"), err=True)
            raise


app = typer.Typer(
    cls=_Commands,
    name="seodang",
    help="Teach a base language model to answer in a field, and prove what that cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"seodang {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
