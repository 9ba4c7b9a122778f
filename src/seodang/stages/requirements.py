"""What a recipe needs and this machine lacks, all at once, before anything is read. Imports nothing that takes long.

Each is looked for by the function that finds it again when it is used, so that both say the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from seodang.data.read.containers.find_files import find_files
from seodang.data.read.containers.hub_dataset import find_dataset
from seodang.data.template.find import donor_of
from seodang.errors import Faults, ResourceError, SeodangError
from seodang.hub_access import contact
from seodang.model.find_model import check_folder, find_model
from seodang.optional_packages import install_command, is_installed
from seodang.recipe import Model, Recipe, Source, Template, Train
from seodang.show.terminal.console import show_note
from seodang.types import Finding
from seodang.user_paths import shown_path


@contextmanager
def checked(recipe: Recipe, *, base: str | None = None, will_train: bool = False) -> Iterator[None]:
    """Inside, a run's folder is opened: what is wrong with it is reported together with all that is missing.

    Args:
        base: of a proof, in which the recipe's model is the tuned one.
        will_train: whether the packages that training needs are needed too.

    Raises:
        SeodangError: what is wrong; a StartError if it is more than one thing.
    """
    found = Faults()
    with found.gathering():
        yield
    found.errors += missing(recipe, base=base)
    if will_train:
        found.errors += missing_packages(recipe.train)
    found.report()
    if why := contact.why_outage():
        show_note(f"the hub cannot be reached ({why}): what was downloaded earlier is used")


def missing(recipe: Recipe, *, base: str | None = None) -> Iterator[SeodangError]:
    """Models, templates and data that are not there, in the order of the recipe."""
    if base is None:
        yield from _model(recipe.model, key="model.path", instead=_setting("model.path"))
    else:
        yield from _model(recipe.model, instead="give its folder in its place")
        of_base = recipe.model.model_copy(update={"path": base})
        yield from _model(of_base, instead="give its folder by --against /path/to/folder")
    yield from _donor(recipe.template)
    for source in recipe.sources:
        yield from _source(source)


def missing_packages(settings: Train) -> Iterator[SeodangError]:
    """Optional packages that training with these settings needs."""
    if settings.adapter and not is_installed("peft"):
        yield ResourceError("peft is not installed", where="train.adapter", hint=install_command("adapters"))
    if settings.is_four_bit and not is_installed("bitsandbytes"):
        what = "qlora needs bitsandbytes, which is not installed"
        hint = f"{install_command('cuda')}, or use kind: lora"
        yield ResourceError(what, where="train.adapter.kind", hint=hint)
    if trackers := [name for name in settings.report_to if not is_installed(name)]:
        what = f"{' and '.join(trackers)} {'is' if len(trackers) == 1 else 'are'} not installed"
        hint = f"{install_command(*trackers)}, or leave train.report_to out"
        yield ResourceError(what, where="train.report_to", hint=hint)


def package_findings(settings: Train) -> list[Finding]:
    """The same for an inspection, which needs none of them: another machine may train."""
    return [
        Finding(check="packages", severity="warn", where=error.where, what=error.what, hint=error.hint)
        for error in missing_packages(settings)
    ]


def _model(spec: Model, *, key: str = "", instead: str) -> Iterator[SeodangError]:
    def find() -> None:
        found = Path(find_model(spec.path, revision=spec.revision, instead=instead))
        if found.is_dir():
            check_folder(found, spec.path)

    yield from _tried(key, find)


def _donor(template: Template) -> Iterator[SeodangError]:
    def find() -> None:
        if donor := template.borrow and donor_of(template.borrow):
            find_model(donor, instead=_setting("template.borrow"))

    yield from _tried("template.borrow", find)


def _source(source: Source) -> Iterator[SeodangError]:
    key = f"sources.{source.name}"
    if source.hub is not None:
        yield from _tried(f"{key}.hub", partial(find_dataset, source))
    for path in source.path or ():
        yield from _tried(f"{key}.path", partial(find_files, path, source.split))


def _tried(key: str, find: Callable[[], object]) -> Iterator[SeodangError]:
    try:
        find()
    except SeodangError as error:
        where = error.where if error.where.startswith(key) else f"{key}: {shown_path(error.where.removeprefix('hub:'))}"
        yield type(error)(error.what, where=where, hint=error.hint)


def _setting(key: str) -> str:
    return f"set {key}=/path/to/folder, in the recipe or behind the command"
