"""A run's beginning: its folder is made, or opened to be resumed or proven; one process at a time works there."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seodang import distributed
from seodang.errors import RunError, os_reason
from seodang.recipe import Recipe, Report, ReportLanguage, Template, load_recipe
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run import lock
from seodang.run.disk import is_disk_full
from seodang.run.folder import LOCK, METRICS, Run, a_run, write_text
from seodang.run.sealed import refuse_unsaved

# what a resumed run may change: it does not move the weights, and is what an error's hint names
WITHOUT_EFFECT_ON_TRAINING = (
    *("name", "ask", "prove", "judge", "report", "train.ask_every"),
    *("train.pack_tokens", "train.checkpointing", "train.keep_checkpoints", "train.save_every", "train.report_to"),
)
CHOOSING_BY_TOLERANCE = ("ask", "prove", "train.ask_every")  # have an effect there: tolerances, and answers that stop


@dataclass(frozen=True, kw_only=True)
class ProofRecipes:
    """Which two models are compared, and on what."""

    wanted: Recipe  # what is measured
    of_tuned: Recipe  # the same, read with the tuned model's own template
    base: str  # path of the base
    trained: Run | None  # the run whose model is the tuned one
    is_own: bool  # whether that run's own recipe says what is measured: plan and rows were shown when it was tuned

    @property
    def of_base(self) -> Recipe:
        """What is measured, read with a template of the base's own."""
        model = self.of_tuned.model.model_copy(update={"path": self.base})
        return self.of_tuned.model_copy(update={"model": model})


def proof_recipes(
    tuned: str | Path,
    *,
    against: str | None,
    recipe: str | Path | None,
    trust_remote_code: bool,
    language: ReportLanguage | None = None,
) -> ProofRecipes:
    """Read what a proof is asked for.

    Args:
        tuned: a run's folder, or a model.
        against: path of the base; by default the recipe's.
        recipe: what to measure; by default the run's own.
        trust_remote_code: whether Python code that comes with a run's model may run.
        language: of what people read; by default the recipe's.

    Raises:
        RecipeError: the recipe cannot be used.
        RunError: neither a run nor a recipe, or a run whose model was not saved whole.
    """
    run = Run(folder=Path(tuned))
    is_run = run.exists
    if is_run:
        refuse_unsaved(run)
    if not is_run and recipe is None:
        raise RunError(
            "no run's folder, and no recipe says what to measure a model on",
            where=str(tuned),
            hint=f"{a_run(Path(tuned))}; or a recipe by --recipe",
        )
    wanted = load_recipe(recipe) if recipe else run.trusted_recipe(trust_remote_code=trust_remote_code)
    if language:
        wanted = wanted.model_copy(update={"report": Report(language=language)})
    model = wanted.model.model_copy(update={"path": str(run.model if is_run else tuned)})
    template = wanted.template if is_run and not run.has_template else Template()
    return ProofRecipes(
        wanted=wanted,
        of_tuned=wanted.model_copy(update={"model": model, "template": template}),
        base=against or wanted.model.path,
        trained=run if is_run else None,
        is_own=recipe is None,
    )


def open_proof(recipes: ProofRecipes, out: Path | None) -> Run:
    """The locked folder that a proof is written to: the trained run's own, a new one, or one that a proof began.

    Args:
        out: the folder; by default the run's, or runs/NAME-proof for a model.

    Raises:
        RunError: the folder exists, or cannot be written; or the recipe changed since the proof there was begun; or
            another process works there.
    """
    if recipes.trained and not out:
        if distributed.is_main():
            lock.acquire(recipes.trained)
        return recipes.trained
    run = Run(folder=out or Path("runs") / f"{recipes.wanted.name}-proof")
    return open_run(run.folder, recipes.wanted, resume=_holds_proof_alone(run) and not run.is_proven)


def open_run(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """The folder of a new run, or of the one to resume, which is locked. A new one is not made: `create` does that.

    Raises:
        RunError: the folder exists and `resume` is false, or cannot be written; or nothing can be resumed there; or
            the recipe changed; or another process works there.
    """
    run = Run(folder=folder)
    if resume:
        if not holds_files(folder):
            raise RunError(
                "there is no run to resume", where=str(folder), hint=f"start it without --resume; or {a_run(folder)}"
            )
        _same_recipe(run, recipe)
        if distributed.is_main():
            with _written(folder, hint="check its permissions"):
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
    if not resume:
        claim(run)
    with _written(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.recipe_file, dump_recipe(recipe))


def claim(run: Run) -> None:
    """Make a new run's folder and lock it; without a recipe it holds no run yet.

    Raises:
        RunError: the folder cannot be written, or another process works there.
    """
    with _written(run.folder):
        _refuse_existing(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(run)
        run.remove_leftovers()


def free_folder(folder: Path) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3 … in whose way nothing is."""
    number, free = 2, folder
    while holds_files(free) or (free.exists() and not free.is_dir()):
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def holds_files(folder: Path) -> bool:
    """Whether a folder holds more than what a process that was killed at its first file left there."""
    left = {LOCK, *(path.name for path in Run(folder=folder).leftovers())} if folder.is_dir() else set()
    return folder.is_dir() and any(path.name not in left for path in folder.iterdir())


def refuse_existing_seeds(folders: Sequence[Path]) -> None:
    """Look for all runs of several seeds before the first is trained.

    Raises:
        RunError: the folder of one exists.
    """
    for folder in folders:
        _refuse_existing(folder, "--resume makes what is missing of all seeds; or ")


def _refuse_existing(folder: Path, resuming: str | None = None) -> None:
    if holds_files(folder) or (folder.exists() and not folder.is_dir()):
        resuming = _resume_hint(folder) if resuming is None else resuming
        raise RunError(
            "already exists, and runs are never overwritten",
            where=str(folder),
            hint=f"{resuming}give another folder (--out) or name (name=NEW)",
        )


def _holds_proof_alone(run: Run) -> bool:
    """Whether a proof was begun here, and no training."""
    return run.exists and not (run.is_trained or run.all_checkpoints() or (run.folder / METRICS).is_file())


def _resume_hint(folder: Path) -> str:
    run = Run(folder=folder)
    return f"resume it: {run.resume_command}; or " if run.exists and not run.is_proven else ""


@contextmanager
def _written(folder: Path, hint: str = "give a folder of yours by --out") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise RunError(f"cannot be written: {os_reason(error)}", where=str(folder), hint=hint) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=110)


def _same_recipe(run: Run, recipe: Recipe) -> None:
    before, now = _settings(run.recipe()), _settings(recipe)
    if changed := [key for key in now if now[key] != before[key]]:
        raise RunError(
            f"this run was started with other settings: {', '.join(changed)}",
            where=str(run.folder),
            hint=f"resume with its own: {run.resume_command}; or start a new run with --out",
        )


def refuse_other_recipes(runs: Sequence[Run]) -> None:
    """Check that runs are of one recipe: that their weights differ by seeds of training and mix alone.

    Raises:
        RunError: another setting differs. A folder without a recipe, with a proof alone, is left aside.
    """
    made = [run for run in runs if run.exists]
    settings = [_settings(_without_seeds(run.recipe())) for run in made]
    for run, one in zip(made[1:], settings[1:], strict=True):
        if other := [key for key in settings[0] | one if one.get(key) != settings[0].get(key)]:
            raise RunError(
                f"was made with other settings than {made[0].folder}: {', '.join(other)}",
                where=str(run.folder),
                hint="give runs of one recipe, as tune --seeds makes them; `seodang report RUN RUN` compares others",
            )


def _without_seeds(recipe: Recipe) -> Recipe:
    parts = {"train": recipe.train, "mix": recipe.mix}
    return recipe.model_copy(update={name: part.model_copy(update={"seed": 0}) for name, part in parts.items()})


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting that moves the weights, those of `train` one by one."""
    sections = recipe.model_dump(mode="json")
    for part in (
        sections["model"],
        *sections["sources"],
    ):  # may be moved: what lies there is compared by its hash
        del part["path"]
    train = {f"train.{key}": value for key, value in sections.pop("train").items()}
    chooses = CHOOSING_BY_TOLERANCE if recipe.train.best_by == BY_TOLERANCE else ()
    without = {key for key in WITHOUT_EFFECT_ON_TRAINING if key not in chooses}
    return {key: value for key, value in (sections | train).items() if key not in without}
