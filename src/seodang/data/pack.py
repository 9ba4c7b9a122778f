"""Rows of one optimizer step → packs. Knows lengths and ids, no model and no device.

Packing never moves an example to another step: a packed run takes the same examples in each step as a padded one,
so their losses can be compared step by step. Nor do several ranks: each takes its share of a step's examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seodang.types import IGNORED, Pack, Step

# A pack in which nothing is supervised: its loss and its gradients are 0. Of two positions, since torch's compiler
# compiles layers once more for tensors of a single row.
EMPTY = Pack(
    input_ids=np.zeros(2, dtype=np.int64),
    targets=np.full(2, IGNORED, dtype=np.int64),
    position_ids=np.arange(2, dtype=np.int64),
    cu_seqlens=np.array([0, 2], dtype=np.int32),
    members=(),
)


def positions(labels: NDArray[np.int32]) -> int:
    """How many positions an example takes: up to the one that predicts its last supervised token."""
    supervised = np.flatnonzero(labels[1:] != IGNORED)
    return int(supervised[-1]) + 1 if supervised.size else 0


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `budget`, longest first, each into the fullest bin that takes it.

    A length above the budget gets a bin of its own: an example is never cut.
    """
    bins: list[tuple[int, list[int]]] = []  # (room left, indices)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [(room, number) for number, (room, _) in enumerate(bins) if room >= lengths[index]]
        if fitting:
            room, number = min(fitting)
            bins[number] = (room - lengths[index], [*bins[number][1], index])
        else:
            bins.append((budget - lengths[index], [index]))
    return [members for _, members in bins]


def balance(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices that each rank takes: the longest first, each to the rank that has the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = tokens.index(min(tokens))
        shares[rank].append(index)
        tokens[rank] += lengths[index]
    return [sorted(share) for share in shares]


def pack(
    input_ids: Sequence[NDArray[np.int32]],
    labels: Sequence[NDArray[np.int32]],
    *,
    budget: int,
    share: tuple[int, int] = (0, 1),
) -> tuple[Pack, ...]:
    """Pack examples into rows of at most `budget` positions (a longer example gets a row of its own).

    Args:
        input_ids, labels: one array [tokens] an example; labels unshifted, IGNORED where unsupervised.
        budget: positions a row; 0: one example a row.
        share: (rank, ranks): only this rank's packs. All ranks get the same number, since those that shard a model
            meet in every forward pass: where a rank has fewer, EMPTY ones come first.
    """
    rank, ranks = share
    lengths = [positions(row) for row in labels]
    kept = [index for index, length in enumerate(lengths) if length]
    shares = [[kept[i] for i in members] for members in balance([lengths[index] for index in kept], ranks)]
    bins = [best_fit([lengths[index] for index in members], budget) for members in shares]
    missing = max(map(len, bins)) - len(bins[rank])
    own = (_join(input_ids, labels, lengths, tuple(shares[rank][i] for i in members)) for members in bins[rank])
    return (*[EMPTY] * missing, *own)


def split(packed: Pack) -> tuple[Pack, ...]:
    """The same examples in two packs of about the same size; a pack of one example stays as it is."""
    if len(packed.members) == 1:
        return (packed,)
    middle = np.abs(packed.cu_seqlens[1:-1] - packed.input_ids.size / 2).argmin() + 1
    return tuple(_part(packed, first, last) for first, last in ((0, middle), (middle, len(packed.members))))


def _part(packed: Pack, first: int, last: int) -> Pack:
    inside = slice(packed.cu_seqlens[first], packed.cu_seqlens[last])
    return Pack(
        input_ids=packed.input_ids[inside],
        targets=packed.targets[inside],
        position_ids=packed.position_ids[inside],
        cu_seqlens=packed.cu_seqlens[first : last + 1] - packed.cu_seqlens[first],
        members=packed.members[first:last],
    )


def within(packed: Pack, budget: int) -> tuple[Pack, ...]:
    """The pack, split until no part is above `budget` positions or holds more than one example."""
    if packed.input_ids.size <= budget or len(packed.members) == 1:
        return (packed,)
    return tuple(small for half in split(packed) for small in within(half, budget))


def _join(
    input_ids: Sequence[NDArray[np.int32]],
    labels: Sequence[NDArray[np.int32]],
    lengths: Sequence[int],
    members: tuple[int, ...],
) -> Pack:
    sizes = [lengths[m] for m in members]
    return Pack(
        input_ids=np.concatenate([input_ids[m][:n] for m, n in zip(members, sizes, strict=True)]).astype(np.int64),
        targets=np.concatenate([labels[m][1 : n + 1] for m, n in zip(members, sizes, strict=True)]).astype(np.int64),
        position_ids=np.concatenate([np.arange(n, dtype=np.int64) for n in sizes]),
        cu_seqlens=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        members=members,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rows each optimizer step of an epoch takes: by number of rows alone, whatever the hardware."""

    num_rows: int
    examples_per_step: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.examples_per_step)

    def rows(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Indices of the rows of one step; the last step of an epoch may hold fewer."""
        first = step * self.examples_per_step
        return self.order(epoch)[first : first + self.examples_per_step]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch: as they were mixed in the first, shuffled anew by (seed, epoch) in later ones."""
        return _order(self.num_rows, self.seed, epoch)


@lru_cache(maxsize=1)  # every step of an epoch asks, and a million rows take some hundredths of a second
def _order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    found = np.arange(num_rows) if epoch == 0 else np.random.default_rng([seed, epoch]).permutation(num_rows)
    found.flags.writeable = False
    return found


def pack_step(
    rows: Sequence[int],
    input_ids: Sequence[NDArray[np.int32]],
    labels: Sequence[NDArray[np.int32]],
    *,
    budget: int,
    share: tuple[int, int] = (0, 1),
) -> Step:
    """One optimizer step from its rows' ids and labels: a rank's packs, and what all ranks count."""
    return Step(
        packs=pack(input_ids, labels, budget=budget, share=share),
        supervised=sum(int((row[1:] != IGNORED).sum()) for row in labels),
        tokens=sum(map(positions, labels)),
        rows=tuple(int(row) for row in rows),
    )
