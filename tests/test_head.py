"""The own head against torch's cross entropy on all logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seodang.data.pack import pack
from seodang.model import head
from seodang.model.engine import Engine
from seodang.model.head import HeadLoss
from tiny import make_config, make_model

POSITIONS, HIDDEN, VOCABULARY = 11, 8, 53


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not divide the vocabulary, and three chunks of positions."""
    monkeypatch.setattr(head, "TILE", 10)
    monkeypatch.setattr(head, "KEPT_BYTES", 4 * VOCABULARY * 4)


def _case(*, bias: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(1)
    hidden = torch.randn(POSITIONS, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    targets[0], targets[1] = 0, VOCABULARY - 1
    return hidden, weight, torch.randn(VOCABULARY, requires_grad=True) if bias else None, targets


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_cross_entropy(bias: bool, softcap: float | None, factor: float) -> None:
    """Whatever tiles, chunks, soft-cap, factor and bias: torch's cross entropy and its gradients."""
    hidden, weight, bias_V, targets = _case(bias=bias)
    logits = F.linear(hidden, weight, bias_V) * factor
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    leaves = [leaf for leaf in (hidden, weight, bias_V) if leaf is not None]
    expected = F.cross_entropy(logits, targets, reduction="sum")
    gradients = torch.autograd.grad(expected, leaves)
    found = HeadLoss.apply(hidden, weight, bias_V, targets, softcap, factor, True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found * 2, leaves), tuple(2 * grad for grad in gradients))


def test_no_position_gives_zero_gradients() -> None:
    """A pack without a target has loss 0 and gradients of 0, not of whatever stood in memory."""
    hidden, weight, _, targets = _case()
    found = HeadLoss.apply(hidden[:0], weight, None, targets[:0], None, 1.0, True)
    found.backward()
    assert found == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_without_gradients_none_are_computed() -> None:
    """Under evaluation the loss is the same, and no tensor of the weights' size is made."""
    hidden, weight, _, targets = _case()
    with torch.no_grad():
        found = HeadLoss.apply(hidden, weight, None, targets, None, 1.0, False)
    torch.testing.assert_close(found, F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum"))


def test_bf16_products_stay_close_to_float32() -> None:
    """Under autocast the products are bf16, and the sums over the vocabulary float32."""
    hidden, weight, _, targets = _case()
    exact = torch.autograd.grad(HeadLoss.apply(hidden, weight, None, targets, None, 1.0, True), [hidden, weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = HeadLoss.apply(hidden, weight, None, targets, None, 1.0, True)
    for rounded, full in zip(torch.autograd.grad(loss, [hidden, weight]), exact, strict=True):
        assert F.cosine_similarity(rounded.flatten(), full.flatten(), dim=0) > 0.999


def test_tied_embeddings_have_one_gradient_buffer() -> None:
    """Head and lookup of tied embeddings add up to autograd's own, over several packs; `sparse` is undone."""
    tied = make_model(make_config("gemma3"))
    rows = [np.array(ids, dtype=np.int32) for ids in ([1, 5, 6, 7, 5], [1, 8, 9], [1, 5, 11, 12])]
    packs = pack(rows, rows, budget=5)
    assert len(packs) > 1
    gradients = []
    for own_head in (True, False):  # the model's own logits: autograd sums both gradients
        tied.zero_grad()
        with Engine(packed=True, own_head=own_head).installed(tied):
            assert tied.get_input_embeddings().sparse is own_head
            for single in packs:
                tied(pack=single).backward()
        gradients.append(tied.get_input_embeddings().weight.grad.clone())
    assert not gradients[0].is_sparse
    torch.testing.assert_close(*gradients)
    assert tied.get_input_embeddings().sparse is False
