"""Rows → an Arrow file, a batch in memory at a time, and the memory-mapped data set that it holds."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from seodang.errors import ResourceError

if TYPE_CHECKING:
    import datasets


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

    def read(self) -> "datasets.Dataset":
        """The rows, memory-mapped."""
        import datasets

        return datasets.Dataset.from_file(str(self.path))


@contextmanager
def writing(features: "datasets.Features", path: Path | None = None) -> Iterator[Sink]:
    """A file that takes rows; it is gone again if anything goes wrong.

    Args:
        path: none: in the temporary folder that `datasets` removes at the session's end.

    Raises:
        ResourceError: the disk is full.
    """
    if path is None:
        from datasets.fingerprint import get_temporary_cache_files_directory

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
                mend="free some space, or set SEODANG_CACHE and TMPDIR to another disk",
            ) from None
        raise
