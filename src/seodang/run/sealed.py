"""Folders that are sealed: sizes and hashes of all files, written down once and compared before they are used."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import ClassVar

from seodang.errors import RunError, SeodangError, os_reason
from seodang.json_values import read_value, to_json
from seodang.run.folder import ADAPTER, MODEL, MODEL_FILES, Run, write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedFile:
    """A file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedFiles:
    """checkpoint_files.json of a checkpoint, model_files.json of a run."""

    SCHEMA_VERSION: ClassVar[int] = 1
    files: Mapping[str, SealedFile]  # path below the sealed folder → file


def write_seal(seal: Path, files: Mapping[str, Path]) -> None:
    """Write down sizes and hashes of files that are complete.

    Args:
        files: path below the sealed folder → where the file lies now.
    """
    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter
        found = SealedFiles(files=dict(zip(files, pool.map(_sealed, files.values()), strict=True)))
    write_text(seal, json.dumps(to_json(found), indent=1))


def files_below(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Every file of a folder under its path there, in order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {prefix + path.relative_to(folder).as_posix(): path for path in paths}


def find_damage(folder: Path, seal: Path, prefix: str = "") -> str | None:
    """The first file that is not as it was written; none: all are.

    Args:
        seal: the file that `write_seal` wrote.
        prefix: of the paths that count.
    """
    try:
        sealed = read_value(SealedFiles, seal)
    except FileNotFoundError:
        return f"{seal.name} is missing"
    except (OSError, ValueError, RecursionError, SeodangError):
        return f"{seal.name} is damaged"
    files = {name: file for name, file in sealed.files.items() if name.startswith(prefix)}
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _damage(folder, name, files[name]), files)
        return next((damage for damage in found if damage), None)


def seal_model(run: Run, written: Path) -> None:
    """Write down the files of the tuned model before it gets its place, and those of its adapter."""
    write_seal(run.folder / MODEL_FILES, files_below(written, f"{MODEL}/") | files_below(run.adapter, f"{ADAPTER}/"))


def is_sealed(run: Run) -> bool:
    """Whether a tuned model was saved, whatever became of it since."""
    return (run.folder / MODEL_FILES).is_file()


def model_damage(run: Run) -> str | None:
    """What is not as it was saved in `model/`; none: it is, or was never sealed."""
    return find_damage(run.folder, run.folder / MODEL_FILES, f"{MODEL}/") if is_sealed(run) else None


def adapter_damage(run: Run) -> str | None:
    """The same of `adapter/`; of a run that has none, that it is missing."""
    if not run.adapter.is_dir():
        return f"{ADAPTER} is missing"
    return find_damage(run.folder, run.folder / MODEL_FILES, f"{ADAPTER}/")


def refuse_unsaved(run: Run) -> None:
    """Stop where a run has no tuned model as training saved it.

    Raises:
        RunError: training has not ended, or a file is missing, cut short or of other bytes.
    """
    if damage := model_damage(run):
        hint = f"save it again: {run.resume_command}; to use it as it is, give {run.model}"
        raise RunError(f"the tuned model is damaged: {damage}", where=str(run.folder), hint=hint)
    if not run.is_trained:
        raise RunError("its training has not ended", where=str(run.folder), hint=run.resume_command)


def _damage(folder: Path, name: str, file: SealedFile) -> str | None:
    try:
        size = (folder / name).stat().st_size
        if size != file.bytes:
            return f"{name} has {size:,} of {file.bytes:,} bytes"
        if _sealed(folder / name).sha256 != file.sha256:
            return f"{name} is not as it was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({os_reason(error)})"
    return None


def _sealed(path: Path) -> SealedFile:
    with path.open("rb") as file:
        return SealedFile(bytes=path.stat().st_size, sha256=file_digest(file, "sha256").hexdigest())
