"""Gated MLPs that keep the two products of their input, and compute the rest again in the backward pass.

Written out, y = down(act(gate(x)) · up(x)) keeps act(gate(x)) and its product with up(x) besides: half of what an MLP
keeps, for a few elementwise passes. With torch's compiler a layer decides that by itself.

Legend: N positions, D hidden size, I intermediate size.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import PreTrainedModel

from seodang.model.engine.layers.norms import SAME

PARTS = ("gate_proj", "up_proj", "down_proj")
HIDDEN, INNER = 8, 16  # sizes of a copy that is tried


@contextmanager
def light_gated_mlps(model: PreTrainedModel) -> Iterator[None]:
    """Inside, gated MLPs of the model with float32 products keep half as much for the backward pass.

    Which modules are such MLPs is asked of their parts and of what they compute; an adapter's are left as they are.
    """
    found = [(module, mlp) for module in model.modules() if (mlp := gated_mlp(module))]
    for module, mlp in found:
        module.forward = _light(module, mlp)
    try:
        yield
    finally:
        for module, _ in found:
            del module.forward


class GatedMlp(NamedTuple):
    """down(act(gate(x)) · up(x)), without biases."""

    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    act: Callable[[Tensor], Tensor]

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gate.weight, self.up.weight, self.down.weight


def gated_mlp(module: nn.Module) -> GatedMlp | None:
    """The parts of a gated MLP in float32, by the names that transformers gives them; none: it is something else."""
    parts = [getattr(module, name, None) for name in PARTS]
    gate, up, down = (part if _is_plain(part) else None for part in parts)
    act = getattr(module, "act_fn", None)
    if gate is None or up is None or down is None or not callable(act) or "forward" in vars(module):
        return None
    if len(list(module.parameters())) != len(parts):  # it has others, or shares some
        return None
    return GatedMlp(gate, up, down, act) if _computes(module) else None


def _is_plain(part: object) -> bool:
    return (
        type(part) is nn.Linear
        and part.bias is None
        and part.weight.dtype == torch.float32
        and "forward" not in vars(part)
        and not part._forward_hooks
        and not part._forward_pre_hooks
    )


def _computes(module: nn.Module) -> bool:
    """Whether it computes what is written here, asked of a small copy, which also a module without data has.

    In training, where dropout shows, of small and of large inputs, which limits would cut, and with the gradient.
    """
    compute: Callable[..., Tensor] = LightGatedMlp.apply
    try:
        with unset_fake_temporarily(), torch.random.fork_rng(devices=[]), torch.enable_grad():
            small = _small(module)
            rows = (torch.randn(2, HIDDEN) * torch.tensor([[1.0], [1e4]])).requires_grad_()
            weights = (getattr(small, name).weight for name in PARTS)
            own, ours = small(rows), compute(rows, *weights, small.act_fn)
            if not isinstance(own, Tensor) or own.shape != ours.shape:
                return False
            grads = [torch.autograd.grad(one.square().sum(), rows)[0] for one in (own, ours)]
            return _is_alike(own, ours) and _is_alike(*grads)
    except Exception:  # it takes another input, or changes it in place: the code of any model may run here
        return False


def _is_alike(own: Tensor, ours: Tensor) -> bool:
    """Whether each row differs by rounding alone; with NaN, it does not."""
    return bool(((own - ours).abs().amax(-1) <= SAME * own.abs().amax(-1)).all())


def _small(module: nn.Module) -> Any:
    """The module in training, with small random weights on the CPU instead of its own."""
    small = copy.copy(module)
    small._modules = {}
    for name, part in module._modules.items():
        sizes = (INNER, HIDDEN) if name == "down_proj" else (HIDDEN, INNER)
        small._modules[name] = nn.Linear(*sizes, bias=False) if name in PARTS else copy.deepcopy(part)
    return small.train()


def _light(module: Any, mlp: GatedMlp) -> Callable[..., Tensor]:
    own: Callable[..., Tensor] = module.forward
    compute: Callable[..., Tensor] = LightGatedMlp.apply

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_float32 = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
        if args or kwargs or not is_float32 or not torch.is_grad_enabled():
            return own(hidden, *args, **kwargs)
        return compute(hidden, *mlp.weights, mlp.act)

    return forward


class LightGatedMlp(torch.autograd.Function):
    """y = (act(x Gᵀ) · (x Uᵀ)) Dᵀ, of whose parts x, x Gᵀ and x Uᵀ are kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, gate_ID: Tensor, up_ID: Tensor, down_DI: Tensor, act: Callable[[Tensor], Tensor]
    ) -> Tensor:
        gated, raised = F.linear(hidden, gate_ID), F.linear(hidden, up_ID)
        ctx.act = act
        ctx.save_for_backward(hidden, gated, raised, gate_ID, up_ID, down_DI)
        return F.linear(act(gated) * raised, down_DI)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gated, raised, gate_ID, up_ID, down_DI = ctx.saved_tensors
        hidden_ND, gated_NI, raised_NI = (kept.flatten(0, -2) for kept in (hidden, gated, raised))
        grad_ND = grads[0].flatten(0, -2)
        wants_hidden, wants_gate, wants_up, wants_down = ctx.needs_input_grad[:4]
        with torch.enable_grad():
            leaf_NI = gated_NI.detach().requires_grad_()
            active_NI = ctx.act(leaf_NI)
        product_NI = active_NI.detach() * raised_NI
        grad_down = grad_ND.T @ product_NI if wants_down else None
        grad_NI = grad_ND @ down_DI
        grad_raised_NI = torch.mul(grad_NI, active_NI.detach(), out=product_NI)
        (grad_gated_NI,) = torch.autograd.grad(active_NI, leaf_NI, grad_NI.mul_(raised_NI))
        grad_gate = grad_gated_NI.T @ hidden_ND if wants_gate else None
        grad_up = grad_raised_NI.T @ hidden_ND if wants_up else None
        grad_hidden = None
        if wants_hidden:
            grad_hidden = (grad_gated_NI @ gate_ID).addmm_(grad_raised_NI, up_ID).view(hidden.shape)
        return grad_hidden, grad_gate, grad_up, grad_down, None
