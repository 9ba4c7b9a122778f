"""The own head against torch's cross entropy on all logits."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seodang.data.pack import pack
from seodang.model.engine import linear_cross_entropy
from seodang.model.engine.engine import Engine
from seodang.model.engine.head_gradient import Scratch
from seodang.model.engine.linear_cross_entropy import LinearCrossEntropy, _chunks, tiled_head
from tiny import make_config, make_model

POSITIONS, HIDDEN, VOCABULARY = 11, 8, 53


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not divide the vocabulary, and three chunks of positions."""
    monkeypatch.setattr(linear_cross_entropy, "TILE", 10)
    monkeypatch.setattr(linear_cross_entropy, "KEPT_BYTES", 4 * VOCABULARY * 4)


def _case(
    *, bias: bool = False, positions: int = POSITIONS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(1)
    hidden = torch.randn(positions, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (positions,))
    targets[0], targets[1] = 0, VOCABULARY - 1
    return hidden, weight, torch.randn(VOCABULARY, requires_grad=True) if bias else None, targets


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("positions", [POSITIONS, HIDDEN])  # so many fit where the gradient will lie: one chunk
def test_loss_and_gradients_are_those_of_cross_entropy(
    bias: bool, softcap: float | None, factor: float, positions: int
) -> None:
    """Whatever tiles, chunks, soft-cap, factor and bias: torch's cross entropy and its gradients."""
    hidden, weight, bias_V, targets = _case(bias=bias, positions=positions)
    logits = F.linear(hidden, weight, bias_V) * factor
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    leaves = [leaf for leaf in (hidden, weight, bias_V) if leaf is not None]
    expected = F.cross_entropy(logits, targets, reduction="sum")
    gradients = torch.autograd.grad(expected, leaves)
    found = LinearCrossEntropy.apply(hidden, weight, bias_V, targets, softcap, factor, True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found * 2, leaves), tuple(2 * grad for grad in gradients))


def test_no_position_gives_zero_gradients() -> None:
    """A pack without a target has loss 0 and gradients of 0, not of whatever stood in memory."""
    hidden, weight, _, targets = _case()
    found = LinearCrossEntropy.apply(hidden[:0], weight, None, targets[:0], None, 1.0, True)
    found.backward()
    assert found == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_without_gradients_none_are_computed() -> None:
    """Under evaluation the loss is the same, and no tensor of the weights' size is made."""
    hidden, weight, _, targets = _case()
    with torch.no_grad():
        found = LinearCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, False)
    torch.testing.assert_close(found, F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum"))


def test_bf16_products_stay_close_to_float32() -> None:
    """Under autocast the products are bf16, and the sums over the vocabulary float32."""
    hidden, weight, _, targets = _case()
    exact = torch.autograd.grad(
        LinearCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, True), [hidden, weight]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LinearCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, True)
    for rounded, full in zip(torch.autograd.grad(loss, [hidden, weight]), exact, strict=True):
        assert F.cosine_similarity(rounded.flatten(), full.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_bf16_weights_take_either_hidden_states(hidden_dtype: torch.dtype) -> None:
    """Weights held in bf16, hidden states in bf16 or not: each gradient has its own dtype, and the loss is close."""
    hidden, weight, _, targets = _case()
    weight = weight.detach().bfloat16().requires_grad_()
    hidden = hidden.detach().to(hidden_dtype).requires_grad_()
    found = LinearCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, True)
    found.backward()
    expected = F.cross_entropy(F.linear(hidden.detach().float(), weight.detach().float()), targets, reduction="sum")
    torch.testing.assert_close(found.detach(), expected, rtol=1e-2, atol=0)
    assert (hidden.grad.dtype, weight.grad.dtype) == (hidden_dtype, torch.bfloat16)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_scratch_changes_nothing(dtype: torch.dtype | None) -> None:
    """With buffers kept from pack to pack, whatever their sizes, loss and gradients are those without a scratch."""
    scratch, expected = Scratch(), None
    hidden, weight, _, targets = _case()
    for rows in (POSITIONS, 3, 7):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            plain = LinearCrossEntropy.apply(hidden[:rows], weight, None, targets[:rows], None, 0.5, True)
            kept = LinearCrossEntropy.apply(hidden[:rows], weight, None, targets[:rows], None, 0.5, True, scratch)
        assert plain == kept
        (gradient,) = torch.autograd.grad(plain * 3, [weight])
        expected = gradient if expected is None else expected + gradient
        (kept * 3).backward()
        torch.testing.assert_close(weight.grad, expected, rtol=0, atol=0)


def test_a_scratch_waits_for_the_backward_pass() -> None:
    """Two packs forward, then both backward: neither overwrites what the other or the last step still needs."""
    scratch = Scratch()
    hidden, weight, _, targets = _case()
    for _ in range(2):
        first, second = (
            LinearCrossEntropy.apply(hidden, weight, None, t, None, 1.0, True, scratch) for t in (targets, targets * 0)
        )
        (first + 2 * second).backward()
        found, weight.grad = weight.grad, None
        ones = (F.cross_entropy(F.linear(hidden, weight), t, reduction="sum") for t in (targets, targets * 0))
        (expected,) = torch.autograd.grad(sum(n * loss for n, loss in enumerate(ones, 1)), [weight])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_later_packs_add_to_the_gradient_of_the_first(dtype: torch.dtype | None, softcap: float | None) -> None:
    """With a weight that is known, all packs of a step share one buffer, and two steps too; gradients are the same."""
    scratch = Scratch()
    scratch.weight = torch.tensor(0.25)
    hidden, weight, bias, targets = _case(bias=True)
    leaves, buffers = [hidden, weight, bias], set()
    for _ in range(2):
        expected = [torch.zeros_like(leaf) for leaf in leaves]
        for rows in (POSITIONS, 3, 0, 7):
            given = (hidden[:rows], weight, bias, targets[:rows], softcap, 0.5, True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                plain = LinearCrossEntropy.apply(*given)
                kept = LinearCrossEntropy.apply(*given, scratch)
            torch.testing.assert_close(kept, plain)
            (kept * 0.25).backward()
            buffers.add(weight.grad.data_ptr())
            for total, gradient in zip(expected, torch.autograd.grad(plain * 0.25, leaves), strict=True):
                total += gradient
        tolerance = 1e-5 if dtype is None else 1e-2
        for leaf, total in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, total, rtol=tolerance, atol=tolerance * float(total.abs().max()))
            leaf.grad = None
    assert len(buffers) == 1


def test_logits_are_kept_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of positions that do not fit into the gradient's memory: no block is larger than a tile's logits."""
    monkeypatch.setattr(linear_cross_entropy, "TILE", 8)
    monkeypatch.setattr(linear_cross_entropy, "KEPT_BYTES", 2**20)
    made: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.new_empty, torch.ops.aten.empty, torch.ops.aten.empty_like):
                made.append(found.numel())
            return found

    hidden, weight, targets = torch.randn(50, 4, requires_grad=True), torch.randn(40, 4), torch.arange(50) % 40
    with Sizes():
        LinearCrossEntropy.apply(hidden, weight.requires_grad_(), None, targets, None, 1.0, True, Scratch())
    assert max(made) == (50 - 4) * 8  # 4 positions fit into a gradient of 4 values a token


def test_another_weight_than_the_one_handed_in_is_an_error() -> None:
    """Gradients that were taken at one scale are never passed on as if they had another."""
    scratch = Scratch()
    scratch.weight = torch.tensor(0.25)
    hidden, weight, _, targets = _case()
    loss = LinearCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, True, scratch)
    with pytest.raises(AssertionError, match=r"0\.25, not 0\.5"):
        (loss * 0.5).backward()


def test_chunks_are_of_one_size() -> None:
    """As few chunks as the bound allows, none much smaller than another; one before them where memory is at hand."""
    sizes = {count: [part.stop - part.start for part in _chunks(count, 10)] for count in (0, 1, 10, 11, 21, 30)}
    assert sizes == {0: [], 1: [1], 10: [10], 11: [6, 5], 21: [7, 7, 7], 30: [10, 10, 10]}
    assert _chunks(3, 0) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert _chunks(31, 10, first=8) == [slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 31)]
    assert _chunks(5, 10, first=8) == [slice(0, 5)]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])  # an untied head, and a tied one under a soft-cap
def test_a_tiled_head_gives_the_same_logits(kind: str) -> None:
    """The logits of a whole batch are those of one product; afterwards the head is its own again."""
    model = make_model(make_config(kind))
    ids = torch.arange(3, 33).view(2, 15)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with tiled_head(model):
            found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("weight", [None, 0.25])
def test_tied_embeddings_have_one_gradient_buffer(weight: float | None) -> None:
    """Head and lookup of tied embeddings add up to autograd's own, over several packs; `sparse` is undone."""
    tied = make_model(make_config("gemma3"))
    rows = [np.array(ids, dtype=np.int32) for ids in ([1, 5, 6, 7, 5], [1, 8, 9], [1, 5, 11, 12])]
    packs = pack(rows, rows, budget=5)
    assert len(packs) > 1
    gradients = []
    for own in (True, False):  # the model's own logits: autograd sums both gradients
        tied.zero_grad()
        with Engine(packed=True, linear_cross_entropy=own).installed(tied):
            assert tied.get_input_embeddings().sparse is own
            for single in packs:
                tied(pack=single, weight=weight).backward()
        gradients.append(tied.get_input_embeddings().weight.grad.clone())
    assert not gradients[0].is_sparse
    torch.testing.assert_close(*gradients)
    assert tied.get_input_embeddings().sparse is False
