"""How packs run on one model: which attention, which head; checked before it is trusted.

Whether sequences stay apart is asked of a tiny copy of the architecture, and in a few positions of the model itself.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.pack import pack
from seodang.model.engine.attention import APART, EACH, PACKED, attention
from seodang.model.engine.attention_kernels import hardware_of
from seodang.model.engine.compile import compiled_layers
from seodang.model.engine.cuda_graphs import CudaGraphs, placed_embedding
from seodang.model.engine.float16 import float16_objection, float16_remark
from seodang.model.engine.head_gradient import GradientPlaces, Scratch
from seodang.model.engine.layers.gated_mlp import light_gated_mlps
from seodang.model.engine.layers.norms import light_norms, recomputed_norms
from seodang.model.engine.layers.rope import dynamic_rope, forget_lengths
from seodang.model.engine.linear_cross_entropy import OnTile
from seodang.model.engine.loss import (
    PackTensors,
    TokenLosses,
    has_router_loss,
    linear_cross_entropy_loss,
    linear_cross_entropy_tokens,
    logits_loss,
    logits_tokens,
    on_device,
)
from seodang.model.engine.self_test import TOLERANCE, compile_error, copy_error, kernel_error, packing_error
from seodang.model.engine.trainable_tokens import trainable_tokens_in_place
from seodang.model.engine.weight_copies import WeightCopies
from seodang.model.load import is_quantized
from seodang.types import Pack

SHORT_PROBE = 16  # positions a row: enough to see a leak, or a custom output head
LONGEST_PROBE = 1100  # positions, where no tiny copy can be made: the window of Gemma 3 without costing many seconds
LONGEST_KERNEL_PROBE = 4200  # positions, on a GPU: the window of Mistral too


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way to run packs on one model."""

    packed: bool  # several sequences a row; else one
    linear_cross_entropy: bool  # head and cross entropy computed here; else the model's logits
    kernels: bool = True  # packed rows by one kernel where the device has one that fits; else sequence by sequence
    compiled: bool = False  # layers and the head's passes over its logits are compiled
    apart: bool = False  # layers are compiled up to their attention and from it on, without it
    recompute: bool = False  # compiled layers keep less for the backward pass, and compute it again
    light: bool = True  # layers as written keep less for the backward pass, on a CPU
    cuda_graphs: bool = False  # passes of packs are recorded as CUDA graphs, and replayed
    compute_dtype: torch.dtype | None = None  # of the products (autocast); none: the weights' own
    training_dtype: torch.dtype | None = None  # the same, of passes that take gradients; none: as all others
    remarks: tuple[str, ...] = ()

    def budget(self, pack_tokens: int) -> int:
        """The token budget to pack with: 0, one example a row, where packing is not exact."""
        return pack_tokens if self.packed else 0

    @contextmanager
    def installed(self, model: PreTrainedModel, on_note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Inside, ``model(pack=PACK)`` is the pack's summed loss; every other call is the model's own.

        ``model(pack=PACK, weight=W)`` is it times W > 0. `backward` must be called on this very loss, before the next
        pack: the head's and a replayed pass's gradients are taken with that weight. Replayed passes know no `exact`.
        ``model(pack=PACK, exact=True)`` is it without the narrower products of passes that train (`training_dtype`).
        ``model(pack=PACK, per_token=True)`` gives `TokenLosses`, without gradients; where the head is computed here,
        `on_tile` sees its logits (`target_losses`).

        The loss runs inside the model's forward, so that DDP and FSDP see an ordinary forward pass. An adapter's calls
        reach the model that it was added to, so that it is installed on that one.

        Args:
            on_note: takes a sentence, where something turns out not to work and is done without.
        """
        own: Callable[..., Any] = model.forward
        scratch = Scratch() if self.linear_cross_entropy and _is_alone_on_cpu(model) and not self.cuda_graphs else None
        lengths_kept, places = dynamic_rope(model), GradientPlaces(model.device)
        copies = WeightCopies(model, self.compute_dtype if self.cuda_graphs else None, places)

        def run(tensors: PackTensors, *, exact: bool = False, places: GradientPlaces | None = None) -> Tensor:
            with self._computing(model, lengths_kept, exact=exact), copies.refreshed():
                if self.linear_cross_entropy and not (model.training and has_router_loss(model)):
                    compiled = self.compiled and torch.is_grad_enabled()
                    return linear_cross_entropy_loss(model, tensors, scratch, rows, compiled=compiled, places=places)
                return logits_loss(model, tensors, own)

        def tokens(tensors: PackTensors, on_tile: OnTile | None) -> TokenLosses:
            with self._computing(model, lengths_kept):
                if self.linear_cross_entropy:
                    return linear_cross_entropy_tokens(model, tensors, rows, on_tile)
                return logits_tokens(tensors, own)

        graphs = CudaGraphs(model, run, on_note, places, copies) if self.cuda_graphs else None

        @wraps(own)  # which arguments the model takes is asked of it: by an engine around an evaluation, by generation
        def forward(
            *args: Any,
            pack: Pack | None = None,
            weight: float | None = None,
            exact: bool = False,
            per_token: bool = False,
            on_tile: OnTile | None = None,
            **kwargs: Any,
        ) -> Any:
            if pack is None:
                return own(*args, **kwargs)
            if per_token:
                return tokens(on_device(pack, model.device), on_tile)
            if graphs and torch.is_grad_enabled() and not model.is_activation_checkpointing:
                return graphs.loss(pack, 1.0 if weight is None else weight)
            if scratch:
                scratch.weight = torch.tensor(weight, dtype=torch.float32) if weight and weight > 0 else None
            return run(on_device(pack, model.device), exact=exact) * (1.0 if weight is None else weight)

        changes = self._changes(model, places, sparse=scratch is not None)
        with trainable_tokens_in_place(model) as rows, copies.installed(), ExitStack() as changed:
            for change in (*changes, _forward(model, forward)):
                changed.enter_context(change)
            yield

    def _changes(
        self, model: PreTrainedModel, places: GradientPlaces, *, sparse: bool
    ) -> Iterator[AbstractContextManager[None]]:
        """What the model's own modules do otherwise while the engine is installed."""
        packed = (APART if self.apart else PACKED) if self.kernels else EACH
        yield attention(model, packed if self.packed else model.config._attn_implementation)
        yield _learning_all_tokens(model)
        yield _sparse_embedding_gradient(model, wanted=sparse)
        if self.cuda_graphs:
            yield placed_embedding(model, places)
        if self.compiled:
            yield compiled_layers(model, recompute=self.recompute)
        elif self._is_light(model):
            yield light_norms(model)
            yield light_gated_mlps(model)

    @contextmanager
    def _computing(
        self, model: PreTrainedModel, lengths: list[torch.nn.Module], *, exact: bool = False
    ) -> Iterator[None]:
        """Inside, a pass computes in the engine's dtype; rotary frequencies know no length from before."""
        forget_lengths(lengths)  # a loss must not depend on what was computed before
        device, dtype = model.device.type, self.compute_dtype
        if torch.is_grad_enabled() and not exact:
            dtype = self.training_dtype or dtype
        kept = recomputed_norms() if self._is_light(model) else nullcontext()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None, cache_enabled=not self.cuda_graphs), kept:
            yield

    def _is_light(self, model: PreTrainedModel) -> bool:
        return self.light and not self.compiled and model.device.type == "cpu"


@contextmanager
def _forward(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    replaced = vars(model).get("forward")  # by a hook, or by an engine around an evaluation during training
    model.forward = forward
    try:
        yield
    finally:
        if replaced is None:
            del model.forward  # the class's own again
        else:
            model.forward = replaced


def on_cuda(model: PreTrainedModel) -> bool:
    """Whether the model's weights lie on a GPU that torch compiles for."""
    return str(model.device.type) == "cuda"


def _is_alone_on_cpu(model: PreTrainedModel) -> bool:
    """Whether gradients need not pass through autograd: DDP and FSDP take them from it, a GPU gains nothing."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return model.device.type == "cpu" and not several


@contextmanager
def _sparse_embedding_gradient(model: PreTrainedModel, *, wanted: bool) -> Iterator[None]:
    """Tied embeddings add the gradient of the few rows they looked up to the head's dense one.

    Else each pass fills a second buffer of the embedding's size with zeros for them, a tenth of a step.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = isinstance(embedding, torch.nn.Embedding) and head is not None and head.weight is embedding.weight
    if not (wanted and tied):
        yield
        return
    before, embedding.sparse = embedding.sparse, True
    try:
        yield
    finally:
        embedding.sparse = before


@contextmanager
def _learning_all_tokens(model: PreTrainedModel) -> Iterator[None]:
    """Packs hold no padding: where its token stands in them it is text, such as the end of a turn, and is learnt."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, torch.nn.Embedding):
        yield
        return
    before, embedding.padding_idx = embedding.padding_idx, None
    try:
        yield
    finally:
        embedding.padding_idx = before


def choose_engine(
    model: PreTrainedModel,
    rows: Sequence[NDArray[np.int32]],
    *,
    packed: bool = True,
    compiled: bool = True,
    compute_dtype: torch.dtype | None = None,
    training_dtype: torch.dtype | None = None,
    longest: int | None = None,
    recompute: bool = False,
) -> Engine:
    """Try packing and linear cross entropy on this model, and yield to transformers' own path where they differ.

    Args:
        rows: ids of a few real rows [tokens].
        packed: whether packing is wanted at all.
        compiled: whether compiling is worth its time, on a GPU.
        compute_dtype: of the products, by autocast; packing is tried in the weights' own, the device's kernels in this.
        training_dtype: of the products of passes that train, if a trial agrees: float16.
        longest: positions of the longest row that will be packed, if it is known: where rotary frequencies change
            beyond it, that is of no concern.
        recompute: whether memory counts more than a percent of a step's time.
    """
    rows = _long_enough(rows)
    tolerance = TOLERANCE[torch.bfloat16 if is_quantized(model) else model.dtype]  # 4 bits are multiplied as bf16
    remarks, kernels, apart = list[str](), True, False
    if packed and (error := _leak(model, rows, tolerance, longest)) is not None:
        packed = False
        by = f" (difference {error:.1e})" if error < math.inf else ""
        remarks.append(f"{type(model).__name__} mixes packed sequences{by}: one example per row")
    if packed and (wrong := _kernel_objection(model, rows, compute_dtype)):
        kernels, remarks = False, [*remarks, wrong]
    if own_head := _head_objection(model, rows, tolerance):
        remarks.append(own_head)
    linear_cross_entropy = not own_head
    is_whole = distributed.world() == 1 or not distributed.wants_sharding()
    can_compile = is_whole and on_cuda(model) and not is_quantized(model)
    if training_dtype:
        objection = float16_objection(model, rows, packed=packed, linear_cross_entropy=linear_cross_entropy)
        training_dtype = None if objection else training_dtype
        remarks.append(float16_remark(objection))
    graphs = linear_cross_entropy and can_compile and distributed.world() == 1 and packed and kernels
    graphs = graphs and (compute_dtype or model.dtype).itemsize == 2
    if compiled := compiled and can_compile:
        names = () if not linear_cross_entropy else (PACKED, APART) if kernels else (PACKED,)
        tried = partial(compile_error, model, _many(rows), training_dtype or compute_dtype)
        compiled, apart, why_not = _compiles(partial(tried, recompute=recompute, copied=graphs), names)
        remarks += why_not
    return Engine(
        packed=packed,
        linear_cross_entropy=linear_cross_entropy,
        kernels=kernels,
        compiled=compiled,
        apart=apart,
        recompute=recompute,
        cuda_graphs=graphs,
        compute_dtype=compute_dtype,
        training_dtype=training_dtype,
        remarks=tuple(remarks),
    )


def _head_objection(model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], tolerance: float) -> str | None:
    """A sentence if the head does more than is computed here."""
    error = linear_cross_entropy_error(model, _short_probes(rows)[0])
    if error <= tolerance:
        return None
    return f"{type(model).__name__} has a custom output head (difference {error:.1e}): using its own logits"


def _kernel_objection(
    model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], compute_dtype: torch.dtype | None
) -> str | None:
    """A sentence if the device's kernels for packed rows cannot be used."""
    if not hardware_of(model.device).installed:
        return None
    error = kernel_error(model, _window_probes(model, rows, longest=LONGEST_KERNEL_PROBE), compute_dtype)
    if error <= TOLERANCE[torch.bfloat16]:
        return None
    what = f"disagree with the reference ({error:.1e})" if error < math.inf else "do not run"
    return f"The attention kernels of this device {what}: using per-sequence attention"


def _compiles(error_with: Callable[[str], float], names: Sequence[str]) -> tuple[bool, bool, list[str]]:
    """(whether compiled layers compute what is written, on every rank, whether only without their attention, why not).

    Under DDP each layer's gradients come from autograd as ever, so that they are summed while others are computed. FSDP
    would have to gather a layer's weights within compiled code, which has not been tried.

    Args:
        error_with: name of an attention → the error of compiled layers.
        names: to be tried one after another; none: compiling is not wanted on this rank.
    """
    wrong: list[float] = []
    for turn in range(max(distributed.exchange(len(names)))):
        errors = distributed.exchange(error_with(names[turn]) if turn < len(names) else None)
        wrong = [error for error in errors if error is not None and not error <= TOLERANCE[torch.bfloat16]]
        if not wrong:
            return None not in errors, bool(names) and names[turn] == APART, []
    if not wrong:
        return False, False, []
    what = f"output differs ({wrong[0]:.1e})" if wrong[0] < math.inf else "does not work on this machine"
    return False, False, [f"torch.compile {what}: running eagerly, slower"]


@torch.no_grad()
def linear_cross_entropy_error(model: PreTrainedModel, row: NDArray[np.int32]) -> float:
    """Relative difference between the linear cross entropy and the model's logits on one row."""
    (single,) = pack([row], [row], budget=0)
    tensors = on_device(single, model.device)
    try:
        own = linear_cross_entropy_loss(model, tensors)
    except (AttributeError, RuntimeError, TypeError):
        return float("inf")
    theirs = logits_loss(model, tensors, model.forward)
    return float((own - theirs).abs() / theirs.abs().clamp_min(1e-12))


def _leak(
    model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], tolerance: float, longest: int | None
) -> float | None:
    """By how much packed sequences differ, if it is too much: on a tiny copy, and on the model's own modules."""
    error = copy_error(model, longest)
    if error is not None and not error <= TOLERANCE[torch.float32]:  # NaN is no proof either
        return error
    error = packing_error(model, _window_probes(model, rows) if error is None else _short_probes(rows))
    return None if error <= tolerance else error


def _long_enough(rows: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """Rows of more than one position, in which one can see another; of single words, one that is made of them."""
    return [row for row in rows if row.size > 2] or [np.resize(np.concatenate(rows), SHORT_PROBE)]


def _short_probes(rows: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """The beginnings of two real rows; of one row twice, if there is no other."""
    return ([row[:SHORT_PROBE] for row in rows] * 2)[:2]


def _many(rows: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """The first real rows again and again: about a pack of them."""
    few = [row[:LONGEST_KERNEL_PROBE] for row in rows[:3]]
    return few * max(1, LONGEST_KERNEL_PROBE // sum(row.size for row in few))


def _window_probes(
    model: PreTrainedModel, rows: Sequence[NDArray[np.int32]], longest: int = LONGEST_PROBE
) -> list[NDArray[np.int32]]:
    """Real rows, and one made of them that is longer than the model's attention window."""
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    probes = [row[:longest] for row in rows[:3]]
    if 0 < window + 32 <= longest:
        probes.append(np.resize(np.concatenate(probes), window + 32))
    return probes
