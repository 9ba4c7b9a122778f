import numpy as np
import pytest

from seodang.data.pack import EMPTY, Plan, balance, best_fit, pack, pack_step, positions
from seodang.types import IGNORED


def _row(length: int, prompt: int, tail: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    labels = ids.copy()
    labels[:prompt] = IGNORED
    if tail:
        labels[-tail:] = IGNORED
    return ids, labels


def test_positions_end_where_the_last_supervised_token_is_predicted() -> None:
    """Nothing after the position that predicts the last supervised token is kept, and no row without one."""
    assert positions(_row(10, 4)[1]) == 9
    assert positions(_row(10, 4, tail=2)[1]) == 7
    assert positions(np.full(5, IGNORED, dtype=np.int32)) == 0


def test_every_row_lies_whole_in_exactly_one_pack() -> None:
    """Packs hold each example once, whole, with positions from 0 and targets shifted by one."""
    rows = [_row(length, 3, tail=1) for length in (12, 5, 9, 30, 7)]
    packs = pack([ids for ids, _ in rows], [labels for _, labels in rows], budget=20)
    assert sorted(member for p in packs for member in p.members) == [0, 1, 2, 3, 4]
    for p in packs:
        for number, member in enumerate(p.members):
            start, stop = p.cu_seqlens[number : number + 2]
            ids, labels = rows[member]
            np.testing.assert_array_equal(p.input_ids[start:stop], ids[: stop - start])
            np.testing.assert_array_equal(p.targets[start:stop], labels[1 : stop - start + 1])
            np.testing.assert_array_equal(p.position_ids[start:stop], np.arange(stop - start))


def test_no_pack_exceeds_the_budget_but_by_a_single_longer_row() -> None:
    """A pack is within the budget unless one example alone is longer."""
    rows = [_row(length, 3) for length in (12, 5, 9, 30, 7)]
    for p in pack([ids for ids, _ in rows], [labels for _, labels in rows], budget=20):
        assert p.input_ids.size <= 20 or len(p.members) == 1


def test_budget_zero_gives_one_row_a_pack() -> None:
    """Without packing every example stands alone."""
    rows = [_row(8, 3) for _ in range(3)]
    assert [p.members for p in pack([i for i, _ in rows], [x for _, x in rows], budget=0)] == [(0,), (1,), (2,)]


def test_best_fit_fills_tight() -> None:
    """Lengths that fill bins exactly are packed without waste."""
    assert len(best_fit([6, 4, 7, 3, 5, 5], budget=10)) == 3


def test_an_epoch_takes_every_row_once_and_the_first_keeps_the_mixed_order() -> None:
    """Steps of an epoch partition its rows; later epochs are shuffled, each its own way, the same way every time."""
    plan = Plan(num_rows=10, examples_per_step=4, seed=7)
    epochs = [np.concatenate([plan.rows(e, s) for s in range(plan.steps_per_epoch)]) for e in range(3)]
    np.testing.assert_array_equal(epochs[0], np.arange(10))
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not np.array_equal(epochs[1], epochs[2])
    again = Plan(num_rows=10, examples_per_step=4, seed=7)
    np.testing.assert_array_equal(epochs[2], again.order(2))
    assert plan.order(2) is again.order(2), "drawn once an epoch, not once a step"


@pytest.mark.parametrize("budget", [0, 16, 1000])
def test_a_step_counts_the_same_supervised_tokens_however_it_is_packed(budget: int) -> None:
    """The loss's denominator does not depend on packing."""
    rows = [_row(length, 3, tail=1) for length in (12, 5, 9)]
    step = pack_step([4, 2, 9], [i for i, _ in rows], [x for _, x in rows], budget=budget)
    assert step.supervised == (12 - 4) + (5 - 4) + (9 - 4)
    assert step.rows == (4, 2, 9)


def test_rows_are_dealt_to_ranks_by_tokens() -> None:
    """Every row goes to one rank, and no rank has more tokens than another by more than the shortest of its rows."""
    lengths = np.random.default_rng(0).integers(1, 400, 64).tolist()
    shares = balance(lengths, 4)
    assert sorted(index for share in shares for index in share) == list(range(64))
    tokens = [sum(lengths[index] for index in share) for share in shares]
    assert max(tokens) - min(tokens) <= min(lengths[index] for index in shares[tokens.index(max(tokens))])


@pytest.mark.parametrize("num_rows", [1, 3, 7])
def test_all_ranks_get_the_same_number_of_packs(num_rows: int) -> None:
    """Where a rank has fewer packs it gets empty ones; together the ranks supervise what one process would."""
    rows = [_row(length, 3) for length in (40, 12, 5, 9, 30, 7, 8)[:num_rows]]
    ids, labels = [ids for ids, _ in rows], [labels for _, labels in rows]
    whole = pack_step(range(num_rows), ids, labels, budget=20)
    steps = [pack_step(range(num_rows), ids, labels, budget=20, share=(rank, 3)) for rank in range(3)]
    assert len({len(step.packs) for step in steps}) == 1
    assert {(step.supervised, step.tokens, step.rows) for step in steps} == {
        (whole.supervised, whole.tokens, whole.rows)
    }
    assert sorted(m for step in steps for p in step.packs for m in p.members) == list(range(num_rows))
    supervised = sum(int((p.targets != IGNORED).sum()) for step in steps for p in step.packs)
    assert supervised == whole.supervised == sum(int((p.targets != IGNORED).sum()) for p in whole.packs)
    assert all(p is EMPTY for step in steps for p in step.packs if not p.members)
