"""16-bit copies of the weights of linear layers, kept beside the float32 ones and refreshed before each pass.

Autocast makes such a copy in each pass, and turns each gradient into float32 before it is added to the others: three
passes over memory where one is enough. A copy is a leaf of its own: its gradient, 16 bits as the product left it, goes
straight to where the weight's gradient lies.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from seodang.model.engine.linear_cross_entropy import GradientPlaces


class _CopiedLinear(nn.Linear):
    """A linear layer that multiplies by the copy of its weight, within a pass."""

    weight_copy: Tensor
    copies: "WeightCopies"

    def forward(self, input: Tensor) -> Tensor:
        if not self.copies.active:
            return F.linear(input, self.weight, self.bias)
        return F.linear(input, self.weight_copy, self.bias)


class WeightCopies:
    """The copies of a model's weights.

    Args:
        dtype: of the products; none, or a weight's own: no copies.
        places: of the weights' gradients, once there are any.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None, places: GradientPlaces) -> None:
        self.active = False  # within a pass
        self._places = places
        head = model.get_output_embeddings()
        linear = [module for module in model.modules() if type(module) is nn.Linear and module is not head]
        uses = Counter(id(module.weight) for module in linear)
        self._layers = [
            layer
            for layer in linear
            if dtype
            and dtype.itemsize < layer.weight.itemsize
            and uses[id(layer.weight)] == 1
            and "forward" not in vars(layer)
        ]
        self._of = {
            layer.weight: torch.empty_like(layer.weight, dtype=dtype).requires_grad_(layer.weight.requires_grad)
            for layer in self._layers
        }

    def leaf(self, weight: nn.Parameter) -> Tensor:
        """What autograd takes for the weight: its copy, if there is one."""
        return self._of.get(weight, weight)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the layers multiply by the copies in every pass that is `refreshed`."""
        hooks: list[Any] = []
        for weight, copy in self._of.items():
            if weight.requires_grad:
                hook = copy.register_post_accumulate_grad_hook(self._deliver(weight))  # type: ignore[no-untyped-call]
                hooks.append(hook)
        for layer in self._layers:
            layer.__class__ = _CopiedLinear
            vars(layer).update(weight_copy=self._of[layer.weight], copies=self)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.__class__ = nn.Linear
                del layer.weight_copy, layer.copies
            for hook in hooks:
                hook.remove()

    @contextmanager
    def refreshed(self) -> Iterator[None]:
        """A pass."""
        if self._of:
            with torch.no_grad():
                torch._foreach_copy_(list(self._of.values()), list(self._of))
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before

    def _deliver(self, weight: Tensor) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def deliver(copy: Tensor) -> None:
            gradient, copy.grad = copy.grad, None
            if gradient is None:
                return
            if weight.grad is not None:
                weight.grad.add_(gradient)
            elif (place := self._places.of.get(weight)) is not None:
                weight.grad = place.copy_(gradient)
            else:
                weight.grad = gradient.to(weight.dtype)

        return deliver
