"""The loss of one pack: the sum of −log p over its supervised positions, and nothing computed elsewhere.

Logits exist only where a target is, a chunk of positions at a time, so that memory does not grow with the
vocabulary times the row. The gradient of the head is computed in the forward pass, while a chunk's probabilities
are at hand: three products a position, none repeated.

Legend: T positions, S supervised positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang.types import IGNORED, Pack

CHUNK_BYTES = 256 * 2**20  # of float32 logits held at a time (and as much of their probabilities)


def own_head_loss(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Sum of −log p over the pack's supervised positions, in nats: a float32 scalar.

    The head is computed here, from the hidden states and the output embeddings.
    """
    supervised, targets_S = supervised_targets(pack, model.device)
    output: Any = model.base_model(**inputs(pack, model.device))
    hidden_SD = output.last_hidden_state[0].index_select(0, supervised)
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    head_loss: Callable[..., Tensor] = _HeadLoss.apply
    bias = getattr(head, "bias", None)
    return head_loss(hidden_SD, head.weight, bias, targets_S, *_scaling(config), torch.is_grad_enabled())


def model_head_loss(model: PreTrainedModel, pack: Pack, forward: Callable[..., Any]) -> Tensor:
    """The same by the model's own forward and its `logits_to_keep`: for heads that do more than we know."""
    supervised, targets_S = supervised_targets(pack, model.device)
    output = forward(**inputs(pack, model.device), logits_to_keep=supervised)
    return F.cross_entropy(output.logits[0].float(), targets_S, reduction="sum")


def inputs(pack: Pack, device: torch.device) -> dict[str, Any]:
    """What a model takes of a pack: ids and positions [1, T], and the lengths for the packed attention."""
    return {
        "input_ids": _on(device, pack.input_ids).unsqueeze(0),
        "position_ids": _on(device, pack.position_ids).unsqueeze(0),
        "seq_lens": tuple(int(n) for n in np.diff(pack.cu_seqlens)),
        "use_cache": False,
    }


def supervised_targets(pack: Pack, device: torch.device) -> tuple[Tensor, Tensor]:
    """(positions [S], targets [S]), found on the host: no synchronisation with the device."""
    supervised = np.flatnonzero(pack.targets != IGNORED)
    return _on(device, supervised), _on(device, pack.targets[supervised])


def _on(device: torch.device, array: NDArray[np.int64]) -> Tensor:
    """An array on the device; on CUDA by way of pinned memory, since a copy from any other waits for the GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _scaling(config: Any) -> tuple[float | None, float]:
    """(soft-cap, factor) of the logits, as the architectures name them."""
    softcap = getattr(config, "final_logit_softcapping", None)
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        return softcap, 1.0 / divisor
    return softcap, float(getattr(config, "logit_scale", None) or 1.0)  # Cohere


class _HeadLoss(torch.autograd.Function):
    """Head and cross entropy in one, gradients taken in the forward pass."""

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
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = (wants_grad and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden_SD) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_VD) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V) if wants_bias and bias_V is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        rows = max(1, CHUNK_BYTES // (4 * weight_VD.shape[0]))
        compute = (
            torch.get_autocast_dtype(hidden_SD.device.type)
            if torch.is_autocast_enabled(hidden_SD.device.type)
            else hidden_SD.dtype
        )
        weight = weight_VD.to(compute)
        for start in range(0, hidden_SD.shape[0], rows):
            chunk = slice(start, start + rows)
            hidden = hidden_SD[chunk].to(compute)
            with torch.autocast(hidden.device.type, enabled=False):
                raw = F.linear(hidden, weight, None if bias_V is None else bias_V.to(compute)).float()
                loss, grad = _cross_entropy(raw, targets_S[chunk], softcap, factor, wants_grad)
                total += loss
                if grad is not None:
                    grad = grad.to(compute)
                    if grad_hidden is not None:
                        grad_hidden[chunk] = (grad @ weight).to(grad_hidden.dtype)
                    if grad_weight is not None:
                        _accumulate(grad_weight, grad, hidden)
                    if grad_bias is not None:
                        grad_bias += grad.sum(0).to(grad_bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        scaled = [None if saved is None else saved.mul_(grad.to(saved.dtype)) for saved in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


def _accumulate(grad_weight: Tensor, grad: Tensor, hidden: Tensor) -> None:
    if grad_weight.dtype == grad.dtype:
        grad_weight.addmm_(grad.T, hidden)
    else:
        grad_weight += (grad.T @ hidden).to(grad_weight.dtype)


def _cross_entropy(
    raw: Tensor, targets: Tensor, softcap: float | None, factor: float, wants_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Summed loss of float32 logits [n, V], and its gradient by them; `raw` is used up.

    logits = softcap · tanh(raw · factor / softcap); without a soft-cap, raw · factor.
    """
    if factor != 1.0:
        raw *= factor
    if softcap is not None:
        raw.div_(softcap).tanh_()
    logits = raw if softcap is None else raw * softcap
    logp = torch.log_softmax(logits, dim=-1)  # one pass over memory: a row stays in the cache
    chosen = targets.unsqueeze(-1)
    loss = -logp.gather(-1, chosen).sum()
    if not wants_grad:
        return loss, None
    grad = logp.exp_()
    grad.scatter_add_(-1, chosen, grad.new_full(chosen.shape, -1.0))
    if softcap is not None:
        grad.mul_(1.0 - raw.square())
    if factor != 1.0:
        grad *= factor
    return loss, grad
