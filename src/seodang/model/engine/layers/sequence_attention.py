"""Causal attention of the sequences of a row on a CPU, one after another, kept for the backward pass once.

Written out, each sequence's output is kept by attention, and all of them end to end by the product that follows; the
gradients of the parts are copied several times to be put together.

Legend: H heads, K key/value heads, T positions of the row, S positions of one sequence, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"  # what scaled_dot_product_attention runs there


def can_attend(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch's attention for a CPU takes these, which it does not check itself, and gradients are wanted."""
    is_there = hasattr(torch.ops.aten, _FORWARD) and hasattr(torch.ops.aten, f"{_FORWARD}_backward")
    sizes = {states.shape[-1] for states in (query, key, value)}
    return (
        is_there
        and query.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and len(sizes) == 1
        and query.shape[1] % key.shape[1] == 0
        and key.shape[1] == value.shape[1]
        and query.dtype == key.dtype == value.dtype
        and all(states.stride(-1) == 1 for states in (query, key, value))
    )


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """[1, T, H, D], contiguous.

    Args:
        query: [1, H, T, D]; key, value: [1, K, T, D].
        lengths: of the sequences, none of 0; they sum to T.
    """
    compute: Callable[..., Tensor] = SequenceAttention.apply
    return compute(query, key, value, tuple(lengths), scale)


class SequenceAttention(torch.autograd.Function):
    """Keeps queries, keys, values and the output of a row.

    Gradients of key heads that are fewer than the threads are taken for each query head, and summed.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
        run = getattr(torch.ops.aten, _FORWARD)
        heads, positions, size = query.shape[1:]
        out = query.new_empty(1, positions, heads, size)
        normalizers = []
        for q, k, v, o in _sequences(lengths, query, key, value, out.transpose(1, 2)):
            attended, normalizer = run(q, k, v, 0.0, True, scale=scale)
            o.copy_(attended)
            normalizers.append(normalizer)
        ctx.lengths, ctx.scale = lengths, scale
        ctx.save_for_backward(query, key, value, out, *normalizers)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *normalizers = ctx.saved_tensors
        run = getattr(torch.ops.aten, f"{_FORWARD}_backward")
        found = [torch.empty_like(states) for states in (query, key, value)]
        grad, out = grads[0].transpose(1, 2), out.transpose(1, 2)
        if key.shape[1] < torch.get_num_threads():  # torch gives each thread whole key heads
            key, value = (_for_each_head(states, query.shape[1]) for states in (key, value))
        parts = _sequences(ctx.lengths, grad, query, key, value, out, *found)
        for (g, q, k, v, o, *into), normalizer in zip(parts, normalizers, strict=True):
            gradients = run(g, q, k, v, o, normalizer, 0.0, True, scale=ctx.scale)
            for part, gradient in zip(into, gradients, strict=True):
                part.copy_(_of_shared_heads(gradient, part.shape[1]))
        return *found, None, None


def _for_each_head(states: Tensor, heads: int) -> Tensor:
    """[1, K, T, D] → [1, H, T, D]; of a single head, a view."""
    return states.unsqueeze(2).expand(-1, -1, heads // states.shape[1], -1, -1).flatten(1, 2)


def _of_shared_heads(gradient: Tensor, heads: int) -> Tensor:
    """Of states that several heads share, [1, H or K, S, D] → [1, K, S, D]."""
    if gradient.shape[1] == heads:
        return gradient
    return gradient.view(1, heads, -1, *gradient.shape[2:]).sum(2)


def _sequences(lengths: Sequence[int], *states: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each sequence's part of [1, heads, T, D]."""
    return zip(*(torch.split(one, list(lengths), 2) for one in states), strict=True)
