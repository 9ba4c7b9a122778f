"""Kernels for packed rows: which one is chosen, and that it is called for what `packed_attention` promises.

There is no CPU kernel, so that here torch's and the package's functions are replaced by what their documentation says.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seodang.data.pack import pack
from seodang.model.engine import attention as attention_module
from seodang.model.engine import attention_kernels
from seodang.model.engine import engine as engine_module
from seodang.model.engine.attention import Lengths, packed_attention
from seodang.model.engine.attention_kernels import Hardware, Kernel, choose_kernel, hardware_of, run_kernel
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.engine.self_test import kernel_error
from seodang.types import Pack
from tiny import make_config, make_model

HOPPER = Hardware("cuda", (9, 0), ("varlen", "flash"))
PLAIN_TORCH = Hardware("cuda", (9, 0), ("varlen",))
LENGTHS = (30, 1, 17, 9)
BF16 = torch.bfloat16


def _documented(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, left: int, softcap: float = 0.0
) -> Tensor:
    """[T, H, D]: a query sees the keys of its sequence from `left` before it (−1: all) to its own place."""
    assert cu_seqlens.dtype == torch.int32
    k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
    outputs = []
    for start, stop in pairwise(cu_seqlens.tolist()):
        query, key, value = (states[start:stop].float().transpose(0, 1) for states in (q, k, v))
        scores = query @ key.transpose(1, 2) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        hidden = (distance < 0) | ((left >= 0) & (distance > left))
        outputs.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value).transpose(0, 1))
    return torch.cat(outputs).to(q.dtype)


def _varlen_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """torch's: (−1, 0) is causal, (W, 0) causal with W before; fewer key heads only when told."""
    assert type(max_q) is int
    assert max_q == max_k == int(cu_q.diff().max())
    assert window_size[1] == 0
    assert enable_gqa == (q.shape[1] != k.shape[1])
    torch.testing.assert_close(cu_q, cu_k)
    return _documented(q, k, v, cu_q, scale, window_size[0])


def _flash_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    dropout_p: float, softmax_scale: float, causal: bool, window_size: tuple[int, int], softcap: float,
) -> Tensor:  # fmt: skip
    """The package's: `causal` apart from the window, soft-cap 0 is none."""
    assert causal
    assert max_q == max_k == int(cu_q.diff().max())
    return _documented(q, k, v, cu_q, softmax_scale, window_size[0], softcap)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """As on a GPU with torch's kernel alone; what it is given."""
    given: list[dict[str, Any]] = []

    def noted(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        given.append({"dtypes": {q.dtype, k.dtype, v.dtype}, **options})
        return _varlen_attn(q, k, v, *rest, **options)

    monkeypatch.setattr(attention_kernels, "varlen_attn", noted)
    for module in (attention_module, engine_module):
        monkeypatch.setattr(module, "hardware_of", lambda _: PLAIN_TORCH)
    return given


def _pack() -> Pack:
    draw = np.random.default_rng(0)
    rows = [draw.integers(3, 300, length).astype(np.int32) for length in (30, 17, 9, 25)]
    (packed,) = pack(rows, rows, budget=100)
    return packed


@pytest.mark.parametrize(
    ("hardware", "layer", "expected"),
    [
        (HOPPER, {}, "varlen"),
        (HOPPER, {"dtype": torch.float16}, "varlen"),
        (HOPPER, {"head_size": 256, "value_size": 256}, "varlen"),
        (HOPPER._replace(capability=(8, 0)), {}, "varlen"),
        (HOPPER, {"softcap": 50.0}, "flash"),
        (HOPPER, {"dropout": 0.1}, "flash"),
        (HOPPER._replace(installed=("flash",)), {}, "flash"),
        (PLAIN_TORCH, {"softcap": 50.0}, None),
        (PLAIN_TORCH, {"dropout": 0.1}, None),
        (HOPPER, {"softcap": 50.0, "dropout": 0.1}, None),
        (HOPPER, {"sinks": True}, None),
        (HOPPER, {"dtype": torch.float32}, None),
        (HOPPER, {"head_size": 264, "value_size": 264}, None),
        (HOPPER, {"head_size": 4, "value_size": 4}, None),
        (HOPPER, {"head_size": 192, "value_size": 128}, None),
        (HOPPER._replace(capability=(7, 5)), {}, None),
        (HOPPER._replace(installed=()), {}, None),
        (Hardware("cpu", (0, 0), ("varlen", "flash")), {}, None),
    ],
)
def test_a_kernel_is_chosen_by_what_it_takes(
    hardware: Hardware, layer: dict[str, Any], expected: Kernel | None
) -> None:
    """torch's where it fits, else the package's, else none."""
    assert choose_kernel(hardware, **{"dtype": BF16, "head_size": 64, "value_size": 64, **layer}) == expected


def test_a_cpu_has_no_kernel() -> None:
    """Sequence by sequence, whatever is installed."""
    assert hardware_of(torch.device("cpu")) == Hardware("cpu", (0, 0), ())


@pytest.mark.parametrize("kernel", ["varlen", "flash"])
@pytest.mark.parametrize("window", [None, 1, 8, 29, 30, 100])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_a_kernel_is_called_for_what_is_computed_sequence_by_sequence(
    kernel: Kernel, window: int | None, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layout, windows, scale and shared key heads come out as the definition has them."""
    monkeypatch.setattr(attention_kernels, "varlen_attn", _varlen_attn)
    monkeypatch.setattr(attention_kernels, "_flash_attn", lambda: _flash_attn)
    softcap = 2.0 if kernel == "flash" else None
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 16) for heads in (4, key_heads, key_heads))
    cu_seqlens = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=torch.int32)
    expected, _ = packed_attention(
        nn.Module(), query, key, value, None, kernels=False, seq_lens=Lengths(LENGTHS), seq_bounds=cu_seqlens,
        scaling=0.3, sliding_window=window, softcap=softcap,
    )  # fmt: skip
    found = run_kernel(kernel, query, key, value, cu_seqlens, max(LENGTHS), scale=0.3, window=window, softcap=softcap)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_a_model_trains_through_the_kernel(kind: str, hopper: list[dict[str, Any]]) -> None:
    """Under autocast every layer reaches it in 16 bits, with its window; loss and gradients are the definition's."""
    model = make_model(make_config(kind)).train()
    loss, gradients = _trained(model, kernels=True)
    windows = {"gemma3": [(7, 0), (-1, 0)]}.get(kind, [(-1, 0)] * 2)
    assert [call["window_size"] for call in hopper] == windows
    assert all(call["dtypes"] == {BF16} for call in hopper)
    expected, wanted = _trained(model, kernels=False)
    assert len(hopper) == 2
    assert loss == pytest.approx(expected, rel=5e-3)
    assert torch.nn.functional.cosine_similarity(gradients, wanted, dim=0) > 0.999


def test_soft_caps_and_sinks_stay_with_the_definition(hopper: list[dict[str, Any]]) -> None:
    """Gemma 2's layers are not given to a kernel that knows no soft-cap."""
    _trained(make_model(make_config("gemma2")).train(), kernels=True)
    assert hopper == []


def _trained(model: Any, *, kernels: bool) -> tuple[float, Tensor]:
    """(loss of one pack under bf16 autocast, all gradients end to end)."""
    model.zero_grad(set_to_none=True)
    with Engine(packed=True, linear_cross_entropy=True, kernels=kernels, compute_dtype=BF16).installed(model):
        loss = model(pack=_pack())
        loss.backward()
    return float(loss.detach()), torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def test_a_kernel_that_agrees_is_trusted(hopper: list[dict[str, Any]]) -> None:
    """What trains is what was tried: in the dtype of the products, on rows longer than the window."""
    model = make_model(make_config("gemma3"))
    engine = choose_engine(model, _rows(), compute_dtype=BF16)
    assert engine.packed
    assert engine.kernels
    assert engine.remarks == ()
    assert {call["window_size"] for call in hopper} == {(7, 0), (-1, 0)}


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError("FlashAttention backward for head dim 224 requires A100/A800 or H100/H800")


@pytest.mark.parametrize("fault", ["window", "leak", "raises", "nan", "older", "backward"])
def test_a_kernel_that_differs_is_not_used(
    fault: str, hopper: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window one too wide, sequences that see each other, NaN or an error: sequence by sequence, with a remark.

    So is one of another version, and one that has no backward pass on this GPU.
    """

    def faulty(
        q: Tensor, k: Tensor, v: Tensor, cu: Tensor, *_: Any, scale: float, window_size: Any, **__: Any
    ) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no kernel image is available for execution on the device")
        if fault == "older":
            raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")
        ends = torch.tensor([0, len(q)], dtype=torch.int32) if fault == "leak" else cu
        left = window_size[0] + (fault == "window" and window_size[0] >= 0)
        out = _documented(q, k, v, ends, scale, left) * (float("nan") if fault == "nan" else 1.0)
        backward_fails: Callable[..., Tensor] = _NoBackward.apply
        return backward_fails(out) if fault == "backward" else out

    monkeypatch.setattr(attention_kernels, "varlen_attn", faulty)
    engine = choose_engine(make_model(make_config("gemma3")), _rows(), compute_dtype=BF16)
    assert engine.packed
    assert not engine.kernels
    assert "per-sequence attention" in engine.remarks[0]


def _rows() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 300, length).astype(np.int32) for length in (30, 17, 9)]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_the_real_kernel_is_the_definition(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, loss and gradients by torch's kernel are those sequence by sequence within the rounding of bf16."""
    device = torch.device("cuda")
    if hardware_of(device).capability < (8, 0):
        pytest.skip("a GPU older than capability 8.0")
    used: list[str] = []

    def noted(kernel: Kernel, *states: Any, **options: Any) -> Tensor:
        used.append(kernel)
        return run_kernel(kernel, *states, **options)

    monkeypatch.setattr(attention_module, "run_kernel", noted)
    model = make_model(make_config(kind)).to(device).train()
    loss, gradients = _trained(model, kernels=True)
    assert used == ["varlen"] * 2
    expected, wanted = _trained(model, kernels=False)
    assert loss == pytest.approx(expected, rel=5e-3)
    assert torch.nn.functional.cosine_similarity(gradients, wanted, dim=0) > 0.999
    assert kernel_error(model.eval(), _rows(), BF16) < engine_module.TOLERANCE[BF16]


@pytest.mark.gpu
def test_the_package_takes_soft_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flash_attn is installed, Gemma 2 trains through it."""
    pytest.importorskip("flash_attn")
    model = make_model(make_config("gemma2")).to("cuda").train()
    loss, gradients = _trained(model, kernels=True)
    expected, wanted = _trained(model, kernels=False)
    assert loss == pytest.approx(expected, rel=5e-3)
    assert torch.nn.functional.cosine_similarity(gradients, wanted, dim=0) > 0.999
