"""Rows → an Arrow file, a batch in memory at a time, and the memory-mapped data set that it holds."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets.fingerprint import get_temporary_cache_files_directory
from numpy.typing import NDArray

from seodang.errors import ResourceError

BATCH_ROWS = 10_000
BLOCK_ROWS = 1000  # whose values are in memory as Python objects
NEAR = 4  # rows of a file that are read for each one that is wanted


class Sink:
    """Takes rows until the `with` ends; then `read` has them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, schema)

    def write(self, rows: pa.Table) -> None:
        """Add rows; their columns must be those of the schema."""
        self._writer.write_table(rows)

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def read(self) -> Dataset:
        """The rows, memory-mapped."""
        return Dataset.from_file(str(self.path))


@contextmanager
def writing(features: Features, path: Path | None = None) -> Iterator[Sink]:
    """A file that takes rows; it is gone again if anything goes wrong.

    Args:
        path: none: in the temporary folder that `datasets` removes at the session's end.

    Raises:
        ResourceError: the disk is full.
    """
    if path is None:
        path = Path(get_temporary_cache_files_directory()) / f"rows-{uuid.uuid4().hex}.arrow"
    sink = Sink(path, features.arrow_schema)
    try:
        yield sink
        sink.close()
    except BaseException as error:
        with suppress(OSError, pa.ArrowException):
            sink.close()
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError(
                f"the disk under {path.parent} is full",
                where="preparation",
                hint="free some space, or set SEODANG_CACHE and TMPDIR to another disk",
            ) from None
        raise


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


def column_values(rows: Dataset, name: str) -> Iterator[Any]:
    """One column's values as Python has them, a block in memory at a time: a row read by itself costs a millisecond."""
    column = rows.select_columns([name])
    for start in range(0, len(rows), BLOCK_ROWS):
        yield from column[start : start + BLOCK_ROWS][name]


def _indices(rows: Dataset, start: int, stop: int) -> NDArray[np.int64] | None:
    """Which rows of its table a data set shows, and in which order; None: all of them, as they are."""
    if rows._indices is None:
        return None
    indices: NDArray[np.int64] = rows._indices.table.column(0).slice(start, stop - start).to_numpy().astype(np.int64)
    return indices


def uniform_hash(keys: pa.Array | pa.ChunkedArray, salt: str) -> NDArray[np.uint64]:
    """A uniform number of 64 bits for each key, the first 8 bytes of blake2b("SALT:KEY"): the same on every machine.

    It depends on nothing but salt and key: neither on a key's position nor on the keys beside it.
    """
    hashes = np.empty(len(keys), dtype=np.uint64)
    for start in range(0, len(keys), BATCH_ROWS):
        some: list[Any] = keys.slice(start, BATCH_ROWS).to_pylist()
        digests = b"".join(blake2b(f"{salt}:{key}".encode(), digest_size=8).digest() for key in some)
        hashes[start : start + len(some)] = np.frombuffer(digests, dtype=">u8")
    return hashes
