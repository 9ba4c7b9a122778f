"""Gated MLPs keep half as much for the backward pass, are recognized by what they compute, and nothing changes."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig, SeedOssConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.seed_oss.modeling_seed_oss import SeedOssMLP

from seodang.model.engine.layers.gated_mlp import LightGatedMlp, gated_mlp, light_gated_mlps
from seodang.model.engine.layers.norms import light_norms
from tiny import make_config, make_model

CONFIG = make_config("llama")


class _OtherMlp(LlamaMLP):
    """Has the parts of a gated MLP, and computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=0.01)


class _InPlace(LlamaMLP):
    """Writes over what the backward pass needs."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.act_fn = nn.SiLU(inplace=True)


class _Limited(LlamaMLP):
    """As DeepSeek V4's, whose limit small inputs never reach."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=10)) * self.up_proj(x).clamp(-10, 10))


class _OtherInput(LlamaMLP):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x * scale)


def _with_bias() -> nn.Module:
    return LlamaMLP(make_config("llama", mlp_bias=True))


def _hooked() -> nn.Module:
    mlp = LlamaMLP(CONFIG)
    mlp.up_proj.register_forward_hook(lambda *_: None)
    return mlp


def _adapted() -> nn.Module:
    return inject_adapter_in_model(LoraConfig(r=2, target_modules=["up_proj"]), LlamaMLP(CONFIG))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LlamaMLP(CONFIG), True),
        (Gemma3MLP(make_config("gemma3")), True),
        (LlamaMLP(make_config("llama", hidden_act="relu2")), True),
        (LlamaMLP(make_config("llama", hidden_act="linear")), True),
        (SeedOssMLP(SeedOssConfig(hidden_size=8, intermediate_size=16)).eval(), False),  # has dropout in training
        (_InPlace(CONFIG), False),
        (_Limited(CONFIG), False),
        (_OtherMlp(CONFIG), False),
        (_OtherInput(CONFIG), False),
        (_with_bias(), False),
        (_hooked(), False),
        (_adapted(), False),
        (LlamaMLP(CONFIG).to(torch.bfloat16), False),
        (nn.Linear(8, 8), False),
    ],
)
def test_a_gated_mlp_is_known_by_its_parts_and_values(module: nn.Module, expected: bool) -> None:
    """Others, adapters, biases, hooks and 16 bits are left to their own code."""
    assert (gated_mlp(module) is not None) == expected


def test_a_gated_mlp_without_data_is_known_too() -> None:
    """So that a memory estimate counts what training will keep: of dropout and limits all that their code keeps."""
    with FakeTensorMode():
        assert gated_mlp(LlamaMLP(CONFIG)) is not None
        assert gated_mlp(_Limited(CONFIG)) is None


def test_weights_of_nan_are_left_to_the_losses_that_show_them() -> None:
    """Nothing is raised before training reports them."""
    model = make_model(make_config("gemma3"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    with light_gated_mlps(model), light_norms(model):
        assert model(input_ids=torch.arange(3, 9).unsqueeze(0)).logits.isnan().all()


def test_random_numbers_are_as_before() -> None:
    """A run does not depend on what was tried."""
    mlp = LlamaMLP(CONFIG)
    before = torch.get_rng_state()
    gated_mlp(mlp)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("trained", [(0, 1, 2, 3), (0,), (1,), (2, 3)])
def test_gradients_are_those_of_the_formula(trained: tuple[int, ...]) -> None:
    """In double precision, of any part that is trained; of inputs with and without a batch."""
    torch.manual_seed(0)
    for shape in ((3, 4), (1, 3, 4)):
        tensors = [torch.randn(size, dtype=torch.float64) for size in (shape, (5, 4), (5, 4), (4, 5))]
        for number in trained:
            tensors[number].requires_grad_()
        assert torch.autograd.gradcheck(lambda *given: LightGatedMlp.apply(*given, F.silu), tensors)


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_mlps_keep_less_and_nothing_changes(kind: str) -> None:
    """Under `light_gated_mlps` logits and gradients are the same but for rounding; then all is as before."""
    model = make_model(make_config(kind))
    ids = torch.arange(3, 40).unsqueeze(0)
    width = model.config.intermediate_size
    results, kept = [], []
    for wanted in (False, True):
        model.zero_grad()
        saved: dict[int, Tensor] = {}  # by where they lie: one may be kept for two operations
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: s.update({t.data_ptr(): t}) or t, lambda t: t
        )
        with light_gated_mlps(model) if wanted else nullcontext():
            with hooks:
                logits = model(input_ids=ids, use_cache=False).logits
            logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters())])
        kept.append(sum(tensor.shape[-2:] == (ids.numel(), width) for tensor in saved.values()))
    for plain, light in zip(*results, strict=True):
        torch.testing.assert_close(light, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    layers = model.config.num_hidden_layers
    assert kept == [4 * layers, 2 * layers]
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("products", ["bfloat16", "none"])
def test_other_passes_run_by_the_modules_own_code(products: str) -> None:
    """With 16-bit products, and without gradients, to the bit."""
    mlp = LlamaMLP(CONFIG)
    model = nn.ModuleList([mlp])
    hidden = torch.randn(3, CONFIG.hidden_size)
    is_narrow = products == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow), torch.set_grad_enabled(is_narrow):
        expected = mlp(hidden)
        with light_gated_mlps(model):
            found = mlp(hidden)
    assert torch.equal(found, expected)
    assert (found.grad_fn is None) == (expected.grad_fn is None)
    assert found.grad_fn is None or "LightGatedMlp" not in type(found.grad_fn).__name__
