"""A pack's forward and backward pass as two CUDA graphs: recorded once for packs of about one size, then replayed.

A small model's layers ask for thousands of short kernels, and a GPU waits for the host that launches them one by one.
A graph is one launch. What it reads and writes lies where it lay when it was recorded: the pack's tensors, and the
gradients of the weights. So a pack is filled up to the next of few sizes, by positions that do not count. The first
pack of a step overwrites what lies there, and the ones after it add to it: two graphs of each pass.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from seodang.model.engine.attention import Lengths
from seodang.model.engine.head_gradient import GradientPlaces
from seodang.model.engine.loss import PackTensors, on_host, to_device
from seodang.model.engine.weight_copies import WeightCopies
from seodang.types import IGNORED, Pack

MOST = 64  # graphs of a run, two for each size; sizes beyond them run as written
MEMORY_MARGIN = 1.2  # of what a forward pass takes
TOLERANCE = 1e-2  # between replayed and as written, relative: losses and norms differ by the order of sums


class Size(NamedTuple):
    """What a graph is recorded for."""

    positions: int
    supervised: int
    sequences: int
    longest: int


def size_of(pack: Pack) -> Size:
    """The next size that has a graph: up to 6 % more positions, and of those that are supervised."""
    positions = _up(pack.input_ids.size, 16)
    filling = positions - pack.input_ids.size
    longest = max(int(np.diff(pack.cu_seqlens).max()), filling)
    return Size(
        positions=positions,
        supervised=_up(int((pack.targets != IGNORED).sum()), 16),
        sequences=_up(len(pack.cu_seqlens), 1),  # one more than it has: the filling
        longest=_up(longest, 1),
    )


def _up(number: int, parts: int) -> int:
    """The next multiple of the power of two that is 1/parts of the next lower one, or less."""
    step = max(1, 2 ** (number.bit_length() - 1) // parts) if number else 1
    return -(-number // step) * step


class _Host(NamedTuple):
    """A pack filled up to a size, on the host."""

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    seq_bounds: NDArray[np.int32]
    supervised: NDArray[np.int64]
    targets: NDArray[np.int64]
    seq_lens: Lengths


def fill(pack: Pack, size: Size) -> _Host:
    """One more sequence of what is missing, and empty ones after it; more supervised positions that do not count."""
    filling = size.positions - pack.input_ids.size
    supervised = np.flatnonzero(pack.targets != IGNORED)
    more = size.supervised - supervised.size
    bounds = np.full(size.sequences + 1, size.positions, dtype=np.int32)
    bounds[: pack.cu_seqlens.size] = pack.cu_seqlens
    return _Host(
        input_ids=np.pad(pack.input_ids, (0, filling)),
        position_ids=np.pad(pack.position_ids, (0, filling)),  # learnt positions may be fewer than it has
        seq_bounds=bounds,
        supervised=np.concatenate([supervised, np.arange(more) % size.positions]),
        targets=np.concatenate([pack.targets[supervised], np.full(more, IGNORED)]),
        seq_lens=Lengths((int(n) for n in np.diff(bounds) if n), longest=size.longest),
    )


class CudaGraphs:
    """Forward and backward passes of packs, replayed where a graph of their size was recorded.

    The first pack of a size runs as written, which compiles and warms what it needs, and so does the whole first step,
    since only then all has its memory; the next one of that size is recorded. By then the loss before it must be gone:
    what autograd remembers of it belongs to a stream that cannot be recorded.

    Args:
        run: PackTensors → the summed loss.
        on_note: takes a sentence, if passes cannot be recorded.
        places: of the gradients, filled when something is recorded.
        copies: of the weights, whose gradients are delivered to the places.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        run: Callable[..., Tensor],
        on_note: Callable[[str], None],
        places: GradientPlaces,
        copies: WeightCopies,
    ) -> None:
        self._model, self._run, self._on_note = model, run, on_note
        self._places, self._copies = places, copies
        self._seen: set[Size] = set()
        self._recorded: dict[tuple[Size, bool], _Recorded] = {}
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._steps = 0  # that have begun
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._pool: Any = None
        self._can_record = True
        self._is_checked = False  # whether gradients of a replayed pass were compared
        self._turn = 0
        self._largest = 0  # bytes that a pass took that was recorded

    def loss(self, pack: Pack, weight: float) -> Tensor:
        """Summed loss of a pack, times `weight`; its backward pass must come before the next pack's forward pass."""
        is_first = all(weight.grad is None for weight in self._trained)
        self._steps += is_first
        size = size_of(pack)
        host, key = fill(pack, size), (size, is_first)
        if key not in self._recorded and not (self._may_record(*key) and self._record(key, host)):
            self._seen.add(size)
            return self._run(_on_device(host, self._model.device)) * weight
        cuda_graphs: Callable[..., Tensor] = _GraphPass.apply
        return cuda_graphs(self._anchor, self, self._recorded[key], host, weight)

    def _may_record(self, size: Size, is_first: bool) -> bool:
        if not (is_first or self._is_checked):  # gradients would lie beside the places that are made for them
            return False
        return self._can_record and self._steps > 1 and size in self._seen and len(self._recorded) < MOST

    def _record(self, key: tuple[Size, bool], host: _Host) -> bool:
        recorded = _Recorded(_on_device(host, self._model.device), self._model.device, is_first=key[1])
        try:
            loss, norms, taken = self._expected(recorded.tensors)
            self._check_memory(taken)
            self._prepare(recorded)
            recorded.record(self._run, self._places, self._place_gradients, self._pool)
            self._check(recorded, host, loss, norms)
        except Exception as error:  # what cannot be recorded raises in many ways; it runs as written then
            self._can_record = False
            further = " for further packs" if self._recorded else ""
            self._on_note(f"CUDA graphs are not used{further}: {_first_line(error)}")
            if recorded.is_first:  # before later packs, gradients lie in their places, or where they were
                self._prepare(recorded)
            if not self._recorded:
                self._places.of.clear()
            return False
        self._pool = self._pool or recorded.pool
        self._recorded[key] = recorded
        return True

    def _expected(self, tensors: PackTensors) -> tuple[float, Tensor | None, int]:
        """(the loss as written, norms of its gradients until they were checked once, bytes that the pass took).

        The first time, find out which weights take part: one that does not has no gradient, and not one of zeros, by
        which weights decay.
        """
        device = self._model.device
        with never_waiting(device):
            loss, taken = measured(partial(self._run, tensors), device)
            gradients = {} if self._is_checked else self._gradients(loss)
        if self._is_checked:
            return float(loss.detach()), None, taken
        self._trained = list(gradients)
        if not self._places.of:
            self._places.of.update((weight, torch.zeros_like(weight)) for weight in self._trained)
        return float(loss.detach()), _norms(list(gradients.values())), taken

    def _check_memory(self, taken: int) -> None:
        """Graphs keep the memory of the largest pass that was recorded; other sizes need theirs beside it.

        Raises:
            RuntimeError: it is not free.
        """
        more, self._largest = max(0, taken - self._largest), max(taken, self._largest)
        needed, free = more + MEMORY_MARGIN * self._largest, free_memory(self._model.device)
        if free < needed:
            raise RuntimeError(f"they need {needed / 1e9:.1f} GB of free memory, there are {free / 1e9:.1f} GB")

    def _gradients(self, loss: Tensor) -> dict[nn.Parameter, Tensor]:
        """Of the weights that take part in a loss: through their copies, by themselves, or both."""
        leaves = {leaf: None for weight in self._trained for leaf in (weight, self._copies.leaf(weight))}
        found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves), allow_unused=True), strict=True))
        gradients = {}
        for weight in self._trained:
            own, of_copy = found[weight], found[self._copies.leaf(weight)]
            if own is not None and of_copy is not None and own is not of_copy:
                gradients[weight] = own + of_copy
            elif own is not None or of_copy is not None:
                gradients[weight] = of_copy if own is None else own
        return gradients

    def _check(self, recorded: "_Recorded", host: _Host, loss: float, norms: Tensor | None) -> None:
        """Replay what was recorded once, and compare: gradients where there are none before that it would add to.

        Raises:
            RuntimeError: it computes something else.
        """
        is_whole = recorded.is_first and norms is not None
        is_random = any(isinstance(part, nn.Dropout) and part.p > 0 for part in self._model.modules())
        turn = self.forward(recorded, host, 1.0 if is_whole else 0.0)  # times 0, it adds nothing to the gradients
        if not abs(float(recorded.loss) - loss) <= TOLERANCE * abs(loss):
            raise RuntimeError(f"the loss is {float(recorded.loss):g} instead of {loss:g}")
        if norms is None or not is_whole:
            return
        self.backward(recorded, turn)
        found = _norms([self._places.of[weight] for weight in self._trained])
        error = float((found - norms).norm() / norms.norm().clamp_min(1e-30))  # 0 where nothing is supervised
        if not is_random and not error <= TOLERANCE:
            raise RuntimeError(f"the gradients differ (relative difference {error:.1e})")
        self._is_checked = True

    def _prepare(self, recorded: "_Recorded") -> None:
        """Give a pass the gradients that it begins with: none, or all in their places."""
        if not recorded.is_first:
            self._place_gradients()
            return
        for weight in self._trained:
            weight.grad = None

    def _place_gradients(self) -> None:
        """Every trained weight's `.grad` in its place, with what it holds, or zeros."""
        empty = []
        for weight in self._trained:
            place = self._places.of[weight]
            if weight.grad is None:
                empty.append(place)
            elif weight.grad is not place:
                place.copy_(weight.grad)
            weight.grad = place
        if empty:
            torch._foreach_zero_(empty)

    def forward(self, recorded: "_Recorded", host: _Host, factor: float) -> int:
        """Replay a forward pass; which one it was."""
        self._places.factor.fill_(factor)
        self._prepare(recorded)
        recorded.forward(host)
        self._turn += 1
        return self._turn

    def backward(self, recorded: "_Recorded", turn: int) -> None:
        """Replay the backward pass that belongs to the last forward pass: its gradients lie in their places."""
        if turn != self._turn:
            raise AssertionError("a pack's backward pass came after another pack's forward pass")
        recorded.replay_backward()
        for weight in self._trained:
            weight.grad = self._places.of[weight]


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Of each, float32."""
    return torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients), dtype=torch.float32)])


class _Recorded:
    """One size: the tensors that its graphs read, the loss that they write, and how to replay them.

    Args:
        is_first: the pack is the first of its step.
    """

    def __init__(self, tensors: PackTensors, device: torch.device, *, is_first: bool) -> None:
        self.tensors, self.is_first = tensors, is_first
        self.loss = torch.zeros((), device=device)
        self.pool: Any = None
        self._live: Tensor | None = None
        self._replay_forward: Callable[[], None] = lambda: None
        self.replay_backward: Callable[[], None] = lambda: None

    def record(
        self, run: Callable[..., Tensor], places: GradientPlaces, place_gradients: Callable[[], None], pool: Any
    ) -> None:
        def forward() -> None:
            places.overwrite, places.recording = self.is_first, True
            try:
                self._live = run(self.tensors, places=places)
            finally:
                places.recording = False
            self.loss.copy_(self._live.detach())

        def backward() -> None:
            torch.autograd.backward([live for live in (self._live,) if live is not None], [places.factor])
            place_gradients()

        self._replay_forward, self.pool = record(forward, pool)
        self.replay_backward, _ = record(backward, self.pool)
        self._live = None  # its activations' memory belongs to the graphs

    def forward(self, host: _Host) -> None:
        arrays: Sequence[NDArray[Any]] = host[:-1]
        for static, array in zip(self.tensors[:-1], arrays, strict=True):
            static.view(-1).copy_(on_host(array, static.device), non_blocking=True)
        self.tensors = self.tensors._replace(seq_lens=host.seq_lens)
        self._replay_forward()


class _GraphPass(torch.autograd.Function):
    """A replayed pack to autograd: a loss whose backward pass is the other graph."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, graphs: CudaGraphs, recorded: _Recorded, host: _Host, weight: float) -> Tensor:
        ctx.turn = graphs.forward(recorded, host, weight)
        ctx.graphs, ctx.recorded = graphs, recorded
        return recorded.loss * weight

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        ctx.graphs.backward(ctx.recorded, ctx.turn)
        return None, None, None, None, None


@contextmanager
def placed_embedding(model: PreTrainedModel, places: GradientPlaces) -> Iterator[None]:
    """Inside, recorded passes add the gradient of the rows that they look up where the embedding's gradient lies.

    Else each pass fills a second buffer of the embedding's size with zeros for them, and adds all of it.
    """
    embedding = model.get_input_embeddings()
    scale = _scale_of(embedding)
    if scale is None or "forward" in vars(embedding):
        yield
        return
    own, weight = embedding.forward, embedding.weight
    look_up: Callable[..., Tensor] = _LookUp.apply

    def forward(ids: Tensor) -> Tensor:
        if not (places.recording and torch.is_grad_enabled() and weight in places.of):
            return cast("Tensor", own(ids))
        with torch.no_grad():
            rows = own(ids)
        return look_up(weight, rows, ids, scale, places)

    embedding.forward = forward
    try:
        yield
    finally:
        del embedding.forward


@torch.no_grad()
def _scale_of(embedding: Any) -> float | None:
    """What an embedding multiplies its float32 rows by; none: it does something else, or its rows are narrower."""
    if not isinstance(embedding, nn.Embedding) or embedding.weight.dtype != torch.float32:
        return None
    ids = torch.arange(min(4, len(embedding.weight)), device=embedding.weight.device)
    rows, found = embedding.weight[ids].double(), embedding(ids).double()
    scale = float((rows * found).sum() / rows.square().sum().clamp_min(1e-30))
    return scale if scale and torch.allclose(found, scale * rows, rtol=1e-5, atol=1e-9) else None  # 0: of empty rows


class _LookUp(torch.autograd.Function):
    """Rows of an embedding, times a number; their gradient is added to the weight's in its place, and not passed on."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, ids: Tensor, scale: float, places: GradientPlaces) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.scale, ctx.places = weight, scale, places
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        (ids,), weight = ctx.saved_tensors, ctx.weight
        place = ctx.places.of[weight]
        if weight.grad is None:
            weight.grad = place.zero_()
        rows = grads[0].reshape(-1, place.shape[1]).to(place.dtype)
        weight.grad.index_add_(0, ids.flatten(), rows, alpha=ctx.scale)
        return None, None, None, None, None


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """Inside, an operation that waits for the GPU raises.

    While a pass is recorded it would as well, but then torch stays on the recording's stream, keeps memory back, and
    may refuse to draw random numbers from there on.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def measured(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, int]:
    """(what the work gives, bytes of a GPU that it took at most)."""
    if device.type != "cuda":
        return work(), 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return work(), torch.cuda.max_memory_allocated() - before


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that nothing holds."""
    if device.type != "cuda":
        return sys.maxsize
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def record(work: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
    """(what does the work again, the memory that recorded work shares)."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    finally:
        torch.cuda.set_stream(stream)  # torch does not return to it where a recording cannot be ended
    return graph.replay, graph.pool()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _on_device(host: _Host, device: torch.device) -> PackTensors:
    ids, places, bounds, supervised, targets = (to_device(array, device) for array in host[:-1])
    return PackTensors(ids.unsqueeze(0), places.unsqueeze(0), bounds, supervised, targets, host.seq_lens)
