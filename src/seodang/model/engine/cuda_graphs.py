"""A pack's forward and backward pass as two CUDA graphs: recorded once for packs of about one size, then replayed.

A small model's layers ask for thousands of short kernels, and a GPU waits for the host that launches them one by one.
A graph is one launch. What it reads and writes lies where it lay when it was recorded: the pack's tensors, and the
gradients of the weights. So a pack is filled up to the next of few sizes, by positions that do not count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang.model.engine.attention import Lengths
from seodang.model.engine.loss import PackTensors, on_host, to_device
from seodang.types import IGNORED, Pack

MOST = 32  # graphs of a run; sizes beyond them run as written
MEMORY_MARGIN = 1.2  # free memory that recording asks for, in what a forward pass takes
TOLERANCE = 1e-2  # between the loss as replayed and as written, relative: they differ by the order of sums


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
        position_ids=np.concatenate([pack.position_ids, np.arange(filling)]),
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
    """

    def __init__(
        self, model: PreTrainedModel, run: Callable[[PackTensors], Tensor], on_note: Callable[[str], None]
    ) -> None:
        self._model, self._run, self._on_note = model, run, on_note
        self._seen: set[Size] = set()
        self._recorded: dict[Size, _Recorded] = {}
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._places: list[Tensor] = []  # of their gradients, once something is recorded
        self._steps = 0  # that have begun
        self._factor = torch.zeros((), device=model.device)  # gradient of the loss
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._pool: Any = None
        self._can_record = True
        self._turn = 0

    def loss(self, pack: Pack) -> Tensor:
        """Summed loss of a pack; its backward pass must come before the next pack's forward pass."""
        if all(weight.grad is None for weight in self._trained):
            self._steps += 1
        size = size_of(pack)
        host = fill(pack, size)
        if size not in self._recorded and not (self._may_record(size) and self._record(size, host)):
            self._seen.add(size)
            return self._run(_on_device(host, self._model.device))
        cuda_graphs: Callable[..., Tensor] = _GraphPass.apply
        return cuda_graphs(self._anchor, self, self._recorded[size], host)

    def _may_record(self, size: Size) -> bool:
        return self._can_record and self._steps > 1 and size in self._seen and len(self._recorded) < MOST

    def _record(self, size: Size, host: _Host) -> bool:
        recorded = _Recorded(_on_device(host, self._model.device), self._model.device)
        try:
            with _checking_memory(self._model.device, checked=self._pool is None):
                expected = self._expected(recorded.tensors)
            self.place_gradients()
            recorded.record(self._run, self._factor, self._pool)
            recorded.forward(host)
            if not abs(float(recorded.loss) - expected) <= TOLERANCE * abs(expected):
                raise RuntimeError(f"the loss is {float(recorded.loss):g} instead of {expected:g}")
        except Exception as error:  # what cannot be recorded raises in many ways; it runs as written then
            self._can_record = False
            self._on_note(f"CUDA graphs are not used: {str(error).splitlines()[0]}")
            return False
        self._pool = self._pool or recorded.pool
        self._recorded[size] = recorded
        return True

    def _expected(self, tensors: PackTensors) -> float:
        """The loss as written; the first time, which weights take part in it."""
        loss = self._run(tensors)
        if not self._places:
            # one that takes none has no gradient, and not one of zeros, by which weights decay
            found = torch.autograd.grad(loss, self._trained, allow_unused=True)
            taking_part = zip(self._trained, found, strict=True)
            self._trained = [weight for weight, gradient in taking_part if gradient is not None]
        return float(loss.detach())

    def place_gradients(self) -> None:
        """Every trained weight's `.grad` in its place, with what it holds, or zeros."""
        self._places = self._places or [torch.zeros_like(weight) for weight in self._trained]
        empty = []
        for weight, place in zip(self._trained, self._places, strict=True):
            if weight.grad is None:
                empty.append(place)
            elif weight.grad is not place:
                place.copy_(weight.grad)
            weight.grad = place
        if empty:
            torch._foreach_zero_(empty)

    def forward(self, recorded: "_Recorded", host: _Host) -> int:
        """Replay a forward pass; which one it was."""
        recorded.forward(host)
        self._turn += 1
        return self._turn

    def backward(self, recorded: "_Recorded", factor: Tensor, turn: int) -> None:
        """Replay the backward pass that belongs to the last forward pass: gradients are added to `.grad`."""
        if turn != self._turn:
            raise AssertionError("a pack's backward pass came after another pack's forward pass")
        self._factor.copy_(factor)
        self.place_gradients()
        recorded.replay_backward()


class _Recorded:
    """One size: the tensors that its graphs read, the loss that they write, and how to replay them."""

    def __init__(self, tensors: PackTensors, device: torch.device) -> None:
        self.tensors = tensors
        self.loss = torch.zeros((), device=device)
        self.pool: Any = None
        self._live: Tensor | None = None
        self._replay_forward: Callable[[], None] = lambda: None
        self.replay_backward: Callable[[], None] = lambda: None

    def record(self, run: Callable[[PackTensors], Tensor], factor: Tensor, pool: Any) -> None:
        def forward() -> None:
            self._live = run(self.tensors)
            self.loss.copy_(self._live.detach())

        def backward() -> None:
            torch.autograd.backward([live for live in (self._live,) if live is not None], [factor])

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
    def forward(ctx: Any, _: Tensor, graphs: CudaGraphs, recorded: _Recorded, host: _Host) -> Tensor:
        ctx.turn = graphs.forward(recorded, host)
        ctx.graphs, ctx.recorded = graphs, recorded
        return recorded.loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        ctx.graphs.backward(ctx.recorded, grads[0], ctx.turn)
        return None, None, None, None


@contextmanager
def _checking_memory(device: torch.device, *, checked: bool) -> Iterator[None]:
    """Inside runs what will be recorded; afterwards as much memory must be free as it took.

    Raises:
        RuntimeError: it is not, and this is `checked`.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if checked and free < MEMORY_MARGIN * needed:
        raise RuntimeError(f"they take {needed / 1e9:.1f} GB of memory more, {free / 1e9:.1f} GB are free")


def record(work: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
    """(what does the work again, the memory that recorded work shares)."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph.replay, graph.pool()


def _on_device(host: _Host, device: torch.device) -> PackTensors:
    ids, places, bounds, supervised, targets = (to_device(array, device) for array in host[:-1])
    return PackTensors(ids.unsqueeze(0), places.unsqueeze(0), bounds, supervised, targets, host.seq_lens)
