"""Which encoding a file is written in, and which files are no text at all. Knows bytes, not rows.

A file is read where its bytes name the encoding (a byte order mark, valid UTF-8) or where exactly one of the old
encodings makes text that reads like its language. Anything else is refused, with the readings that could be meant.
"""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from seodang.data.read.containers.data_file import DataFile, skip_bytes
from seodang.data.read.plausibility import (
    FREQUENT_HANGUL,
    NOT_ASCII,
    Doubt,
    doubt_japanese,
    doubt_korean,
    doubt_western,
    excerpt_of,
)
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
    (b"PK\x03\x04", "a zip or Office file inside another", UNPACK),
    (b"\xd0\xcf\x11\xe0", "an old Excel, Word or Hangul (HWP) file", SAVE_AS_CSV),
    (b"%PDF", "a PDF file", EXPORT),
    (b"GGUF", "a GGUF model", "name a data file here; a model goes under `model:`"),
    (b"\x1f\x8b", "a gzip file inside another", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file inside another", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"SQLite format 3", "an SQLite database", EXPORT),
    (b"\x89HDF", "an HDF5 file", EXPORT),
    (b"\x89PNG", "a picture", EXPORT),
    (b"\xff\xd8\xff", "a picture", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"\x80\x05", "a Python pickle", EXPORT),
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An encoding of one or two bytes a character, which nothing in the bytes names."""

    codec: str
    remark: str
    doubt: Doubt


KOREAN = Candidate(codec="cp949", remark="CP949 (Korean Windows)", doubt=doubt_korean)
WESTERN = Candidate(codec="cp1252", remark="Windows-1252 (Western European)", doubt=doubt_western)
CANDIDATES = (
    KOREAN,
    Candidate(codec="johab", remark="Johab (Korean, of old)", doubt=doubt_korean),
    Candidate(codec="cp932", remark="Shift-JIS (Japanese Windows)", doubt=doubt_japanese),
    Candidate(codec="euc_jp", remark="EUC-JP (Japanese)", doubt=doubt_japanese),
    WESTERN,
)
NEVER_GUESSED = ("gb18030", "big5", "cp1250", "cp1251", "mac_roman")  # shown where no candidate reads like a language
SAMPLE_BYTES = 1 << 16
EVIDENCE_CHARS = 8  # characters of several bytes that are UTF-8 by chance: less than one in a million files
DAMAGED_SHARE = 0.01  # of the characters that are not ASCII: more is another encoding
STRANGE_SHARE = 0.005  # of the characters: control codes, and what this Python's Unicode does not know yet
NUL_SHARE = 0.1  # of the bytes: more is no UTF-8 text


def refuse_binary(data: DataFile) -> None:
    """Refuse a file whose first bytes show that it is not text.

    Raises:
        SourceError: with the kind of file that it is.
    """
    head = first_bytes(data)
    for magic, kind, hint in BINARY:
        if head.startswith(magic):
            raise SourceError(f"cannot be read as data: this is {kind}", where=data.name, hint=hint)
    if head.startswith(b"version https://git-lfs"):
        raise SourceError("this is a Git LFS pointer, not the data", where=data.name, hint="run `git lfs pull` first")


def find_encoding(data: DataFile, named: str | None) -> tuple[str, str | None]:
    """(encoding, remark or None). The whole file is decoded once, so that no row can fail later.

    Args:
        named: the recipe's `encoding:`, which wins unless the bytes prove it wrong.

    Raises:
        SourceError: undecodable bytes, with their line, an unknown encoding, or text that does not read like one of
            the languages that are recognised.
    """
    sample = first_bytes(data, SAMPLE_BYTES)
    mark = next((found for found in BYTE_ORDER_MARKS if sample.startswith(found[0])), None)
    if named is not None:
        return _named_encoding(data, named, mark[1] if mark else None), None
    if mark:
        _, encoding, remark = mark
    elif wide := _wide_encoding(sample):
        encoding, remark = wide, f"{wide[:6].upper()} without a byte order mark"
    else:
        return _utf_8_or_recognised(data)
    if (bad_offset := _first_undecodable(data, encoding)) is not None:
        raise _undecodable(data, remark, bad_offset)
    return encoding, f"read as {remark}"


def first_bytes(data: DataFile, count: int = 4096) -> bytes:
    """The first bytes of a file."""
    with data.open() as file:
        return file.read(count)


def _named_encoding(data: DataFile, named: str, mark: str | None) -> str:
    """The codec that the recipe names, with the byte order that the file has.

    Raises:
        SourceError: no such codec, undecodable bytes, or bytes that prove it wrong.
    """
    try:
        name = codecs.lookup(named).name
        with data.open_text(name):  # refuses codecs such as base64, which are no text encodings
            pass
    except (LookupError, ValueError):  # ValueError: NUL or a surrogate in the name
        raise SourceError(
            f"encoding: unknown text encoding {named[:40]!r}",
            where=data.name,
            hint="use a name such as utf-8, cp949 or utf-16, or leave `encoding:` out to have it recognised",
        ) from None
    found = _wide_encoding(first_bytes(data, SAMPLE_BYTES))
    if mark is not None:
        if name[:6].rstrip("-") != mark[:6].rstrip("-"):
            raise _disproved(data.name, named, f"starts with the byte order mark of {mark[:6].rstrip('-').upper()}")
        name = mark  # codecs such as utf-16-le read the mark as text
    elif found is not None:
        if not found.startswith(name):
            raise _disproved(data.name, named, f"reads like {found.upper()}")
        name = found
    elif name in ("utf-16", "utf-32"):
        raise _disproved(data.name, named, f"has no byte order mark and does not read like {name.upper()}")
    elif not name.startswith("utf-8") and _is_surely_utf_8(data):
        raise _disproved(data.name, named, "is UTF-8 from beginning to end")
    if (bad_offset := _first_undecodable(data, name)) is not None:
        raise _undecodable(data, f"{named}, as `encoding:` says", bad_offset)
    if candidate := _surely_asian(data, name):
        raise _disproved(data.name, named, f"reads like {candidate.remark}")
    return name


def _disproved(given: str, named: str, what: str) -> SourceError:
    return SourceError(
        f"encoding: the recipe says {named}, but the file {what}",
        where=given,
        hint="leave `encoding:` out; if it is right all the same, save the file as UTF-8",
    )


def _is_surely_utf_8(data: DataFile) -> bool:
    """Whether all of the file is UTF-8, with more characters of several bytes than chance gives."""
    found = 0
    try:
        for text in _texts(_chunks(data), "utf-8"):
            found += len(NOT_ASCII.findall(text)) if found < EVIDENCE_CHARS else 0
    except UnicodeDecodeError:
        return False
    return found >= EVIDENCE_CHARS


def _surely_asian(data: DataFile, named: str) -> Candidate | None:
    """The one Korean or Japanese encoding that a file of many such bytes reads like, if the named one is another."""
    bad_offset = _first_undecodable(data, "utf-8")
    if bad_offset is None:
        return None
    sample = _sample_at(data, bad_offset)
    found = [candidate for candidate in CANDIDATES if _doubt_of(sample, candidate) is None]
    is_sure = len(re.findall(rb"[\x80-\xff]{2}", sample)) >= 2 * EVIDENCE_CHARS
    if len(found) != 1 or found[0] is WESTERN or not is_sure:
        return None
    likely = NOT_ASCII.findall(sample.decode(found[0].codec, errors="ignore"))
    chosen = set(NOT_ASCII.findall(sample.decode(named, errors="ignore")))
    return found[0] if sum(char in chosen for char in likely) < len(likely) / 2 else None


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, if a file that starts with these bytes is written in it."""
    if b"\0" not in sample:
        return None
    if _decodes(sample, "utf-8") and sample.count(0) < NUL_SHARE * len(sample):
        return None
    shares = {codec: _ascii_share(sample, codec) for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")}
    best = max(shares, key=lambda codec: shares[codec])
    return best if shares[best] else None


def _ascii_share(sample: bytes, encoding: str) -> float:
    """The share of ASCII characters, which every CSV and JSON file has; 0 if the text holds what no text holds."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeError:
        return 0
    kinds = Counter(map(unicodedata.category, re.sub(r"[\t\r\n\ufeff]", "", text)))
    if not text or "\0" in text or sum(kinds[kind] for kind in ("Cc", "Cn", "Co")) > len(text) * STRANGE_SHARE:
        return 0
    return sum(map(str.isascii, text)) / len(text)


def _decodes(sample: bytes, encoding: str) -> bool:
    """Whether the bytes, which may end in the middle of a character, can be decoded."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeError:
        return False
    return True


def _utf_8_or_recognised(data: DataFile) -> tuple[str, str | None]:
    bad_offset = _first_undecodable(data, "utf-8")
    if bad_offset is None:
        return "utf-8", None
    sample = _sample_at(data, bad_offset)
    replaced = sample.decode("utf-8", errors="replace")
    bad = replaced.count("\ufffd")
    if bad * 4 < len(NOT_ASCII.findall(replaced)) - bad:  # mostly UTF-8: taking another encoding would garble the rest
        raise _undecodable(data, "UTF-8", bad_offset)
    if b"\0" in first_bytes(data):
        raise SourceError("not a text file", where=data.name, hint=EXPORT)
    where = f"{data.name}:{_line_of(data, bad_offset)}"
    doubts = {candidate: _doubt_of(sample, candidate) for candidate in CANDIDATES}
    plausible = [candidate for candidate, doubt in doubts.items() if doubt is None]
    if plausible == [WESTERN] and _may_be_korean(sample):
        plausible = [KOREAN, WESTERN]
    if len(plausible) == 1:
        candidate = plausible[0]
        doubt = _doubt_of_file(data, candidate)
        if doubt is None:
            codec = "euc_kr" if candidate is KOREAN and _spells_syllables(data) else candidate.codec
            return codec, f"read as {candidate.remark}"
        raise SourceError(
            f"most of it reads like {candidate.remark}, but {doubt!r} does not",
            where=data.name,
            hint=f"if that is right as it stands, say so in the recipe: `encoding: {candidate.codec}`; else fix that "
            "passage and save the file as UTF-8",
        )
    for candidate in CANDIDATES:
        if not plausible and _is_damaged(sample, candidate):
            bad = _first_undecodable(data, candidate.codec) or 0
            raise _undecodable(data, f"{candidate.remark}, as the rest is", bad)
    raise _ambiguous(sample, where, plausible, doubts)


def _sample_at(data: DataFile, offset: int) -> bytes:
    """A stretch of the file around an offset, which starts at the start of a character in any encoding."""
    start = max(0, offset - SAMPLE_BYTES // 2)
    with data.open() as file:
        skip_bytes(file, start)
        sample = file.read(8 * SAMPLE_BYTES)
    boundary = re.search(rb"[\n ,\"]", sample) if start else None  # no encoding has these within a character
    return sample[boundary.end() :] if boundary and boundary.end() <= offset - start else sample


def _doubt_of(sample: bytes, candidate: Candidate) -> str | None:
    """What in the text does not read like the language: a passage, nothing at all (empty), or None."""
    try:
        return candidate.doubt(_texts([sample], candidate.codec))
    except UnicodeError:
        return ""


def _is_damaged(sample: bytes, candidate: Candidate) -> bool:
    """Whether the text reads like the language but for a few bytes that the encoding does not have."""
    text = sample.decode(candidate.codec, errors="replace")
    damaged = text.count("\ufffd")
    if not 0 < damaged < DAMAGED_SHARE * len(NOT_ASCII.findall(text)):
        return False
    return candidate.doubt([text.replace("\ufffd", " ")]) is None


def _may_be_korean(sample: bytes) -> bool:
    """Whether the few characters that are not ASCII are all syllables that are usual in Korean."""
    if not _decodes(sample, KOREAN.codec):
        return False
    found = "".join(NOT_ASCII.findall("".join(_texts([sample], KOREAN.codec))))
    return bool(found) and FREQUENT_HANGUL.sub("", found) == ""


def _spells_syllables(data: DataFile) -> bool:
    """Whether a file is EUC-KR that spells the syllables which KS X 1001 lacks letter by letter (its annex 3)."""
    return any(b"\xa4\xd4\xa4" in chunk for chunk in _chunks(data)) and _first_undecodable(data, "euc_kr") is None


def _doubt_of_file(data: DataFile, candidate: Candidate) -> str | None:
    """The passage of the whole file that does not read like the language."""
    if (bad_offset := _first_undecodable(data, candidate.codec)) is not None:
        raise _undecodable(data, f"{candidate.remark}, as the rest is", bad_offset)
    return candidate.doubt(_texts(_chunks(data), candidate.codec))


def _texts(chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """The decoded text in pieces that end with a line, or at least with a word."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    for chunk in chunks:
        text = rest + decoder.decode(chunk)
        end = (text.rfind("\n") + 1) or (text.rfind(" ") + 1) or len(text)
        yield text[:end]
        rest = text[end:]
    yield rest


def _chunks(data: DataFile) -> Iterator[bytes]:
    with data.open() as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _ambiguous(
    sample: bytes, where: str, plausible: Sequence[Candidate], doubts: Mapping[Candidate, str | None]
) -> SourceError:
    """The error for a file whose encoding nothing decides: how it reads in each that could be meant."""
    shown = {candidate.codec: doubts[candidate] for candidate in plausible or CANDIDATES}
    if not plausible:
        shown |= dict.fromkeys(NEVER_GUESSED)
    high = re.search(rb"[\x80-\xff]", sample)
    passage = sample[max(0, high.start() - 16) if high else 0 :][:4096]
    readings: dict[str, str] = {}
    for codec, doubt in shown.items():
        if _decodes(sample, codec):
            text = codecs.getincrementaldecoder(codec)().decode(passage)
            readings.setdefault(doubt or excerpt_of(NOT_ASCII, text), codec)
    listed = ", ".join(f"{codec} ({text!r})" for text, codec in readings.items())
    what = "more than one encoding could be meant" if plausible else "not UTF-8, and no other encoding reads well"
    return SourceError(
        f"{what}: {listed}" if listed else what,
        where=where,
        hint="name the right one in the recipe (`encoding: cp949`, `encoding: latin-1`, `encoding: shift_jis` …), "
        "or save the file as UTF-8",
    )


def _first_undecodable(data: DataFile, encoding: str) -> int | None:
    """Byte offset near the first bytes that cannot be decoded, exact for UTF-8; None if all can."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    with data.open() as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            num_pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return max(0, offset - num_pending + error.start)
            except UnicodeError:  # of codecs such as idna, which do not say where
                return offset
            if not chunk:
                return None
            offset += len(chunk)


def _line_of(data: DataFile, offset: int) -> int:
    """Line number, from 1, of a byte offset."""
    line, bytes_read = 1, 0
    with data.open() as file:
        while bytes_read < offset and (chunk := file.read(min(CHUNK_BYTES, offset - bytes_read))):
            line += chunk.count(b"\n")
            bytes_read += len(chunk)
    return line


def _undecodable(data: DataFile, name: str, offset: int) -> SourceError:
    return SourceError(
        f"line {_line_of(data, offset)} holds bytes that are not {name} (byte {offset} of the file)",
        where=f"{data.name}:{_line_of(data, offset)}",
        hint="fix that line or write the file again; if it is another encoding, name it: `encoding: cp949`",
    )
