"""What training needs of disk, known before it starts."""

import shutil
from pathlib import Path

from seodang.errors import ResourceError

STATE_BYTES = {"adamw": 8, "paged_adamw_8bit": 2}  # optimizer state a trained parameter


def disk_bytes(*, parameters: int, weight_bytes: int, optimizer: str, keep_checkpoints: int) -> int:
    """Bytes that a run's checkpoints and its final model take at most.

    One checkpoint more than are kept lies on disk while a new one is written; the best one may stand besides.
    """
    checkpoint = parameters * (weight_bytes + STATE_BYTES[optimizer])
    return (keep_checkpoints + 2) * checkpoint + parameters * weight_bytes


def check_disk(folder: Path, needed: int) -> None:
    """Raise while nothing is lost yet if `folder`'s disk has not `needed` bytes free.

    Raises:
        ResourceError: says how much is there and what can be done.
    """
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"the run's checkpoints and model take up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=str(folder),
            mend="free some space, give another disk by --out, or keep fewer checkpoints (train.keep_checkpoints=1)",
        )
