"""The loss of one pack: the sum of −log p over its supervised positions, and nothing computed elsewhere.

Legend: T positions, S supervised positions, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang.model.head import HeadLoss, Scratch
from seodang.model.token_rows import TokenRows
from seodang.types import IGNORED, Pack


def own_head_loss(
    model: PreTrainedModel, pack: Pack, scratch: Scratch | None = None, rows: TokenRows | None = None
) -> Tensor:
    """Sum of −log p over the pack's supervised positions, in nats: a float32 scalar.

    The head is computed here, from the hidden states and the output embeddings.

    Args:
        scratch: keeps the head's buffers; the weights' gradient then goes straight into `.grad`.
        rows: of the head, that an adapter trains, held in its table.
    """
    supervised, targets_S = supervised_targets(pack, model.device)
    output: Any = model.base_model(**inputs(pack, model.device))
    hidden_SD = output.last_hidden_state[0].index_select(0, supervised)
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    head_loss: Callable[..., Tensor] = HeadLoss.apply
    bias = getattr(head, "bias", None)
    if rows:
        rows.put()
    weight_VD = rows.table_VD if rows else head.weight
    scratch = scratch if weight_VD.is_leaf else None  # of an adapter's own making: autograd has to pass it on
    settings = (*_scaling(config), torch.is_grad_enabled(), scratch)
    return head_loss(hidden_SD, weight_VD, bias, targets_S, *settings, rows.rows_RD if rows else None, rows)


def model_head_loss(model: PreTrainedModel, pack: Pack, forward: Callable[..., Any]) -> Tensor:
    """The same by the model's own forward and its `logits_to_keep`: for heads that do more than we know."""
    supervised, targets_S = supervised_targets(pack, model.device)
    output = forward(**inputs(pack, model.device), logits_to_keep=supervised)
    return F.cross_entropy(output.logits[0].float(), targets_S, reduction="sum")


def inputs(pack: Pack, device: torch.device) -> dict[str, Any]:
    """What a model takes of a pack: ids and positions [1, T], and the lengths for the packed attention.

    Lengths are told as numbers of the host and as a tensor, once a pack: no layer waits for the device.
    """
    return {
        "input_ids": _on(device, pack.input_ids).unsqueeze(0),
        "position_ids": _on(device, pack.position_ids).unsqueeze(0),
        "seq_lens": tuple(int(n) for n in np.diff(pack.cu_seqlens)),
        "seq_bounds": _on(device, pack.cu_seqlens),  # layers that keep a state refuse `cu_seqlens` without a package
        "use_cache": False,
    }


def supervised_targets(pack: Pack, device: torch.device) -> tuple[Tensor, Tensor]:
    """(positions [S], targets [S]), found on the host: no synchronisation with the device."""
    supervised = np.flatnonzero(pack.targets != IGNORED)
    return _on(device, supervised), _on(device, pack.targets[supervised])


def _on(device: torch.device, array: NDArray[np.signedinteger]) -> Tensor:
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
