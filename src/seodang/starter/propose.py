"""A starter recipe from the user's own files: profile them, assign roles, choose settings, write. Loads no model."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from seodang.data.counting import Counting, uncounted
from seodang.data.read.containers.data_file import ending
from seodang.data.read.containers.find_files import ARCHIVE_NAMES, ROW_NAMES
from seodang.data.template.find import check_name
from seodang.errors import Faults, RunError, SourceError, os_reason
from seodang.recipe import Recipe, load_recipe
from seodang.recipe_rules import BY_TOLERANCE
from seodang.starter.comments import in_readers_language
from seodang.starter.file_profile import MAX_ROWS, PLAIN_TURNS, FileProfile, profile_file
from seodang.starter.guess_columns import Ask
from seodang.starter.named_base import model_names, named_base, tokenizer_file
from seodang.starter.recipe_yaml import Draft, Entry, as_mapping, as_value, recipe_text
from seodang.starter.roles import RoleAssignment, assign_roles
from seodang.starter.settings import (
    LIMITS,
    ProposedBase,
    Settings,
    choose_base,
    choose_holdout,
    choose_settings,
    cpu_minutes,
)
from seodang.starter.token_count import ESTIMATED, How, TokenCount, token_count
from seodang.starter.walk import HUB, Part, parts_of
from seodang.types import SourceRole
from seodang.user_paths import expanded, is_there

ALL_ROWS = 60_000  # profiled in all files together
ASKED = 2  # questions a role
QUESTION_CHARS = 4, 120  # of a question that is asked
LONGEST_NAME = 40
SAMPLES = {"Korean": "ko", "English": "en"}  # language → prefix of the samples that ship
KNOWN_ENDINGS = ROW_NAMES | ARCHIVE_NAMES  # no part of a source's name
Roles = Mapping[SourceRole, Sequence[str | Path]]  # role → files, as far as the user gives them one
TAKEN_NAMES = ("all", BY_TOLERANCE, "seed")  # mean something else in best_by and mix


@dataclass(frozen=True, kw_only=True)
class Starter:
    """A recipe that was proposed, not yet written."""

    path: Path  # where it will be written
    recipe: Recipe  # as load_recipe will read it there
    yaml: str
    remarks: tuple[str, ...]  # sentences for people: how files were read, what was guessed, what is missing


def propose(
    files: Sequence[str | Path],
    *,
    domain: Sequence[str | Path] = (),
    general: Sequence[str | Path] = (),
    retention: Sequence[str | Path] = (),
    name: str | None = None,
    model: str | None = None,
    template: str | None = None,
    ask: Ask | None = None,
    memory_gb: float | None = None,
    gpu_gb: float | None = None,
    out: Path = Path("recipe.yaml"),
    is_dry_run: bool = False,
    counting: Counting = uncounted,
) -> Starter:
    """A recipe for these files, with a model that fits this machine.

    Args:
        files: files, folders, archives, patterns, or hub:ID for a data set on the hub; given with a role or here.
        domain, general, retention: files whose role the user gives.
        name: of the run; by default after the first file of the domain.
        model: the base: a folder, a run, `package:NAME` or a hub id; by default one that fits this machine.
        template: a built-in's name, a .jinja file, a folder or a hub id; by default what the model needs.
        ask: asked for what cannot be known (a role, a column), the guess first; without it the guess is taken.
        memory_gb: main memory; None: unknown.
        gpu_gb: memory of one GPU; None: there is none.
        out: where the recipe will be written: its paths are relative to that folder.
        is_dry_run: it will not be written, so that a file may be there.
        counting: shows how many files and rows were looked at.

    Raises:
        SourceError: a file that cannot be used, or none that can be trained on.
        RunError: there is a file at `out`.
        RecipeError, TemplateError: a name that no run can have; a template that is neither built in nor a path.
        StartError: several of these, as far as they show before the files are read.
    """
    given: Roles = {"domain": domain, "general": general, "retention": retention}
    refused = Faults()
    tokens = _checked(model, template, None if is_dry_run else out, refused)
    parts, roles, aside = _parts(files, given, counting, refused)
    refused.report()
    profiles, unusable = _profiles(parts, ask, counting, tokens)
    aside += unusable
    assigned = _assigned(profiles, roles, ask, aside)
    samples, sample_remarks = _samples(assigned, tokens)
    assigned += samples
    trained = [one.profile for one in assigned if one.role != "retention"]
    _refuse_useless(trained)
    base = _with_template(_base(model, trained, memory_gb, gpu_gb), template, out)
    settings = choose_settings(trained, has_gpu=gpu_gb is not None, billions=base.billions)
    draft = _draft(assigned, base, settings, tokens.how, name, out)
    text = recipe_text(draft)
    named = {entry.name: entry.assignment.profile.paths for entry in draft.entries}
    return Starter(
        path=out,
        recipe=load_recipe(as_mapping(text, base.path, named)),
        yaml=text,
        remarks=(*aside, *_remarks(assigned), *sample_remarks, *base.remarks),
    )


def _remarks(assigned: Sequence[RoleAssignment]) -> list[str]:
    """How files were read, then which roles were found for them."""
    found = [remark for one in assigned for remark in one.profile.remarks]
    return found + [f"{one.profile.path}: {one.role} ({one.why})" for one in assigned if one.why]


def _base(
    model: str | None, trained: Sequence[FileProfile], memory_gb: float | None, gpu_gb: float | None
) -> ProposedBase:
    if model is None:
        return choose_base(trained, memory_gb=memory_gb, gpu_gb=gpu_gb)
    has_tools = any(one.plain_turns < PLAIN_TURNS for one in trained)
    return named_base(model, has_tools=has_tools, memory_gb=memory_gb, gpu_gb=gpu_gb)


def _with_template(base: ProposedBase, template: str | None, out: Path) -> ProposedBase:
    """The base with the chat template that the user names."""
    if template is None:
        return base
    path = _from(template, out) if is_there(expanded(template)) else template
    return replace(base, template=as_value(path), is_template_named=True)


def _checked(model: str | None, template: str | None, out: Path | None, refused: Faults) -> TokenCount:
    """How tokens are counted for the model; unknown names, and a file that is in the way, go to `refused`."""
    with refused.gathering():
        if out:
            _refuse_existing(out)
    with refused.gathering():
        if template is not None:
            check_name(template)
    with refused.gathering():
        if model is not None:
            return token_count(model_names(model), tokenizer_file(model))
    return ESTIMATED


def _assigned(
    profiles: Sequence[FileProfile], roles: Mapping[str, SourceRole], ask: Ask | None, aside: Sequence[str]
) -> list[RoleAssignment]:
    """Every part in its role.

    Args:
        aside: what was left aside, which an error names.
    """
    try:
        return assign_roles(profiles, roles, ask)
    except SourceError as error:
        left = f" ({'; '.join(aside)})" if aside else ""
        raise SourceError(error.what + left, where=error.where, hint=error.hint) from None


def _parts(
    files: Sequence[str | Path], flags: Roles, counting: Counting, refused: Faults
) -> tuple[list[Part], dict[str, SourceRole], list[str]]:
    """(parts of all files, label → role as far as given, what was left aside); what is not there goes to `refused`."""
    parts: list[Part] = []
    roles: dict[str, SourceRole] = {}
    remarks: list[str] = []
    with refused.gathering():
        paths, given = _files(files, flags)
        for path in paths:
            with refused.gathering():
                found, aside = parts_of(path, counting)
                parts += found
                remarks += aside
                if path in given:
                    roles |= {part.label: given[path] for part in found}
    return parts, roles, remarks


def _profiles(
    parts: Sequence[Part], ask: Ask | None, counting: Counting, tokens: TokenCount
) -> tuple[list[FileProfile], list[str]]:
    """(profiles, why parts of a folder were left aside).

    Raises:
        SourceError: a file that was named by itself cannot be used, or nothing can.
    """
    rows_each = min(MAX_ROWS, max(1000, ALL_ROWS // len(parts)))
    profiles: list[FileProfile] = []
    refused: list[SourceError] = []
    for part in parts:
        try:
            profiles.append(profile_file(part, max_rows=rows_each, ask=ask, counting=counting, tokens=tokens))
        except SourceError as error:
            if part.is_whole:
                raise
            refused.append(error)
    if not profiles:
        raise refused[0]
    return profiles, [f"left aside, {error.where}: {error.what}" for error in refused]


def _draft(
    assigned: Sequence[RoleAssignment],
    base: ProposedBase,
    settings: Settings,
    lengths: How,
    name: str | None,
    out: Path,
) -> Draft:
    names = _names(assigned)
    entries = [
        Entry(
            assignment=one,
            name=names[one.profile.path],
            paths=tuple(_from(path, out) for path in one.profile.paths),
            holdout=choose_holdout(one, has_gpu=settings.step_seconds is None),
        )
        for one in assigned
    ]
    first = next((entry for entry in entries if entry.assignment.role == "domain"), entries[0])
    return Draft(
        name=first.name if name is None else name,
        file=str(out),
        base=replace(base, path=_from(base.path, out)) if Path(base.path).is_dir() else base,
        entries=entries,
        settings=settings,
        domain=_questions(assigned, "domain"),
        general=_questions(assigned, "general"),
        minutes=cpu_minutes(settings, sum(map(_holdout_tokens, entries))) if base.billions else None,
        lengths=lengths,
        comment=in_readers_language(),
    )


def write_starter(starter: Starter) -> Path:
    """Write the recipe; its path.

    Raises:
        RunError: there is a file already, or it cannot be written.
    """
    _refuse_existing(starter.path)
    try:
        with starter.path.open("x", encoding="utf-8") as file:
            file.write(starter.yaml)
    except OSError as error:
        raise RunError(
            f"cannot be written: {os_reason(error)}", where=str(starter.path), hint="name another by --out"
        ) from None
    return starter.path


def _refuse_useless(trained: Sequence[FileProfile]) -> None:
    for one in trained:
        if one.num_rows < 2:
            what, hint = "it holds one usable row: none would be left to measure with", "give more rows"
        elif not one.is_text and one.tokens.min() > LIMITS[-1]:
            what, hint = f"every row is longer than {LIMITS[-1]:,} tokens", "cut the conversations into shorter ones"
        else:
            continue
        raise SourceError(what, where=one.path, hint=hint)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise RunError("is there already", where=str(path), hint="name another file by --out, or remove this one")


def _files(files: Sequence[str | Path], flags: Roles) -> tuple[list[str], dict[str, SourceRole]]:
    """(every file once, in the order given; file → role, as far as given)."""
    paths: dict[str, str] = {}  # what a path leads to → the path as first given
    roles: dict[str, SourceRole] = {}
    for path in (*files, *(path for listed in flags.values() for path in listed)):
        paths.setdefault(_target(str(path)), str(path))
    if not paths:
        raise SourceError("no file is named", hint="seodang init FILE…, or --hub OWNER/NAME")
    for role, listed in flags.items():
        for given in listed:
            path = paths[_target(str(given))]
            if roles.get(path, role) != role:
                raise SourceError(f"has two roles: {roles[path]} and {role}", where=path, hint="keep one of them")
            roles[path] = role
    return list(paths.values()), roles


def _target(path: str) -> str:
    return path if path.startswith(("sample:", HUB)) else os.path.realpath(expanded(path))


def _from(path: str, out: Path) -> str:
    """The path as a recipe in `out`'s folder holds it: relative if it was given so or lies below."""
    if path.startswith(("sample:", HUB, "~")):
        return path
    folder = out.parent.resolve()
    target = Path(path).parent.resolve() / Path(path).name
    if Path(path).is_absolute() and not target.is_relative_to(folder):
        return path
    return Path(os.path.relpath(target, folder)).as_posix()


def _samples(assigned: Sequence[RoleAssignment], tokens: TokenCount) -> tuple[list[RoleAssignment], list[str]]:
    """Samples that ship for the roles nobody gave a file for, in the files' language: what is lost must be measured."""
    language = next((one.profile.language for one in assigned if one.role != "retention"), "")
    present = {one.role for one in assigned}
    samples: dict[SourceRole, str] = {"general": "general", "retention": "text"}
    missing = {role: kind for role, kind in samples.items() if role not in present}
    if language not in SAMPLES:
        lost = "what is lost outside of the field will not be measured"
        return [], [f"no file is {role}: {lost} (--{role} FILE)" for role in missing]
    given = {one.profile.path for one in assigned}
    paths = {role: f"sample:{SAMPLES[language]}_{kind}" for role, kind in missing.items()}
    return [
        RoleAssignment(
            profile=profile_file(Part(paths=(path,), is_whole=True), tokens=tokens),
            role=role,
            why=f"ships with seodang; {role} data of your own is better",
        )
        for role, path in paths.items()
        if path not in given
    ], []


def _names(assigned: Sequence[RoleAssignment]) -> dict[str, str]:
    """path → source name, each once."""
    names: dict[str, str] = {}
    for one in assigned:
        path = Path(one.profile.paths[0].removeprefix("sample:").removeprefix(HUB))
        stem = normalize("NFC", path.stem if ending(path.name) in KNOWN_ENDINGS else path.name)
        plain = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:LONGEST_NAME].strip("-.") or one.role
        name, number = plain, 2
        while name in names.values() or name in TAKEN_NAMES:
            name, number = f"{plain}-{number}", number + 1
        names[one.profile.path] = name
    return names


def _questions(assigned: Sequence[RoleAssignment], role: SourceRole) -> list[str]:
    """Short questions of the files of one role, from their start and their middle."""
    profiles = [one.profile for one in assigned if one.role == role]
    found = [pick for one in profiles for pick in _short(one)]
    return found[:: max(1, len(found) // ASKED)][:ASKED]


def _short(one: FileProfile) -> list[str]:
    least, most = QUESTION_CHARS
    short = [
        text
        for question in one.questions
        if least <= len(text := normalize("NFC", question.strip())) <= most and text.isprintable() and "<" not in text
    ]
    return [text for text in short if text.endswith("?")] or short


def _holdout_tokens(entry: Entry) -> float:
    rows = entry.holdout if entry.holdout is not None else entry.assignment.profile.num_rows
    return rows * float(entry.assignment.profile.tokens.mean())
