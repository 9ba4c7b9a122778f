"""A tiny random copy of a model's architecture: every kind of its layers, a few numbers wide.

Small windows and chunks are what it is made for: what a packed row does at them shows within a few dozen positions, in
milliseconds, whatever the size of the model. It knows no architecture by name: a config's numbers are read by theirs.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from seodang.model.engine.layers.rope import length_boundary, rope_kinds

VOCABULARY = 128  # ids of a copy; 0 is padding
WINDOW = 8  # positions of its windows and chunks
BOUNDARY = 2 * WINDOW  # positions beyond which its rotary frequencies change, if they do

_SHARES = (32, 16, 8, 4, 2, 1)  # of the widths, the smallest copy first: not every architecture allows every one
_NO_BOUNDARY = 4096  # that a copy's rows do not reach
_MOST_PARAMETERS = 50_000_000  # of a copy: 200 MB, built in under a second
_EXPERTS = 16

# The names that architectures give to their numbers.
_LAYERS = re.compile(r"num_(hidden_|decoder_)?layers|n_layers?|decoder_layers")
_WIDTHS = re.compile(r"size|dim|rank|width|channels|embd|inner|(^|_)d_|dff")
_WINDOWS = re.compile(r"(window|window_size|window_len|chunk_size|chunk_length|local_attention)$")
_NO_WIDTHS = re.compile(r"vocab|kernel|conv|patch|image|block|group|codebook|num_")
_POSITION = re.compile(r"idx|index|layer_(id|num)")


def tiny_copies(model: PreTrainedModel, *, crossing: bool = True, twice: bool = False) -> Iterator[PreTrainedModel]:
    """Copies of the model's architecture, the smallest first, as far as they can be built.

    Random float32 weights on the CPU, evaluation mode, eager attention (the architecture's definition); the numbers are
    drawn aside from torch's own random state. A copy that was built may still not run.

    Args:
        crossing: lengths at which rotary frequencies change are at `BOUNDARY` positions; else out of reach.
        twice: keep as many layers again, so that each kind follows every other.
    """
    kept = layers_kept(model)
    if kept is None:
        return
    total, layers = kept
    layers = min(total, 2 * layers) if twice else layers
    for share in _SHARES:
        try:
            config = _shrunk_config(model.config, total, layers, share)
            config = _with_boundary(config, BOUNDARY if crossing else _NO_BOUNDARY)
            copy = _build(type(model), config)
        except Exception:  # any code may refuse sizes that it was not made for, in any way
            continue
        if copy is not None:
            yield copy


def layers_kept(model: PreTrainedModel) -> tuple[int, int] | None:
    """(layers of the model, how many of the first a copy needs so that each kind stands in it), if that can be known.

    Kinds are distinguished by the classes of a layer's modules and by what these hold: sizes, windows, switches.
    """
    total = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if not total or not stacks:
        return None
    kinds = [tuple(_kind(stack[number]) for stack in stacks) for number in range(total)]
    return total, min(total, max(2, *(kinds.index(kind) + 1 for kind in kinds)))


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    return tuple(
        (
            type(module),
            *((name, value) for name, value in vars(module).items() if _shows_kind(name, value)),
        )
        for module in layer.modules()
    )


def _shows_kind(name: str, value: object) -> bool:
    return (value is None or isinstance(value, str | int)) and not _POSITION.search(name)


def _shrunk_config(config: PreTrainedConfig, total: int, layers: int, share: int) -> PreTrainedConfig:
    small = type(config).from_dict(_shrunk(config.to_dict(), total, layers, share))
    small._attn_implementation = "eager"
    return small


def _with_boundary(config: PreTrainedConfig, boundary: int) -> PreTrainedConfig:
    text = config.get_text_config()
    if length_boundary(config) is None:
        return config
    numbers = text.to_dict()
    for kind, rope in rope_kinds(numbers):
        if kind == "longrope":
            if hasattr(text, "original_max_position_embeddings"):
                text.original_max_position_embeddings = boundary
            rope["original_max_position_embeddings"] = boundary
    text.rope_parameters = numbers["rope_parameters"]
    text.max_position_embeddings = boundary
    return config


def _shrunk(numbers: dict[str, Any], total: int, layers: int, share: int) -> dict[str, Any]:
    """A config with every width divided by `share`, so that what must fit together still does."""
    return {
        name: _smaller(str(name), value, total, layers, share)
        for name, value in numbers.items()
        if not (str(name).isdigit() and int(name) >= layers)  # settings of a layer that is gone
    }


def _smaller(name: str, value: Any, total: int, layers: int, share: int) -> Any:
    if isinstance(value, dict):
        return _shrunk(value, total, layers, share)
    if isinstance(value, list | tuple):
        if _are_positions(value, total) and not name.endswith("_id"):
            return [number for number in value if number < layers]
        if name.endswith("_factor"):  # one for each rotary frequency, of which there are as many as a head is wide
            return value[: len(value) // share]
        kept = value[:layers] if len(value) == total else value
        return [_smaller(name, entry, total, layers, share) for entry in kept]
    if type(value) is not int:
        return value
    if name.endswith(("token_id", "token_index")):
        return 0
    if _LAYERS.fullmatch(name):
        return layers if value == total else value
    if _WINDOWS.search(name):
        return min(value, WINDOW)
    if name.endswith("experts"):
        return min(value, _EXPERTS)
    if "vocab_size" in name:
        return min(value, VOCABULARY)
    is_width = _WIDTHS.search(name) and not _NO_WIDTHS.search(name)
    return value // share if is_width and value % share == 0 and value >= 4 * share else value


def _are_positions(values: list[Any] | tuple[Any, ...], total: int) -> bool:
    """Whether a list names layers, as [3, 7, 11], and does not say something of each."""
    numbers = all(type(value) is int for value in values)
    return bool(values) and numbers and list(values) == sorted(set(values)) and values[-1] < total


def _build(architecture: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel | None:
    with torch.device("meta"):
        size = architecture(config).num_parameters()
    if size > _MOST_PARAMETERS:
        return None
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        copy = architecture(config).float()
        for parameter in copy.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)  # as large as what it is added to: leaks show
            else:
                parameter.add_(noise, alpha=0.1)  # a gate that starts closed would hide one
    return copy.eval()
