"""Output head and cross entropy in one: what a step needs of its logits, without ever holding all of them.

The gradients are taken in the forward pass, while the probabilities are at hand: three products a position, none
repeated. On a CPU the vocabulary is walked in tiles that stay in its cache, twice: once for the normalizer, once for
the gradients; between the two, a chunk of positions keeps its logits in the dtype of the products (in float32 without a
soft-cap their exponentials, which the gradients are made of). Elsewhere it is taken whole, and each of the two is one
kernel where it can be compiled.

Legend: S positions, N positions of one chunk, D hidden size, V vocabulary, W tokens of one tile.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from seodang.model.engine.head_gradient import Destination, GradientPlaces, Scratch
from seodang.model.engine.linear_cross_entropy_gpu import LinearCrossEntropyGpu, passes
from seodang.model.engine.trainable_tokens import TrainableTokens, base_layer

KEPT_BYTES = 384 * 2**20  # of a chunk's logits between the two walks
COMPILED_BYTES = 2**30  # the same, where a kernel needs no copies of them
_SLOW = ("cpu", torch.float32)  # where one product of a few rows by a whole vocabulary is slow
TILE = 4096  # tokens of the vocabulary at a time on a CPU


class _Gradients(NamedTuple):
    """Gradients of what goes into the head, filled tile by tile; none: not wanted."""

    hidden_SD: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None
    rows_RD: Tensor | None  # of the trained tokens
    trained: TrainableTokens | None
    adding: bool = False  # to what the weights' gradient holds already

    def add(
        self,
        walk: "_Walk | LinearCrossEntropyGpu",
        chunk: slice,
        tile: slice,
        hidden_ND: Tensor,
        weight_TD: Tensor,
        grad_NT: Tensor,
    ) -> None:
        """Add what a tile of the vocabulary and a chunk of N positions contribute.

        Args:
            grad_NT: of the logits.
        """
        if self.hidden_SD is not None:
            walk.put_product(self.hidden_SD[chunk], grad_NT, weight_TD, first=False)
        if self.weight_VD is not None:
            first = chunk.start == 0 and not self.adding
            walk.put_product(self.weight_VD[tile], grad_NT.T, hidden_ND, first=first)
        if self.bias_V is not None:
            self.bias_V[tile] += grad_NT.sum(0).to(self.bias_V.dtype)
        if self.rows_RD is not None and self.trained and (inside := self.trained.inside(tile)):
            which, places = inside
            self.rows_RD[which] += grad_NT.index_select(1, places).T.float() @ hidden_ND.float()


class LinearCrossEntropy(torch.autograd.Function):
    """Sum of −log p of the targets: a float32 scalar.

    logits = softcap · tanh(raw · factor / softcap); without a soft-cap, raw · factor. In a frozen `weight_VD`, some
    rows may be trained, as `rows_RD`.
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
        scratch: Scratch | None = None,
        rows_RD: Tensor | None = None,
        trained: TrainableTokens | None = None,
        compiled: bool = False,
        places: GradientPlaces | None = None,
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = (wants_grad and needed for needed in ctx.needs_input_grad[:3])
        device, compute = hidden_SD.device.type, _compute_dtype(hidden_SD)
        tiled = _is_tiled(device, compiled=compiled)
        into = Destination.of(weight_VD, scratch, places, compute, tiled=tiled) if wants_weight else Destination()
        if into.buffer_VD is not None and not len(hidden_SD) and not into.adding:
            into.buffer_VD.zero_()
        gradients = _Gradients(
            hidden_SD=torch.zeros_like(hidden_SD, dtype=torch.float32) if wants_hidden else None,
            weight_VD=into.buffer_VD,
            bias_V=torch.zeros_like(bias_V) if wants_bias and bias_V is not None else None,
            rows_RD=None if rows_RD is None or not wants_grad else torch.zeros_like(rows_RD, dtype=torch.float32),
            trained=trained,
            adding=into.adding,
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        # the gradient's own memory takes the logits of as many positions as fit, until it is written
        spare_VD = into.buffer_VD if tiled and not into.adding else None
        fitting = 0 if spare_VD is None else spare_VD[0].nbytes // compute.itemsize
        most = (COMPILED_BYTES if compiled else KEPT_BYTES) // (compute.itemsize * weight_VD.shape[0])
        chunks = _chunks(len(hidden_SD), most, first=fitting)
        rows = max((chunk.stop - chunk.start for chunk in chunks), default=1)
        walk = _walk(weight_VD, bias_V, softcap, factor, compute, rows, compiled=compiled)
        with torch.autocast(device, enabled=False):
            for chunk in chunks:
                hidden, targets = hidden_SD[chunk].to(compute), targets_S[chunk]
                kept = walk.room(hidden, None if chunk.start else spare_VD) if wants_grad else None
                normalizer_N, chosen_N = walk.normalize(hidden, targets, kept)
                total += (normalizer_N - chosen_N).sum()
                if kept is not None:
                    for tile, weight, grad in walk.gradients(kept, normalizer_N, targets, into.scale):
                        gradients.add(walk, chunk, tile, hidden, weight, grad)
        ctx.later = (into.later, weight_VD) if into.later else None
        ctx.scale, ctx.is_scaled = (into.scale if scratch else None), into.scale is not None
        grad_weight = None if into.at_once else into.buffer_VD
        if into.at_once:
            weight_VD.grad = into.buffer_VD
        grad_hidden = None if gradients.hidden_SD is None else gradients.hidden_SD.to(hidden_SD.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, gradients.bias_V, gradients.rows_RD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if ctx.scale is not None and not isinstance(grad, FakeTensor):  # both in the host's memory
            given, expected = float(grad.numpy()), float(ctx.scale.numpy())
            if not math.isclose(given, expected, rel_tol=1e-6):
                raise AssertionError(f"a pack's gradients were taken for a weight of {expected}, not {given}")
        found = [*ctx.saved_tensors]
        if not ctx.is_scaled:
            found = [None if saved is None else saved.mul_(grad.to(saved.dtype)) for saved in found]
        if ctx.later is not None:
            (scratch, weight), ctx.later = ctx.later, None
            scratch.add_gradient(weight, found[1])
            found[1] = None
        *found, found_rows = found
        return (*found, None, None, None, None, None, found_rows, None, None, None)


OnTile = Callable[[slice, slice, Tensor, Tensor], None]


@torch.no_grad()
def target_losses(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    softcap: float | None,
    factor: float,
    on_tile: OnTile | None = None,
) -> Tensor:
    """−log p of each target, [S] float32, without gradients: what `LinearCrossEntropy` sums.

    Args:
        on_tile: takes (chunk of the positions, tile of the vocabulary, hidden states [N, D] in the dtype of the
            products, logits [N, W] float32, which it must not change), a chunk after the other, all tiles of each.
    """
    device, compute = hidden_SD.device.type, _compute_dtype(hidden_SD)
    chunks = _chunks(len(hidden_SD), KEPT_BYTES // (compute.itemsize * weight_VD.shape[0]))
    rows = max((chunk.stop - chunk.start for chunk in chunks), default=1)
    walk = _walk(weight_VD, bias_V, softcap, factor, compute, rows)
    losses_S = torch.empty(len(hidden_SD), dtype=torch.float32, device=hidden_SD.device)
    with torch.autocast(device, enabled=False):
        for chunk in chunks:
            hidden = hidden_SD[chunk].to(compute)
            seen = partial(on_tile, chunk) if on_tile else None
            normalizer_N, chosen_N = walk.normalize(hidden, targets_S[chunk], None, seen)
            losses_S[chunk] = normalizer_N - chosen_N
    return losses_S


@contextmanager
def tiled_head(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a float32 head on a CPU multiplies by tiles of its vocabulary; for use without gradients.

    For the few rows of a step of generation that takes half as long as one product, which packs all weights anew.
    """
    head: Any = base_layer(model.get_output_embeddings())
    is_own = type(head) is nn.Linear and "forward" not in vars(head)
    if not is_own or (head.weight.device.type, head.weight.dtype) != _SLOW:
        yield
        return

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = rows.new_empty(len(rows), len(head.weight))
        for start in range(0, len(head.weight), TILE):
            tile = slice(start, start + TILE)
            torch.mm(rows, head.weight[tile].T, out=logits[:, tile])
        if head.bias is not None:
            logits += head.bias
        return logits.view(*hidden.shape[:-1], -1)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


class _Walk:
    """One head on a CPU, tile by tile, in buffers that all tiles share."""

    def __init__(
        self,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        factor: float,
        compute: torch.dtype,
        rows: int,
    ) -> None:
        vocabulary, hidden_size = weight_VD.shape
        size = min(TILE, vocabulary)
        self.weight_VD, self.bias_V, self.softcap, self.factor = weight_VD, bias_V, softcap, factor
        self.tiles = [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]
        self.is_cast = {compute, weight_VD.dtype} != {torch.float32}
        self._is_in_place = softcap is None and not self.is_cast  # what is kept of the logits: their exponentials
        self._tops: list[Tensor] = []  # the largest logits [N, 1] of each tile, subtracted before exp
        self._raw = weight_VD.new_empty(rows * size, dtype=compute)  # logits as multiplied, or their gradient
        self._work = weight_VD.new_empty(rows * size, dtype=torch.float32)  # logits, then their exponentials
        self._slope = self._work.new_empty(0 if softcap is None else rows * size)
        self._weight = weight_VD.new_empty(size * hidden_size if compute != weight_VD.dtype else 0, dtype=compute)
        self._product = self._raw.new_empty(max(rows, size) * hidden_size if self.is_cast else 0)

    def room(self, hidden: Tensor, spare_VD: Tensor | None = None) -> list[Tensor]:
        """For what `gradients` needs of N positions, a flat tensor for each tile: in `spare_VD`, or new.

        New ones find place between what the layers keep for their backward pass; one block of them all would come on
        top of it.
        """
        if spare_VD is not None:
            return [spare_VD[tile].view(-1).view(hidden.dtype) for tile in self.tiles]
        return [hidden.new_empty(len(hidden) * (tile.stop - tile.start)) for tile in self.tiles]

    def normalize(
        self,
        hidden: Tensor,
        targets_N: Tensor,
        kept: list[Tensor] | None,
        on_tile: Callable[[slice, Tensor, Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(log Σ exp of the logits [N], the targets' logits [N]); `kept` takes what `gradients` needs."""
        self._tops.clear()
        sums, chosen_N = [], torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        for number, tile in enumerate(self.tiles):
            raw = _shaped(kept[number] if kept else self._raw, (len(hidden), tile.stop - tile.start))
            torch.mm(hidden, self._weights(tile).T, out=raw)
            if self.bias_V is not None:
                raw += self.bias_V[tile].to(raw.dtype)
            logits = self._logits(raw)
            if on_tile:
                on_tile(tile, hidden, logits)
            index, inside = _within(targets_N, tile)
            chosen_N += logits.gather(-1, index).squeeze(-1) * inside
            top = logits.amax(-1, keepdim=True)
            self._tops.append(top)
            sums.append(logits.sub_(top).exp_().sum(-1).log_() + top.squeeze(-1))
        return torch.stack(sums).logsumexp(0), chosen_N

    def gradients(
        self, kept: list[Tensor], normalizer_N: Tensor, targets_N: Tensor, scale: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(tile, its weights [W, D], gradient of the loss by its raw logits [N, W]), of what `normalize` left.

        By a logit: p − [it is the target's].

        Args:
            scale: of the loss, a scalar above 0.
        """
        scale = normalizer_N.new_ones(()) if scale is None else scale
        normalizer_N = normalizer_N - scale.log()
        for tile, top, flat in zip(self.tiles, self._tops, kept, strict=True):
            raw = _shaped(flat, (len(targets_N), tile.stop - tile.start))
            slope = None
            if self._is_in_place:
                part = (top - normalizer_N.unsqueeze(-1)).exp_()
                grad = torch.mul(raw, part, out=_shaped(self._work, raw.shape))
            else:
                logits = self._logits(raw)
                if self.softcap is not None:
                    slope = _shaped(self._slope, logits.shape).copy_(logits)
                    slope.div_(self.softcap).square_().neg_().add_(1.0)
                grad = logits.sub_(normalizer_N.unsqueeze(-1)).exp_()
            index, inside = _within(targets_N, tile)
            grad.scatter_add_(-1, index, (-scale * inside).unsqueeze(-1))
            if slope is not None:
                grad *= slope
            if self.factor != 1.0:
                grad *= self.factor
            yield tile, self._weights(tile), _shaped(self._raw, grad.shape).copy_(grad) if self.is_cast else grad

    def put_product(self, total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
        """total = a @ b, or += after the first; sums of several products are summed in `total`'s dtype."""
        if self.is_cast:
            product = torch.mm(a, b, out=_shaped(self._product, total.shape))
            total.copy_(product) if first else total.add_(product)
        elif first:
            torch.mm(a, b, out=total)
        else:
            total.addmm_(a, b)

    def _weights(self, tile: slice) -> Tensor:
        """[W, D] in the dtype of the products."""
        weight = self.weight_VD[tile]
        return _shaped(self._weight, weight.shape).copy_(weight) if self._weight.numel() else weight

    def _logits(self, raw: Tensor) -> Tensor:
        """[N, W] float32, until the next call."""
        logits = raw if self._is_in_place else _shaped(self._work, raw.shape).copy_(raw)
        if self.factor != 1.0:
            logits *= self.factor
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)


def _walk(
    weight_VD: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    factor: float,
    compute: torch.dtype,
    rows: int,
    *,
    compiled: bool = False,
) -> _Walk | LinearCrossEntropyGpu:
    """The head as its device multiplies it fastest, at most `rows` positions at a time."""
    if _is_tiled(weight_VD.device.type, compiled=compiled):
        return _Walk(weight_VD, bias_V, softcap, factor, compute, rows)
    return LinearCrossEntropyGpu(weight_VD, bias_V, passes(softcap, factor, compiled), compute)


def _is_tiled(device: str, *, compiled: bool) -> bool:
    return device == "cpu" and not compiled


def _compute_dtype(hidden_SD: Tensor) -> torch.dtype:
    """Of the products: autocast's where it is on."""
    device = hidden_SD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype


def _chunks(count: int, most: int, *, first: int = 0) -> list[slice]:
    """Positions in as few chunks as will do: one of up to `first`, then chunks of one size of at most `most`."""
    first = min(first, count)
    rest = count - first
    size = -(-rest // -(-rest // max(1, most))) if rest else 1
    starts = range(first, count, size)
    return [slice(0, first)] * bool(first) + [slice(start, min(start + size, count)) for start in starts]


def _shaped(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of a flat buffer in this shape."""
    return buffer[: math.prod(shape)].view(*shape)


def _within(targets_N: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """(index [N, 1] of each target in the tile, 1.0 where it lies in it [N]): without asking the device."""
    size = tile.stop - tile.start
    index = targets_N - tile.start
    return index.clamp(0, size - 1).unsqueeze(-1), ((index >= 0) & (index < size)).float()
