"""Patterns of paths with `*` and `**`, alike on every version of Python."""

from collections.abc import Sequence
from pathlib import Path


def matching_paths(folder: Path, pattern: Sequence[str]) -> list[Path]:
    """What a pattern matches. A last `**` stands for the folders before it, which are walked: before Python 3.13 it
    matched folders alone, since then files too."""
    if bad := next((part for part in pattern if "**" in part and part != "**"), None):
        raise ValueError(f"** stands alone between two slashes, not as in {bad}")  # from Python 3.13 on the same as *
    whole = [part for part, after in zip(pattern, (*pattern[1:], ""), strict=True) if part != "**" or after != "**"]
    if whole[-1] != "**":
        return sorted(folder.glob("/".join(whole)))
    if len(whole) == 1:
        return [folder]
    return sorted(path for path in folder.glob("/".join(whole[:-1])) if path.is_dir())
