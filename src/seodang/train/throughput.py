"""Throughput of training against the hardware limit: operations at the matrix rate, bytes at the memory rate, added up.

An example of S positions, A of them supervised, takes 6·N·S + 6·H·A + 6·L·n_h·d_h·S² floating point operations: N
weights of the body's matrices, H of the head, L layers of n_h heads of size d_h; 2 of each 6 in the forward pass, 2 for
the gradients of what goes in, 2 for those of the weights. Frozen weights need no gradient of their own: 4. Attention is
causal, windows are counted as whole. Of mixtures of experts, those that a token takes count.

The bytes are those that no product can move while it computes: between the last gradient and the next step, each
trained weight's gradient is read for the norm that clips all of them, and AdamW reads the gradient and reads and writes
the weight and two moments: 8 passes, 32 bytes in float32. Where products take another dtype, each weight's copy in it
is written. What a product reads and writes itself is in its measured rate; activations between two products can be
computed on their way out of one and into the next, so that they are not counted.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from seodang.model.engine.trainable_tokens import base_layer
from seodang.model.load import is_quantized
from seodang.run.events import Event, SpeedEvent, TrainEvent
from seodang.types import IGNORED, Pack

OPTIMIZER_PASSES = 8  # over a tensor of each trained weight's size: clipping reads 1, AdamW reads 4 and writes 3
MEMORY_BYTES = {"cpu": 2**27, "cuda": 2**30}  # of each of two tensors, to measure the memory rate: beyond caches
CPU_SIZES, GPU_SIZES = (256, 1024, 2048), (4096, 8192)  # of the square products that are timed
SECONDS_PER_SIZE = 0.3
MAX_PRODUCT_SECONDS = 1.0  # bf16 in software takes a minute for a product of 2048
FIRST_MEASURED, LAST_MEASURED = 2, 4  # training events: the first step warms up


class ThroughputMeter:
    """Watches training events, and reports the throughput once after a few steps."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, *, steps: int) -> None:
        self._model, self._dtype, self._last = model, compute_dtype, min(LAST_MEASURED, steps)
        self._seen: list[TrainEvent] = []
        self._count = 0

    def __call__(self, event: Event) -> SpeedEvent | None:
        """The speed, after the event that completes the measured ones."""
        if not isinstance(event, TrainEvent):
            return None
        self._count += 1
        if self._count >= min(FIRST_MEASURED, self._last):
            self._seen.append(event)
        return self._speed(event.step) if self._count == self._last else None

    def _speed(self, step: int) -> SpeedEvent:
        begun = time.perf_counter()
        share = rate = None
        if not is_quantized(self._model):  # its weights are packed: how many a layer has does not follow from its shape
            device = str(self._model.device)
            try:
                rate = matrix_rate(self._dtype, device)
                optimizer_seconds = optimizer_bytes(self._model, self._dtype) / memory_rate(device)
            except torch.OutOfMemoryError:  # training takes what there is: its share of the limit stays unknown
                rate = None
            else:
                share = statistics.median(
                    (event.flops / rate + event.steps * optimizer_seconds) / event.seconds for event in self._seen
                )
        return SpeedEvent(
            step=step,
            tokens_per_second=round(statistics.median(event.tokens_per_second for event in self._seen), 1),
            limit_share=None if share is None else round(share, 3),
            matrix_gflops=None if rate is None else round(rate / 1e9, 1),
            seconds=round(time.perf_counter() - begun, 4),
        )


def step_flops(model: PreTrainedModel, packs: Sequence[Pack]) -> float:
    """Fewest floating point operations of the packs' forward and backward passes.

    Args:
        model: its shapes count, and which weights are trained; its tensors may be on `meta`.
    """
    config = model.config.get_text_config()
    is_mixed = getattr(config, "is_heterogeneous", False)  # its layers have shapes of their own
    layers = config.per_layer_config if is_mixed else [config] * int(config.num_hidden_layers)
    width = sum(map(_attention_width, layers))
    body, head = _per_position(model)
    positions = sum(pack.input_ids.size for pack in packs)
    supervised = sum(int((pack.targets != IGNORED).sum()) for pack in packs)
    squares = sum(float(np.square(np.diff(pack.cu_seqlens).astype(np.float64)).sum()) for pack in packs)
    attention = 6.0 * width * squares
    return body * positions + head * supervised + attention


def _attention_width(layer: Any) -> int:
    """Hidden size of all heads of a layer; 0 of one that keeps a state, or whose heads are described otherwise."""
    heads = getattr(layer, "num_attention_heads", None)
    if not isinstance(heads, int) or heads < 1:
        return 0
    return int(getattr(layer, "head_dim", None) or layer.hidden_size // heads) * heads


def _per_position(model: PreTrainedModel) -> tuple[float, float]:
    """Operations for one position of the body, and for one supervised position of the head."""
    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = base_layer(model.get_output_embeddings()).weight
    body = 0.0
    for weight in model.get_decoder().parameters():  # without what reads images or speech
        if weight.ndim >= 2 and id(weight) not in embeddings and weight is not head:
            share = chosen / experts if weight.ndim == 3 and experts and chosen else 1.0
            body += (6 if weight.requires_grad else 4) * weight.numel() * share
    return body, (6 if head.requires_grad else 4) * head.numel()


def optimizer_bytes(model: nn.Module, compute_dtype: torch.dtype) -> int:
    """Fewest bytes moved from a step's last gradient to the next step's first product.

    Args:
        model: its tensors may be on `meta`.
        compute_dtype: of the products.
    """
    moved = 0
    for weight in model.parameters():
        if weight.requires_grad:
            is_copied = weight.dtype != compute_dtype and weight.ndim >= 2
            moved += weight.numel() * (OPTIMIZER_PASSES * weight.itemsize + is_copied * compute_dtype.itemsize)
    return moved


def matrix_rate(dtype: torch.dtype = torch.float32, device: str = "cpu", sizes: Sequence[int] = ()) -> float:
    """Operations a second of the best of several large square products, each tried for a third of a second, warmed.

    A size whose product would take more than a second at the rate found so far is left out.
    """
    best = 0.0
    for size in sizes or (CPU_SIZES if device == "cpu" else GPU_SIZES):
        if best and 2 * size**3 / best > MAX_PRODUCT_SECONDS:
            break
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * size**3 / _fastest(partial(torch.mm, a, b), device))
    return best


def memory_rate(device: str = "cpu", num_bytes: int | None = None) -> float:
    """Bytes a second, read and written: the faster of a copy and of a sum in place.

    A CPU reads what a copy is about to overwrite; a sum in place, as in an optimizer, has to read it anyway.

    Args:
        num_bytes: of each of two tensors.
    """
    size = (num_bytes or MEMORY_BYTES["cuda" if device.startswith("cuda") else "cpu"]) // 4
    source, target = (torch.ones(size, device=device) for _ in range(2))  # filled: pages never written cost no reading
    copied = 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)
    return max(copied, 3 * source.nbytes / _fastest(lambda: target.add_(source), device))


def _fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of several runs after one that is not counted."""
    best, begun = float("inf"), 0.0
    for number in range(50):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        end = time.perf_counter()
        begun = begun or end
        if number:
            best = min(best, end - start)
            if end - begun > SECONDS_PER_SIZE:
                break
    return best


def synchronize(device: str) -> None:
    """Wait for all that was given to the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
