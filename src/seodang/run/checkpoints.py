"""Checkpoints of a run: sealed with sizes and hashes when they are written, and checked before one is resumed from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import ClassVar

from seodang.errors import SeodangError
from seodang.json_values import from_json, to_json
from seodang.run.folder import CHECKPOINT, CHECKPOINT_FILES, TRAINER_STATE, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedFile:
    """A file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """Every file of a checkpoint but the one that holds this."""

    SCHEMA_VERSION: ClassVar[int] = 1
    files: Mapping[str, SealedFile]  # path in the checkpoint → file


@dataclass(frozen=True, kw_only=True, slots=True)
class IntactCheckpoint:
    """What a run resumes from."""

    folder: Path | None = None  # none: training starts from the base
    remarks: tuple[str, ...] = ()  # a sentence for each newer one that is damaged


def seal(checkpoint: Path) -> None:
    """Write down sizes and hashes of all files, once all of them are written."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    files = {path.relative_to(checkpoint).as_posix(): _sealed(path) for path in paths}
    text = json.dumps(to_json(CheckpointFiles(files=files)), indent=1)
    (checkpoint / CHECKPOINT_FILES).write_text(text, encoding="utf-8")


def newest_intact(run: Run) -> IntactCheckpoint:
    """The newest checkpoint that is as it was written, and whose best checkpoint is."""
    remarks: list[str] = []
    for checkpoint in reversed(run.all_checkpoints()):
        damage = find_damage(checkpoint) or _damage_of_best(checkpoint)
        if damage is None:
            if remarks:
                remarks.append(f"resuming from {checkpoint.name}, the newest intact one")
            return IntactCheckpoint(folder=checkpoint, remarks=tuple(remarks))
        remarks.append(f"{checkpoint.name} cannot be used: {damage}")
    if remarks:
        remarks.append("no intact checkpoint is left: training starts from the base")
    return IntactCheckpoint(remarks=tuple(remarks))


def find_damage(checkpoint: Path) -> str | None:
    """The first file that is not as it was written; none: the checkpoint is intact."""
    try:
        text = (checkpoint / CHECKPOINT_FILES).read_text(encoding="utf-8")
        sealed = from_json(CheckpointFiles, json.loads(text), where=CHECKPOINT_FILES)
    except FileNotFoundError:
        return f"{CHECKPOINT_FILES} is missing"
    except (OSError, ValueError, SeodangError):
        return f"{CHECKPOINT_FILES} is damaged"
    for name, file in sealed.files.items():
        try:
            size = (checkpoint / name).stat().st_size
            if size != file.bytes:
                return f"{name} has {size:,} of {file.bytes:,} bytes"
            if _sealed(checkpoint / name).sha256 != file.sha256:
                return f"{name} is not as it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _damage_of_best(checkpoint: Path) -> str | None:
    """Its weights may be the ones that are kept at the end."""
    state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    best = state.get("best_global_step")
    name = f"{CHECKPOINT}{best}"
    if not best or name == checkpoint.name:
        return None
    damage = find_damage(checkpoint.with_name(name))
    return damage and f"in {name}, the best until then, {damage}"


def _sealed(path: Path) -> SealedFile:
    with path.open("rb") as file:
        return SealedFile(bytes=path.stat().st_size, sha256=file_digest(file, "sha256").hexdigest())
