"""What bases measured in earlier runs, kept in the user's cache by weights, settings, rows and questions."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from seodang.__version__ import __version__
from seodang.errors import SeodangError, os_reason
from seodang.json_values import json_text, read_value, to_json
from seodang.run.base_measurement import BaseMeasurement, MeasurementSettings
from seodang.run.folder import write_text
from seodang.user_paths import beyond, cache_folder, shown_path

MOST_BYTES = 500_000_000  # the measurements used least recently go when all together are larger
LIBRARIES = ("torch", "transformers", "tokenizers")


def find(settings: MeasurementSettings) -> BaseMeasurement | None:
    """What was measured under these very settings; none where nothing was, or what was kept cannot be read."""
    path = _path(settings)
    with suppress(OSError, ValueError, SeodangError):
        found = read_value(BaseMeasurement, path)
        os.utime(path)
        return found if found.settings == settings else None
    return None


def keep(measured: BaseMeasurement, on_note: Callable[[str], None]) -> None:
    """Keep a measurement for later runs.

    Args:
        on_note: takes a sentence, if it cannot be kept.
    """
    path = _path(measured.settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json_text(to_json(measured), where=str(path)))
        _free_space(path.parent)
    except OSError as error:
        on_note(f"what the base measured is not kept for later runs: {shown_path(path)}: {os_reason(error)}")


def _path(settings: MeasurementSettings) -> Path:
    versions = [__version__, *map(version, LIBRARIES)]
    key = hashlib.sha256(json_text([versions, to_json(settings)], where="settings").encode()).hexdigest()
    return cache_folder() / "measured" / f"{key[:40]}.json"


def _free_space(folder: Path) -> None:
    found: list[tuple[float, int, Path]] = []
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError):  # another process makes room at the same time
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    for path in beyond(found, MOST_BYTES):
        path.unlink(missing_ok=True)
