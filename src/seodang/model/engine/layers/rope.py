"""Rotary positions whose frequencies depend on the longest sequence of a batch: longrope and dynamic NTK scaling.

A short sequence is then computed otherwise beside a long one than alone. Under dynamic scaling transformers also keeps
the frequencies of the longest sequence that a model has met, so that a row's loss depends on those before it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_LONG = "original_max_position_embeddings"  # longrope: up to here the short factors, beyond the long ones
_DYNAMIC = "max_position_embeddings"  # dynamic: from here on frequencies follow the length


def length_boundary(config: PreTrainedConfig) -> int | None:
    """The fewest positions beyond which the frequencies of shorter sequences change; none: they never do."""
    return min(_boundaries(config.get_text_config().to_dict()), default=None)


def _boundaries(numbers: Mapping[str, Any]) -> Iterator[int]:
    for kind, rope in rope_kinds(numbers):
        boundary = rope.get(_LONG) or numbers.get(_LONG) if kind == "longrope" else numbers.get(_DYNAMIC)
        if boundary:
            yield int(boundary)


def rope_kinds(numbers: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(longrope or dynamic, its parameters), of those whose frequencies follow the length."""
    for kind, rope in rope_parameters(numbers):
        if kind == "longrope" or "dynamic" in kind:
            yield kind, rope


def rope_parameters(numbers: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind of scaling, its parameters) of a config, one for each kind of layer that has its own."""
    found = numbers.get("rope_parameters") or numbers.get("rope_scaling") or {}
    for rope in (found, *(value for value in found.values() if isinstance(value, dict))):
        yield str(rope.get("rope_type") or rope.get("type")), rope


def dynamic_rope(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of a model that keep the frequencies of the longest sequence that they met."""
    found = [module for module in model.modules() if hasattr(module, "original_max_seq_len")]
    return [module for module in found if any("dynamic" in kind for kind in _kinds(module))]


def _kinds(module: Any) -> list[str]:
    kind = module.rope_type
    return list(map(str, kind.values())) if isinstance(kind, Mapping) else [str(kind)]


def forget_lengths(modules: list[nn.Module]) -> None:
    """Back to the frequencies of short sequences, as `dynamic_rope` modules are when they are new."""
    for module in modules:
        buffers = [name for name, _ in module.named_buffers() if name.endswith("inv_freq")]
        for name in buffers:
            prefix = name.removesuffix("inv_freq")
            if not prefix.endswith("original_"):
                original = getattr(module, f"{prefix}original_inv_freq")
                module.register_buffer(name, original.to(getattr(module, name).device), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
