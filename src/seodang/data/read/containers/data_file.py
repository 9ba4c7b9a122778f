"""One file of rows, on disk or in a zip archive, packed or not: opened anew for each reading. Knows bytes, no rows."""

import gzip
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, TextIO, cast

import pyarrow as pa

from seodang.data.read.containers.archive import BUFFER_BYTES, UNPACKING_ERRORS, RawReader, damaged, open_archive
from seodang.errors import SourceError

PACKED = (".gz", ".zst")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MOST_TIMES = 300  # its size that a file may unpack to: text stays below 30, decompression bombs reach 1,000
HARMLESS_BYTES = 1 << 30  # below this, any ratio is accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of rows; its contents are those after unpacking."""

    name: str  # for messages, as the recipe gives it: data/a.zip/b.json
    path: Path  # on this machine: the file, or the archive that holds it
    member: str | None = None  # its name in the archive's own directory
    nested: str | None = None  # the archive inside the one at `path` that holds it, by its name in the directory
    sheet: str | None = None  # of a spreadsheet; none: the one that looks like a table

    @property
    def ending(self) -> str:
        """The name's ending that shows the kind of rows: of `a.jsonl.gz` it is `.jsonl`."""
        return ending(self.member or self.path.name)

    def open(self) -> BinaryIO:
        """The bytes, unpacked.

        Raises:
            OSError: the file cannot be opened.
            SourceError: it is damaged, or unpacks to more than data can; also while reading.
        """
        stored = self._stored()
        head = stored.read(4)
        stored.seek(0)
        if not head.startswith((GZIP, ZSTD)):
            return stored
        packed: IO[bytes] = (
            cast(BinaryIO, gzip.GzipFile(fileobj=stored))
            if head.startswith(GZIP)
            else pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd")
        )
        return cast(BinaryIO, io.BufferedReader(_Unpacking(packed, self.name, self._stored_bytes()), BUFFER_BYTES))

    def open_text(self, encoding: str, newline: str | None = None) -> TextIO:
        """The text, unpacked and decoded.

        Raises:
            LookupError, ValueError: there is no such text encoding.
        """
        file = self.open()
        try:
            return io.TextIOWrapper(file, encoding=encoding, newline=newline)
        except (LookupError, ValueError):
            file.close()
            raise

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path that holds the unpacked bytes, for readers that seek; a copy is gone at the end."""
        with self.open() as file:
            if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
                yield self.path
                return
            with tempfile.TemporaryDirectory(prefix="seodang-") as folder:
                path = Path(folder) / f"rows{self.ending}"
                with path.open("wb") as copy:
                    shutil.copyfileobj(file, copy, BUFFER_BYTES)
                yield path

    def _stored(self) -> BinaryIO:
        if self.member is None:
            return self.path.open("rb")
        archive = open_archive(self.path, self.name, self.nested)
        try:
            stored = archive.open(self.member)
        except (*UNPACKING_ERRORS, OSError) as error:
            raise damaged(error, self.name) from None
        return cast(BinaryIO, io.BufferedReader(_Unpacking(stored, self.name, None), BUFFER_BYTES))

    def _stored_bytes(self) -> int:
        if self.member is None:
            return self.path.stat().st_size
        return open_archive(self.path, self.name, self.nested).getinfo(self.member).file_size


def ending(name: str) -> str:
    """The ending of a file's name in lower case, without that of its packing."""
    lower = PurePosixPath(name.lower())
    return PurePosixPath(lower.stem).suffix if lower.suffix in PACKED else lower.suffix


def skip_bytes(file: BinaryIO, count: int) -> None:
    """Pass over so many bytes of a file at its start."""
    if file.seekable():
        file.seek(count)
        return
    while count > 0 and (passed := len(file.read(min(count, 1 << 20)))):
        count -= passed


class _Unpacking(RawReader):
    """A stream that is unpacked while it is read: damage and decompression bombs are one clear error.

    Args:
        packed_bytes: the size before unpacking; None: the ratio is known to be harmless.
    """

    def __init__(self, stream: IO[bytes], name: str, packed_bytes: int | None) -> None:
        super().__init__(stream)
        self._name = name
        self._most = None if packed_bytes is None else max(HARMLESS_BYTES, MOST_TIMES * packed_bytes)
        self._read = 0

    def seekable(self) -> bool:
        return self._most is None  # zipfile's own stream, which starts over where it must

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _take(self, count: int) -> bytes:
        try:
            found = super()._take(count)
        except (*UNPACKING_ERRORS, OSError) as error:
            raise damaged(error, self._name) from None
        self._read += len(found)
        if self._most is not None and self._read > self._most:
            raise SourceError(
                f"unpacks to over {self._read / 1e9:,.1f} GB, more than {MOST_TIMES} times its size: "
                "this looks like a decompression bomb",
                where=self._name,
                hint="leave this file out",
            )
        return found
