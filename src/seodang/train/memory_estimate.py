"""What training takes of memory, known before any weights are read.

One optimizer step is rehearsed on tensors that have a shape and a dtype but no data (torch's FakeTensorMode), through
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
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from seodang import recipe
from seodang.model.engine.engine import Engine
from seodang.model.placement import Placement
from seodang.model.quiet import quiet
from seodang.train.adapter import inject_adapter, linear_layers, unwrapped
from seodang.train.setup import CHECKPOINTED_LAYERS, choose_optimizer
from seodang.types import Checkpointing, Pack

if TYPE_CHECKING:
    from peft import PeftModel

MOST_SEQUENCES = 4
NF4_BYTES = 0.5 + 4 / 64  # of a weight in 4 bits, with one float32 scale for 64 of them


STATE_BYTES = {"adamw": 8, "paged_adamw_8bit": 2}  # optimizer state a trained parameter


@dataclass(frozen=True, kw_only=True)
class MemoryUsage:
    """Bytes of the device's memory that one optimizer step takes."""

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
    state_bytes: int  # a trained parameter
    unheld: int  # bytes that the weights take less than the model here, as 4 bits stand for 16

    @property
    def can_checkpoint(self) -> bool:
        return bool(unwrapped(self.model).supports_gradient_checkpointing)

    def step(self, packs: Sequence[Pack], checkpointing: Checkpointing) -> MemoryUsage:
        """Forward and backward of an optimizer step's packs: of the first and of the largest after it."""
        first, *later = map(_few_sequences, packs)
        later = sorted(later, key=lambda pack: pack.input_ids.size)[-1:]
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        plain, counted = unwrapped(self.model), _Alive()
        activations = logits = 0
        with self.fake, quiet(), _unlogged(), _checkpointed(plain, checkpointing), self.engine.installed(plain):
            weights = counted.hold(*self.model.parameters(), *self.model.buffers())
            hook = plain.base_model.register_forward_hook(lambda *_: counted.mark())
            if later and later[0].input_ids.size >= first.input_ids.size:
                first, later = later[0], []  # needs no gradients computed before, only that they are there
                for weight in trained:
                    weight.grad = torch.empty_like(weight)
                counted.hold(*(weight.grad for weight in trained if weight.grad is not None))
            for pack in (first, *later):
                with counted:
                    before = counted.alive
                    loss = self.model(pack=pack)
                    activations = max(activations, counted.marked - before)
                    logits = max(logits, counted.peak_since_mark - counted.marked)
                    loss.backward()
                    del loss
            hook.remove()
            for weight in trained:
                weight.grad = None
        states = self.state_bytes * sum(weight.numel() for weight in trained)
        return MemoryUsage(
            weights=weights - self.unheld,
            gradients=sum(weight.numel() * weight.element_size() for weight in trained),
            states=states,
            activations=activations,
            logits=logits,
            peak=counted.peak - self.unheld + states,
        )


def make_estimator(
    config: PreTrainedConfig,
    settings: recipe.Train,
    placement: Placement,
    *,
    num_embeddings: int,
    token_ids: tuple[int, ...] = (),
    trust_remote_code: bool = False,
) -> MemoryEstimator:
    """A model of this config as the recipe trains it, without data.

    Args:
        num_embeddings: rows of the embedding.
        token_ids: tokens whose embedding rows an adapter trains too.
    """
    kind = settings.adapter.kind if settings.adapter else None
    held = placement.compute_dtype if kind == "qlora" else placement.dtype
    trained_dtype = "float32" if settings.adapter else placement.dtype
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=getattr(torch, held), trust_remote_code=trust_remote_code
        )
        if num_embeddings > len(model.get_input_embeddings().weight):
            model.resize_token_embeddings(num_embeddings, mean_resizing=False)
        linear = sum(layer.weight.numel() for _, layer in linear_layers(model))
        trainee = inject_adapter(model, settings.adapter, token_ids) if settings.adapter else model
    fake = FakeTensorMode()
    _fill(trainee, fake, placement.device if placement.device.startswith("cuda") else "cpu")
    trainee.train()
    optimizer = "adamw" if choose_optimizer(settings.optimizer, placement.device)[1] else settings.optimizer
    compute = placement.compute_dtype
    return MemoryEstimator(
        model=trainee,
        fake=fake,
        engine=Engine(
            packed=True,
            linear_cross_entropy=True,
            compute_dtype=getattr(torch, compute) if compute != trained_dtype else None,
        ),
        state_bytes=STATE_BYTES[optimizer],
        unheld=int(linear * (getattr(torch, held).itemsize - NF4_BYTES)) if kind == "qlora" else 0,
    )


def _few_sequences(pack: Pack) -> Pack:
    """The pack as if it held few examples, which takes the same memory and less time to rehearse."""
    count = min(len(pack.members), MOST_SEQUENCES)
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
    """What cannot be rehearsed raises; torch would log the traceback besides."""
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


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.alive = self.peak = self.marked = self.peak_since_mark = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def hold(self, *tensors: Tensor) -> int:
        """Count storages that exist already; returns what they add."""
        before = self.alive
        for tensor in tensors:
            if tensor.is_sparse:
                continue  # rows of a gradient, made of tensors that are counted
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._held:
                self._held[key] = weakref.ref(storage, partial(self._free, key, size))
                self.alive += size
        self.peak, self.peak_since_mark = max(self.peak, self.alive), max(self.peak_since_mark, self.alive)
        return self.alive - before

    def mark(self) -> None:
        """Keep what is alive now; `peak_since_mark` begins here."""
        self.marked = self.peak_since_mark = self.alive

    def _free(self, key: int, size: int, _: object) -> None:
        del self._held[key]
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled() and _same_kind(*args):
            func = torch.ops.aten.add_.Tensor  # gradients are summed in place, but for tensors without data
        out = func(*args, **(kwargs or {}))
        self.hold(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out


def _same_kind(*args: Any) -> bool:
    one, other = args[:2]
    return isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype
