"""Output head and cross entropy in one: what a step needs of its logits, without ever holding all of them.

The gradients are taken in the forward pass, while the probabilities are at hand: three products a position, none
repeated. The vocabulary is walked in tiles that stay in the cache of a CPU, twice: once for the normaliser, once for
the gradients; between the two, a chunk of positions keeps its logits in the dtype of the products.

Legend: S positions, N positions of one chunk, D hidden size, V vocabulary, W tokens of one tile.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

KEPT_BYTES = 512 * 2**20  # of a chunk's logits between the two walks
TILE = 4096  # tokens of the vocabulary at a time on a CPU; a GPU takes it whole, one launch instead of many


class HeadLoss(torch.autograd.Function):
    """Sum of −log p of the targets: a float32 scalar.

    logits = softcap · tanh(raw · factor / softcap); without a soft-cap, raw · factor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_S: Tensor,
        softcap: float | None,
        factor: float,
        wants_grad: bool,  # torch sets needs_input_grad under no_grad too
        fills_grad: bool = False,  # put the gradient of the weights, a leaf, into its `.grad` without passing it on
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = (wants_grad and needed for needed in ctx.needs_input_grad[:3])
        device = hidden_SD.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype
        grad_hidden = torch.zeros_like(hidden_SD, dtype=torch.float32) if wants_hidden else None
        grad_weight = (torch.empty_like if len(hidden_SD) else torch.zeros_like)(weight_VD) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V) if wants_bias and bias_V is not None else None
        walk = _Walk(weight_VD, bias_V, softcap, factor, compute)
        total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        rows = max(1, KEPT_BYTES // (compute.itemsize * weight_VD.shape[0]))
        with torch.autocast(device, enabled=False):
            for start in range(0, hidden_SD.shape[0], rows):
                chunk = slice(start, start + rows)
                hidden, targets = hidden_SD[chunk].to(compute), targets_S[chunk]
                kept, normaliser_N, chosen_N = walk.normalise(hidden, targets, keep=wants_grad)
                total += (normaliser_N - chosen_N).sum()
                if not wants_grad:
                    continue
                for tile, weight, grad in walk.gradients(kept, normaliser_N, targets):
                    if grad_hidden is not None:
                        _add_product(grad_hidden[chunk], grad, weight)
                    if grad_weight is not None:
                        _put_product(grad_weight[tile], grad.T, hidden, first=start == 0)
                    if grad_bias is not None:
                        grad_bias[tile] += grad.sum(0).to(grad_bias.dtype)
        ctx.filled = weight_VD if fills_grad else None
        ctx.save_for_backward(None if grad_hidden is None else grad_hidden.to(hidden_SD.dtype), grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        found = [None if saved is None else saved.mul_(grad.to(saved.dtype)) for saved in ctx.saved_tensors]
        if ctx.filled is not None:
            weight, ctx.filled, grad_weight, found[1] = ctx.filled, None, found[1], None
            weight.grad = grad_weight if weight.grad is None else weight.grad.add_(grad_weight)
        return (*found, None, None, None, None, None)


class _Walk:
    """One head, tile by tile."""

    def __init__(
        self, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None, factor: float, compute: torch.dtype
    ) -> None:
        tiled = weight_VD.device.type == "cpu"
        self.weight_VD, self.bias_V = (
            weight_VD if tiled else weight_VD.to(compute),
            bias_V,
        )  # cast once, not in each walk
        self.softcap, self.factor, self.compute = softcap, factor, compute
        size = min(TILE, len(weight_VD)) if tiled else len(weight_VD)
        self.tiles = [slice(start, min(start + size, len(weight_VD))) for start in range(0, len(weight_VD), size)]

    def normalise(self, hidden: Tensor, targets_N: Tensor, *, keep: bool) -> tuple[list[Tensor], Tensor, Tensor]:
        """(raw logits [N, W] of each tile if they are kept, log Σ exp of the logits [N], the targets' logits [N])."""
        kept: list[Tensor] = []
        sums, chosen_N = [], torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        for tile in self.tiles:
            raw = hidden @ self._weight(tile).T
            if self.bias_V is not None:
                raw += self.bias_V[tile].to(self.compute)
            logits = self._logits(raw)
            sums.append(logits.logsumexp(-1))
            index, inside = _within(targets_N, tile)
            chosen_N += logits.gather(-1, index).squeeze(-1) * inside
            if keep:
                kept.append(raw)
        return kept, torch.stack(sums).logsumexp(0), chosen_N

    def gradients(
        self, kept: list[Tensor], normaliser_N: Tensor, targets_N: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(tile, its weights [W, D], gradient of the loss by its raw logits [N, W]); the kept logits are freed.

        By a logit: p − [it is the target's].
        """
        for number, tile in enumerate(self.tiles):
            raw, kept[number] = kept[number], kept[number].new_empty(0)
            logits = self._logits(raw)
            slope = None if self.softcap is None else 1.0 - (logits / self.softcap).square_()
            grad = torch.sub(logits, normaliser_N.unsqueeze(-1), out=logits).exp_()
            index, inside = _within(targets_N, tile)
            grad.scatter_add_(-1, index, -inside.unsqueeze(-1))
            if slope is not None:
                grad *= slope
            if self.factor != 1.0:
                grad *= self.factor
            yield tile, self._weight(tile), grad.to(self.compute)

    def _weight(self, tile: slice) -> Tensor:
        return self.weight_VD[tile].to(self.compute)

    def _logits(self, raw: Tensor) -> Tensor:
        """float32 logits; `raw` itself where nothing is to be done."""
        logits = raw.float()
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.softcap is None else (logits / self.softcap).tanh_() * self.softcap


def _within(targets_N: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """(index [N, 1] of each target in the tile, 1.0 where it lies in it [N]): without asking the device."""
    size = tile.stop - tile.start
    index = targets_N - tile.start
    return index.clamp(0, size - 1).unsqueeze(-1), ((index >= 0) & (index < size)).float()


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, summed in float32."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _put_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total = a @ b, or += after the first."""
    if total.dtype != a.dtype:
        product = a @ b
        total.copy_(product) if first else total.add_(product)
    elif first:
        torch.mm(a, b, out=total)
    else:
        total.addmm_(a, b)
