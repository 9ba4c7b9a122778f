"""Norms computed twice, to keep less for the backward pass: of what they make, only what goes into them is kept.

A norm of n numbers keeps two to three copies of them in float32, a fifth of what a small model keeps for its backward
pass in all; to compute it again takes no time that could be measured on a CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


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
