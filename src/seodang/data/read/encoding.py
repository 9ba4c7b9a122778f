"""Which encoding a file is written in, and which files are no text at all. Knows bytes, not rows."""

import codecs
import re
from pathlib import Path

from seodang.errors import SourceError

CHUNK_BYTES = 1 << 20
BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16: its little-endian mark starts with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16 (little-endian)"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16 (big-endian)"),
)
SAVE_AS_CSV = "open it in the program it comes from, save the table as CSV (UTF-8), and name that file"
UNPACK = "unpack it and name the file inside"
EXPORT = "write the rows as JSON Lines (.jsonl) or Parquet, and name that file"
BINARY = (
    (b"PK\x03\x04", "an Excel, Word or zip file", SAVE_AS_CSV),
    (b"\xd0\xcf\x11\xe0", "an old Excel, Word or Hangul (HWP) file", SAVE_AS_CSV),
    (b"%PDF", "a PDF file", EXPORT),
    (b"GGUF", "a GGUF model, no data", "name a data file here; a model goes under `model:`"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"SQLite format 3", "an SQLite database", EXPORT),
    (b"ARROW1", "an Arrow file", EXPORT),
    (b"\x89HDF", "an HDF5 file", EXPORT),
    (b"\x89PNG", "a picture", EXPORT),
    (b"\xff\xd8\xff", "a picture", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"\x80\x05", "a Python pickle", EXPORT),
)
HANGUL = re.compile("[\uac00-\ud7a3\u3131-\u318e]")
NOT_ASCII = re.compile("[^\x00-\x7f]")


def refuse_binary(path: Path, given: str) -> None:
    """Refuse a file whose first bytes say that it is no text.

    Raises:
        SourceError: with the kind of file that it is.
    """
    head = first_bytes(path)
    for magic, kind, hint in BINARY:
        if head.startswith(magic):
            raise SourceError(f"this is {kind}, whatever its name says", where=given, hint=hint)
    if head.startswith(b"version https://git-lfs"):
        raise SourceError("this is a Git LFS pointer, not the data", where=given, hint="run `git lfs pull` first")


def find_encoding(path: Path, given: str, named: str | None) -> tuple[str, str | None]:
    """(encoding, remark or None). The whole file is decoded once, so that no row can fail later.

    Args:
        given: the path as the recipe gives it, for messages.
        named: the recipe's `encoding:`, which wins.

    Raises:
        SourceError: undecodable bytes, with their line, or an unknown encoding.
    """
    head = first_bytes(path)
    mark = next((found for found in BYTE_ORDER_MARKS if head.startswith(found[0])), None)
    if named is not None:
        return _named_encoding(path, given, named, has_byte_order_mark=mark is not None), None
    if mark:
        _, encoding, remark = mark
    elif utf_16 := _utf_16_without_byte_order_mark(head):
        encoding, remark = utf_16, "UTF-16 without a byte order mark"
    else:
        return _utf_8_or_cp949(path, given)
    if (bad_offset := _first_undecodable(path, encoding)) is not None:
        raise _undecodable(path, given, remark, bad_offset)
    return encoding, f"read as {remark}"


def first_bytes(path: Path, count: int = 4096) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def _named_encoding(path: Path, given: str, named: str, *, has_byte_order_mark: bool) -> str:
    try:
        name = codecs.lookup(named).name
        with path.open(encoding=name):  # refuses codecs such as base64, which are no text encodings
            pass
    except LookupError:
        raise SourceError(
            f"encoding: Python knows no text encoding {named!r}",
            where=given,
            hint="use a name such as utf-8, cp949 or utf-16, or leave `encoding:` out to have it recognised",
        ) from None
    if has_byte_order_mark and (name == "utf-8" or name.startswith(("utf-16-", "utf-32-"))):
        name = "utf-8-sig" if name == "utf-8" else name[:6]  # otherwise the byte order mark is read as text
    if (bad_offset := _first_undecodable(path, name)) is not None:
        raise _undecodable(path, given, f"{named}, as `encoding:` says", bad_offset)
    return name


def _utf_16_without_byte_order_mark(head: bytes) -> str | None:
    """JSON and CSV hold enough ASCII for every other byte of UTF-16 to be zero often."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < len(head) / 10 or min(even, odd) > max(even, odd) / 10:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _utf_8_or_cp949(path: Path, given: str) -> tuple[str, str | None]:
    bad_offset = _first_undecodable(path, "utf-8")
    if bad_offset is None:
        return "utf-8", None
    with path.open("rb") as file:
        file.seek(max(0, bad_offset - CHUNK_BYTES // 2))
        sample = file.read(CHUNK_BYTES)
    replaced = sample.decode("utf-8", errors="replace")
    bad = replaced.count("\ufffd")
    if bad * 4 < len(NOT_ASCII.findall(replaced)) - bad:  # mostly UTF-8: taking another encoding would garble the rest
        raise _undecodable(path, given, "UTF-8", bad_offset)
    if _first_undecodable(path, "cp949") is None:
        decoded = sample.decode("cp949", errors="ignore")
        if len(HANGUL.findall(decoded)) * 2 >= len(NOT_ASCII.findall(decoded)):
            return "cp949", "read as CP949 (Korean Windows)"
    line = _line_of(path, bad_offset)
    if b"\0" in first_bytes(path):
        raise SourceError("this is no text file", where=given, hint=EXPORT)
    raise SourceError(
        "not UTF-8, not UTF-16 and not Korean CP949",
        where=f"{given}:{line}",
        hint="name it in the recipe (`encoding: latin-1`, `encoding: shift_jis` …) or save the file as UTF-8",
    )


def _first_undecodable(path: Path, encoding: str) -> int | None:
    """Byte offset near the first bytes that cannot be decoded, exact for UTF-8; None if all can."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            num_pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return max(0, offset - num_pending + error.start)
            if not chunk:
                return None
            offset += len(chunk)


def _line_of(path: Path, offset: int) -> int:
    """Line number, from 1, of a byte offset."""
    line, bytes_read = 1, 0
    with path.open("rb") as file:
        while bytes_read < offset and (chunk := file.read(min(CHUNK_BYTES, offset - bytes_read))):
            line += chunk.count(b"\n")
            bytes_read += len(chunk)
    return line


def _undecodable(path: Path, given: str, name: str, offset: int) -> SourceError:
    return SourceError(
        f"line {_line_of(path, offset)} holds bytes that are not {name} (byte {offset} of the file)",
        where=f"{given}:{_line_of(path, offset)}",
        hint="mend that line or write the file again; if it is another encoding, name it: `encoding: cp949`",
    )
