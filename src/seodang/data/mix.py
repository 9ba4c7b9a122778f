"""Sources → one training set and one holdout, shuffled. The holdout is never thinned or repeated."""

from collections.abc import Mapping

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.typing import NDArray

from seodang.data.arrow import read_columns, uniform_hash
from seodang.data.split import Splits
from seodang.errors import SourceError, plural
from seodang.recipe import Mix
from seodang.types import Counts


def mix(splits: Mapping[str, Splits], mix: Mix) -> tuple[DatasetDict, Counts]:
    """Join the sources in their order, then shuffle as datasets does, into `train` and `holdout`.

    With shares, the rows must be rendered (`num_supervised`): the training set keeps its number of supervised tokens,
    and each source is repeated or thinned to its share of them, within one row.

    Raises:
        SourceError: nothing to train on, or a source with a share but without a supervised token.
    """
    trained = {name: one.train for name, one in splits.items() if len(one.train)}
    if not trained:
        raise SourceError("no training rows left", where="sources", hint="see what the earlier stages dropped")
    dropped: dict[str, int] = {}
    changed: dict[str, int] = {}
    remarks: tuple[str, ...] = ()
    if mix.shares:
        picked = _pick(trained, mix.shares, mix.seed)
        thinned = {name: len(trained[name]) - len(np.unique(rows)) for name, rows in picked.items()}
        repeated = {name: len(rows) - len(np.unique(rows)) for name, rows in picked.items()}
        dropped = {f"{name}: thinned to its share": count for name, count in thinned.items() if count}
        changed = {f"{name}: repeated to its share": count for name, count in repeated.items() if count}
        trained = {name: rows.select(picked[name]) for name, rows in trained.items()}
        remarks = _share_remarks(trained, mix.shares)
    rows_in = sum(len(one.train) + len(one.holdout) for one in splits.values())
    counts = Counts(
        stage="mix",
        source="all",
        rows_in=rows_in,
        kept=rows_in - sum(dropped.values()),
        dropped=dropped,
        changed=changed,
        remarks=remarks,
    )
    joined = {
        "train": concatenate_datasets(list(trained.values())),
        "holdout": concatenate_datasets([one.holdout for one in splits.values()]),
    }
    return DatasetDict({name: rows.shuffle(seed=mix.seed) for name, rows in joined.items()}), counts


def _pick(trained: Mapping[str, Dataset], shares: Mapping[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """The rows of each source that make its share, repeats included, in the source's order, repeat after repeat."""
    tokens = {name: _supervised(rows) for name, rows in trained.items()}
    if empty := [name for name, counts in tokens.items() if counts.sum() == 0]:
        raise SourceError("holds no supervised token to fill its share", where=f"source {', '.join(empty)}")
    total = sum(int(counts.sum()) for counts in tokens.values())
    weight = sum(shares[name] for name in trained)
    return {
        name: _fill(
            tokens[name],
            total * shares[name] / weight,
            uniform_hash(read_columns(rows, "row_id")["row_id"], f"mix:{seed}"),
        )
        for name, rows in trained.items()
    }


def _fill(tokens: NDArray[np.int64], target: float, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Row indices whose tokens [rows] sum up to `target` within one row: whole repeats, then rows by their hash."""
    repeats, rest = divmod(target, int(tokens.sum()))
    order = np.argsort(hashes, kind="stable")
    sums = np.concatenate([[0], np.cumsum(tokens[order])])
    above = int(np.searchsorted(sums, rest))  # the first number of rows that reaches the rest
    num_rows = above - 1 if above and rest - sums[above - 1] < sums[above] - rest else above
    if repeats == 0:
        num_rows = max(num_rows, 1)  # a source with a share is not left out
    whole = np.tile(np.arange(len(tokens)), int(repeats))
    return np.concatenate([whole, np.sort(order[:num_rows])])


def _share_remarks(trained: Mapping[str, Dataset], shares: Mapping[str, float]) -> tuple[str, ...]:
    tokens = {name: int(_supervised(rows).sum()) for name, rows in trained.items()}
    total, weight = sum(tokens.values()), sum(shares[name] for name in trained)
    return tuple(
        f"{name}: {plural(len(rows), 'example')}, {tokens[name]:,} supervised tokens, "
        f"{tokens[name] / total:.1%} of all (asked for {shares[name] / weight:.1%})"
        for name, rows in trained.items()
    )


def _supervised(rows: Dataset) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = read_columns(rows, "num_supervised")["num_supervised"].to_numpy().astype(np.int64)
    return counts
