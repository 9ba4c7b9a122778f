"""Chains of small operations compiled into one kernel each, on a GPU.

Such a chain, run as it is written, reads and writes its tensors once an operation, and a GPU takes longer over that
than over the products in between. torch compiles the very code of a model's layers: no architecture is known by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

VARIANTS = 64  # of one function: kinds of layers and of input; torch's own limit is 8


def compile_lazily(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """The function as kernels, compiled when it is first called.

    Args:
        dynamic: for inputs of any size; none: of any size in dimensions that are marked.
    """
    return torch.compile(function, dynamic=dynamic)


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's layers and the norms outside of them are compiled, up to their attention.

    Only where gradients are taken, and not where layers are computed twice: evaluations during training would compile
    all of it once more. What the compiler then refuses, such as an adapter's layer, torch reports and runs as written.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    within = {inner for layer in layers for inner in layer.modules()}
    parts = [*layers, *(norm for norm in norms_of(model) if norm not in within)]
    parts = [part for part in parts if "forward" not in vars(part)]
    for part in parts:
        part.forward = _compiled_forward(part)
    try:
        with torch._dynamo.config.patch(recompile_limit=VARIANTS, suppress_errors=True):
            yield
    finally:
        for part in parts:
            del part.forward


def _compiled_forward(part: nn.Module) -> Callable[..., Any]:
    written: Callable[..., Any] = part.forward
    fast = compile_lazily(written)

    def forward(*args: Any, **kwargs: Any) -> Any:
        is_recomputed = getattr(part, "gradient_checkpointing", False)
        return (fast if torch.is_grad_enabled() and not is_recomputed else written)(*args, **kwargs)

    return forward


def norms_of(model: PreTrainedModel) -> list[nn.Module]:
    """The model's norms that run by their own code."""
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    return [norm for norm in norms if not any(norm.children()) and "forward" not in vars(norm)]


@contextmanager
def light_norms(model: PreTrainedModel) -> Iterator[None]:
    """Inside, every norm of the model is computed again in the backward pass, by the norm's own code."""
    norms = norms_of(model)
    for norm in norms:
        norm.forward = partial(checkpoint, norm.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
