"""Attention of a row's sequences on a CPU: torch's own values and gradients, kept once."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seodang.model.engine.layers.sequence_attention import attend, can_attend

LENGTHS = (5, 1, 17)


def _states(heads: int, keys: int, size: int = 8) -> list[Tensor]:
    """Query, key, value as projections leave them: transposed views."""
    torch.manual_seed(0)
    positions = sum(LENGTHS)
    return [torch.randn(1, positions, count, size).transpose(1, 2).requires_grad_() for count in (heads, keys, keys)]


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    parts = zip(*(torch.split(states, list(LENGTHS), 2) for states in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    each = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=grouped) for part in parts]
    return torch.cat(each, 2).transpose(1, 2)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("heads", "keys", "threads"), [(4, 4, 1), (4, 2, 1), (4, 1, 1), (4, 2, 3), (4, 1, 2)])
def test_values_and_gradients_are_those_of_torch(
    heads: int, keys: int, threads: int, set_threads: Callable[[int], None]
) -> None:
    """To the bit, of every sequence, one of a single position included; by rounding where heads share few keys."""
    set_threads(threads)
    states = _states(heads, keys)
    assert can_attend(*states)
    found, expected = attend(*states, LENGTHS, 0.3), _plain(*states, 0.3)
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((one * weights).sum(), states) for one in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * theirs.abs().max() if keys < threads else 0)


def test_the_output_is_kept_once() -> None:
    """Queries, keys, values and the output of the row, and a number a head and position."""
    states = _states(4, 2)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = attend(*states, LENGTHS, 0.3)
    sizes = sorted(tensor.numel() for tensor in saved if tensor.shape[-1] == 8)
    assert sizes == sorted([*(one.numel() for one in states), out.numel()])
    assert sum(tensor.numel() for tensor in saved) == sum(sizes) + 4 * sum(LENGTHS)


def test_what_it_does_not_know_is_left_to_torch() -> None:
    """Without gradients, with 16-bit products, and values of another size, number or dtype than keys."""
    query, key, value = _states(4, 2)
    with torch.no_grad():
        assert not can_attend(query, key, value)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_attend(query, key, value)
    assert not can_attend(query, key, value[..., :4])
    assert not can_attend(query, key, value[:, :1])
    assert not can_attend(query, key, value.double())
