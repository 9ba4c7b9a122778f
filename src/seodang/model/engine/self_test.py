"""Whether sequences in one row stay apart on a model: asked of a tiny copy of its architecture, and of itself.

Most architectures of transformers run packed rows exactly; a few are silently wrong (state that leaks from one
sequence into the next, attention chunks that never reach the attention function). None is known by name here.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine.attention import EACH, PACKED, attention
from seodang.model.engine.compile import compiled_layers
from seodang.model.engine.loss import linear_cross_entropy_loss, on_device
from seodang.model.engine.tiny_copy import VOCABULARY, WINDOW, tiny_copies
from seodang.model.quiet import quiet
from seodang.types import Pack

_COPY_ROWS = (3 * WINDOW, 5 * WINDOW, WINDOW + 3)  # positions: several windows, and no multiple of one


def copy_error(model: PreTrainedModel) -> float | None:
    """`packing_error` of a tiny random copy of the architecture, with rows longer than its windows and chunks.

    None: no copy of it can be built that runs.
    """
    draw = np.random.default_rng(0)
    rows = [draw.integers(3, VOCABULARY, length).astype(np.int32) for length in _COPY_ROWS]
    with quiet():
        for copy in tiny_copies(model):
            try:
                return packing_error(copy, rows)
            except Exception:  # a row alone: widths that the architecture cannot have may show only now
                continue
    return None


@torch.no_grad()
def packing_error(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]]) -> float:
    """Largest difference of logits, packed against each row alone under the model's own attention, relative."""
    (packed,) = pack(rows, rows, budget=sum(row.size for row in rows))
    alone = [_logits(model, pack([rows[member]], [rows[member]], budget=0)[0]) for member in packed.members]
    expected = torch.cat(alone)
    try:
        with attention(model, EACH):
            found = _logits(model, packed)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return float("inf")  # an architecture with an attention of its own
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def kernel_error(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], compute_dtype: torch.dtype | None) -> float:
    """Largest difference of hidden states, by the kernels of the device against sequence by sequence, relative.

    Args:
        compute_dtype: of the products that train, by autocast: kernels take 16 bits only.
    """
    (packed,) = pack(rows, rows, budget=sum(row.size for row in rows))
    found = []
    try:
        with torch.autocast(model.device.type, dtype=compute_dtype, enabled=compute_dtype is not None):
            for name in (EACH, PACKED):
                with attention(model, name):
                    found.append(model.base_model(**on_device(packed, model.device).inputs).last_hidden_state.float())
    except RuntimeError:  # it does not run on this device
        return float("inf")
    expected, by_kernel = found
    return float((by_kernel - expected).abs().max() / expected.abs().max())


def compile_error(
    model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], compute_dtype: torch.dtype | None
) -> float:
    """Largest difference of hidden states and of the loss, compiled as for training against as written, relative.

    Args:
        rows: as many as a pack has about: kernels are made for what is seen first.
    """
    (packed,) = pack(rows, rows, budget=sum(row.size for row in rows))
    tensors = on_device(packed, model.device)
    found = []
    training = model.training
    model.train()
    try:
        with torch.autocast(model.device.type, dtype=compute_dtype, enabled=compute_dtype is not None):
            for compiled in (False, True):
                layers = compiled_layers(model) if compiled else nullcontext()
                with attention(model, PACKED), layers, torch._dynamo.config.patch(suppress_errors=False):
                    hidden = model.base_model(**tensors.inputs).last_hidden_state.float()
                    loss = linear_cross_entropy_loss(model, tensors, compiled=compiled)
                found.append((hidden.detach(), loss.detach()))
    except Exception:  # no compiler, no Triton, or one that does not know this GPU: each raises its own
        return float("inf")
    finally:
        model.train(training)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(*found, strict=True))


def _logits(model: PreTrainedModel, single: Pack) -> Tensor:
    logits: Tensor = model(**on_device(single, model.device).inputs).logits[0].float()
    return logits
