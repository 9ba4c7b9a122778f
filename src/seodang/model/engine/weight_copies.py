"""16-bit copies of the weights of linear layers, kept beside the float32 ones and refreshed before each pass.

Autocast makes such a copy in each pass, and turns each gradient into float32 before it is added to the others: three
passes over memory where one is enough. A copy is a leaf of its own: its gradient, 16 bits as the product left it, goes
straight to where the weight's gradient lies.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from seodang.model.engine.head_gradient import GradientPlaces
from seodang.model.engine.trainable_tokens import base_layer


class _CopiedLinear(nn.Linear):
    """A linear layer that multiplies by the copy of its weight, within a pass."""

    weight_copy: Tensor
    copies: "WeightCopies"

    def forward(self, input: Tensor) -> Tensor:
        if not (self.copies.active and torch.is_autocast_enabled(input.device.type)):
            return F.linear(input, self.weight, self.bias)
        return F.linear(input, self.weight_copy, self.bias)


class WeightCopies:
    """The copies of a model's weights, made when the first pass needs them.

    Args:
        dtype: of the products; none, or a weight's own: no copies.
        places: of the weights' gradients, once there are any.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None, places: GradientPlaces) -> None:
        self.active = False  # within a pass
        self._model, self._dtype, self._places = model, dtype, places
        self._of: dict[Tensor, nn.Parameter] = {}
        head = base_layer(model.get_output_embeddings())
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

    def leaf(self, weight: nn.Parameter) -> Tensor:
        """What autograd takes for the weight: its copy, if there is one."""
        return self._of.get(weight, weight)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the layers multiply by the copies in every pass that is `refreshed`."""
        for layer in self._layers:
            layer.__class__ = _CopiedLinear
            vars(layer)["copies"] = self
        try:
            yield
        finally:
            for layer in self._layers:
                layer.__class__ = nn.Linear
                for name in ("weight_copy", "copies"):
                    vars(layer).pop(name, None)
            self._of.clear()

    @contextmanager
    def refreshed(self) -> Iterator[None]:
        """A pass. Without gradients, and where layers are computed twice to save memory, no copies are used."""
        if not self._layers or not torch.is_grad_enabled() or self._model.is_activation_checkpointing:
            yield
            return
        if not self._of:
            self._make()
        trained = {weight: copy for weight, copy in self._of.items() if copy.requires_grad}
        if trained:
            with torch.no_grad():
                torch._foreach_copy_(list(trained.values()), list(trained))
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def _make(self) -> None:
        for layer in self._layers:
            # a parameter, whose shape torch's compiler takes for fixed; it is none of the model's
            copy = nn.Parameter(layer.weight.detach().to(self._dtype), layer.weight.requires_grad)
            if copy.requires_grad:
                copy.register_post_accumulate_grad_hook(self._deliver(layer.weight))
            vars(layer)["weight_copy"] = self._of[layer.weight] = copy

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
