"""Checkpoints of a run: sealed when they are written, and checked before one is resumed from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.trainer_pt_utils import safe_globals

from seodang.run import sealed
from seodang.run.folder import CHECKPOINT, CHECKPOINT_FILES, TRAINER_STATE, Run

TRAINING_ARGUMENTS = "training_args.bin"  # which transformers writes as a pickle, and nothing reads again


@dataclass(frozen=True, kw_only=True, slots=True)
class IntactCheckpoint:
    """What a run resumes from."""

    folder: Path | None = None  # none: training starts from the base
    remarks: tuple[str, ...] = ()  # a sentence for each newer one that is damaged


def seal(checkpoint: Path) -> None:
    """Write down sizes and hashes of all files, once all of them are written."""
    sealed.write_seal(checkpoint / CHECKPOINT_FILES, sealed.files_below(checkpoint))


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
    """The first file that is not as it was written, or that nothing can be loaded from; none: it is intact."""
    return sealed.find_damage(checkpoint, checkpoint / CHECKPOINT_FILES) or _unreadable(checkpoint)


def _unreadable(checkpoint: Path) -> str | None:
    """The first file that nothing can be loaded from; whoever forged it may have sealed it too. Nothing is executed."""
    for path in sealed.files_below(checkpoint).values():
        if (read := _READERS.get(path.suffix)) and path.name != TRAINING_ARGUMENTS:
            try:
                read(path)
            except Exception:  # torch, safetensors and json raise nearly every class there is
                return f"{path.name} is not a {_KINDS[path.suffix]}"
    return None


def _read_tensors(path: Path) -> None:
    with safe_open(path, "pt"):
        pass


def _read_states(path: Path) -> None:
    """Without the tensors themselves."""
    with safe_globals():
        torch.load(path, map_location="meta", weights_only=True, mmap=True)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: dict(json.loads(path.read_text(encoding="utf-8"))),
    ".safetensors": _read_tensors,
    ".pt": _read_states,
    ".pth": _read_states,
    ".bin": _read_states,  # of FSDP2
}
_KINDS = {
    ".json": "JSON object",
    ".safetensors": "file of tensors",
    **dict.fromkeys((".pt", ".pth", ".bin"), "file of states that torch loads without running code"),
}


def _damage_of_best(checkpoint: Path) -> str | None:
    """Its weights may be the ones that are kept at the end."""
    state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    best = state.get("best_global_step")
    name = f"{CHECKPOINT}{best}"
    if not best or name == checkpoint.name:
        return None
    damage = find_damage(checkpoint.with_name(name))
    return damage and f"in {name}, the best until then, {damage}"
