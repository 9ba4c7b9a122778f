"""A model's norms, written as a few operations each: on a CPU fewer passes over memory, on a GPU fewer launches.

Legend: N rows, D size of a row.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from seodang import distributed

SAME = 1e-5  # relative: what summing in another order changes in float32
_FUSED: "WeakKeyDictionary[nn.Module, Rms | None]" = WeakKeyDictionary()  # which of a model's norms are RMS norms


def norms_of(model: PreTrainedModel) -> list[nn.Module]:
    """The model's norms that run by their own code."""
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    return [norm for norm in norms if not any(norm.children()) and "forward" not in vars(norm)]


@contextmanager
def light_norms(model: PreTrainedModel) -> Iterator[None]:
    """Inside, every norm of the model keeps only its input for the backward pass, and RMS norms take few passes.

    Which of them are RMS norms is asked of what they compute. Others, and 16-bit inputs, run by the norm's own code,
    once more in the backward pass.
    """
    norms = norms_of(model)
    for norm in norms:
        norm.forward = _light(norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


@contextmanager
def recomputed_norms() -> Iterator[None]:
    """Inside, what takes a light RMS norm's result does not keep it for the backward pass: it is computed again there.

    The norm keeps its input anyway, and two multiplications a value are little beside the products that take it.
    """
    with torch.autograd.graph.saved_tensors_hooks(_keep, _give):
        yield


class _Kept(NamedTuple):
    """A tensor as it was saved."""

    tensor: Tensor
    version: int

    def give(self) -> Tensor:
        """Raises RuntimeError, as autograd does without hooks."""
        if self.tensor._version != self.version:
            raise RuntimeError("a tensor that the backward pass needs was changed in place")
        return self.tensor


class _Normed(NamedTuple):
    """The result of an RMS norm, which is not kept."""

    node: Any  # its place in the graph
    shape: torch.Size

    def give(self) -> Tensor:
        """Computed once for all that took it; the norm's own backward pass, which follows theirs, drops it."""
        if self.node.normed is None:
            self.node.normed = _normed(*self.node.saved_tensors)
        normed: Tensor = self.node.normed
        return normed.view(self.shape)


def _keep(saved: Tensor) -> _Kept | _Normed:
    normed = saved if saved._base is None else saved._base
    is_normed = getattr(normed.grad_fn, "_forward_cls", None) is RmsNorm
    if is_normed and saved.numel() == normed.numel() and saved.is_contiguous():
        return _Normed(normed.grad_fn, saved.shape)
    return _Kept(saved.detach(), saved._version)  # a node that held its own result would never be freed


def _give(kept: _Kept | _Normed) -> Tensor:
    return kept.give()


@contextmanager
def fused_norms(model: PreTrainedModel) -> Iterator[None]:
    """Inside, each RMS norm is one kernel where no gradients are taken; its weights must not change meanwhile.

    Written out, a norm is 7 to 9 launches, half of all that a GPU waits for when a model reads or writes a few tokens.
    """
    norms = [] if distributed.is_sharded(model) else [norm for norm in norms_of(model) if _is_rms_norm(norm)]
    for norm in norms:
        norm.forward = _fused(norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _is_rms_norm(norm: nn.Module) -> bool:
    if norm not in _FUSED:
        _FUSED[norm] = rms_norm(norm)
    return _FUSED[norm] is not None and next(norm.parameters()).dtype == torch.float32


@torch.no_grad()
def _fused(norm: Any) -> Callable[..., Tensor]:
    own, found = norm.forward, _FUSED[norm]
    assert found is not None, f"{type(norm).__name__} is not an RMS norm"
    scale_D = norm.weight + found.offset
    try:
        keeps_dtype = own(torch.ones_like(norm.weight, dtype=torch.bfloat16)).dtype == torch.bfloat16
    except RuntimeError:  # it takes no other dtype than its weight's
        keeps_dtype = False

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_known = hidden.dtype == torch.float32 or (keeps_dtype and hidden.dtype == torch.bfloat16)
        if torch.is_grad_enabled() or not is_known or args or kwargs:
            normed: Tensor = own(hidden, *args, **kwargs)
            return normed
        return F.rms_norm(hidden.float(), scale_D.shape, scale_D, found.eps).to(hidden.dtype)

    return forward


def _light(norm: Any) -> Callable[[Tensor], Tensor]:
    own: Callable[..., Tensor] = partial(checkpoint, norm.forward, use_reentrant=False, preserve_rng_state=False)
    found = rms_norm(norm)
    if found is None:
        return own
    compute: Callable[..., Tensor] = RmsNorm.apply

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if hidden.dtype != torch.float32 or args or kwargs:
            return own(hidden, *args, **kwargs)
        return compute(hidden, norm.weight + found.offset if found.offset else norm.weight, found.eps)

    return forward


class Rms(NamedTuple):
    """An RMS norm: x · rsqrt(mean x² + eps) · (weight + offset)."""

    offset: float  # 1 in Gemma
    eps: float


@torch.no_grad()
def rms_norm(norm: Any) -> Rms | None:
    """Of a norm in float32 whose only parameter is its weight: what its values are; none: they are something else."""
    weight: Any = getattr(norm, "weight", None)
    compute: Callable[..., Tensor] = RmsNorm.apply
    eps = [value for name in ("eps", "variance_epsilon") if isinstance(value := getattr(norm, name, None), float)]
    has_one = isinstance(weight, Tensor) and [id(one) for one in norm.parameters()] == [id(weight)]
    if not has_one or weight.dtype != torch.float32 or weight.ndim != 1 or not eps:
        return None
    if isinstance(weight, FakeTensor):  # a memory estimate's
        with unset_fake_temporarily():
            return rms_norm(_with_data(norm))
    rows = torch.cos(torch.arange(3 * len(weight)) + 1.0).view(3, -1) * torch.tensor([[1e-3], [1.0], [30.0]])
    rows = rows.to(weight.device)
    try:
        expected = norm(rows)
    except (RuntimeError, TypeError):  # it takes more than a hidden state
        return None
    for offset in (0.0, 1.0):
        values = compute(rows, weight + offset, eps[0])
        if bool(((values - expected).abs() <= SAME * expected.abs().max()).all()):  # NaN: no
            return Rms(offset, eps[0])
    return None


def _with_data(norm: Any) -> Any:
    """A copy on the CPU."""
    with_data = copy.copy(norm)
    with_data._parameters = {"weight": nn.Parameter(torch.linspace(0.5, 1.5, len(norm.weight)))}
    return with_data


class RmsNorm(torch.autograd.Function):
    """y = x · r · scale with r = rsqrt(mean x² + eps), in float32 whatever autocast says."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, scale_D: Tensor, eps: float) -> Tensor:
        mean = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
        inverse = mean.add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, inverse, scale_D)
        ctx.normed = None  # the result, while those who took it run backward
        return _normed(hidden, inverse, scale_D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By scale: Σ g·x·r over the rows; by x: r·g·scale − x·r³·mean(g·x·scale)."""
        hidden, inverse, scale_D = ctx.saved_tensors
        ctx.normed = None
        (grad,) = grads
        size = hidden.shape[-1]
        with torch.autocast(hidden.device.type, enabled=False):
            both = torch.mul(grad, hidden, out=hidden.new_empty(hidden.shape))  # contiguous, whatever the two are
            both_ND = both.view(-1, size)
            grad_scale = torch.mv(both_ND.T, inverse.reshape(-1)) if ctx.needs_input_grad[1] else None
            slope = torch.mv(both_ND, scale_D).view(inverse.shape).mul_(inverse.pow(3)).div_(-size)
            grad_hidden = torch.mul(grad, scale_D, out=torch.empty_like(hidden)).mul_(inverse).addcmul_(hidden, slope)
        return grad_hidden, grad_scale, None


def _normed(hidden: Tensor, inverse: Tensor, scale_D: Tensor) -> Tensor:
    return (hidden * inverse).mul_(scale_D)
