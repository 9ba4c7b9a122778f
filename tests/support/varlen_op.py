"""torch's attention over packed rows as an operator of a CPU: what a GPU's kernel computes, opaque to the compiler."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def _weights(q: Tensor, k: Tensor, scale: float, left: int) -> Tensor:
    """[H, S, S] of one sequence: a query sees `left` keys before its own (−1: all)."""
    distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
    hidden = (distance < 0) | ((left >= 0) & (distance > left))
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * scale
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


@torch.library.custom_op("seodang_tests::varlen", mutates_args={})
def varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, scale: float, left: int) -> Tensor:
    """[T, H, D] of q [T, H, D] and k, v [T, K, D]."""
    groups, out = q.shape[1] // k.shape[1], torch.zeros_like(q)
    for start, stop in pairwise(cu_seqlens.tolist()):
        part = slice(start, stop)
        key, value = (states[part].repeat_interleave(groups, 1).float() for states in (k, v))
        weights = _weights(q[part].float(), key, scale, left)
        out[part] = (weights @ value.transpose(0, 1)).transpose(0, 1).to(q.dtype)
    return out


@torch.library.custom_op("seodang_tests::varlen_backward", mutates_args={})
def varlen_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    groups = q.shape[1] // k.shape[1]
    found = [torch.zeros_like(states, dtype=torch.float32) for states in (q, k, v)]
    for start, stop in pairwise(cu_seqlens.tolist()):
        part = slice(start, stop)
        query, up = q[part].float(), grad[part].float().transpose(0, 1)
        key, value = (states[part].repeat_interleave(groups, 1).float() for states in (k, v))
        weights = _weights(query, key, scale, left)
        slope = up @ value.permute(1, 2, 0)
        slope = weights * (slope - (slope * weights).sum(-1, keepdim=True)) * scale
        of_key, of_value = slope.transpose(1, 2) @ query.transpose(0, 1), weights.transpose(1, 2) @ up
        found[0][part] = (slope @ key.transpose(0, 1)).transpose(0, 1)
        for total, each in zip(found[1:], (of_key, of_value), strict=True):
            total[part] = each.transpose(0, 1).reshape(stop - start, k.shape[1], groups, -1).sum(2)
    dq, dk, dv = (total.to(states.dtype) for total, states in zip(found, (q, k, v), strict=True))
    return dq, dk, dv


@varlen.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype)


@varlen_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(states.shape, dtype=states.dtype) for states in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.scale, ctx.left = inputs[5:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*varlen_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.left), None, None, None, None)


varlen.register_autograd(_backward, setup_context=_keep)


def varlen_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """`torch.nn.attention.varlen.varlen_attn` on a CPU."""
    out: Tensor = varlen(q, k, v, cu_q, max_q, scale, window_size[0])
    return out
