"""Device and precision: chosen with reasons, refused with a hint."""

from typing import Any

import pytest
import torch

from seodang.errors import ResourceError
from seodang.model import placement
from seodang.model.placement import choose_placement
from seodang.recipe import Model

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")


@needs_no_gpu
def test_auto_on_a_cpu() -> None:
    """Without a GPU: CPU, float32 weights, packed, and a sentence for each choice."""
    found = choose_placement(Model(path="x"))
    assert (found.device, found.dtype, found.attention) == ("cpu", "float32", "packed")
    assert found.compute_dtype in ("float32", "bfloat16")
    assert len(found.reasons) == 3
    assert "bf16" in found.reasons[1]


@pytest.mark.parametrize(
    ("amx", "avx512", "compute"), [(False, False, "float32"), (False, True, "bfloat16"), (True, True, "bfloat16")]
)
def test_bf16_where_the_cpu_has_a_unit_for_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, compute: str
) -> None:
    """bf16 products are chosen by what the CPU says of itself, so that a resumed run chooses the same again."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert choose_placement(Model(path="x", device="cpu")).compute_dtype == compute


def test_asked_precision() -> None:
    """An explicit dtype holds for weights and products; pure bfloat16 comes with what it loses."""
    plain = choose_placement(Model(path="x", device="cpu", dtype="float32", attention="padded"))
    assert (plain.dtype, plain.compute_dtype, plain.attention) == ("float32", "float32", "padded")
    pure = choose_placement(Model(path="x", device="cpu", dtype="bfloat16"))
    assert (pure.dtype, pure.compute_dtype) == ("bfloat16", "bfloat16")
    assert "1/256" in pure.reasons[1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [("gpu", "unknown device"), ("cuda:x", "unknown device"), ("cpu:1", "unknown device"), ("cuda:99", "CUDA devices")],
)
def test_impossible_devices(asked: str, told: str) -> None:
    """A device that does not exist is refused by its recipe key."""
    with pytest.raises(ResourceError, match=rf"model\.device: .*{told}"):
        choose_placement(Model(path="x", device=asked))


def test_float16_on_a_cpu_is_refused() -> None:
    """float16 products on a CPU take hundreds of times as long, so they are refused."""
    with pytest.raises(ResourceError, match=r"model\.dtype"):
        choose_placement(Model(path="x", device="cpu", dtype="float16"))


def test_rank_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun `cuda` is the device of the process's rank; a device with a number stays."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert placement._own_rank("cuda") == "cuda:3"
    assert placement._own_rank("cuda:1") == "cuda:1"


def test_a_gpu_that_was_asked_for_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch does on "the" GPU, such as waiting for it or recording its work, it does on that one."""
    made_current: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    assert choose_placement(Model(path="x", device="cuda:1")).device == "cuda:1"
    assert made_current == ["cuda:1"]


@pytest.mark.parametrize(
    ("capability", "products", "training"),
    [
        ((6, 1), "float32", None),
        ((7, 0), "float32", "float16"),
        ((7, 5), "float32", "float16"),
        ((8, 0), "bfloat16", None),
    ],
)
def test_a_gpu_without_bf16_trains_with_float16_products(
    capability: tuple[int, int], products: str, training: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100 and T4 (7.0, 7.5) keep float32 weights and measure in float32; only training multiplies in float16."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    found = choose_placement(Model(path="x"))
    assert (found.dtype, found.compute_dtype, found.training_dtype) == ("float32", products, training)
    why = " ".join(found.reasons)
    assert f"compute capability {capability[0]}.{capability[1]}" in why
    assert ("bf16 needs 8.0" in why) == (products == "float32")
    assert ("float16 products under a scaled loss" in why) == (training is not None)
    assert choose_placement(Model(path="x", dtype="float32")).training_dtype is None


@pytest.mark.parametrize(
    ("capability", "asked", "rounded", "frozen", "weights"),
    [
        ((9, 0), "auto", True, False, "bfloat16"),
        ((9, 0), "bfloat16", True, False, "bfloat16"),
        ((9, 0), "float32", True, False, "float32"),
        ((9, 0), "auto", False, False, "float32"),
        ((9, 0), "auto", True, True, "float32"),
        ((7, 5), "auto", True, False, "float32"),
    ],
)
def test_rounded_weights_are_bf16(
    capability: tuple[int, int], asked: Any, rounded: bool, frozen: bool, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is rounded stochastically, on a GPU that is fast at bf16 and where the recipe does not say float32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    found = choose_placement(Model(path="x", dtype=asked), frozen=frozen, stochastic_rounding=rounded)
    assert found.dtype == weights
    assert ("rounded stochastically" in " ".join(found.reasons)) == (rounded and not frozen and weights == "bfloat16")
    assert choose_placement(Model(path="x", device="cpu"), stochastic_rounding=True).dtype == "float32"


@pytest.mark.gpu
def test_auto_on_a_gpu() -> None:
    """With a GPU that computes in bf16: CUDA, float32 weights, bf16 products."""
    found = choose_placement(Model(path="x"))
    assert found.device.startswith("cuda")
    expected = "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float32"
    assert (found.dtype, found.compute_dtype) == ("float32", expected)
