"""The commands that come next: what to type after a command has ended, whole and right for where the user stands."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from seodang.proof.proof import proof_of_run
from seodang.proof.seeds import SeedsProof
from seodang.recipe import load_recipe
from seodang.run.folder import Run
from seodang.run.start import free_folder
from seodang.show.formatting import visible_line
from seodang.show.terminal.console import get_console
from seodang.user_paths import path_argument, shown_path


class Next(NamedTuple):
    """A command, and what it is for."""

    command: str
    purpose: str


def command(*words: object) -> str:
    """A command of seodang's, as a shell takes it; paths are short."""
    quoted = (path_argument(word) if isinstance(word, Path) else shlex.quote(str(word)) for word in words)
    return " ".join(("seodang", *quoted))


def after_init(recipe: Path) -> list[Next]:
    """What comes after a starter recipe."""
    look = Next(command("inspect", recipe), "check data, masks, memory and time")
    return [look, *to_tune(["tune", recipe], Path("runs") / load_recipe(recipe).name)]


def to_tune(words: Sequence[str | Path], folder: Path) -> list[Next]:
    """The command that trains; where its run's folder is taken, with another one, or the one that resumes that run.

    Args:
        words: of the command, after `seodang`; the folder follows from the recipe's name, or is named by `--out`.
        folder: the run's.
    """
    free = free_folder(folder)
    if free == folder:
        return [Next(command(*words), "train, measure and report")]
    run = Run(folder=folder)
    resume = [Next(run.resume_command, "resume the run that is there")] if run.exists and not run.is_proven else []
    if "--out" in words:
        place = list(words).index("--out") + 1
        changed = [*words[:place], free, *words[place + 1 :]]
    else:
        changed = [*(word for word in words if not str(word).startswith("name=")), f"name={free.name}"]
    return [*resume, Next(command(*changed), f"train anew: {visible_line(shown_path(folder))} exists")]


def after_demo(run: Run, *, is_quick: bool) -> list[Next]:
    """What comes after the demo: the user's own data."""
    full = [Next(command("demo"), "the same with more rows and steps")] if is_quick else []
    return [*full, Next(f"{command('init')} FILE…", "a recipe from your own files"), *after_run(run)[:1]]


def after_blend(blended: Run) -> list[Next]:
    """What comes after a model between base and tuned model was saved."""
    return [
        Next(command("prove", blended.folder), "measure it against the base"),
        Next(command("chat", blended.folder, "--both"), "ask the base and the blended model"),
    ]


def after_proof(found: Run | SeedsProof, model: str | None = None) -> list[Next]:
    """What comes after a run, or several runs of one recipe, were measured."""
    return after_run(found, model) if isinstance(found, Run) else after_seeds(found)


def after_run(run: Run, model: str | None = None) -> list[Next]:
    """What comes after a run that was measured: a talk with it, then what its verdict suggests.

    Args:
        model: what was measured, where it is not the run's own.
    """
    if not run.is_trained:
        return [Next(command("chat", model), "talk to the model")] if model else []
    found = [Next(command("chat", run.folder, "--both"), "ask the base and the tuned model")]
    if run.is_proven:
        verdict = proof_of_run(run).verdict
        if verdict.domain == "improved" and "lost" in (verdict.general, verdict.retention):
            found.append(Next(command("blend", run.folder), "find how much of the change keeps what was lost"))
        elif verdict.answers != "not usable":
            found.append(Next(command("serve", run.folder), "serve it over HTTP"))
    return found


def after_seeds(found: SeedsProof) -> list[Next]:
    """What comes after several runs of one recipe."""
    return [Next(command("report", *found.runs), "compare them in one page")]


def show_next(commands: Sequence[Next], *, out: Console | None = None) -> None:
    """What to type next, each line fit to be pasted; first what puts `seodang` within the shell's reach, if need be."""
    if not commands:
        return
    out = out or get_console()
    lines = [(visible_line(line.command), line.purpose) for line in (*_activation(), *commands)]
    room = out.width - len("     # ")
    widths = [cell_len(shown) for shown, purpose in lines if cell_len(shown) + cell_len(purpose) <= room]
    out.print()
    out.print(Text("next", style="bold"))
    for shown, purpose in lines:
        free = room - cell_len(shown) - cell_len(purpose)
        if free < 0:  # a line that is a comment alone may be pasted, too
            out.print(Text(f"  # {purpose}", style="dim"), soft_wrap=True)
            out.print(Text(f"  {shown}"), soft_wrap=True)
            continue
        blanks = min(free, max(widths) - cell_len(shown))
        out.print(Text(f"  {shown}").append(f"{' ' * blanks}   # {purpose}", style="dim"), soft_wrap=True)


def _activation() -> list[Next]:
    script = Path(sys.executable).parent / "activate"
    if shutil.which("seodang") or not script.is_file():
        return []
    return [Next(f". {path_argument(script)}", "once in each shell")]
