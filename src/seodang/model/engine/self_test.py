"""Whether sequences in one row stay apart on a model: asked of a tiny copy of its architecture, and of itself.

Most architectures of transformers run packed rows exactly; a few are silently wrong (state that leaks from one
sequence into the next, attention chunks that never reach the attention function). None is known by name here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine.attention import EACH, PACKED, attention
from seodang.model.engine.compile import compiled_layers
from seodang.model.engine.head_gradient import GradientPlaces
from seodang.model.engine.layers.rope import dynamic_rope, forget_lengths, length_boundary
from seodang.model.engine.loss import linear_cross_entropy_loss, on_device
from seodang.model.engine.tiny_copy import VOCABULARY, WINDOW, tiny_copies
from seodang.model.engine.weight_copies import WeightCopies
from seodang.model.quiet import quiet
from seodang.types import Pack

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of logits and losses, relative
_STEPS = 4  # of generation: a prompt, then what a cache holds of it
_SHORT = 16  # positions of rows that are tried backward
_COPY_ROWS = (3 * WINDOW, 5 * WINDOW, WINDOW + 3)  # positions: several windows, and no multiple of one


def copy_error(model: PreTrainedModel, longest: int | None = None) -> float | None:
    """`packing_error` of a tiny random copy of the architecture, with rows longer than its windows and chunks.

    None: no copy of it can be built that runs.

    Args:
        longest: positions of the longest row that will be packed. Where it is known, and rotary frequencies change only
            beyond it, rows do not cross that boundary in the copy either.
    """
    boundary = length_boundary(model.config)
    crossing = boundary is None or longest is None or longest > boundary
    return _of_a_copy(model, packing_error, crossing=crossing)


def can_pad(model: PreTrainedModel) -> bool:
    """Whether answers in a left-padded batch are those of each prompt alone.

    Asked of a tiny copy; where there is none, of the model itself.
    """
    error = _of_a_copy(model, _generation_error, crossing=True, twice=True)
    if error is not None:
        return error <= TOLERANCE[torch.float32]
    short = [row[: 2 * WINDOW] for row in _random_rows()]
    try:
        return _generation_error(model, short) <= TOLERANCE[model.dtype]
    except Exception:  # prompts of one length have to do; what is wrong with the model shows there
        return False


def _of_a_copy(
    model: PreTrainedModel,
    error: Callable[[PreTrainedModel, Sequence[NDArray[np.int32]]], float],
    *,
    crossing: bool,
    twice: bool = False,
) -> float | None:
    rows = _random_rows()
    with quiet():
        for copy in tiny_copies(model, crossing=crossing, twice=twice):
            try:
                return error(copy, rows)
            except Exception:  # a row alone: widths that the architecture cannot have may show only now
                continue
    return None


def _random_rows() -> list[NDArray[np.int32]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, VOCABULARY, length).astype(np.int32) for length in _COPY_ROWS]


@torch.no_grad()
def _generation_error(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]]) -> float:
    alone = torch.cat([_generated_logits(model, [row]) for row in rows])
    try:
        together = _generated_logits(model, rows)
    except Exception:  # an architecture that knows no padding raises in its own way
        return float("inf")
    return float((together - alone).abs().max() / alone.abs().max())


def _generated_logits(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]]) -> Tensor:
    """Logits of a few steps of generation [rows, steps, vocabulary], each fed the same tokens by every caller."""
    forget_lengths(dynamic_rope(model))
    width = max(row.size for row in rows)
    padded = np.stack([np.pad(row, (width - row.size, 0), mode="edge") for row in rows]).astype(np.int64)
    mask = np.stack([np.arange(width) >= width - row.size for row in rows]).astype(np.int64)
    found = model.generate(
        torch.from_numpy(padded).to(model.device),
        attention_mask=torch.from_numpy(mask).to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=_STEPS,
            min_new_tokens=_STEPS,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        ),
        logits_processor=LogitsProcessorList([_Fixed()]),
    )
    return torch.stack(found.logits, dim=1).float()


class _Fixed(LogitsProcessor):
    """Takes the same next tokens whatever the logits, so that later steps can be compared."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        self.step += 1
        chosen[:, 3 + self.step] = 0.0
        return chosen


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


@contextmanager
def embedded(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside, what a pass looks up is a leaf, to be asked for its gradient: yields that of the last pass."""
    found: list[Tensor] = []

    def cut(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        found[:] = [output.detach().requires_grad_()]
        return found[0]

    hook = model.get_input_embeddings().register_forward_hook(cut)
    try:
        yield found
    finally:
        hook.remove()


def kernel_error(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], compute_dtype: torch.dtype | None) -> float:
    """Largest difference of hidden states, by the kernels of the device against sequence by sequence, relative.

    Infinite too where a kernel has no backward pass: some GPUs lack it for wide heads.

    Args:
        compute_dtype: of the products that train, by autocast: kernels take 16 bits only.
    """
    (packed,) = pack(rows, rows, budget=sum(row.size for row in rows))
    few = [row[:_SHORT] for row in rows[:2]]
    (short,) = pack(few, few, budget=sum(row.size for row in few))
    found = []
    try:
        with torch.autocast(model.device.type, dtype=compute_dtype, enabled=compute_dtype is not None):
            for name in (EACH, PACKED):
                with torch.no_grad(), attention(model, name):
                    found.append(_hidden(model, packed))
            with torch.enable_grad(), attention(model, PACKED), embedded(model) as leaves:
                loss = _hidden(model, short).sum()
        (gradient,) = torch.autograd.grad(loss, leaves)
    except Exception:  # it does not run on this device, or is of another version: each raises its own
        return float("inf")
    expected, by_kernel = found
    if not gradient.isfinite().all():
        return float("inf")
    return float((by_kernel - expected).abs().max() / expected.abs().max())


def _hidden(model: PreTrainedModel, single: Pack) -> Tensor:
    inputs = on_device(single, model.device).inputs_of(model.base_model.forward)
    hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden.float()


def compile_error(
    model: PreTrainedModel,
    rows: Sequence[NDArray[np.int32]],
    compute_dtype: torch.dtype | None,
    name: str = PACKED,
    *,
    recompute: bool = False,
    copied: bool = False,
) -> float:
    """Largest difference of hidden states, loss and size of the gradient, compiled against as written, relative.

    Args:
        rows: as many as a pack has about: kernels are made for what is seen first.
        name: of the attention.
        recompute, copied: as they will be trained: what is compiled here is not compiled again.
    """
    (packed,) = pack(rows, rows, budget=sum(row.size for row in rows))
    tensors = on_device(packed, model.device)
    found = []
    training, places = model.training, GradientPlaces(model.device)
    model.train()
    autocast = torch.autocast(
        model.device.type, dtype=compute_dtype, enabled=compute_dtype is not None, cache_enabled=not copied
    )
    try:
        with autocast, _without_dropout(model):
            for compiled in (False, True):
                layers = compiled_layers(model, recompute=recompute) if compiled else nullcontext()
                copies = WeightCopies(model, compute_dtype if compiled and copied else None, places)
                strictly = torch._dynamo.config.patch(suppress_errors=False)
                with copies.installed(), copies.refreshed(), attention(model, name), layers, strictly:
                    inputs = tensors.inputs_of(model.base_model.forward)
                    hidden = model.base_model(**inputs).last_hidden_state.float().detach()
                    with embedded(model) as leaves:
                        loss = linear_cross_entropy_loss(model, tensors, compiled=compiled)
                    (gradient,) = torch.autograd.grad(loss, leaves)
                found.append((hidden, loss.detach(), gradient.float().norm()))
    except Exception:  # no compiler, no Triton, or one that does not know this GPU: each raises its own
        return float("inf")
    finally:
        model.train(training)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(*found, strict=True))


@contextmanager
def _without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Inside, nothing is dropped in training either: compiled code draws other random numbers."""
    shares = [
        (module, name, share)
        for module in model.modules()
        for name, share in vars(module).items()
        if isinstance(share, float) and share and ("drop" in name or isinstance(module, nn.Dropout))
    ]
    for module, name, _ in shares:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, share in shares:
            setattr(module, name, share)


def _logits(model: PreTrainedModel, single: Pack) -> Tensor:
    forget_lengths(dynamic_rope(model))
    logits: Tensor = model(**on_device(single, model.device).inputs_of(model.forward)).logits[0].float()
    return logits
