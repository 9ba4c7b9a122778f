"""Columns of a data set as Arrow tables, and a seeded number for each key. Knows no column by name."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

BATCH_ROWS = 10_000


def batches(rows: Dataset, *names: str) -> Iterator[pa.Table]:
    """The named columns in tables of up to `BATCH_ROWS` rows, one chunk each."""
    for batch in rows.select_columns(list(names)).with_format("arrow").iter(BATCH_ROWS):
        yield batch.combine_chunks()


def read_columns(rows: Dataset, *names: str) -> pa.Table:
    """The named columns of all rows; only these are brought into memory."""
    schema = rows.select_columns(list(names)).features.arrow_schema
    return pa.concat_tables(
        [pa.Table.from_batches([], schema=schema), *batches(rows, *names)], promote_options="default"
    )


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
