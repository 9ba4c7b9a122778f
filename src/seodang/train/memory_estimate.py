"""Estimate of the memory that training uses, made before any weights are read.

One optimizer step runs on tensors that have a shape and a dtype but no data (torch's FakeTensorMode), through
the very code that trains; what is alive after each operation is counted. So the estimate needs no formula of an
architecture, an adapter or the head, and follows them when they change.
"""

import copy
import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig, PreTrainedModel

from seodang import recipe
from seodang.model.checkpoint import auto_class
from seodang.model.engine.engine import Engine
from seodang.model.quiet import quiet
from seodang.train.adapter import inject_adapter, linear_layers, unwrapped
from seodang.train.setup import CHECKPOINTED_LAYERS
from seodang.types import Checkpointing, Pack, Placement

if TYPE_CHECKING:
    from peft import PeftModel

MAX_SEQUENCES = 4  # of a pack whose memory is estimated
NF4_BYTES = 0.5 + 4 / 64  # of a weight in 4 bits, with one float32 scale for 64 of them
STATE_BYTES = {"adamw_torch_fused": 8, "paged_adamw_8bit": 2, "adamw_bf16": 4}  # optimizer state per trained parameter


@dataclass(frozen=True, kw_only=True)
class MemoryUsage:
    """Bytes of the device's memory that one optimizer step uses."""

    weights: int
    gradients: int
    states: int  # the optimizer's
    activations: int  # kept for the backward pass, copies of weights in the products' dtype among them
    logits: int  # what the head adds to them at most, with its gradient
    peak: int  # the most that is alive at a time; less than the sum where not all of it is


@dataclass(frozen=True, kw_only=True)
class MemoryEstimator:
    """A model without data, on which packs of any size can be tried."""

    model: "PreTrainedModel | PeftModel"
    fake: FakeTensorMode
    engine: Engine
    state_bytes: int  # per trained parameter
    quantization_savings: int  # bytes that the weights take less than the model here, where 4 bits stand for 16

    @property
    def can_checkpoint(self) -> bool:
        return bool(unwrapped(self.model).supports_gradient_checkpointing)

    def estimate(self, packs: Sequence[Pack], checkpointing: Checkpointing) -> MemoryUsage:
        """Memory usage of an optimizer step: forward and backward of the first pack and of the largest after it."""
        first, *later = map(_few_sequences, packs)
        later = sorted(later, key=lambda pack: pack.input_ids.size)[-1:]
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        plain, live = unwrapped(self.model), _LiveStorages()
        activations = logits = 0
        with self.fake, quiet(), _unlogged(), _checkpointed(plain, checkpointing), self.engine.installed(plain):
            weights = live.add(*self.model.parameters(), *self.model.buffers())
            hook = plain.base_model.register_forward_hook(lambda *_: live.mark())
            if later and later[0].input_ids.size >= first.input_ids.size:
                first, later = later[0], []  # needs no gradients computed before, only that they are there
                for weight in trained:
                    weight.grad = torch.empty_like(weight)
                live.add(*(weight.grad for weight in trained if weight.grad is not None))
            for pack in (first, *later):
                with live:
                    before = live.bytes
                    loss = self.model(pack=pack, weight=1.0)
                    activations = max(activations, live.marked - before)
                    logits = max(logits, live.peak_since_mark - live.marked)
                    loss.backward()
                    del loss
            hook.remove()
            for weight in trained:
                weight.grad = None
        states = self.state_bytes * sum(weight.numel() for weight in trained)
        return MemoryUsage(
            weights=weights - self.quantization_savings,
            gradients=sum(weight.numel() * weight.element_size() for weight in trained),
            states=states,
            activations=activations,
            logits=logits,
            peak=live.peak - self.quantization_savings + states,
        )


def make_estimator(
    config: PreTrainedConfig,
    settings: recipe.Train,
    placement: Placement,
    *,
    optimizer: str,
    num_embeddings: int,
    token_ids: tuple[int, ...] = (),
    trust_remote_code: bool = False,
) -> MemoryEstimator:
    """A model of this config as the recipe trains it, without data.

    Args:
        optimizer: as transformers knows it.
        num_embeddings: rows of the embedding.
        token_ids: tokens whose embedding rows an adapter trains too.
    """
    kind = settings.adapter.kind if settings.adapter else None
    weights_dtype = placement.compute_dtype if kind == "qlora" else placement.dtype
    trained_dtype = "float32" if settings.adapter else placement.dtype
    with torch.device("meta"), quiet():
        model = auto_class(config).from_config(
            copy.deepcopy(config), dtype=getattr(torch, weights_dtype), trust_remote_code=trust_remote_code
        )
        if num_embeddings > len(model.get_input_embeddings().weight):
            model.resize_token_embeddings(num_embeddings, mean_resizing=False)
        linear = sum(layer.weight.numel() for _, layer in linear_layers(model))
        trainee = inject_adapter(model, settings.adapter, token_ids) if settings.adapter else model
    fake = FakeTensorMode()
    _fill(trainee, fake, placement.device if placement.device.startswith("cuda") else "cpu")
    trainee.train()
    compute = placement.compute_dtype
    return MemoryEstimator(
        model=trainee,
        fake=fake,
        engine=Engine(
            packed=True,
            linear_cross_entropy=True,
            light=not placement.device.startswith("mps"),  # which is estimated as a CPU
            compute_dtype=getattr(torch, compute) if compute != trained_dtype else None,
            training_dtype=getattr(torch, placement.training_dtype) if placement.training_dtype else None,
        ),
        state_bytes=STATE_BYTES[optimizer],
        quantization_savings=int(linear * (getattr(torch, weights_dtype).itemsize - NF4_BYTES))
        if kind == "qlora"
        else 0,
    )


def _few_sequences(pack: Pack) -> Pack:
    """The pack as if it held few examples, which takes the same memory and less time to run."""
    count = min(len(pack.members), MAX_SEQUENCES)
    cuts = np.linspace(0, pack.input_ids.size, count + 1).astype(np.int32)
    return replace(pack, cu_seqlens=cuts, members=tuple(range(count)))


def _fill(model: nn.Module, fake: FakeTensorMode, device: str) -> None:
    """Give the model's tensors, made on `meta`, a device to pretend; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    with fake:
        for module in model.modules():
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in stores:
                for name, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        is_weight = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                    tensors[name] = made[id(tensor)]


@contextmanager
def _unlogged() -> Iterator[None]:
    """What cannot be estimated raises; torch would log the traceback besides."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _checkpointed(model: PreTrainedModel, checkpointing: Checkpointing) -> Iterator[None]:
    if checkpointing == "none":
        yield
        return
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}, every_n_layers=CHECKPOINTED_LAYERS[checkpointing]
    )
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.bytes = self.peak = self.marked = self.peak_since_mark = 0
        self._references: dict[int, weakref.ref[Any]] = {}

    def add(self, *tensors: Tensor) -> int:
        """Count storages that exist already; returns the bytes that they add."""
        before = self.bytes
        for tensor in tensors:
            if tensor.is_sparse:
                continue  # rows of a gradient, made of tensors that are counted
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._references:
                self._references[key] = weakref.ref(storage, partial(self._free, key, size))
                self.bytes += size
        self.peak, self.peak_since_mark = max(self.peak, self.bytes), max(self.peak_since_mark, self.bytes)
        return self.bytes - before

    def mark(self) -> None:
        """Remember what is alive now; `peak_since_mark` begins here."""
        self.marked = self.peak_since_mark = self.bytes

    def _free(self, key: int, size: int, _: object) -> None:
        del self._references[key]
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled() and _same_kind(*args):
            func = torch.ops.aten.add_.Tensor  # gradients are summed in place, but for tensors without data
        out = func(*args, **(kwargs or {}))
        self.add(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out


def _same_kind(*args: Any) -> bool:
    one, other = args[:2]
    return isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype
