"""The traceback of a fault in seodang itself, in a file that can be sent with a report of it."""

import os
import platform
import tempfile
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seodang.__version__ import __version__
from seodang.errors import ResourceError
from seodang.user_paths import cache_folder

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "peft", "numpy")


def write_crash_log(error: BaseException) -> Path | None:
    """Write versions and traceback to a new file in the user's cache, else among temporary files.

    Neither the command line nor any variable goes in: there may be a secret in them.

    Returns:
        The file; None where none can be written.
    """
    now = datetime.now(UTC)
    text = f"{_versions()}\n{now.isoformat(timespec='seconds')}\n\n{''.join(traceback.format_exception(error))}"
    name = f"{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for find in (_cached_logs, tempfile.gettempdir):  # there may be no home folder, and no temporary one
        try:
            folder = Path(find())
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"seodang-{name}"
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except (OSError, ResourceError):
            continue
        return path
    return None


def _cached_logs() -> Path:
    return cache_folder() / "logs"


def _versions() -> str:
    found = {"seodang": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return f"{', '.join(f'{name} {number}' for name, number in found.items())}; {platform.platform()}"
