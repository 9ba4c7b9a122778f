"""Where the user's cache is: converted models and prepared rows are kept there."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted models are kept: $SEODANG_CACHE, else the user's cache."""
    if own := os.environ.get("SEODANG_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seodang"
