"""Columns of a data set as Arrow tables, and a seeded number for each key. Knows no column by name."""

from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

BATCH_ROWS = 10_000
NEAR = 4  # rows of a file that are read for each one that is wanted


def block(rows: Dataset, start: int, stop: int) -> pa.Table:
    """Some rows, one chunk each column; rows that lie near one another are copied together, not one by one."""
    stop = min(stop, len(rows))
    chosen = _indices(rows, start, stop)
    if chosen is None:
        return rows.data.table.slice(start, stop - start).combine_chunks()
    low, high = (int(chosen.min()), int(chosen.max()) + 1) if len(chosen) else (0, 0)
    if high - low > NEAR * len(chosen):
        found: pa.Table = rows.with_format("arrow")[start:stop]
        return found.combine_chunks()
    return rows.data.table.slice(low, high - low).combine_chunks().take(pa.array(chosen - low))


def read_columns(rows: Dataset, *names: str) -> pa.Table:
    """The named columns of all rows; only these are brought into memory."""
    table = rows.data.table.select(list(names))
    indices = _indices(rows, 0, len(rows))
    return table if indices is None else table.combine_chunks().take(pa.array(indices))


def _indices(rows: Dataset, start: int, stop: int) -> NDArray[np.int64] | None:
    """Which rows of its table a data set shows, and in which order; None: all of them, as they are."""
    if rows._indices is None:
        return None
    indices: NDArray[np.int64] = rows._indices.table.column(0).slice(start, stop - start).to_numpy().astype(np.int64)
    return indices


def draws(keys: pa.Array | pa.ChunkedArray, salt: str) -> NDArray[np.uint64]:
    """A uniform number of 64 bits for each key, the first 8 bytes of blake2b("SALT:KEY"): the same on every machine.

    It depends on nothing but salt and key: neither on a key's place nor on the keys beside it.
    """
    drawn = np.empty(len(keys), dtype=np.uint64)
    for start in range(0, len(keys), BATCH_ROWS):
        some: list[Any] = keys.slice(start, BATCH_ROWS).to_pylist()
        digests = b"".join(blake2b(f"{salt}:{key}".encode(), digest_size=8).digest() for key in some)
        drawn[start : start + len(some)] = np.frombuffer(digests, dtype=">u8")
    return drawn
