"""Norms keep only their input, RMS norms are recognized by what they compute, and nothing changes in the numbers."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seodang.model.engine.layers.norms import Rms, RmsNorm, fused_norms, light_norms, norms_of, rms_norm
from tiny import make_config, make_model


class _OtherNorm(LlamaRMSNorm):
    """Looks like an RMS norm, and is none."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) * hidden_states.sign()


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


def test_a_norm_without_data_is_left_to_its_own_code() -> None:
    """A memory estimate has nothing to compare."""
    with FakeTensorMode():
        assert rms_norm(LlamaRMSNorm(32)) is None


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
