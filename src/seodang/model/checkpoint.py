"""What a checkpoint holds beside what its model takes of it: parts for images or speech, layers that predict ahead.

transformers passes over such tensors without a word, and a model that is saved has lost them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from seodang.model.quiet import quiet

# Buffers that older versions of transformers saved and newer ones compute: nothing is lost with them.
_COMPUTED = re.compile(r"(^|\.)(inv_freq|position_ids|masked_bias|(attn|attention)\.bias|relative_position_index)$")


def auto_class(config: PreTrainedConfig) -> Any:
    """transformers' class to load a causal language model with: the whole of one that has more parts than text."""
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    names = config.architectures or []
    return AutoModelForImageTextToText if whole and whole.__name__ in names else AutoModelForCausalLM


def on_meta(config: PreTrainedConfig, *, trust_remote_code: bool) -> PreTrainedModel | None:
    """The model without its weights."""
    try:
        with torch.device("meta"), quiet():
            model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # an architecture that cannot be made without its weights; torch and transformers raise anything
        return None
    return model


@contextmanager
def recording_untaken() -> Iterator[set[str]]:
    """Inside, the names of a checkpoint's tensors that the model which is loaded takes no part of.

    transformers reports those alone that a class does not name as to be ignored.
    """
    untaken: set[str] = set()
    adjust = PreTrainedModel._adjust_missing_and_unexpected_keys

    def record(model: PreTrainedModel, loading_info: Any) -> None:
        untaken.update(name for name in loading_info.unexpected_keys if not _COMPUTED.search(name))
        adjust(model, loading_info)

    PreTrainedModel._adjust_missing_and_unexpected_keys = record
    try:
        yield untaken
    finally:
        PreTrainedModel._adjust_missing_and_unexpected_keys = adjust


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor → the file that holds it, of the safetensors of a folder."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found


def read_tensors(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a folder as they are there."""
    files = tensor_files(folder)
    found = {}
    for name in names:
        with safe_open(files[name], "pt") as tensors:
            found[name] = tensors.get_tensor(name)
    return found


def shortened(names: Sequence[str], most: int = 4) -> str:
    """The beginnings that tensors' names share, a few of them: `model.visual.*, mtp.*`."""
    found = list(dict.fromkeys(".".join(name.split(".")[:2]) + ".*" for name in names))
    return ", ".join(found[:most]) + (" …" if len(found) > most else "")
