"""Where the gradient of an output head's weights goes: a tensor of the vocabulary's size, of which few fit into memory.

Legend: D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Scratch:
    """Buffers of the size of the head's weights, kept from one pack to the next on a CPU.

    Whoever frees them gets them back page by page, each zeroed at its first touch: up to a third of a small model's
    step. With a scratch, the gradient of the weights (a leaf) is put into `.grad` and not passed on by autograd, which
    would copy a buffer that somebody else still holds. Where the weight of the loss is known before its backward pass,
    gradients are taken at their final scale, and those of later packs are summed in `.grad` without a second buffer.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None  # of the next pack's loss, above 0; none: its backward pass brings it
        self._gradients: list[Tensor] = []  # that no pack between its forward and backward pass is writing to

    def take_gradient(self, weight: Tensor) -> Tensor:
        """Like `weight`, of unknown values, and not what `weight.grad` holds."""
        for number, buffer in enumerate(self._gradients):
            if buffer is not weight.grad:
                return self._gradients.pop(number)
        return torch.empty_like(weight)

    def add_gradient(self, weight: Tensor, gradient: Tensor) -> None:
        """Add what was taken to `weight.grad`, and take it back once it has been used up."""
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        self._gradients.append(gradient)


class GradientPlaces:
    """Where a replayed pass puts gradients: tensors that stay where they are.

    A head computed here puts its weights' gradient there in the forward pass, at its final scale, so that no other pass
    over a tensor of the vocabulary's size is needed. What its backward pass is given is then without effect.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.of: dict[Tensor, Tensor] = {}  # weight → its place
        self.factor = torch.zeros((), device=device)  # gradient of the pack's summed loss
        self.overwrite = True  # what lies there, which is of an earlier step
        self.recording = False  # a pass is being recorded


class Destination(NamedTuple):
    """Where the gradient of the weights goes; by default nowhere."""

    buffer_VD: Tensor | None = None
    adding: bool = False  # to what it holds already
    scale: Tensor | None = None  # of the loss, where it is known before the backward pass
    at_once: bool = False  # the buffer is, or becomes, the weights' `.grad` in the forward pass
    later: Scratch | None = None  # puts it there in the backward pass; neither: autograd passes it on

    @classmethod
    def of(
        cls,
        weight_VD: Tensor,
        scratch: Scratch | None,
        places: GradientPlaces | None,
        compute: torch.dtype,
        *,
        tiled: bool,
    ) -> "Destination":
        can_scale = compute != torch.float16  # which holds no gradient of a mean
        if places and can_scale and not tiled and weight_VD in places.of:
            return cls(places.of[weight_VD], not places.overwrite, places.factor, at_once=True)
        if scratch is None:
            return cls(torch.empty_like(weight_VD))
        scale, grad = scratch.weight if can_scale and tiled else None, weight_VD.grad
        if scale is not None and grad is not None and not grad.is_sparse and grad.is_contiguous():
            return cls(grad, True, scale, at_once=True)
        return cls(scratch.take_gradient(weight_VD), scale=scale, later=scratch)
