"""Sources → raw rows: files of any usual kind and encoding, data sets on the hub, the samples that ship.

Reads what is there and remarks how; knows nothing of questions and answers (`convert` does).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TextIO

from seodang.data.counting import Counting, uncounted
from seodang.data.read.containers.data_file import DataFile
from seodang.data.read.containers.find_files import (
    JSON_NAMES,
    LINE_NAMES,
    SHEET_NAMES,
    TABLE_NAMES,
    find_files,
)
from seodang.data.read.containers.hub_dataset import read_hub
from seodang.data.read.containers.object_files import ENOUGH, FileColumns, is_small_json, read_objects
from seodang.data.read.containers.same_layout import group_files, refuse_several
from seodang.data.read.containers.spreadsheet import read_spreadsheet
from seodang.data.read.csv_dialect import DELIMITERS
from seodang.data.read.csv_parquet import read_arrow, read_csv, read_parquet
from seodang.data.read.encoding import find_encoding, first_bytes, refuse_binary
from seodang.data.read.json_files import BLANK_CHARS, read_json, starts_like_json
from seodang.data.read.raw_rows import Block, RawRow, RawRows, merged
from seodang.data.read.reshape.reshape import named_columns, reshape
from seodang.errors import SourceError, os_reason
from seodang.recipe import Source

ARROW_STARTS = (b"ARROW1", b"\xff\xff\xff\xff")  # an Arrow file, an Arrow stream
SHEET_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
START_CHARS = 1 << 16  # of a file's first line, which show its kind
KINDS = "JSON, JSON Lines, CSV, TSV, Parquet, Arrow or a spreadsheet"


def read(source: Source, counting: Counting = uncounted) -> RawRows:
    """The rows of one source; files are joined in the recipe's order, those of a folder in the order of their names.

    Args:
        counting: shows how many files were looked at.

    Raises:
        SourceError: whatever cannot be read, with file and row; faults further down a file come while iterating.
    """
    if source.hub is not None:
        return reshape(read_hub(source), source)
    return reshape(_joined([_table(path, source, counting) for path in source.path or ()]), source)


def local_files(source: Source) -> list[Path]:
    """The files of a source on this machine, archives as a whole; none for a hub data set."""
    found = [find_files(path, source.split) for path in source.path or ()]
    return list(dict.fromkeys(file.path for one in found for file in one.files))


def group_by_layout(files: Sequence[DataFile], counting: Counting = uncounted) -> list[list[DataFile]]:
    """Files in groups of one layout each, which can be read together.

    Raises:
        SourceError: a file cannot be read.
    """
    source = Source(name="files", role="domain", path=tuple(file.name for file in files[:1]))
    groups = group_files((one for _, brought in _read_files(files, source, counting) for one in brought), ())
    return [[one.file for one in together] for together in groups.values()]


def _table(given: str, source: Source, counting: Counting) -> RawRows:
    """The rows that a path of the recipe means; in a folder, pattern or archive all files must have one layout."""
    found = find_files(given, source.split)
    read_files = _read_files(found.files, source, counting)
    table = _joined([table for table, _ in read_files])
    if found.is_single:
        return table
    brought = [one for _, files in read_files for one in files]
    refuse_several(group_files(brought, named_columns(source)), given)
    return replace(table, where=given, remarks=(*found.remarks(), *_remarks(brought)))


def _remarks(files: Sequence[FileColumns]) -> list[str]:
    """What was remarked of files, each remark once with the number of its files."""
    by_remark: dict[str, list[str]] = {}
    for one in files:
        for remark in one.remarks:
            by_remark.setdefault(remark, []).append(one.file.name)
    return [
        f"{names[0]}: {remark}" if len(names) == 1 else f"{len(names):,} files ({names[0]} …): {remark}"
        for remark, names in by_remark.items()
    ]


def _read_files(
    files: Sequence[DataFile], source: Source, counting: Counting
) -> list[tuple[RawRows, list[FileColumns]]]:
    """Tables with what each file of them brings; many small JSON files are one table."""
    read_table = partial(_read_file, source=source)
    tables: list[tuple[RawRows, list[FileColumns]]] = []
    with counting("files opened", len(files)) as advance:
        for is_small, run in groupby(files, key=is_small_json):
            together = list(run)
            if is_small and len(together) >= ENOUGH:
                tables.append(read_objects(together, read_table, advance))
                continue
            for file in together:
                table = read_table(file)
                tables.append((table, [FileColumns(file=file, columns=table.columns, remarks=table.remarks)]))
                advance(1)
    return tables


def _joined(tables: list[RawRows]) -> RawRows:
    if len(tables) == 1:
        return tables[0]

    def rows() -> Iterator[RawRow]:
        for table in tables:
            yield from table.rows()

    def blocks() -> Iterator[Block]:
        return merged(block for table in tables for block in table.blocks())

    return RawRows(
        where=", ".join(table.where for table in tables[:3]) + (" …" if len(tables) > 3 else ""),
        columns=tuple(dict.fromkeys(name for table in tables for name in table.columns)),
        rows=rows,
        remarks=tuple(f"{table.where}: {remark}" for table in tables for remark in table.remarks),
        unparsed=blocks,
    )


def _read_file(file: DataFile, source: Source) -> RawRows:
    try:
        head = first_bytes(file, 8)
        if not head:
            raise SourceError("the file is empty", where=file.name, hint="name a file that holds rows")
        if head.startswith(b"PAR1"):
            return read_parquet(file)
        if head.startswith(ARROW_STARTS):
            return read_arrow(file)
        if head.startswith(SHEET_STARTS) and _may_be_sheet(file, head):
            return read_spreadsheet(file, named_columns(source))
        refuse_binary(file)
        encoding, remark = find_encoding(file, source.encoding)
        return _with_remark(_read_text(file, encoding, source), remark)
    except OSError as error:
        what = f"cannot be read: {os_reason(error)}"
        raise SourceError(what, where=file.name, hint="check the file's permissions") from None


def _may_be_sheet(file: DataFile, head: bytes) -> bool:
    """Whether bytes that begin as those of an Office file may be a spreadsheet, whatever the file's name says."""
    if file.ending in SHEET_NAMES:
        return True
    with file.path.open("rb") as stored:
        return file.member is None and stored.read(len(head)) == head  # not packed: `find_files` has looked at it


def _read_text(file: DataFile, encoding: str, source: Source) -> RawRows:
    opened: Callable[..., TextIO] = partial(file.open_text, encoding)
    ending, given = file.ending, file.name
    start = _first_text(opened)
    if not start:
        raise SourceError("the file holds nothing but blanks", where=given, hint="name a file that holds rows")
    if "\0" in start[:1] or start.count("\0") > len(start) // 10:
        raise SourceError("not a text file", where=given, hint=f"name a file of {KINDS}")
    if start[:1] == "<" and ending not in TABLE_NAMES:
        what = "this is an HTML or XML page, perhaps a download that failed"
        raise SourceError(what, where=given, hint=f"name a file of {KINDS}")
    if ending in JSON_NAMES or starts_like_json(start):
        rows = read_json(given, opened, by_line=ending in LINE_NAMES)
        return rows if ending in JSON_NAMES else _with_remark(rows, "the file holds JSON")
    if ending not in TABLE_NAMES and not any(delimiter in start for delimiter in DELIMITERS):
        raise SourceError(
            "neither JSON nor a table with columns",
            where=given,
            hint='for plain text write JSON Lines, an object a document: {"text": "…"}',
        )
    rows = read_csv(given, partial(opened, newline=""), named_columns(source))
    return rows if ending in TABLE_NAMES else _with_remark(rows, "the file holds a table")


def _first_text(opened: Callable[..., TextIO]) -> str:
    """The start of the first line that is not blank; the line may be as long as the file."""
    with opened() as file:
        while chunk := file.read(START_CHARS):
            if text := chunk.lstrip(BLANK_CHARS):
                return (text + file.readline(START_CHARS)).splitlines()[0].rstrip(BLANK_CHARS)
    return ""


def _with_remark(rows: RawRows, remark: str | None) -> RawRows:
    if remark is None:
        return rows
    return replace(rows, remarks=(remark, *rows.remarks))
