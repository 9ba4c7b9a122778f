"""Rows → training rows and holdout. Runs before the sources are mixed, so that no repeat can leak across.

Knows keys, not contents: a question, a column's value or a row goes to one split as a whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from seodang.data.arrow import read_columns, uniform_hash
from seodang.errors import SourceError, plural
from seodang.recipe import Source, Split
from seodang.types import Counts, Finding, RowNote

NOTED_ROWS = 100  # dropped rows that the counts list by name
SHOWN_ROWS = 5  # that a finding names
LARGE_SHARE = 0.1  # of a source's rows: one key that has more is reported
FAR_SHARE, FAR_ROWS = 0.5, 15  # a holdout that is off by more than this share of what was asked, and these rows
BY_ROW_HINT = "split: {by: row} splits row by row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """One source's rows in their two splits."""

    train: Dataset  # empty if the source is not trained on
    holdout: Dataset  # the holdout: measured, never trained on
    counts: Counts
    findings: tuple[Finding, ...] = ()  # where the holdout is not what was asked for


def split(rows: Dataset, source: Source, by: Split) -> Splits:
    """Hold out some rows of one source, then thin the rest to `take`.

    By question or column, a key's split depends on seed and key alone: it survives reordering, added rows and other
    sources, and a smaller share lies inside a larger one. A number of rows is never exceeded: keys that do not fit are
    passed over. By row, the rows are those of datasets' `train_test_split`.

    Raises:
        SourceError: a holdout as large as the source or smaller than each key, a row without the column's value, or no
            training row left.
    """
    train, holdout, findings = _train_and_holdout(rows, source, by)
    dropped: dict[str, int] = {}
    if not source.is_trained:
        dropped, train = {"not trained": len(train)}, train.select([])
    elif source.take is not None:
        whole, train = len(train), _take(train, source.take, by.seed)
        dropped = {"take": whole - len(train)}
    if source.is_trained and len(train) == 0:
        taken = f", take {source.take}" if source.take else ""
        has_one_key = by.by != "row" and len(rows) > 1 and len(_keys(rows, by, source.name).unique()) == 1
        raise SourceError(
            f"no training rows left ({plural(len(rows), 'row')}, {len(holdout):,} held out{taken})",
            where=f"source {source.name}",
            hint=f"all rows share one {_unit(rows, by)}: {BY_ROW_HINT}"
            if has_one_key
            else "hold out fewer, take more, or give more rows",
        )
    counts = Counts(
        stage="split",
        source=source.name,
        rows_in=len(rows),
        kept=len(train) + len(holdout),
        dropped={reason: count for reason, count in dropped.items() if count},
        remarks=(f"{plural(len(train), 'row')} to train on, {len(holdout):,} held out by {_unit(rows, by)}",),
    )
    return Splits(train=train, holdout=holdout, counts=counts, findings=findings)


def separate(splits: Mapping[str, Splits], by: Split) -> tuple[dict[str, Splits], list[Counts]]:
    """Take training rows away whose key another source holds out; by question, also those that hold a held-out question
    with its answer as a later turn. By row, nothing is taken away.

    Raises:
        SourceError: a source loses all its training rows.
    """
    if by.by == "row":
        return dict(splits), []
    held_out = [_HeldOut.of(name, one.holdout, by) for name, one in splits.items() if len(one.holdout)]
    separated: dict[str, Splits] = {}
    all_counts: list[Counts] = []
    for name, one in splits.items():
        separated[name], counts = _without_held_out(one, held_out, by, name)
        all_counts.append(counts)
    return separated, all_counts


@dataclass(frozen=True, kw_only=True)
class _Exchanges:
    """The questions of rows, each with its answer, one after the other."""

    keys: pa.Array  # [exchanges]
    row: NDArray[np.int64]  # [exchanges]
    is_opening: NDArray[np.bool_]  # [exchanges] the first of its row

    @classmethod
    def of(cls, rows: Dataset) -> "_Exchanges":
        lists = read_columns(rows, "exchange_keys")["exchange_keys"].combine_chunks()
        row = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        return cls(keys=lists.flatten(), row=row, is_opening=np.diff(row, prepend=-1) != 0)


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """What one source holds out."""

    source: str
    keys: pa.ChunkedArray
    openings: pa.Array  # keys of the opening questions with their answers; none where rows are split by a column

    @classmethod
    def of(cls, source: str, holdout: Dataset, by: Split) -> "_HeldOut":
        exchanges = _Exchanges.of(holdout if by.by == "question" else holdout.select([]))
        openings = exchanges.keys.filter(pa.array(exchanges.is_opening))
        return cls(source=source, keys=_keys(holdout, by, source), openings=openings)


def _train_and_holdout(rows: Dataset, source: Source, by: Split) -> tuple[Dataset, Dataset, tuple[Finding, ...]]:
    """(train, holdout, findings) before anything is dropped."""
    if len(rows) == 0:
        raise SourceError("has no rows", where=f"source {source.name}")
    size = source.holdout_share
    if size >= 1 and not math.isinf(size) and (size > len(rows) or (size == len(rows) and source.is_trained)):
        raise SourceError(
            f"holdout asks for {plural(int(size), 'row')}; the source has {len(rows):,}",
            where=f"source {source.name}",
            hint="give a smaller number, or a share such as 0.05",
        )
    if math.isinf(size):
        return rows.select([]), rows, ()
    if by.by == "row":
        return *_split_rows(rows, size, by.seed), ()
    key_of_row, hashes = _hashed_keys(_keys(rows, by, source.name), by.seed)
    rows_of_key = np.bincount(key_of_row)
    is_holdout = _chosen_keys(rows_of_key, hashes, size)[key_of_row]
    if size and not is_holdout.any():
        raise SourceError(
            f"holdout asks for {plural(math.ceil(size), 'row')}, "
            f"but each {_unit(rows, by)} has at least {rows_of_key.min():,}",
            where=f"source {source.name}",
            hint=f"give a larger number, or {BY_ROW_HINT}",
        )
    findings = _holdout_findings(rows, key_of_row, is_holdout, size, by, f"source {source.name}") if size else ()
    return rows.select(np.flatnonzero(~is_holdout)), rows.select(np.flatnonzero(is_holdout)), findings


def _without_held_out(one: Splits, held_out: Sequence[_HeldOut], by: Split, name: str) -> tuple[Splits, Counts]:
    """One source without the training rows that are held out, by key or by a later turn."""
    keys = _keys(one.train, by, name)
    is_kept = np.ones(len(keys), dtype=bool)
    dropped: dict[str, int] = {}
    notes: list[RowNote] = []

    def drop(rows: NDArray[np.bool_], reason: str) -> None:
        found = np.flatnonzero(rows & is_kept)
        if len(found):
            is_kept[found] = False
            dropped[reason] = len(found)
            notes.extend(_notes(one.train, found, reason))

    unit = _unit(one.train, by)
    for other in held_out:
        drop(pc.is_in(keys, value_set=other.keys).to_numpy(), f"{unit} is in the holdout of {other.source}")
    exchanges = _Exchanges.of(one.train)
    if not exchanges.is_opening.all():
        for other in held_out:
            is_held_out = pc.is_in(exchanges.keys, value_set=other.openings).to_numpy(zero_copy_only=False)
            rows = np.zeros(len(keys), dtype=bool)
            rows[exchanges.row[is_held_out & ~exchanges.is_opening]] = True
            drop(rows, f"a later turn is in the holdout of {other.source}")
    if len(keys) and not is_kept.any():
        raise SourceError(
            f"each of its {len(keys):,} training rows has a {unit} or turn that another source holds out",
            where=f"source {name}",
            hint=f"is the same file in two sources? Else hold out fewer rows of the other source, or {BY_ROW_HINT}",
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
            f"no value for {by.by!r}, which split.by names ({plural(keys.null_count, 'such row')})",
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


def _hashed_keys(keys: pa.ChunkedArray, seed: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(key of each row [rows], uniform hash of each key [keys])."""
    encoded = keys.cast(pa.large_string()).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), uniform_hash(encoded.dictionary, str(seed))


def _chosen_keys(rows_of_key: NDArray[np.int64], hashes: NDArray[np.uint64], size: float) -> NDArray[np.bool_]:
    """Which keys are held out [keys]: those whose hash is below the share; or, of a number of rows, those that fit.

    Keys fit in the order of their hashes, as long as the number is not exceeded; there may be none.
    """
    order = np.argsort(hashes, kind="stable")
    is_chosen = np.zeros(len(hashes), dtype=bool)
    if size < 1:
        num_keys = int(np.count_nonzero(hashes < size * 2.0**64))
        if size > 0:
            num_keys = max(
                num_keys, 1
            )  # few keys can all lie above the share: a holdout that is asked for is not empty
        is_chosen[order[:num_keys]] = True
        return is_chosen
    left = int(size)
    for key in order:
        if rows_of_key[key] <= left:
            is_chosen[key] = True
            left -= int(rows_of_key[key])
        if not left:
            break
    return is_chosen


def _unit(rows: Dataset, by: Split) -> str:
    """What is kept in one split: texts have no question, and are told apart by all that they hold."""
    return "text" if by.by == "question" and len(rows) and rows[0]["text"] is not None else by.by


def _holdout_findings(
    rows: Dataset, key_of_row: NDArray[np.int64], is_holdout: NDArray[np.bool_], size: float, by: Split, where: str
) -> tuple[Finding, ...]:
    """A holdout far from what was asked for, and keys so large that they decide its size."""
    findings: list[Finding] = []
    asked, held = (size * len(rows) if size < 1 else size), int(is_holdout.sum())
    if abs(held - asked) > max(FAR_SHARE * asked, FAR_ROWS if size < 1 else 0):
        findings.append(
            Finding(
                check="holdout_size",
                severity="warn",
                where=where,
                what=f"rows held out: {held:,} of {len(rows):,}; holdout: {size:g} asks for {asked:,.0f}",
                hint=f"the rows of one {_unit(rows, by)} stay together: {BY_ROW_HINT}"
                + ("; a number of rows is never exceeded" if size < 1 else ""),
            )
        )
    rows_of_key = np.bincount(key_of_row)
    large = np.flatnonzero(rows_of_key > max(LARGE_SHARE * len(rows), asked, FAR_ROWS))
    if len(large):
        unit = _unit(rows, by)
        what = f"one {unit} has" if len(large) == 1 else f"{len(large)} values of {unit} have"
        findings.append(
            Finding(
                check="large_group",
                severity="warn",
                where=where,
                what=f"{what} {int(rows_of_key[large].sum()):,} of {len(rows):,} rows, which stay in one split",
                hint=f"where it is a greeting or an instruction with the material elsewhere, {BY_ROW_HINT}",
                rows=_row_places(rows, np.flatnonzero(np.isin(key_of_row, large))),
            )
        )
    return tuple(findings)


def _take(train: Dataset, take: str, seed: int) -> Dataset:
    """A shard as datasets cuts it, or a seeded share or number of rows in their order."""
    if "/" in take:
        shard, shards = map(int, take.split("/"))
        # datasets cannot cut an empty shard
        return train.shard(num_shards=shards, index=shard - 1) if shard <= len(train) else train.select([])
    num_rows = int(take) if take.isdigit() else math.floor(Fraction(take) * len(train))  # 0.29 of 100 is 29
    order = np.argsort(uniform_hash(read_columns(train, "row_id")["row_id"], f"take:{seed}"), kind="stable")
    return train.select(np.sort(order[:num_rows]))


def _row_places(rows: Dataset, indices: NDArray[np.int64]) -> tuple[str, ...]:
    """`file:row` of the first of these rows."""
    named = rows.select_columns(["file", "row"])[indices[:SHOWN_ROWS].tolist()]
    return tuple(f"{file}:{row}" for file, row in zip(named["file"], named["row"], strict=True))


def _notes(rows: Dataset, indices: NDArray[np.int64], reason: str) -> list[RowNote]:
    noted = rows.select_columns(["file", "row", "row_id"])[indices[:NOTED_ROWS].tolist()]
    named = zip(noted["file"], noted["row"], noted["row_id"], strict=True)
    return [RowNote(where=f"{file}:{row}", row_id=row_id, reason=reason) for file, row, row_id in named]
