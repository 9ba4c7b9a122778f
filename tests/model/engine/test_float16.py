"""Passes that train with float16 products: close to float32 where a trial allows them, and refused where not."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.engine.float16 import float16_objection
from tiny import make_config, make_model

DRAW = np.random.default_rng(0)
ROWS = [DRAW.integers(13, 512, length).astype(np.int32) for length in (40, 61)]
HALF = torch.float16


def _with_large_products(model: PreTrainedModel) -> PreTrainedModel:
    """Its layers add numbers beyond 65,504; in float32 it is a healthy model."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "down_proj" in name:
                weight.mul_(1e6)
    return model


def _gradients(model: PreTrainedModel, engine: Engine, *, exact: bool = False) -> tuple[float, Tensor]:
    """The mean loss of a pack, and the gradient of all weights under a factor of the loss that fits."""
    (packed,) = pack(ROWS, ROWS, budget=200)
    model.zero_grad(set_to_none=True)
    with engine.installed(model):
        loss = model(pack=packed, exact=exact) / 99
        (loss * 256).backward()
    found = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return float(loss.detach()), found / 256


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3"])
def test_gradients_are_close_to_those_of_float32(kind: str) -> None:
    """Loss and gradients of all weights within a hundredth; with `exact`, and without gradients, they are float32's."""
    model = make_model(make_config(kind))
    engine = choose_engine(model, ROWS, training_dtype=HALF)
    assert engine.training_dtype == HALF
    assert engine.remarks == ("float16 for the products of training agrees with float32 on your rows",)
    loss, gradient = _gradients(model, engine)
    expected_loss, expected = _gradients(model, choose_engine(model, ROWS))
    assert loss == pytest.approx(expected_loss, rel=1e-3)
    assert loss != expected_loss
    assert float((gradient - expected).norm() / expected.norm()) < 0.01
    exact_loss, exact = _gradients(model, engine, exact=True)
    assert (exact_loss, torch.equal(exact, expected)) == (expected_loss, True)
    (packed,) = pack(ROWS, ROWS, budget=200)
    with torch.no_grad(), engine.installed(model):
        assert float(model(pack=packed)) == pytest.approx(99 * expected_loss, rel=1e-6)


def test_what_layers_add_to_stays_float32() -> None:
    """Every layer takes and gives float32, so that numbers beyond float16's largest may stand there."""
    model = make_model(make_config("llama"))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1e3)
    seen: list[torch.dtype] = []

    def note(_: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((given[0].dtype, output.dtype))

    layers = [module for name, module in model.named_modules() if name.endswith(("layers.0", "layers.1"))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    assert float16_objection(model, ROWS, packed=True, linear_cross_entropy=False) is None
    for hook in hooks:
        hook.remove()
    assert len(seen) >= 8
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("packed", [True, False])
def test_products_too_large_for_float16_are_noticed(packed: bool) -> None:
    """A model whose layers give larger numbers trains in float32, and the remark says why."""
    model = _with_large_products(make_model(make_config("gemma3")))
    engine = choose_engine(model, ROWS, packed=packed, training_dtype=HALF)
    assert engine.training_dtype is None
    (remark,) = engine.remarks
    assert remark.startswith(
        "float16 for the products of training is not used, training is slower: products on your rows"
    )
    assert remark.endswith("float16 holds at most 65,504")


def test_half_of_the_range_is_kept_free() -> None:
    """Numbers that still fit, and would not if they doubled, are reported with their size."""
    model = make_model(make_config("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(2e3)
    objection = float16_objection(model, ROWS, packed=True, linear_cross_entropy=True)
    assert objection
    assert 32_752 < int(objection.split(" reach ")[1].split(";")[0].replace(",", "")) < 65_504


def test_products_that_the_device_lacks_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a product raises, training is in float32."""

    def lacking(*_: object) -> None:
        raise RuntimeError("not implemented for 'Half'")

    model = make_model(make_config("llama"))
    monkeypatch.setattr("seodang.model.engine.float16.linear_cross_entropy_loss", lacking)
    found = float16_objection(model, ROWS, packed=True, linear_cross_entropy=True)
    assert found == "a pass does not run (not implemented for 'Half')"
    assert all(weight.grad is None for weight in model.parameters())
