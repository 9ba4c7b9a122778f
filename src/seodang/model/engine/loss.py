"""The loss of one pack: the sum of −log p over its supervised positions, and nothing computed elsewhere.

Legend: T positions, S supervised positions, D hidden size.
"""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from seodang.model.engine.attention import Lengths
from seodang.model.engine.head_gradient import GradientPlaces, Scratch
from seodang.model.engine.linear_cross_entropy import LinearCrossEntropy, OnTile, target_losses
from seodang.model.engine.trainable_tokens import TrainableTokens
from seodang.types import IGNORED, Pack


class PackTensors(NamedTuple):
    """A pack on the device."""

    input_ids: Tensor  # int64 [1, T]
    position_ids: Tensor  # int64 [1, T]
    seq_bounds: Tensor  # int32 [sequences + 1]
    supervised: Tensor  # int64 [S], positions
    targets: Tensor  # int64 [S]; below 0: this one does not count
    seq_lens: Lengths  # on the host too: no layer waits for the device

    def inputs_of(self, forward: Callable[..., Any], **more: Tensor) -> dict[str, Any]:
        """What a model's forward takes of it, and of `more`.

        `seq_bounds` is no `cu_seqlens`: layers that keep a state refuse that name without a package. Code that comes
        with a model may take named arguments alone; it is given none of the two, and one sequence a row.
        """
        names = ("input_ids", "position_ids", "seq_lens", "seq_bounds")
        given = {name: getattr(self, name) for name in names} | {"use_cache": False} | more
        taken = signature(forward).parameters
        takes_any = any(one.kind is Parameter.VAR_KEYWORD for one in taken.values())
        return given if takes_any else {name: value for name, value in given.items() if name in taken}


def on_device(pack: Pack, device: torch.device) -> PackTensors:
    """Supervised positions are found on the host: no synchronisation with the device."""
    supervised = np.flatnonzero(pack.targets != IGNORED)
    return PackTensors(
        input_ids=to_device(pack.input_ids, device).unsqueeze(0),
        position_ids=to_device(pack.position_ids, device).unsqueeze(0),
        seq_bounds=to_device(pack.cu_seqlens, device),
        supervised=to_device(supervised, device),
        targets=to_device(pack.targets[supervised], device),
        seq_lens=Lengths(int(n) for n in np.diff(pack.cu_seqlens)),
    )


def linear_cross_entropy_loss(
    model: PreTrainedModel,
    tensors: PackTensors,
    scratch: Scratch | None = None,
    rows: TrainableTokens | None = None,
    *,
    compiled: bool = False,
    places: GradientPlaces | None = None,
) -> Tensor:
    """Sum of −log p over the pack's supervised positions, in nats: a float32 scalar.

    The head is computed here, from the hidden states and the output embeddings.

    Args:
        scratch: keeps the head's buffers; the weights' gradient then goes straight into `.grad`.
        rows: of the head, that an adapter trains, held in its table.
        compiled: the head's passes over its logits are compiled.
        places: the head's gradient goes straight there.
    """
    head = _Head.of(model, tensors, rows)
    head_loss: Callable[..., Tensor] = LinearCrossEntropy.apply
    scratch = scratch if head.weight_VD.is_leaf else None  # of an adapter's own making: autograd has to pass it on
    settings = (head.softcap, head.factor, torch.is_grad_enabled(), scratch)
    trained = (rows.rows_RD if rows else None, rows)
    how = (*settings, *trained, compiled, places)
    return head_loss(head.hidden_SD, head.weight_VD, head.bias_V, tensors.targets, *how)


class TokenLosses(NamedTuple):
    """What `model(pack=PACK, per_token=True)` gives, in the order of the pack's supervised positions."""

    losses_S: Tensor  # float32, −log p in nats
    hidden_SD: Tensor | None  # that went into the head; none where the model computed its own logits


@torch.no_grad()
def linear_cross_entropy_tokens(
    model: PreTrainedModel, tensors: PackTensors, rows: TrainableTokens | None = None, on_tile: OnTile | None = None
) -> TokenLosses:
    """−log p of each supervised position, the head computed here.

    Args:
        on_tile: as in `target_losses`.
    """
    head = _Head.of(model, tensors, rows)
    weights = (head.weight_VD, head.bias_V)
    losses_S = target_losses(head.hidden_SD, *weights, tensors.targets, head.softcap, head.factor, on_tile)
    return TokenLosses(losses_S=losses_S, hidden_SD=head.hidden_SD)


@torch.no_grad()
def logits_tokens(tensors: PackTensors, forward: Callable[..., Any]) -> TokenLosses:
    """The same by the model's own forward."""
    output = forward(**tensors.inputs_of(forward, logits_to_keep=tensors.supervised))
    logits_SV = _supervised_logits(output, tensors)
    losses_S = F.cross_entropy(logits_SV.float(), tensors.targets, reduction="none")
    return TokenLosses(losses_S=losses_S, hidden_SD=None)


class _Head(NamedTuple):
    """What goes into an output head, and the head itself."""

    hidden_SD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    factor: float

    @classmethod
    def of(cls, model: PreTrainedModel, tensors: PackTensors, rows: TrainableTokens | None) -> "_Head":
        """Run the model's body over a pack."""
        output: Any = model.base_model(**tensors.inputs_of(model.base_model.forward))
        hidden_SD = output.last_hidden_state[0].index_select(0, tensors.supervised)
        head = model.get_output_embeddings()
        if rows:
            rows.put()
        weight_VD = rows.table_VD if rows else head.weight
        scaling = head_scaling(model)
        return cls(hidden_SD, weight_VD, getattr(head, "bias", None), *scaling)


def logits_loss(model: PreTrainedModel, tensors: PackTensors, forward: Callable[..., Any]) -> Tensor:
    """The same by the model's own forward and its `logits_to_keep`: for heads that do more than we know.

    In training, a mixture of experts whose configuration asks for it adds its router's loss, for each supervised token.
    """
    output = forward(**tensors.inputs_of(forward, logits_to_keep=tensors.supervised))
    loss = F.cross_entropy(_supervised_logits(output, tensors).float(), tensors.targets, reduction="sum")
    router_loss = getattr(output, "aux_loss", None)
    if model.training and router_loss is not None and has_router_loss(model):
        coefficient: float = model.config.get_text_config().router_aux_loss_coef
        loss = loss + coefficient * router_loss * len(tensors.targets)
    return loss


def _supervised_logits(output: Any, tensors: PackTensors) -> Tensor:
    """[S, V]; a model that knows no `logits_to_keep` gives those of all positions."""
    logits: Tensor = output.logits[0]
    is_kept = len(logits) == len(tensors.supervised)
    return logits if is_kept else logits.index_select(0, tensors.supervised)


def has_router_loss(model: PreTrainedModel) -> bool:
    """Whether the model's own loss holds its router's, which balances the experts."""
    config = model.config.get_text_config()
    return bool(getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0))


def to_device(array: NDArray[np.signedinteger], device: torch.device) -> Tensor:
    """An array on the device, without waiting for it."""
    return on_host(array, device).to(device, non_blocking=True)


def on_host(array: NDArray[np.signedinteger], device: torch.device) -> Tensor:
    """An array as a tensor; for CUDA in pinned memory, since a copy from any other waits for the GPU."""
    tensor = torch.from_numpy(array)
    has_data = not isinstance(tensor, FakeTensor)  # of a memory estimate
    return tensor.pin_memory() if device.type == "cuda" and has_data else tensor


def head_scaling(model: PreTrainedModel) -> tuple[float | None, float]:
    """(soft-cap, factor) of the logits, as the architectures name them."""
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        return softcap, 1.0 / divisor
    return softcap, float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
