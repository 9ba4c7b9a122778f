"""Attention over packed rows: several sequences end to end in one row, none sees another.

The function is registered with transformers, under two names, and is used through any of its architectures: a name that
has no entry among the mask functions makes models build no mask, and every extra keyword of ``model(…)`` arrives here.
Sliding windows, soft-caps and attention sinks come from the layers. Generation never runs under it.

Legend: H heads, K key/value heads, T positions of the row, S positions of one sequence, D head size.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from seodang.model.engine.attention_kernels import choose_kernel, hardware_of, product_dtype, run_kernel
from seodang.model.engine.layers.sequence_attention import attend, can_attend

# Names that hold no "sdpa": Gemma 2 refuses those that do.
PACKED = "seodang_packed"  # one kernel for the row where there is one, else as EACH
APART = "seodang_apart"  # the same, and layers are compiled up to it and from it on
EACH = "seodang_each"  # sequence by sequence: what a kernel must equal


class Lengths:
    """Of the sequences in a row.

    No tuple, whose numbers torch's compiler would take for constants, and compile anew for every row.
    """

    def __init__(self, each: Iterable[int], *, longest: int | None = None) -> None:
        self.each = tuple(each)
        self.total = sum(self.each)
        self.longest = max(self.each) if longest is None else longest  # or more


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernels: bool = True,
    seq_lens: Lengths | None = None,
    seq_bounds: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sequence to itself.

    Args:
        query: [1, H, T, D]; key, value: [1, K, T, D].
        kernels: take a kernel that attends over the whole row, where the device has one that fits the layer.
        seq_lens: of the sequences in the row; they sum to T.
        seq_bounds: where they begin and end, int32 [sequences + 1], on the device.
        sliding_window: a position sees itself and the `sliding_window` − 1 before it.

    Returns:
        [1, T, H, D], and no weights.

    Raises:
        AssertionError: called without lengths: the row's sequences would see each other.
    """
    if seq_lens is None or seq_bounds is None:
        raise AssertionError("packed attention was called without the lengths of the sequences")
    if query.shape[0] != 1 or seq_lens.total != query.shape[2]:
        raise AssertionError(f"sequences of {seq_lens.total} positions in rows of shape {tuple(query.shape)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = product_dtype(query)
    kernel = choose_kernel(
        hardware_of(query.device),
        dtype=dtype,
        head_size=query.shape[-1],
        value_size=value.shape[-1],
        softcap=softcap,
        sinks=s_aux is not None,
        dropout=dropout,
    )
    if not kernels or kernel is None:
        return _each(query, key, value, seq_lens, scale, dropout, sliding_window, softcap, s_aux), None
    q, k, v = (states.to(dtype) for states in (query, key, value))
    row = (q, k, v, seq_bounds, seq_lens.longest)
    return run_kernel(kernel, *row, scale=scale, window=sliding_window, softcap=softcap, dropout=dropout), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # layers are compiled around it: lengths differ from row to row
def _each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seq_lens: Lengths,
    scale: float,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    """One sequence after another, on any device: [1, T, H, D]."""
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise AssertionError("packed rows go sequence by sequence, by lengths that differ from pack to pack")
    plain = softcap is None and s_aux is None
    is_whole = not (sliding_window and sliding_window < seq_lens.longest) and all(seq_lens.each)
    if plain and not dropout and is_whole and can_attend(query, key, value):
        return attend(query, key, value, seq_lens.each, scale)
    outputs = []
    for q, k, v in zip(*(torch.split(states, list(seq_lens.each), 2) for states in (query, key, value)), strict=True):
        window = sliding_window if sliding_window and sliding_window < q.shape[2] else None
        if plain and window is None:
            out = F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            out = torch.cat([_block(*part, scale, softcap, s_aux, dropout) for part in _blocks(q, k, v, window)], dim=2)
        outputs.append(out)
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _blocks(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Query blocks with the keys they may see, and the mask [S_q, S_k] of the block (True: may be seen).

    Blocks of a window's length see the previous block and their own::

        keys   0 1 2 3 4 5      window 2: block {2, 3} sees 1..3
        q 2      x x
        q 3        x x
    """
    length = q.shape[2]
    size = window or length
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = max(0, start - size + 1) if window else 0
        distance = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(first, stop, device=q.device)
        seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        yield q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], seen


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float,
) -> Tensor:
    """One block under a mask: soft-caps and sinks written out, since no fused kernel takes them."""
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:  # one more column that takes probability and gives nothing
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1).to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return F.dropout(weights, dropout) @ v


AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(APART, torch.compiler.disable(packed_attention))
AttentionInterface.register(EACH, partial(packed_attention, kernels=False))


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """The model under another attention function, and back."""
    before = model.config._attn_implementation
    if before == name:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
