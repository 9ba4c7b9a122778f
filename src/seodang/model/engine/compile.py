"""Chains of small operations compiled into one kernel each, on a GPU.

Such a chain, run as it is written, reads and writes its tensors once an operation, and a GPU takes longer over that
than over the products in between. torch compiles the very code of a model's layers: no architecture is known by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from seodang.model.engine.layers.norms import norms_of

VARIANTS = 64  # of one function: kinds of layers and of input; torch's own limit is 8


def compile_lazily(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """The function as kernels, compiled when it is first called.

    Args:
        dynamic: for inputs of any size; none: of any size in dimensions that are marked.
    """
    return torch.compile(function, dynamic=dynamic)


@contextmanager
def compiled_layers(model: PreTrainedModel, *, recompute: bool = False) -> Iterator[None]:
    """Inside, the model's layers, with attention where it is one kernel, and the norms outside of them are compiled.

    Only where gradients are taken, and not where layers are computed twice: evaluations during training would compile
    all of it once more. What the compiler then refuses, such as an adapter's layer, torch reports and runs as written.
    Under DDP a layer stays whole: dynamo would cut it where DDP's buckets of gradients end.

    Args:
        recompute: what a chain of small operations makes of products that are kept is not kept too.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    within = {inner for layer in layers for inner in layer.modules()}
    parts = [*layers, *(norm for norm in norms_of(model) if norm not in within)]
    parts = [part for part in parts if "forward" not in vars(part)]
    for part in parts:
        part.forward = _compiled_forward(part)
    try:
        kept = torch._functorch.config.patch(ban_recompute_materialized_backward=not recompute)
        patched = torch._dynamo.config.patch(recompile_limit=VARIANTS, suppress_errors=True, optimize_ddp=False)
        with patched, kept:
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
