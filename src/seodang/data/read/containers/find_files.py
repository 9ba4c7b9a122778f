"""A path of the recipe → the files of rows that it means: a file, a folder, a pattern, an archive or part of one."""

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from seodang.data.read.containers.data_file import DataFile, ending
from seodang.data.read.containers.patterns import matching_paths
from seodang.data.read.containers.zip_members import Member, office_kind, zip_members
from seodang.errors import SourceError, nearest, os_reason
from seodang.user_paths import expanded

JSON_NAMES = (".json", ".jsonl", ".ndjson")
LINE_NAMES = (".jsonl", ".ndjson")
TABLE_NAMES = (".csv", ".tsv", ".tab", ".psv")
SHEET_NAMES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
ROW_NAMES = frozenset({*JSON_NAMES, *TABLE_NAMES, *SHEET_NAMES, ".parquet", ".arrow"})
ARCHIVE_NAMES = frozenset({".zip", ".7z", ".rar", ".tar", ".tgz", ".alz", ".egg"})
ABOUT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive with files, and of an empty one
NOT_UTF_8_NAME = "the file's name is not UTF-8, so no recipe can hold it"
LISTED = 6  # names in a message
WILDCARD = re.compile(r"[*?[]")
# why a file in a folder is left aside
NOT_DATA, HIDDEN = "not a data file", "hidden"
SPLIT_ARCHIVE = "a part of a split archive: join the parts (cat NAME.part* > NAME) and unpack or name the whole"
INNER_ARCHIVE = "an archive inside an archive: unpack it first"
EMPTY_ARCHIVE = "an empty archive"
NOT_NAMED = "an archive that the path does not lead into"
OTHER_ARCHIVE = "not a zip archive: unpack it first"
ABOUT = "a description of the data"
RUN = "a seodang run: its answers are not data"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a path means."""

    files: tuple[DataFile, ...]
    is_single: bool  # the path names one file; else they were found in a folder, an archive or by a pattern
    left_aside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # reason → names

    def remarks(self) -> list[str]:
        """What was left aside, a sentence for each reason."""
        return [f"left aside, {reason}: {_some(names)}" for reason, names in self.left_aside.items()]


def find_files(given: str, split: str = "train") -> Found:
    """The files that a path of the recipe means, folders and archives walked in the order of names.

    Args:
        split: of a `DatasetDict` that `save_to_disk` wrote.

    Raises:
        SourceError: there are none, the path cannot be one, or an archive cannot be read safely.
    """
    _refuse_impossible(given)
    try:
        found = _found(given, split)
    except (ValueError, re.error) as error:  # of pathlib and re
        raise SourceError(f"not a valid pattern: {error}", where=given[:200], hint="check its * and [ ]") from None
    except OSError as error:
        hint = "check its permissions" if isinstance(error, PermissionError) else "check the path"
        raise SourceError(f"cannot be read: {os_reason(error)}", where=given[:200], hint=hint) from None
    if not found.files:
        aside = "; ".join(found.remarks())
        raise SourceError(
            "holds no data file" + (f" ({aside})" if aside else ""),
            where=given,
            hint=f"data files end in {', '.join(sorted(ROW_NAMES))}, also with .gz or .zst behind it or inside a .zip",
        )
    return found


def _refuse_impossible(given: str) -> None:
    """Check that a text can be a path.

    Raises:
        SourceError: it cannot.
    """
    try:
        given.encode()
    except UnicodeEncodeError:
        raise SourceError(NOT_UTF_8_NAME, where=readable(given), hint="rename the file") from None
    if "\0" in given or not given.strip():
        raise SourceError("not a path", where=repr(given[:100]), hint="name a file that holds rows")


def readable(name: str) -> str:
    """A file name whose bytes are not UTF-8, as Korean Windows would show it."""
    if name.isprintable():
        return name
    try:
        return os.fsencode(name).decode("cp949", errors="backslashreplace")
    except UnicodeEncodeError:
        return name


def shipped_samples() -> list[str]:
    """Names of the samples that ship, for `sample:NAME`."""
    return sorted(item.name.removesuffix(".jsonl") for item in _samples().iterdir() if item.name.endswith(".jsonl"))


def _samples() -> Path:
    return Path(str(files("seodang").joinpath("samples")))


def _found(given: str, split: str) -> Found:
    if given.startswith("sample:"):
        return Found(files=(DataFile(name=given, path=_sample(given)),), is_single=True)
    path = expanded(given)
    if path.is_file():
        return _file(path, given)
    if path.is_dir():
        return _collected(_walked(path, given.rstrip("/") or "/", split))
    if (composed := _composed(path)) is not None:
        return _file(composed, given)
    prefix, rest = _longest_prefix(path)
    name = given[: len(given) - len("/".join(rest)) - 1] if len(given) > len("/".join(rest)) else ""
    if prefix.is_file() and rest:
        return _inside(prefix, name, "/".join(rest))
    if any(map(WILDCARD.search, rest)):
        return _matched(prefix, name, rest, split, given)
    raise _missing(path, given)


def _sample(given: str) -> Path:
    name = given.removeprefix("sample:")
    if name not in shipped_samples():
        raise SourceError(
            f"unknown sample {name[:100]!r}{nearest(name, shipped_samples())}",
            where=given[:100],
            hint=f"samples that ship: {', '.join(f'sample:{known}' for known in shipped_samples())}",
        )
    return _samples() / f"{name}.jsonl"


def _file(path: Path, name: str) -> Found:
    """A file of rows, or all files of an archive."""
    if not _is_zip(path):
        return Found(files=(DataFile(name=name, path=path),), is_single=True)
    kind = office_kind(path, name)
    if kind == "spreadsheet":
        return Found(files=(DataFile(name=name, path=path),), is_single=True)
    if kind is not None:
        raise SourceError(
            f"cannot be read as data: this is {kind}",
            where=name,
            hint="write the rows as JSON Lines (.jsonl) or a spreadsheet, and name that file",
        )
    return _collected(_members(path, name))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in ZIP_STARTS


Entry = DataFile | tuple[str, str]  # a file of rows, or (why it is left aside, its name)


def _collected(entries: Iterable[Entry]) -> Found:
    found: list[DataFile] = []
    aside: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, DataFile):
            found.append(entry)
        else:
            aside[entry[0]].append(entry[1])
    left_aside = {reason: tuple(names) for reason, names in aside.items()}
    return Found(files=tuple(found), is_single=False, left_aside=left_aside)


def _entries(found: Found) -> Iterator[Entry]:
    yield from found.files
    yield from ((reason, name) for reason, names in found.left_aside.items() for name in names)


def _walked(folder: Path, name: str, split: str) -> Iterator[Entry]:
    """The files below a folder; links to folders are not followed."""
    if (folder / "dataset_dict.json").is_file():
        yield from _split_folder(folder, name, split)
        return
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        yield from _saved(folder, name)
        return
    with os.scandir(folder) as listed:
        items = sorted(listed, key=lambda item: item.name)
    for item in items:
        shown = f"{name.rstrip('/')}/{readable(item.name)}"
        if item.is_dir():
            if _is_hidden(item.name):
                yield HIDDEN, shown
            elif _is_run(Path(item.path)):
                yield RUN, shown
            elif not item.is_symlink():
                yield from _walked(Path(item.path), shown, split)
            continue
        if (why := _why_aside(item.name)) is not None:
            yield why, shown
        elif ending(item.name) == ".zip":
            yield from _entries(_file(Path(item.path), shown))
        else:
            yield DataFile(name=shown, path=Path(item.path))


def _is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's: a recipe, with the tuned model beside it or in the usual place."""
    return (folder / "recipe.yaml").is_file() and (folder.parent.name == "runs" or (folder / "model").is_dir())


def _split_folder(folder: Path, name: str, split: str) -> Iterator[Entry]:
    """One split of a `DatasetDict` that `save_to_disk` wrote."""
    splits = _texts(_json(folder / "dataset_dict.json", name).get("splits"), "dataset_dict.json", name)
    if split not in splits:
        raise SourceError(
            f"holds no split {split!r}{nearest(split, splits)}", where=name, hint=f"give `split:` {' or '.join(splits)}"
        )
    yield from _saved(folder / split, f"{name}/{split}")
    for other in splits:
        if other != split:
            yield f"not the split {split!r}", f"{name}/{other}"


def _saved(folder: Path, name: str) -> Iterator[Entry]:
    """The files of one data set that `save_to_disk` wrote, in its order."""
    described = _json(folder / "state.json", name).get("_data_files")
    described = described if isinstance(described, list) else [None]
    listed = [one.get("filename") if isinstance(one, dict) else None for one in described]
    for file in _texts(listed, "state.json", name):
        yield DataFile(name=f"{name}/{file}", path=folder / file)


def _texts(values: Any, file: str, name: str) -> list[str]:
    """Names of files or folders beside a description."""
    if not isinstance(values, list) or not all(isinstance(one, str) and "/" not in one for one in values):
        raise _damaged(file, name)
    return values


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise _damaged(path.name, name)


def _damaged(file: str, name: str) -> SourceError:
    return SourceError(f"{file} is damaged", where=name, hint="write the data set again with `save_to_disk`")


def _members(path: Path, name: str, wanted: str = "") -> Iterator[Entry]:
    """The files of an archive, and of the archives in it that a name or pattern may lead into."""
    members = zip_members(path, name)
    unpacked = sum(member.size for member in members)
    for member in members:
        entry = _member(path, name, member)
        if isinstance(entry, DataFile) or entry[0] != INNER_ARCHIVE or not member.name.lower().endswith(".zip"):
            yield entry
        elif not _may_lead_into(wanted, member.name):
            yield NOT_NAMED, entry[1]
        else:
            inner = zip_members(path, entry[1], member.stored_name, unpacked)
            unpacked += sum(one.size for one in inner)
            yield from (_member(path, entry[1], one, member.stored_name) for one in inner)
            if not inner:
                yield EMPTY_ARCHIVE, entry[1]


def _member(path: Path, name: str, member: Member, nested: str | None = None) -> Entry:
    """A file in the archive that is called so; archives are left to the caller."""
    shown = f"{name}/{member.name}"
    *folders, last = member.name.split("/")
    why = HIDDEN if any(map(_is_hidden, folders)) else _why_aside(last)
    if why is None and ending(last) == ".zip":
        why = INNER_ARCHIVE
    return DataFile(name=shown, path=path, member=member.stored_name, nested=nested) if why is None else (why, shown)


def _may_lead_into(wanted: str, archive: str) -> bool:
    """Whether what a name or pattern means may lie in this archive, as far as it says before its first wildcard."""
    start = WILDCARD.split(wanted, maxsplit=1)[0]
    return f"{archive}/".startswith(start) or start.startswith(f"{archive}/")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name == "__MACOSX"


def _why_aside(name: str) -> str | None:
    """Why a file of a folder holds no rows, as far as its name says."""
    if _is_hidden(name):
        return HIDDEN
    if name in ABOUT_DATA:
        return ABOUT
    if re.search(r"\.(zip|7z|tar)\.(part\w*|\d+)$|\.z\d\d$", name.lower()):
        return SPLIT_ARCHIVE
    kind = ending(name)
    if kind in ARCHIVE_NAMES and kind != ".zip":
        return OTHER_ARCHIVE
    if name.lower().endswith((".tar.gz", ".tar.zst")):
        return OTHER_ARCHIVE
    return None if kind in ROW_NAMES or kind == ".zip" else NOT_DATA


def _inside(path: Path, name: str, inner: str) -> Found:
    """Part of an archive: a file, a folder, or what a pattern matches; or a sheet of a spreadsheet."""
    if not _is_zip(path) or office_kind(path, name) == "spreadsheet":
        file = DataFile(name=f"{name}/{inner}", path=path, sheet=inner)
        if ending(path.name) in SHEET_NAMES:
            return Found(files=(file,), is_single=True)
        raise SourceError("is a file, not a folder", where=name, hint="name the file itself")
    found = _part(path, name, inner)
    if found.files or found.left_aside:
        return found
    names = [_name_of(entry)[len(name) + 1 :] for entry in _members(path, name, inner)]
    raise SourceError(
        f"the archive holds nothing of this name{nearest(inner, names)}",
        where=f"{name}/{inner}",
        hint=f"it holds {_some(names) or 'nothing'}",
    )


def _part(path: Path, name: str, inner: str) -> Found:
    """The files of an archive that a name, a folder's name or a pattern means; maybe none."""
    wanted = unicodedata.normalize("NFC", inner)
    entries = list(_members(path, name, wanted))
    skip = len(name) + 1
    exact = [entry for entry in entries if isinstance(entry, DataFile) and entry.name[skip:] == wanted]
    if exact:
        return Found(files=tuple(exact), is_single=True)
    matches = _pattern(wanted).fullmatch if WILDCARD.search(wanted) else None
    kept = [
        entry
        for entry in entries
        if (inside := _name_of(entry)[skip:]).startswith(f"{wanted.rstrip('/')}/")
        or (isinstance(entry, tuple) and f"{wanted}/".startswith(f"{inside}/"))  # named itself: with its reason
        or (matches is not None and any(map(matches, (inside, *_archives_above(inside)))))
    ]
    return _collected(kept)


def _archives_above(inside: str) -> Iterator[str]:
    """The names of the archives that a file in an archive lies in: a pattern that matches one means all its files."""
    return (inside[: found.start() + 4] for found in re.finditer(r"\.zip/", inside, re.IGNORECASE))


def _name_of(entry: Entry) -> str:
    return entry.name if isinstance(entry, DataFile) else entry[1]


def _pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of names as `pathlib` reads it: `*` stays in one folder, `**` goes through all."""
    translated = ""
    for piece in re.findall(r"\*\*/?|\*|\?|\[!?[^\]]+\]|.", pattern, re.DOTALL):
        match piece:
            case "**/":
                translated += "(?:.*/)?"
            case "**":
                translated += ".*"
            case "*":
                translated += "[^/]*"
            case "?":
                translated += "[^/]"
            case _:
                is_set = piece[0] == "[" and len(piece) > 1
                translated += piece.replace("[!", "[^") if is_set else re.escape(piece)
    return re.compile(translated, re.DOTALL)


def _longest_prefix(path: Path) -> tuple[Path, list[str]]:
    """The part of a path that exists, and the names after it."""
    for number, parent in enumerate((path, *path.parents)):
        if parent.exists():
            return parent, list(path.parts[len(path.parts) - number :])
    return Path(), list(path.parts)


def _matched(folder: Path, name: str, pattern: Sequence[str], split: str, given: str) -> Found:
    """The files that a pattern matches; it may go on inside of archives that it matches."""
    cut = next((at for at, part in enumerate(pattern[:-1], 1) if part.lower().endswith(".zip")), len(pattern))
    start = f"{name}/" if name and not name.endswith("/") else name
    entries: list[Entry] = []
    for path in matching_paths(folder, pattern[:cut]):
        shown = start + readable(path.relative_to(folder).as_posix()) if path != folder else name or "."
        if path.is_dir() and cut == len(pattern):
            entries += _walked(path, shown, split)
        elif path.is_file():
            inside = "/".join(pattern[cut:])
            entries += _entries(_part(path, shown, inside) if inside else _file(path, shown))
    if not entries:
        listed = _some([readable(item.name) for item in sorted(folder.iterdir())]) if folder.is_dir() else "nothing"
        raise SourceError(
            "no file matches this pattern",
            where=given,
            hint=f"{folder} holds {listed}; ** goes through folders",
        )
    unique = {_name_of(entry): entry for entry in entries}  # `**` may find a folder and what is in it
    return _collected(unique.values())


def _composed(path: Path) -> Path | None:
    """The file whose name is the same but for Unicode composition: macOS writes Korean names decomposed."""
    if not path.parent.is_dir():
        return None
    wanted = unicodedata.normalize("NFC", path.name)
    for item in path.parent.iterdir():
        if unicodedata.normalize("NFC", readable(item.name)) == wanted and item.is_file():
            return item if item.name.isprintable() or readable(item.name) == item.name else None
    return None


def _missing(path: Path, given: str) -> SourceError:
    """The error for a path that leads nowhere."""
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    wanted = unicodedata.normalize("NFC", path.name)
    if any(name != wanted and readable(name) == wanted for name in siblings):
        hint = f"rename it: convmv -f cp949 -t utf-8 --notest '{path.parent}'/*"
        return SourceError(NOT_UTF_8_NAME, where=given, hint=hint)
    siblings = list(map(readable, siblings))
    in_recipe = path.is_absolute() and not given.startswith(("/", "~"))
    hint = "check the path; a relative one starts at the recipe's folder" if in_recipe else "check the path"
    if "~" in given:
        hint = "write ~/ for your home folder: ~NAME is the home folder of a user of that name"
    elif not path.suffix and len(given) < 200:
        hint += f"; a data set on the hub goes under `hub:`, as in hub: {'/'.join(path.parts[-2:])}"
    if path.name in siblings:
        what = "is not a regular file" if path.exists() else "is a broken link"
        return SourceError(what, where=given, hint="name the file itself")
    missing = "no such file" if path.parent.is_dir() else f"no such file, and no folder {path.parent}"
    if path.is_absolute() and (here := Path.cwd() / path.name).is_file():
        return SourceError(missing, where=given, hint=f"if it was moved, give its path now, such as {here}")
    return SourceError(missing, where=given, hint=nearest(path.name, siblings, cutoff=0.8).removeprefix("; ") or hint)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(islice(names, LISTED)) + more
