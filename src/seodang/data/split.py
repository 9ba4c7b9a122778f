"""Rows → training rows and holdout. Runs before the sources are mixed, so that no repeat can leak across.

Knows keys, not contents: a question, a column's value or a row goes to one split as a whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from seodang.data.arrow import read_columns, uniform_hash
from seodang.errors import SourceError
from seodang.recipe import Source, Split
from seodang.types import Counts, RowNote

NOTED_ROWS = 100  # dropped rows that the counts list by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """One source's rows in their two splits."""

    train: Dataset  # empty if the source is not trained on
    holdout: Dataset  # the holdout: measured, never trained on
    counts: Counts


def split(rows: Dataset, source: Source, by: Split) -> Splits:
    """Hold out some rows of one source, then thin the rest to `take`.

    By question or column, a key's split depends on seed and key alone: it survives reordering, added rows and other
    sources, and a smaller share lies inside a larger one. By row, the rows are those of datasets' `train_test_split`.

    Raises:
        SourceError: a holdout as large as the source, a row without the column's value, or no training row left.
    """
    train, holdout = _train_and_holdout(rows, source, by)
    dropped: dict[str, int] = {}
    if not source.is_trained:
        dropped, train = {"not trained": len(train)}, train.select([])
    elif source.take is not None:
        whole, train = len(train), _take(train, source.take, by.seed)
        dropped = {"take": whole - len(train)}
    if source.is_trained and len(train) == 0:
        taken = f", take {source.take}" if source.take else ""
        raise SourceError(
            f"no row is left to train on ({len(rows):,} rows, {len(holdout):,} held out{taken})",
            where=f"source {source.name}",
            hint="hold out fewer, take more, or give more rows",
        )
    counts = Counts(
        stage="split",
        source=source.name,
        rows_in=len(rows),
        kept=len(train) + len(holdout),
        dropped={reason: count for reason, count in dropped.items() if count},
        remarks=(f"{len(train):,} rows to train on, {len(holdout):,} held out by {by.by}",),
    )
    return Splits(train=train, holdout=holdout, counts=counts)


def separate(splits: Mapping[str, Splits], by: Split) -> tuple[dict[str, Splits], list[Counts]]:
    """Take training rows away whose key another source holds out. By row, nothing is taken away.

    Raises:
        SourceError: a source loses all its training rows.
    """
    if by.by == "row":
        return dict(splits), []
    held_out = {name: _keys(one.holdout, by, name) for name, one in splits.items() if len(one.holdout)}
    separated: dict[str, Splits] = {}
    all_counts: list[Counts] = []
    for name, one in splits.items():
        separated[name], counts = _without_keys(one, held_out, by, name)
        all_counts.append(counts)
    return separated, all_counts


def _train_and_holdout(rows: Dataset, source: Source, by: Split) -> tuple[Dataset, Dataset]:
    """(train, holdout) before anything is dropped."""
    if len(rows) == 0:
        raise SourceError("has no rows", where=f"source {source.name}")
    size = source.holdout_share
    if size >= 1 and not math.isinf(size) and (size > len(rows) or (size == len(rows) and source.is_trained)):
        raise SourceError(
            f"holdout asks for {size:,.0f} rows, but there are {len(rows):,}",
            where=f"source {source.name}",
            hint="give a smaller number, or a share such as 0.05",
        )
    if math.isinf(size):
        return rows.select([]), rows
    if by.by == "row":
        return _split_rows(rows, size, by.seed)
    is_holdout = _split_keys(_keys(rows, by, source.name), size, by.seed)
    return rows.select(np.flatnonzero(~is_holdout)), rows.select(np.flatnonzero(is_holdout))


def _without_keys(one: Splits, held_out: Mapping[str, pa.ChunkedArray], by: Split, name: str) -> tuple[Splits, Counts]:
    """One source without the training rows whose key is held out: by another source, its own keys are split already."""
    keys = _keys(one.train, by, name)
    is_kept = np.ones(len(keys), dtype=bool)
    dropped: dict[str, int] = {}
    notes: list[RowNote] = []
    for other, held_keys in held_out.items():
        is_held_out = pc.is_in(keys, value_set=held_keys).to_numpy() & is_kept
        if not is_held_out.any():
            continue
        is_kept &= ~is_held_out
        reason = f"{by.by} stands in the holdout of {other}"
        dropped[reason] = int(is_held_out.sum())
        notes.extend(_notes(one.train, np.flatnonzero(is_held_out), reason))
    if len(keys) and not is_kept.any():
        raise SourceError(
            f"each of its {len(keys):,} training rows has a {by.by} that another source holds out",
            where=f"source {name}",
            hint="is the same file in two sources? Else hold out fewer rows of the other source",
        )
    counts = Counts(
        stage="separate",
        source=name,
        rows_in=len(one.train) + len(one.holdout),
        kept=int(is_kept.sum()) + len(one.holdout),
        dropped=dropped,
        notes=tuple(notes[:NOTED_ROWS]),
    )
    return (replace(one, train=one.train.select(np.flatnonzero(is_kept))) if dropped else one), counts


def _keys(rows: Dataset, by: Split, source: str) -> pa.ChunkedArray:
    """What keeps rows together: their question, or the value of the column that `split.by` names."""
    column = "question_key" if by.by == "question" else "group"
    keys = read_columns(rows, column)[column]
    if keys.null_count:
        missing = pc.index(keys.is_null(), True).as_py()
        first = rows.select_columns(["file", "row"])[missing]
        raise SourceError(
            f"no value for {by.by!r}, which split.by names ({keys.null_count:,} such rows)",
            where=f"{first['file']}:{first['row']} (source {source})",
            hint="fill the column, or split by question",
        )
    return keys


def _split_rows(rows: Dataset, size: float, seed: int) -> tuple[Dataset, Dataset]:
    """(train, holdout) as datasets shuffles and cuts them; a split may be empty, which datasets refuses."""
    num_holdout = math.ceil(size * len(rows)) if size < 1 else int(size)
    if num_holdout in (0, len(rows)):
        return (rows, rows.select([])) if num_holdout == 0 else (rows.select([]), rows)
    both = rows.train_test_split(test_size=size if size < 1 else int(size), seed=seed)
    return both["train"], both["test"]


def _split_keys(keys: pa.ChunkedArray, size: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out [rows]: keys below the share, or the first keys that together have `size` rows."""
    encoded = keys.cast(pa.large_string()).combine_chunks().dictionary_encode()
    key_of_row = encoded.indices.to_numpy()
    hashes = uniform_hash(encoded.dictionary, str(seed))
    order = np.argsort(hashes, kind="stable")
    if size < 1:
        num_keys = int(np.count_nonzero(hashes < size * 2.0**64))
    else:
        rows_up_to = np.cumsum(np.bincount(key_of_row)[order])
        num_keys = int(np.searchsorted(rows_up_to, size, side="right"))
    if size > 0:
        num_keys = max(num_keys, 1)  # few keys can all lie above the share: a holdout that is asked for is not empty
    is_holdout = np.zeros(len(hashes), dtype=bool)
    is_holdout[order[:num_keys]] = True
    is_holdout_row: NDArray[np.bool_] = is_holdout[key_of_row]
    return is_holdout_row


def _take(train: Dataset, take: str, seed: int) -> Dataset:
    """A shard as datasets cuts it, or a seeded share or number of rows in their order."""
    if "/" in take:
        shard, shards = map(int, take.split("/"))
        # datasets cannot cut an empty shard
        return train.shard(num_shards=shards, index=shard - 1) if shard <= len(train) else train.select([])
    num_rows = int(take) if take.isdigit() else math.floor(Fraction(take) * len(train))  # 0.29 of 100 is 29
    order = np.argsort(uniform_hash(read_columns(train, "row_id")["row_id"], f"take:{seed}"), kind="stable")
    return train.select(np.sort(order[:num_rows]))


def _notes(rows: Dataset, indices: NDArray[np.int64], reason: str) -> list[RowNote]:
    noted = rows.select_columns(["file", "row", "row_id"])[indices[:NOTED_ROWS].tolist()]
    named = zip(noted["file"], noted["row"], noted["row_id"], strict=True)
    return [RowNote(where=f"{file}:{row}", row_id=row_id, reason=reason) for file, row, row_id in named]
