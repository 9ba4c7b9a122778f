"""The products of an output head and the passes over its logits where the whole vocabulary is taken at once: on a GPU.

Legend: N positions of one chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from seodang.model.engine.compile import compile_lazily


class LinearCrossEntropyGpu:
    """One head on a GPU, the whole vocabulary at a time: one launch instead of many."""

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, passes: "Passes", compute: torch.dtype) -> None:
        self.weight_VD = weight_VD.to(compute)  # cast once, not in each walk
        self.bias_V, self.passes = bias_V, passes
        self.tile = slice(0, len(weight_VD))

    def room(self, hidden: Tensor, spare_VD: Tensor | None = None) -> list[Tensor]:
        """For the raw logits of N positions: one tensor [N, V]."""
        assert spare_VD is None, "only tiles of a vocabulary keep their logits in the memory of the gradient"
        return [hidden.new_empty(len(hidden), len(self.weight_VD))]

    def normalize(
        self,
        hidden: Tensor,
        targets_N: Tensor,
        kept: list[Tensor] | None,
        on_tile: Callable[[slice, Tensor, Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(log Σ exp of the logits [N], the targets' logits [N]); `kept` takes the raw logits."""
        (raw,) = kept or self.room(hidden)
        torch.mm(hidden, self.weight_VD.T, out=raw)
        if self.bias_V is not None:
            raw += self.bias_V.to(raw.dtype)
        if on_tile:
            on_tile(self.tile, hidden, self.passes.scaled(raw))
        return self.passes.normalize(raw, targets_N)

    def gradients(
        self, kept: list[Tensor], normalizer_N: Tensor, targets_N: Tensor, scale: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(all of it, the weights [V, D], gradient of the loss by the raw logits [N, V]), in their place.

        Args:
            scale: of the loss, a scalar.
        """
        (raw,) = kept
        self.passes.to_gradient(raw, normalizer_N, targets_N, normalizer_N.new_ones(()) if scale is None else scale)
        yield self.tile, self.weight_VD, raw

    def put_product(self, total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
        """total = a @ b, or += after the first; on a GPU 16 bits are summed in float32 within the product."""
        if total.dtype == a.dtype:
            torch.mm(a, b, out=total) if first else total.addmm_(a, b)
        elif a.device.type == "cuda":
            if first or isinstance(total, FakeTensor):  # a memory estimate's: torch knows no such sum of them
                torch.mm(a, b, out_dtype=total.dtype, out=total)
            else:
                torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
        else:
            product = torch.mm(a, b)
            total.copy_(product) if first else total.add_(product)


class Passes(NamedTuple):
    """What becomes of logits [N, V]: functions of them, the first two compiled into one kernel where that is possible.

    A target below 0 stands for a position that does not count.
    """

    normalize: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    to_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    scaled: Callable[[Tensor], Tensor]  # raw logits → logits, as written


@lru_cache
def passes(softcap: float | None, factor: float, compiled: bool) -> Passes:
    def scaled(raw: Tensor) -> Tensor:
        logits = raw.float()
        if factor != 1.0:
            logits = logits * factor
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def normalize(raw_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logits = scaled(raw_NV)
        top = logits.amax(-1, keepdim=True)  # written out: torch compiles this to one pass, its logsumexp to two
        normalizer_N = ((logits - top).exp().sum(-1, keepdim=True).log() + top).squeeze(-1)
        chosen_N = scaled(raw_NV.gather(-1, targets_N.clamp(min=0).unsqueeze(-1)).squeeze(-1))
        return normalizer_N, torch.where(targets_N < 0, normalizer_N, chosen_N)

    def to_gradient(raw_NV: Tensor, normalizer_N: Tensor, targets_N: Tensor, scale: Tensor) -> None:
        logits = scaled(raw_NV)
        slope = None if softcap is None else 1.0 - (logits / softcap) ** 2
        gradient = logits.sub_(normalizer_N.unsqueeze(-1)).exp_()
        if compiled:  # part of the same kernel
            gradient -= (torch.arange(raw_NV.shape[1], device=raw_NV.device) == targets_N.unsqueeze(-1)).float()
        else:  # without a second [N, V]
            gradient.scatter_add_(-1, targets_N.clamp(min=0).unsqueeze(-1), -torch.ones_like(gradient[:, :1]))
        if slope is not None:
            gradient *= slope
        gradient *= (torch.where(targets_N < 0, 0.0, factor) * scale).unsqueeze(-1)
        raw_NV.copy_(gradient)

    if not compiled:
        return Passes(normalize, to_gradient, scaled)
    return Passes(_for_any_rows(normalize), _for_any_rows(to_gradient), scaled)


def _for_any_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled; rows differ from chunk to chunk, columns do not, and kernels that know their number are faster."""
    fast = compile_lazily(function, dynamic=None)

    def call(*tensors: Tensor) -> Any:
        for tensor in tensors:
            if tensor.ndim:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return fast(*tensors)

    return call
