"""Drawing tokens: the right shares, from each row's own stream."""

import math

import pytest
import torch

from seodang.model.generate.sampling import Draw
from seodang.recipe import Generate

SHARES = (0.5, 0.2, 0.15, 0.1, 0.05)
NO_IDS = torch.zeros(1, 0, dtype=torch.long)


def counts(settings: Generate, times: int = 4000, temperature: float = 1.0) -> list[float]:
    """Share of each token over many draws, a row each, from logits whose softmax is SHARES."""
    scores = (torch.tensor([SHARES]).log() * temperature).repeat(times, 1)
    drawn = Draw(settings, range(times))(NO_IDS, scores)
    assert torch.isinf(drawn).sum(-1).eq(1).all()
    return (torch.bincount(drawn.argmax(-1), minlength=len(SHARES)) / times).tolist()


def expected(kept: int) -> list[float]:
    total = sum(SHARES[:kept])
    return [share / total if rank < kept else 0.0 for rank, share in enumerate(SHARES)]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, None, 5),
        (3, None, 3),
        (99, None, 5),
        (1, None, 1),
        (None, 0.5, 1),
        (None, 0.51, 2),
        (None, 0.86, 4),
        (4, 0.9, 4),  # 0.8, 0.11 … of what top_k left: top_p counts afterwards
        (None, 1.0, 5),
    ],
)
def test_shares(top_k: int | None, top_p: float | None, kept: int) -> None:
    """Tokens are drawn by their shares among those that top_k and then top_p leave."""
    found = counts(Generate(temperature=1.0, top_k=top_k, top_p=top_p))
    assert found == pytest.approx(expected(kept), abs=0.03)
    assert [share > 0 for share in found] == [rank < kept for rank in range(5)]


def test_temperature() -> None:
    """Logits are divided by the temperature before anything else."""
    found = counts(Generate(temperature=2.0, top_p=0.9), temperature=2.0)
    assert found == pytest.approx(expected(4), abs=0.03)


def test_unordered_logits() -> None:
    """The drawn token is the vocabulary's, not its rank."""
    scores = torch.tensor([[0.0, math.log(9.0), -20.0, math.log(90.0)]]).repeat(2000, 1)
    drawn = Draw(Generate(temperature=1.0, top_k=2), range(2000))(NO_IDS, scores).argmax(-1)
    assert set(drawn.tolist()) == {1, 3}
    assert (drawn == 3).float().mean().item() == pytest.approx(90 / 99, abs=0.03)


def test_a_row_draws_alike_in_any_batch() -> None:
    """A row's draws follow from the seed and its own number, whoever stands beside it."""
    scores = torch.tensor([SHARES]).log()
    together, alone = Draw(Generate(temperature=1.0), [7, 3]), Draw(Generate(temperature=1.0), [3])
    other = Draw(Generate(temperature=1.0, seed=1), [3])
    pairs = [
        (
            together(NO_IDS, scores.repeat(2, 1))[1].argmax(),
            alone(NO_IDS, scores.clone())[0].argmax(),
            other(NO_IDS, scores.clone()).argmax(),
        )
        for _ in range(40)
    ]
    assert all(first == second for first, second, _ in pairs)
    assert any(first != third for first, _, third in pairs)


def test_a_flat_distribution_is_drawn_from_as_a_whole() -> None:
    """top_p without top_k reaches beyond the likeliest thousand tokens where they do not hold its probability."""
    draw = Draw(Generate(temperature=1.0, top_p=0.95), range(64))
    drawn = draw(torch.zeros(64, 1, dtype=torch.long), torch.zeros(64, 5000)).argmax(-1)
    assert drawn.unique().numel() > 32
    assert int((drawn >= 1024).sum()) > 0


def test_one_flat_row_does_not_change_its_neighbours() -> None:
    """Only rows whose likeliest thousand tokens do not suffice are drawn from more; others draw as if alone."""
    peaked = torch.randn(3, 40_000, generator=torch.Generator().manual_seed(0)) * 8
    scores = torch.cat([peaked[:2], torch.zeros(1, 40_000), peaked[2:]])
    settings = Generate(temperature=1.0, top_p=0.9)
    drawn = Draw(settings, range(4))(NO_IDS, scores.clone()).argmax(-1)
    alone = [Draw(settings, [row])(NO_IDS, scores[row : row + 1].clone()).argmax() for row in range(4)]
    assert drawn.tolist() == [int(token) for token in alone]


def test_a_peaked_distribution_gives_what_the_whole_sort_gives() -> None:
    """Sorting only the likeliest tokens draws the same tokens as top_k over all of them does."""
    scores = torch.randn(16, 5000, generator=torch.Generator().manual_seed(0)) * 8
    history = torch.zeros(16, 1, dtype=torch.long)
    fast = Draw(Generate(temperature=1.0, top_p=0.9), range(16))(history, scores.clone()).argmax(-1)
    whole = Draw(Generate(temperature=1.0, top_p=0.9, top_k=5000), range(16))(history, scores).argmax(-1)
    assert torch.equal(fast, whole)
