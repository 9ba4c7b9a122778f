"""Where a model is: a folder, a run, a package or a hub id. Imports nothing that takes long, and loads nothing."""

from pathlib import Path

from seodang.errors import ModelError
from seodang.hub_access import contact
from seodang.model.packaged import PREFIX, require_package
from seodang.user_paths import expanded, folders_beside, is_file, is_folder

A_FOLDER = "download it elsewhere and give its folder"  # what to do without the hub
A_MODEL = "a folder, a hub id or package:NAME"


def find_model(path: str, *, revision: str | None = None, instead: str = A_FOLDER) -> str:
    """The folder that is meant, of a run that of its model; `package:NAME` and a hub id as they are, once checked.

    Args:
        instead: what to do without the hub, for a hint.

    Raises:
        ModelError: no such folder, or a file; or the package is not installed.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    if path.startswith(PREFIX):
        require_package(path)
        return path
    local = expanded(path)
    if is_folder(local):
        tuned = local / "model"
        return str(tuned if (tuned / "config.json").is_file() and not (local / "config.json").is_file() else local)
    if is_file(local):
        hint = "give a folder with config.json, safetensors and tokenizer"
        if local.suffix == ".gguf":
            hint += "; GGUF is a format to serve models in, its weights are rounded"
        raise ModelError("is a file, not a model's folder", where=path, hint=hint)
    if _looks_local(path, local):
        raise ModelError("no such folder", where=path, hint=folders_beside(local) or f"give {A_MODEL}")
    _require_hub_id(path)
    contact.require(path, "model", revision=revision, instead=instead)
    return path


def check_folder(folder: Path, where: str) -> None:
    """Check that a folder holds a model.

    Raises:
        ModelError: it does not; says what it holds instead.
    """
    if (folder / "config.json").is_file():
        return
    if any(folder.glob("*.gguf")):
        hint = "give the model's safetensors folder or hub id: GGUF weights are rounded, to serve rather than to train"
        raise ModelError("the folder holds only a GGUF file", where=where, hint=hint)
    if (folder / "adapter_config.json").is_file():
        raise ModelError("the folder holds an adapter, not a model", where=where, hint="merge it into its base first")
    if (folder / "recipe.yaml").is_file():
        hint = f"finish it first: seodang tune {Path(where) / 'recipe.yaml'} --resume"
        raise ModelError("this run has no model yet", where=where, hint=hint)
    raise ModelError("no config.json in the folder", where=where, hint="give a folder that save_pretrained wrote")


def _looks_local(path: str, local: Path) -> bool:
    """Whether a name can only mean a folder, so that no hub is asked for it."""
    is_beside = local.parent != Path() and is_folder(local.parent)
    written = path.startswith((".", "~", "runs/")) or path.endswith("/") or path.count("/") > 1
    return written or local.is_absolute() or is_beside


def _require_hub_id(path: str) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(path, "config.json")  # checks the id; no network
    except HFValidationError:
        raise ModelError("neither a folder here nor a hub id", where=path, hint=f"give {A_MODEL}") from None
