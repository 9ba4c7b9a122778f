"""The files in a zip archive, refused as a whole where it cannot be read safely."""

import re
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path

from seodang.data.read.containers.archive import open_archive
from seodang.data.read.containers.data_file import HARMLESS_BYTES, MOST_TIMES
from seodang.errors import SourceError

UTF_8_NAME, ENCRYPTED = 0x800, 0x1  # bits of an entry's flags
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
OUTSIDE = re.compile(r"^([A-Za-z]:|/)|(^|/)\.\.(/|$)")
UNPACK = "unpack it, and name the folder"
DOCUMENTS = {"word/": "a Word document", "ppt/": "a PowerPoint presentation", "Contents/": "a Hangul (HWPX) document"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file in an archive."""

    name: str  # as people read it
    stored_name: str  # as the archive's directory has it
    size: int  # bytes once it is unpacked


def zip_members(path: Path, name: str, nested: str | None = None, unpacked: int = 0) -> list[Member]:
    """The files in an archive, in the order of their names.

    Args:
        name: of the archive, for messages.
        nested: the archive inside the one at `path` that is meant, by its name in the directory there.
        unpacked: bytes that what was found before in the file at `path` unpacks to.

    Raises:
        SourceError: damaged or encrypted, names that lead out of the archive, or more than data can unpack to.
    """
    entries = [entry for entry in open_archive(path, name, nested).infolist() if not entry.is_dir()]
    _refuse_bomb(unpacked + sum(entry.file_size for entry in entries), path, name)
    members = [Member(name=_readable(entry), stored_name=entry.filename, size=entry.file_size) for entry in entries]
    for entry, member in zip(entries, members, strict=True):
        if OUTSIDE.search(member.name.replace("\\", "/")):
            what = f"holds a name that leads out of the archive: {member.name[:100]!r}"
            raise SourceError(what, where=name, hint="leave this archive out, or pack it again without such names")
        if entry.flag_bits & ENCRYPTED:
            raise SourceError(
                "is encrypted",
                where=f"{name}/{member.name}",
                hint="unpack it with its password, and name the folder",
            )
        if entry.compress_type not in METHODS:
            what = f"is packed by a method that Python's zip reader does not have (number {entry.compress_type})"
            raise SourceError(what, where=f"{name}/{member.name}", hint=UNPACK)
    if len({member.name for member in members}) < len(members):
        raise SourceError("holds two files of the same name", where=name, hint=UNPACK)
    return sorted(members, key=lambda member: member.name)


def office_kind(path: Path, name: str) -> str | None:
    """What an Office file is, all of which are zip archives: `spreadsheet`, or a document in words; None for others."""
    names = open_archive(path, name).namelist()
    if not {"xl/workbook.xml", "xl/workbook.bin", "content.xml"}.isdisjoint(names):
        return "spreadsheet"
    if "[Content_Types].xml" not in names and "mimetype" not in names:
        return None
    return next((kind for start, kind in DOCUMENTS.items() if any(entry.startswith(start) for entry in names)), None)


def _refuse_bomb(unpacked: int, path: Path, name: str) -> None:
    if unpacked > max(HARMLESS_BYTES, MOST_TIMES * path.stat().st_size):
        raise SourceError(
            f"would unpack to {unpacked / 1e9:,.0f} GB, more than {MOST_TIMES} times its size: "
            "this looks like a decompression bomb",
            where=name,
            hint=f"leave this file out; if you trust it, {UNPACK}",
        )


def _readable(entry: zipfile.ZipInfo) -> str:
    """The name as its writer meant it: Korean Windows writes CP949, which zip files do not say."""
    name = entry.filename
    if not entry.flag_bits & UTF_8_NAME and not name.isascii():
        for encoding in ("utf-8", "cp949"):
            try:
                name = name.encode("cp437").decode(encoding)
                break
            except UnicodeError:
                continue
    return unicodedata.normalize("NFC", name.replace("\\", "/"))
