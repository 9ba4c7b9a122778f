"""Zip archives that stay open while their files are read: on disk, or one inside another. Knows bytes, no names."""

import errno
import io
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

from seodang.errors import SourceError, first_line, os_reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1 << 18
LOCAL_HEADER = struct.Struct("<26xHH")  # of a file in a zip: the lengths of its name and extra field, which follow
DAMAGED_HINT = "download or pack it again"
UNPACKING_ERRORS = (  # what the readers of archives raise for damaged ones, beside OSError
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, pa.ArrowException),
    *(ValueError, RuntimeError, KeyError),  # offsets outside; encrypted, or an unknown method; changed since listed
)


def damaged(error: Exception, name: str) -> SourceError:
    """The error for what cannot be unpacked."""
    return SourceError(f"cannot be unpacked: {first_line(error)}", where=name, hint=DAMAGED_HINT)


def open_archive(path: Path, name: str, nested: str | None = None) -> zipfile.ZipFile:
    """A zip archive, which stays open: its directory is read once, also where it holds a million files.

    Args:
        name: for messages.
        nested: the archive inside of the one at `path` that is meant, by its name in the directory there.

    Raises:
        OSError: the file cannot be opened.
        SourceError: it is damaged, or there is no space for it in the folder for temporary files.
    """
    status = path.stat()
    state = (status.st_size, status.st_mtime_ns)
    try:
        if nested is None:
            return _archive(path, *state, os.getpid())
        return _nested_archive(path, *state, os.getpid(), nested)
    except (*UNPACKING_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset before the file's start
            raise
        raise damaged(error, name) from None


@lru_cache(maxsize=8)
def _archive(path: Path, size: int, time: int, process: int) -> zipfile.ZipFile:
    """One for each process: a forked one would move its parent's position in the file."""
    return zipfile.ZipFile(path)


@lru_cache(maxsize=4)  # as many temporary files are there at most
def _nested_archive(path: Path, size: int, time: int, process: int, nested: str) -> zipfile.ZipFile:
    outer = _archive(path, size, time, process)
    entry = outer.getinfo(nested)
    part = _stored(path, entry) if entry.compress_type == zipfile.ZIP_STORED else _spooled(outer, entry)
    return zipfile.ZipFile(io.BufferedReader(part, BUFFER_BYTES))


def _stored(path: Path, entry: zipfile.ZipInfo) -> "_Part":
    file = path.open("rb")
    file.seek(entry.header_offset)
    name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    start = entry.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    return _Part(file, start, entry.compress_size)


def _spooled(outer: zipfile.ZipFile, entry: zipfile.ZipInfo) -> "_Part":
    """An unpacked copy that no folder lists: it is gone when it is closed, also if the process is killed."""
    try:
        copy = tempfile.TemporaryFile(prefix="seodang-")  # noqa: SIM115 - it lives as long as the archive
        with outer.open(entry) as packed:
            shutil.copyfileobj(packed, copy, BUFFER_BYTES)
    except OSError as error:
        raise SourceError(
            f"an archive inside it cannot be unpacked to {tempfile.gettempdir()}: {os_reason(error)}",
            where=str(outer.filename),
            hint=f"set TMPDIR to a folder with {entry.file_size / 1e9:,.1f} GB free, or unpack the outer archive",
        ) from None
    return _Part(copy, 0, entry.file_size)


class RawReader(io.RawIOBase):
    """A stream of the bytes that `_take` reads from an open file, which is closed with it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def _take(self, count: int) -> bytes:
        """At most so many bytes; none at the end."""
        return self._file.read(count)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        found = self._take(len(view))
        view[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Part(RawReader):
    """A part of a file as a file: an archive that is stored in another as it is. Seeking in it costs nothing.

    (zipfile's own stream reads from the start again whenever it seeks backwards.)
    """

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__(file)
        self._start, self._size = start, size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError("a place before the start of the file")  # as files do: zipfile tries one
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def _take(self, count: int) -> bytes:
        self._file.seek(self._start + self._at)
        found = self._file.read(max(0, min(count, self._size - self._at)))
        self._at += len(found)
        return found
