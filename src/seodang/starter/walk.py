"""What `init` is given (a file, a folder, an archive, a pattern) → parts of one layout each, as a recipe names them."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from seodang.data.counting import Counting, uncounted
from seodang.data.read.containers.find_files import find_files
from seodang.data.read.sources import group_by_layout
from seodang.errors import SourceError

HUB = "hub:"  # before a data set's id, where `init` takes a path
MOST_PATHS = 12  # of one source: people do not read recipes with more
# a folder, archive or file of the publisher's evaluation split: Validation, 2.Test, VL_1.zip
EVALUATION = re.compile(
    r"(\d+[._ -]*)?(validation|valid|val|dev|test|eval|검증|평가)([._ -].*)?|(vl|vs)[_ ].*", re.IGNORECASE
)
EVALUATION_ASIDE = "the publisher's evaluation split, left out of training: name it by itself to use it"
MIXED = "mixed with files of other layouts, which no folder and no pattern separates: move these files"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files that can be read together."""

    paths: tuple[str, ...]  # as a recipe names them
    is_whole: bool  # all that was given; else a part of a folder or archive, which may be left aside

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.paths[0] + (" …" if len(self.paths) > 1 else "")


def parts_of(given: str, counting: Counting = uncounted) -> tuple[list[Part], list[str]]:
    """The parts of what was given, and sentences about what was left aside.

    Raises:
        SourceError: nothing is there, or a file cannot be read.
    """
    if given.startswith(HUB):
        return [Part(paths=(given,), is_whole=True)], []
    found = find_files(given)
    if found.is_single:
        return [Part(paths=(given,), is_whole=True)], []
    everything = [file.name for file in found.files]
    root = _root(given, everything)
    aside = {name for name in everything if _is_evaluation(name, root)}
    remarks = [f"{given}: {remark}" for remark in found.remarks()]
    if 0 < len(aside) < len(everything):
        remarks.append(f"{_some([name for name in everything if name in aside])}: {EVALUATION_ASIDE}")
    else:
        aside = set()
    parts: list[Part] = []
    for group in group_by_layout(found.files, counting):
        wanted = [file.name for file in group if file.name not in aside]
        if not wanted:
            continue
        paths = (given,) if len(wanted) == len(everything) else _cover(wanted, everything, root)
        if paths is None:
            remarks.append(f"{_some(wanted)}: {MIXED}")
        else:
            parts.append(Part(paths=paths, is_whole=len(wanted) == len(everything)))
    if not parts:
        raise SourceError("holds nothing that a recipe could name", where=given, hint="; ".join(remarks))
    return parts, remarks


def _root(given: str, everything: Sequence[str]) -> str:
    """The folder or archive that all files are in: what was given, or what stands before its wildcards."""
    root = given.rstrip("/")
    if all(name.startswith(f"{root}/") for name in everything):
        return root
    return os.path.commonpath([name.rpartition("/")[0] for name in everything])


def _is_evaluation(name: str, root: str) -> bool:
    return any(map(EVALUATION.fullmatch, name[len(root) :].strip("/").split("/")))


def _cover(wanted: Sequence[str], everything: Sequence[str], root: str) -> tuple[str, ...] | None:
    """The fewest folders, archives and files that hold the wanted files and no other; else patterns; else None."""
    whole = _whole_folders(wanted, everything, root)
    highest = (next((above for above in _above(name, root) if above in whole), name) for name in wanted)
    paths = tuple(dict.fromkeys(highest))
    if len(paths) <= MOST_PATHS and set(_found(paths)) == set(wanted):
        return paths
    shapes = [(name.rpartition("/")[0], re.sub(r"\d+", "*", PurePosixPath(name).name)) for name in wanted]
    anywhere = tuple(dict.fromkeys("/".join(filter(None, (root, "**", shape))) for _, shape in shapes))
    by_folder = tuple(dict.fromkeys("/".join(filter(None, shape)) for shape in shapes))
    for patterns in (anywhere, by_folder):
        if len(patterns) <= MOST_PATHS and set(_found(patterns)) == set(wanted):
            return patterns
    return None


def _whole_folders(wanted: Sequence[str], everything: Sequence[str], root: str) -> set[str]:
    """Folders (and archives) all of whose files are wanted."""
    counted = [Counter(above for name in names for above in _above(name, root)) for names in (wanted, everything)]
    return {folder for folder, count in counted[0].items() if count == counted[1][folder]}


def _above(name: str, root: str) -> Iterator[str]:
    """The folders and archives below the root that a file is in, the highest first."""
    parts = name[len(root) :].strip("/").split("/")
    for number in range(1, len(parts)):
        yield "/".join((*filter(None, (root,)), *parts[:number]))


def _found(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        try:
            found = find_files(pattern)
        except SourceError:
            continue
        yield from (file.name for file in found.files)


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names):,} files ({names[0]} …)"
