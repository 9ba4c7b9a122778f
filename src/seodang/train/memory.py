"""What training needs of disk, known before it starts."""

import shutil
from pathlib import Path

from seodang import recipe
from seodang.errors import ResourceError
from seodang.train.choice import choose_optimizer

STATE_BYTES = {"adamw": 8, "paged_adamw_8bit": 2}  # optimizer state a trained parameter
ADAPTER_BYTES = 4  # of a parameter: peft holds adapters in float32


def disk_bytes(
    *, parameters: int, weight_bytes: int, optimizer: str, keep_checkpoints: int, adapter_parameters: int | None = None
) -> int:
    """Bytes that a run's checkpoints and its final model take at most.

    One checkpoint more than are kept lies on disk while a new one is written; the best one may stand besides. With an
    adapter, a checkpoint holds the adapter alone.
    """
    trained, trained_bytes = (
        (parameters, weight_bytes) if adapter_parameters is None else (adapter_parameters, ADAPTER_BYTES)
    )
    checkpoint = trained * (trained_bytes + STATE_BYTES[optimizer])
    kept = parameters * weight_bytes + (adapter_parameters or 0) * ADAPTER_BYTES
    return (keep_checkpoints + 2) * checkpoint + kept


def check_disk(
    folder: Path,
    settings: recipe.Train,
    *,
    parameters: int,
    weight_bytes: int,
    device: str,
    adapter_parameters: int | None = None,
) -> None:
    """Raise while nothing is lost yet if the disk of a run's folder is too small for what training writes.

    Args:
        parameters: of the model.
        weight_bytes: of one parameter.
        device: that trains; it decides which optimizer is to be had.
        adapter_parameters: what is trained; none: all of the model's.

    Raises:
        ResourceError: says how much is there and what can be done.
    """
    _, remark = choose_optimizer(settings.optimizer, device)
    needed = disk_bytes(
        parameters=parameters,
        weight_bytes=weight_bytes,
        optimizer=settings.optimizer if remark is None else "adamw",
        keep_checkpoints=settings.keep_checkpoints,
        adapter_parameters=adapter_parameters,
    ) - sum(file.stat().st_size for file in (folder / "checkpoints").rglob("*") if file.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"the run's checkpoints and model take up to {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free",
            where=str(folder),
            mend="free some space, give another disk by --out, or keep fewer checkpoints (train.keep_checkpoints=1)",
        )
