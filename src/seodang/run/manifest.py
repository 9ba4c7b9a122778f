"""What a run was made from: versions, hardware, hashes. No secret and no environment variable gets in here."""

import hashlib
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from seodang import distributed
from seodang.__version__ import __version__
from seodang.data.row_cache import file_sha256
from seodang.recipe import Recipe

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "bitsandbytes", "numpy")


def manifest(
    recipe: Recipe, *, placement: Mapping[str, Any], template: Mapping[str, Any], files: Mapping[str, list[Path]]
) -> dict[str, Any]:
    """The manifest as it stands before the model is loaded; `model` and `seconds` are filled in later.

    Args:
        files: source → its local files.
    """
    return {
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seodang": __version__,
        "command": " ".join(["seodang", *sys.argv[1:]]) if _is_command(Path(sys.argv[0])) else "",
        "versions": {
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
        "hardware": hardware(),
        "placement": dict(placement),
        "template": dict(template),
        "data": {source: {"files": [_file(path) for path in paths]} for source, paths in files.items()},
        "seeds": {"split": recipe.split.seed, "mix": recipe.mix.seed, "train": recipe.train.seed},
        "model": {"path": recipe.model.path},
        "seconds": {},
    }


def hardware() -> dict[str, Any]:
    """Processor, memory and GPUs of the main rank's machine, and how many processes share the work."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus,
        "processes": distributed.world(),
    }


def _is_command(program: Path) -> bool:
    return program.name == "seodang" or (program.name, program.parent.name) == ("__main__.py", "seodang")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _file(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": file_sha256(path), "bytes": path.stat().st_size}
