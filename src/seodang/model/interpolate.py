"""Weights between two models of one architecture: alpha 0 is the first, 1 the second."""

import torch
from transformers import PreTrainedModel

from seodang.errors import ModelError


@torch.no_grad()
def interpolate(base: PreTrainedModel, tuned: PreTrainedModel, alpha: float) -> None:
    """Put (1 − alpha) · base + alpha · tuned into the tuned model's weights, in place.

    At 0 and 1 the weights are copied; between, each is computed in float32 and stored in the tuned model's dtype. Rows
    that tuning added to the vocabulary stay the tuned model's, and so do buffers. An adapter that was merged is thereby
    scaled: its update is the difference of the weights. The base may be on another device; beside the two models,
    memory holds one tensor. Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".

    Args:
        alpha: 0 to 1.

    Raises:
        ModelError: the two models have other tensors.
    """
    assert 0 <= alpha <= 1, f"alpha {alpha}"
    starts = dict(base.named_parameters())
    for name, weight in tuned.named_parameters():
        start = starts.get(name)
        if start is None or start.shape[1:] != weight.shape[1:] or len(start) > len(weight):
            found = "none" if start is None else tuple(start.shape)
            raise ModelError(
                f"its tensor {name} is {tuple(weight.shape)}, the base's is {found}: nothing lies between the two",
                hint="give a run whose model was tuned from its base",
            )
        shared = weight[: len(start)] if weight.dim() else weight
        if alpha == 0:
            shared.copy_(start)
        elif alpha < 1:
            shared.copy_(torch.lerp(start.to(shared.device).float(), shared.float(), alpha))
