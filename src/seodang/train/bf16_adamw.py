"""AdamW over bf16 weights with bf16 states: 8 bytes for each trained parameter and its gradient, where AdamW takes 16.

Weights that a model keeps in float32 stay there, with their states.

bf16 holds 8 significant bits. An update of a weight is mostly smaller than the last of them, and so is what a step adds
to the mean of squared gradients: rounded to the nearest value, both would stay where they are. They are rounded
stochastically instead, up with the probability of what lies above: right on average, whatever is added.
Zamirai et al. 2020, "Revisiting BFloat16 Training", https://arxiv.org/abs/2010.06192
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**24  # elements at a time where nothing is compiled: float32 copies of them are made
_SPREAD, _FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


class Bf16AdamW(torch.optim.Optimizer):
    """AdamW as `torch.optim.AdamW` defines it, computed in float32, its weights and states kept in bf16.

    The noise that rounds follows from the step, the weight's number and the element's: a resumed run rounds as the
    unbroken one.

    Raises:
        ValueError: a weight that is neither bf16 nor float32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dtype not in (torch.bfloat16, torch.float32):
                    raise ValueError(f"a weight in {weight.dtype}; this optimizer is for bfloat16")
        self._is_compiled = True  # on a GPU, unless that turns out not to work

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            for weight in group["params"]:
                number += 1
                if weight.grad is not None:
                    self._update(weight, weight.grad, group, number)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[weight]
        if not state:
            flat = torch.contiguous_format
            zeros = [torch.zeros_like(weight, memory_format=flat) for _ in range(2)]
            state.update(step=0, exp_avg=zeros[0], exp_avg_sq=zeros[1])
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        seed = _signed(step * _FIRST + number * _SECOND)
        arguments = dict[str, Any](
            rate=torch.tensor(float(group["lr"]) / (1 - beta1**step)),
            correction=torch.tensor(1 / math.sqrt(1 - beta2**step)),
            decay=torch.tensor(1 - float(group["lr"]) * group["weight_decay"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
        )
        held = weight.contiguous()  # the weight itself, where it lies in one piece
        tensors = [held, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"]]
        self._apply([tensor.view(-1) for tensor in tensors], seed, arguments)
        if held.data_ptr() != weight.data_ptr():
            weight.copy_(held)

    def _apply(self, tensors: list[Tensor], seed: int, arguments: dict[str, Any]) -> None:
        """`update`, in one kernel on a GPU, elsewhere a chunk after another."""
        if tensors[0].is_cuda and self._is_compiled:
            try:
                _compiled()(*tensors, torch.tensor(seed, dtype=torch.int32), **arguments)
                return
            except Exception:  # no compiler, no Triton: each raises its own, before anything is written
                self._is_compiled = False
        for start in range(0, len(tensors[0]), CHUNK):
            weight, gradient, mean, square = (tensor[start : start + CHUNK] for tensor in tensors)
            seed_of_part = torch.tensor(_signed(seed + start * _SPREAD), dtype=torch.int32)
            update(weight, gradient, mean, square, seed_of_part, **arguments)


def update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    seed: Tensor,
    rate: Tensor,
    correction: Tensor,
    decay: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step over flat tensors, in place.

    Args:
        weight, gradient, mean, square: bf16 [N]; the moments of the gradient are the optimizer's state. All of them in
            float32: nothing is rounded.
        seed: int32 scalar, of the noise.
        rate: learning rate over 1 − beta1^step, a float32 scalar.
        correction: 1 / √(1 − beta2^step).
        decay: 1 − learning rate · weight decay.
    """
    grad = gradient.float()
    new_mean = mean.float() * beta1 + grad * (1 - beta1)
    new_square = square.float() * beta2 + grad * grad * (1 - beta2)
    new_weight = weight.float() * decay - rate * new_mean / (new_square.sqrt() * correction + eps)
    mean.copy_(new_mean)
    if weight.dtype == torch.float32:
        square.copy_(new_square)
        weight.copy_(new_weight)
        return
    bits = noise(torch.arange(weight.numel(), dtype=torch.int32, device=weight.device), seed)
    square.copy_(round_by(new_square, bits >> 16))
    weight.copy_(round_by(new_weight, bits))


def noise(numbers: Tensor, seed: Tensor) -> Tensor:
    """32 bits for each number, int32: the finalizer of MurmurHash3 (Appleby, public domain)."""
    bits = numbers * _signed(_SPREAD) + seed
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * _signed(_FIRST)
    bits = (bits ^ ((bits >> 13) & 0x7FFFF)) * _signed(_SECOND)
    return bits ^ ((bits >> 16) & 0xFFFF)


def round_by(value: Tensor, bits: Tensor) -> Tensor:
    """float32 → one of its two neighbours in bf16, the one farther from 0 where the lower 16 of `bits` carry over.

    NaN and infinity stay what they are: their bits would carry into the sign.
    """
    carried = (value.view(torch.int32) + (bits & 0xFFFF)) & -65536
    return torch.where(value.isfinite(), carried.view(torch.float32), value).to(torch.bfloat16)


def _signed(number: int) -> int:
    """The 32-bit integer of the same bits."""
    return (number + 2**31) % 2**32 - 2**31


@cache
def _compiled() -> Callable[..., None]:
    """One kernel for weights of any size."""
    return torch.compile(update, dynamic=True)
