"""Norms keep only their input, RMS norms are recognized by what they compute, and nothing changes in the numbers."""

import gc
import weakref
from contextlib import ExitStack, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seodang.model.engine.layers import norms
from seodang.model.engine.layers.norms import (
    Rms,
    RmsNorm,
    fused_norms,
    light_norms,
    norms_of,
    recomputed_norms,
    rms_norm,
)
from tiny import make_config, make_model


class _OtherNorm(LlamaRMSNorm):
    """Looks like an RMS norm, and is none."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) * hidden_states.sign()


class _Witness:
    """Lives as long as what holds it."""


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (LlamaRMSNorm(32, eps=1e-5), Rms(0.0, 1e-5)),
        (Gemma3RMSNorm(32, eps=1e-6), Rms(1.0, 1e-6)),
        (nn.RMSNorm(32, eps=1e-6), Rms(0.0, 1e-6)),
        (nn.LayerNorm(32), None),
        (nn.LayerNorm(32, bias=False), None),
        (nn.RMSNorm(32, eps=1e-6, elementwise_affine=False), None),
        (nn.RMSNorm(32), None),
        (_OtherNorm(32), None),
        (LlamaRMSNorm(32).to(torch.bfloat16), None),
    ],
)
def test_an_rms_norm_is_known_by_its_values(norm: nn.Module, expected: Rms | None) -> None:
    """Whatever its class is called; also with weights that were trained."""
    assert rms_norm(norm) == expected
    for weight in norm.parameters():
        nn.init.normal_(weight)
    assert rms_norm(norm) == expected


def test_a_norm_without_data_is_known_as_well() -> None:
    """A memory estimate asks a copy of it that has data."""
    with FakeTensorMode():
        assert rms_norm(LlamaRMSNorm(32)) == Rms(0.0, 1e-6)
        assert rms_norm(Gemma3RMSNorm(32, eps=1e-5)) == Rms(1.0, 1e-5)
        assert rms_norm(nn.RMSNorm(32, eps=1e-6)) == Rms(0.0, 1e-6)
        assert rms_norm(_OtherNorm(32)) is None


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_an_rms_norm_are_those_of_its_formula(transposed: bool) -> None:
    """In double precision; of rows that lie one after another, and of heads that do not."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 3, 2, 5, dtype=torch.float64).transpose(1, 2 if transposed else 1).detach()
    scale = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(RmsNorm.apply, (hidden.requires_grad_(), scale.requires_grad_(), 1e-3))


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_norms_keep_less_and_nothing_changes(kind: str) -> None:
    """Under `light_norms` logits and gradients are the same but for rounding; then all is as before."""
    model = make_model(make_config(kind))
    ids = torch.arange(3, 40).unsqueeze(0)
    results, kept = [], []
    for wanted in (False, True):
        model.zero_grad()
        sizes: list[int] = []
        with light_norms(model) if wanted else nullcontext():
            assert not (wanted and norms_of(model))  # each has been replaced
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
                logits = model(input_ids=ids, use_cache=False).logits
            logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters())])
        kept.append(sum(sizes))
    for plain, light in zip(*results, strict=True):
        torch.testing.assert_close(light, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    assert kept[1] < 0.9 * kept[0]
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_results_of_norms_are_not_kept(kind: str) -> None:
    """Under `recomputed_norms` those before attention and MLP are gone after the forward pass; gradients are the same.

    Their memory is cleared before the backward pass, which therefore would not find them.
    """
    model = make_model(make_config(kind))
    before = ("input_layernorm", "pre_feedforward_layernorm" if kind == "gemma3" else "post_attention_layernorm")
    gradients = []
    for wanted in (False, True):
        model.zero_grad()
        results: list[torch.Tensor] = []
        with light_norms(model), recomputed_norms() if wanted else nullcontext(), ExitStack() as hooked:
            for name, norm in model.named_modules():
                if name.endswith(before):
                    hook = norm.register_forward_hook(lambda *given, kept=results: kept.append(given[-1]))
                    hooked.callback(hook.remove)
            logits = model(input_ids=torch.arange(3, 40).unsqueeze(0), use_cache=False).logits
        assert len(results) == 2 * model.config.num_hidden_layers
        for result in results if wanted else ():
            result.untyped_storage().fill_(255)  # NaN
        logits.logsumexp(-1).sum().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert all(torch.equal(kept, computed) for kept, computed in zip(*gradients, strict=True))


def test_a_result_is_computed_again_once_for_all_that_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products share it, as in attention; after the norm's own backward pass nothing of it is left."""
    count, compute = [0], norms._normed
    monkeypatch.setattr(norms, "_normed", lambda *given: count.__setitem__(0, count[0] + 1) or compute(*given))
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    weights = [nn.Parameter(torch.randn(3, 8)) for _ in range(3)]
    with recomputed_norms():
        normed = RmsNorm.apply(hidden, torch.ones(8), 1e-6)
        node = normed.grad_fn
        torch.stack([F.linear(normed, weight) for weight in weights]).square().sum().backward()
    assert (count, node.normed) == ([2], None)


def test_a_kept_tensor_that_is_changed_is_an_error() -> None:
    """Never gradients of other values; autograd's own check knows nothing of tensors that hooks keep."""
    with recomputed_norms():
        doubled = torch.ones(4, requires_grad=True) * 2
        squared = doubled.square()
        doubled.mul_(3)
    with pytest.raises(RuntimeError, match="changed in place"):
        squared.sum().backward()


def test_what_is_kept_is_freed_with_the_graph() -> None:
    """At once: an operation that keeps its own result does not hold itself."""
    with recomputed_norms():
        result = torch.ones(4, requires_grad=True).exp()
    result.grad_fn.metadata["witness"] = witness = _Witness()
    seen = weakref.ref(witness)
    gc.disable()
    try:
        del result, witness
        assert seen() is None
    finally:
        gc.enable()


def test_a_norm_in_16_bits_is_computed_again_to_the_bit() -> None:
    """Under bf16 products some norms get bf16: their own code runs, and its rounding stays."""
    torch.manual_seed(0)
    model = make_model(make_config("gemma3"))
    norm = norms_of(model)[0]
    hidden = torch.randn(2, norm.weight.numel()).to(torch.bfloat16)
    expected = norm(hidden)
    with light_norms(model):
        found = norm(hidden)
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
@torch.no_grad()
def test_fused_norms_change_nothing_without_gradients(kind: str) -> None:
    """Logits are the same but for rounding, in float32 and with bf16 products; then all is as before."""
    model = make_model(make_config(kind))
    for weight in model.parameters():
        weight += 0.1 * torch.randn_like(weight)
    ids = torch.arange(3, 40).unsqueeze(0)
    for compute, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=compute == torch.bfloat16):
            plain = model(input_ids=ids, use_cache=False).logits
            with fused_norms(model):
                assert not norms_of(model)  # each has been replaced
                fused = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance * float(plain.abs().max()))
    assert not any("forward" in vars(module) for module in model.modules())


def test_fused_norms_leave_gradients_to_the_norms_own_code() -> None:
    """Where gradients are taken, the weights get theirs."""
    norm = Gemma3RMSNorm(8)
    hidden = torch.randn(3, 8)
    with fused_norms(nn.ModuleList([norm])):
        norm(hidden).sum().backward()
    torch.testing.assert_close(norm.weight.grad, F.rms_norm(hidden, (8,), eps=norm.eps).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [Gemma3RMSNorm(32), LlamaRMSNorm(32), _OtherNorm(32), nn.LayerNorm(32)])
@torch.no_grad()
def test_a_fused_norm_keeps_the_dtype_of_its_own_code(norm: nn.Module, dtype: torch.dtype) -> None:
    """Also where weights in float32 widen an input of 16 bits, or the norm is another one."""
    hidden = torch.randn(3, 32).to(dtype)
    try:
        expected = norm(hidden)
    except RuntimeError:  # torch's own takes one dtype
        return
    with fused_norms(nn.ModuleList([norm])):
        found = norm(hidden)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
@torch.no_grad()
def test_fused_norms_on_a_gpu(kind: str) -> None:
    """Torch's kernel gives what the norms' own code gives, in float32 and with bf16 products."""
    model = make_model(make_config(kind)).to("cuda")
    ids = torch.arange(3, 40, device="cuda").unsqueeze(0)
    for compute, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        with torch.autocast("cuda", torch.bfloat16, enabled=compute == torch.bfloat16):
            plain = model(input_ids=ids, use_cache=False).logits
            with fused_norms(model):
                assert not norms_of(model)
                fused = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance * float(plain.abs().max()))
