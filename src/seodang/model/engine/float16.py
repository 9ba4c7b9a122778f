"""Whether a model can be trained with float16 products: tried on its own rows, against float32.

For GPUs that multiply float16 fast and bf16 not at all. Weights, norms and what layers add to (the residual stream)
stay float32 under autocast; what products take and give is float16. float16 ends at 65,504 and has nothing below 6e-8:
a loss is multiplied before its backward pass (P. Micikevicius et al., Mixed Precision Training, 2018), and a model
whose products give larger numbers cannot use it. None is known by name here.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine.attention import PACKED, attention
from seodang.model.engine.loss import PackTensors, linear_cross_entropy_loss, logits_loss, on_device
from seodang.model.engine.self_test import embedded

LARGEST = 65_504  # of float16
MARGIN = 2.0  # that other rows and trained weights may need beyond the rows that are tried
FIRST_SCALE = 2.0**16  # of the loss; a power of two changes no digit
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-2, 5e-2  # relative; measured: gradients 0.3 to 0.9 %, in bf16 3 to 6 %
_ROWS, _POSITIONS = 2, 512  # that are tried


@dataclass(kw_only=True)
class _Pass:
    """One forward and backward pass."""

    loss: float = 0.0  # mean, nats per supervised token
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))  # by the embeddings, float32 [1, T, D]
    largest: float = 0.0  # absolute float16 number that a layer took or gave


def float16_objection(
    model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], *, packed: bool, linear_cross_entropy: bool
) -> str | None:
    """Why passes that train should not multiply in float16, as part of a sentence; none: they may.

    Args:
        packed, linear_cross_entropy: as in the engine that will train.
    """
    few = [row[:_POSITIONS] for row in rows[:_ROWS]]
    if not packed:
        few = few[:1]
    (joined,) = pack(few, few, budget=sum(row.size for row in few) if packed else 0)
    tensors = on_device(joined, model.device)
    try:
        with attention(model, PACKED if packed else model.config._attn_implementation):
            exact = _run(model, tensors, linear_cross_entropy, scale=1.0, dtype=None)
            found = _run_scaled(model, tensors, linear_cross_entropy)
    except (RuntimeError, TypeError, ValueError) as error:  # a product that this device does not have
        return f"a pass does not run ({str(error).splitlines()[0][:100]})"
    return _objection(exact, found)


def float16_remark(objection: str | None) -> str:
    """What the trial found, for people."""
    why = f"is not used, training is slower: {objection}" if objection else "agrees with float32 on your rows"
    return f"float16 for the products of training {why}"


def _objection(exact: _Pass, found: _Pass) -> str | None:
    if found.largest * MARGIN > LARGEST:
        size = f"reach {found.largest:,.0f}" if math.isfinite(found.largest) else "overflow"
        return f"products on your rows {size}; float16 holds at most {LARGEST:,}"
    loss = abs(found.loss - exact.loss) / max(abs(exact.loss), 1e-12)
    if not loss <= LOSS_TOLERANCE:
        return f"the loss on your rows is {found.loss:.4f} instead of {exact.loss:.4f}"
    gradient = _median_error(exact.gradient, found.gradient)
    if not gradient <= GRADIENT_TOLERANCE:
        return f"gradients on your rows differ by {gradient:.0%}" if math.isfinite(gradient) else "gradients overflow"
    return None


def _median_error(exact: Tensor, found: Tensor) -> float:
    """Relative error at the median position: one that all others attend to is sensitive to any rounding, bf16's too."""
    expected_T = exact.norm(dim=-1).flatten()
    errors_T = (found - exact).norm(dim=-1).flatten() / expected_T
    return float(errors_T[expected_T > 0].median())


def _run_scaled(model: PreTrainedModel, tensors: PackTensors, linear_cross_entropy: bool) -> _Pass:
    """With float16 products, under the largest scale whose gradients are finite, as training finds it."""
    scale = FIRST_SCALE
    while True:
        found = _run(model, tensors, linear_cross_entropy, scale=scale, dtype=torch.float16)
        if scale <= 1.0 or not math.isfinite(found.loss) or bool(found.gradient.isfinite().all()):
            return found
        scale /= 16


def _run(
    model: PreTrainedModel,
    tensors: PackTensors,
    linear_cross_entropy: bool,
    *,
    scale: float,
    dtype: torch.dtype | None,
) -> _Pass:
    found = _Pass()
    with torch.enable_grad(), _watched(model, found) as leaves:
        with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            head = linear_cross_entropy_loss if linear_cross_entropy else _by_logits
            loss: Tensor = head(model, tensors) / max(1, len(tensors.targets))
        (gradient,) = torch.autograd.grad(loss * scale, leaves)
    found.loss, found.gradient = float(loss.detach()), gradient.float() / scale
    return found


def _by_logits(model: PreTrainedModel, tensors: PackTensors) -> Tensor:
    return logits_loss(model, tensors, model.forward)


@contextmanager
def _watched(model: PreTrainedModel, found: _Pass) -> Iterator[list[Tensor]]:
    """Inside, the largest float16 number is noted; yields the embeddings, which gradients flow back to."""

    def note(module: torch.nn.Module, given: tuple[Any, ...], output: Any) -> None:
        for tensor in (*given, output):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float16 and tensor.numel():
                largest = float(tensor.detach().abs().max())
                found.largest = max(found.largest, math.inf if math.isnan(largest) else largest)

    embedding = model.get_input_embeddings()
    layers = [module for module in model.modules() if not any(module.children()) and module is not embedding]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with embedded(model) as leaves:
            yield leaves
    finally:
        for hook in hooks:
            hook.remove()
