"""Paths of the user: as they are given, as they are shown, and where the cache is."""

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from seodang.errors import ResourceError

SHOWN_FOLDERS = 8  # where one is missing


def cache_folder() -> Path:
    """Where converted models are kept: $SEODANG_CACHE, else the user's cache.

    Raises:
        ResourceError: neither is set, and the user has no home folder, as in a container with a user of its own.
    """
    if own := os.environ.get("SEODANG_CACHE"):
        return expanded(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "seodang"
    try:
        return Path.home() / ".cache" / "seodang"
    except RuntimeError:
        hint = "set SEODANG_CACHE to a folder; and HF_HOME, where the hub is used"
        raise ResourceError("this user has no home folder", where="cache", hint=hint) from None


def expanded(path: str | Path) -> Path:
    """The path with a home folder for `~`, and as it stands where no user has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder. A name that none can have, such as one that is too long, is none."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises for such a name


def is_file(path: Path) -> bool:
    """Whether there is such a file; as `is_folder`."""
    return os.path.isfile(path)  # noqa: PTH113


def is_there(path: Path) -> bool:
    """Whether there is either; as `is_folder`."""
    return os.path.exists(path)  # noqa: PTH110


def folders_beside(missing: Path) -> str | None:
    """A hint where a folder is not there: the one with nearly its name, else those beside it; None: there are none."""
    parent = missing.parent
    there = sorted(item.name for item in parent.iterdir() if item.is_dir()) if is_folder(parent) else []
    if near := difflib.get_close_matches(missing.name, there, n=1):
        return f"did you mean {parent / near[0]}?"
    more = f" and {len(there) - SHOWN_FOLDERS:,} more" if len(there) > SHOWN_FOLDERS else ""
    return f"in {parent} there are: {', '.join(there[:SHOWN_FOLDERS])}{more}" if there else None


def beyond(entries: Iterable[tuple[float, int, Path]], most_bytes: int) -> Iterator[Path]:
    """What a cache of so many bytes has no room for: the entries that were used least recently.

    Args:
        entries: (when it was used, bytes, path).
    """
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > most_bytes:
            yield path


def shown_path(path: str | Path) -> str:
    """A path as it is shown: relative to the current folder below it, from ~ below the home folder, else as it is."""
    start, rest = _from(path)
    return start + rest


def path_argument(path: str | Path) -> str:
    """The same as an argument of a command that can be pasted into a shell: quoted, but for the ~."""
    start, rest = _from(path)
    return start + shlex.quote(rest)


def _from(path: str | Path) -> tuple[str, str]:
    """("" or "~/", what follows)."""
    if not Path(path).is_absolute():
        return "", str(path)
    try:
        for start, folder in (("", Path.cwd()), ("~/", Path.home())):
            if folder != Path(folder.anchor) and Path(path).is_relative_to(folder):
                return start, str(Path(path).relative_to(folder))
    except (OSError, RuntimeError):  # the current folder was removed; there is no home folder
        pass
    return "", str(path)
