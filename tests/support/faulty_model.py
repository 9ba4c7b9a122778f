"""Copies of a model's folder, each with one fault that serving software is known for."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def copy_with_fault(model: Path, folder: Path, fault: str, **given: Any) -> Path:
    """The folder of `model` with one of FAULTS."""
    shutil.copytree(model, folder)
    FAULTS[fault](folder, **given)
    return folder


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _other_template(folder: Path, *, template: str, **_: Any) -> None:
    (folder / TEMPLATE).write_text(template)


def _doubled_bos(folder: Path, **_: Any) -> None:
    (folder / TEMPLATE).write_text("{{- bos_token -}}" + (folder / TEMPLATE).read_text())


def _missing_system(folder: Path, **_: Any) -> None:
    text = (folder / TEMPLATE).read_text()
    assert text.startswith("{% if not messages"), "the template brings no system text"
    (folder / TEMPLATE).write_text(text.split("{% endif %}\n", 1)[1])


def _no_stop(folder: Path, **_: Any) -> None:
    _change(folder / GENERATION, eos_token_id=3)  # which no model here writes


def _penalty(folder: Path, **_: Any) -> None:
    _change(folder / GENERATION, repetition_penalty=1.3)


def _weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    save_file({name: change(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


def _bfloat16(folder: Path, **_: Any) -> None:
    _weights(folder, lambda tensor: tensor.bfloat16())
    _change(folder / CONFIG, dtype="bfloat16")


def _four_bit(folder: Path, **_: Any) -> None:
    kind = gguf.GGMLQuantizationType.Q4_0

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2:
            return tensor
        return torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.float().numpy(), kind), kind)).to(tensor.dtype)

    _weights(folder, rounded)


def _other_weights(folder: Path, *, weights: Path, **_: Any) -> None:
    shutil.copy(weights, folder / WEIGHTS)


FAULTS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "another template": _other_template,
        "doubled BOS": _doubled_bos,
        "missing system text": _missing_system,
        "no stop token": _no_stop,
        "repetition penalty": _penalty,
        "other dtype": _bfloat16,
        "quantization": _four_bit,
        "another model": _other_weights,
    }
)
