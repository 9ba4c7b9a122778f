"""A run's beginning: its folder is made, or opened to be resumed; one process at a time works there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from seodang import distributed
from seodang.errors import RunError
from seodang.recipe import Recipe
from seodang.run import lock
from seodang.run.disk import is_disk_full
from seodang.run.folder import LOCK, Run, write_text

# what a resumed run may change: it does not move the weights, and is what an error's hint names
WITHOUT_EFFECT_ON_TRAINING = (
    *("name", "ask", "prove", "report", "train.ask_every"),
    *("train.pack_tokens", "train.checkpointing", "train.keep_checkpoints", "train.save_every"),
)


def open_run(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """The folder of a new run, or of the one to resume, which is locked. A new one is not made: `create` does that.

    Raises:
        RunError: the folder exists and `resume` is false, or cannot be written; or nothing can be resumed there; or
            the recipe changed; or another process works there.
    """
    run = Run(folder=folder)
    if resume:
        if not _holds_files(folder):
            raise RunError("there is no run to resume", where=str(folder), hint="start it without --resume")
        _same_recipe(run, recipe)
        if distributed.is_main():
            with _written(folder):
                lock.acquire(run)
                run.remove_leftovers()
        return run
    with _written(folder):
        _refuse_existing(folder)
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):  # leaves nothing behind
            pass
    return run


def create(run: Run, recipe: Recipe, *, resume: bool = False) -> None:
    """Make the run's folder and lock it. Whatever fails before leaves none behind that would be in the way later.

    Raises:
        RunError: the folder cannot be written, or another process works there.
    """
    with _written(run.folder):
        if not resume:
            _refuse_existing(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            lock.acquire(run)
            run.remove_leftovers()
        write_text(run.recipe_file, dump_recipe(recipe))


def _holds_files(folder: Path) -> bool:
    """Whether a folder holds more than what a process that was killed at its first file left there."""
    left = {LOCK, *(path.name for path in Run(folder=folder).leftovers())} if folder.is_dir() else set()
    return folder.is_dir() and any(path.name not in left for path in folder.iterdir())


def _refuse_existing(folder: Path) -> None:
    if _holds_files(folder) or (folder.exists() and not folder.is_dir()):
        raise RunError(
            "exists and is never overwritten",
            where=str(folder),
            hint=f"{_resume_hint(folder)}give another folder (--out) or name (name=NEW)",
        )


def _resume_hint(folder: Path) -> str:
    run = Run(folder=folder)
    return f"resume it: {run.resume_command}; or " if run.exists else ""


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise RunError(
            f"cannot be written: {error.strerror}", where=str(folder), hint="give a folder of yours by --out"
        ) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=110)


def _same_recipe(run: Run, recipe: Recipe) -> None:
    before, now = _settings(run.recipe()), _settings(recipe)
    if changed := [key for key in now if now[key] != before[key]]:
        raise RunError(
            f"this run was started with another recipe: {', '.join(changed)} differ",
            where=str(run.folder),
            hint=f"resume with its own: {run.resume_command}; or start a new run with --out",
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting that moves the weights, those of `train` one by one."""
    sections = recipe.model_dump(mode="json")
    train = {f"train.{key}": value for key, value in sections.pop("train").items()}
    return {key: value for key, value in (sections | train).items() if key not in WITHOUT_EFFECT_ON_TRAINING}
