"""Many small JSON files, each of one or a few rows, as one table: each is opened once, and workers parse them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from seodang.data.read.containers.data_file import DataFile
from seodang.data.read.json_files import records_in, require_object
from seodang.data.read.raw_rows import BLOCK_ROWS, Block, RawRow, RawRows, raw_row
from seodang.data.read.serialized import parse_json
from seodang.errors import SourceError

SMALL_BYTES = 1 << 18  # larger files are read in pieces, one by one
ENOUGH = 8  # files: fewer are as fast one by one

ReadTable = Callable[[DataFile], RawRows]  # can be pickled


@dataclass(frozen=True, kw_only=True)
class FileColumns:
    """What one file brings."""

    file: DataFile
    columns: tuple[str, ...]
    remarks: tuple[str, ...]


def is_small_json(file: DataFile) -> bool:
    """Whether a file can be taken into memory at once, and is JSON by its name."""
    if not file.name.endswith((".json", ".JSON")):
        return False
    return file.member is not None or file.path.stat().st_size <= SMALL_BYTES


def read_objects(
    files: Sequence[DataFile], read_table: ReadTable, advance: Callable[[int], None]
) -> tuple[RawRows, list[FileColumns]]:
    """The rows of many small JSON files, and what each of them brings.

    Args:
        read_table: reads a file that is not plain UTF-8 JSON, and raises the error of a broken one.
        advance: counts the files.

    Raises:
        SourceError: a file that cannot be read.
    """
    found: list[FileColumns] = []
    known: dict[tuple[str, ...], tuple[str, ...]] = {}  # a million files share a few sets of columns
    for file in files:
        plain = _plain_rows(file)
        if plain is None:
            table = read_table(file)
            found.append(FileColumns(file=file, columns=table.columns, remarks=table.remarks))
        else:
            columns = tuple(dict.fromkeys(name for row in plain[0] for name in row.fields))
            found.append(FileColumns(file=file, columns=known.setdefault(columns, columns), remarks=plain[1]))
        advance(1)
    blocks = partial(_blocks, files, read_table)
    table = RawRows(
        where=files[0].name,
        columns=tuple(dict.fromkeys(name for one in found for name in one.columns)),
        rows=lambda: (row for block in blocks() for row in block()),
        unparsed=blocks,
    )
    return table, found


def _blocks(files: Sequence[DataFile], read_table: ReadTable) -> Iterator[Block]:
    for start in range(0, len(files), BLOCK_ROWS):
        some = files[start : start + BLOCK_ROWS]
        yield Block(read=partial(_rows, some, read_table), num_rows=len(some))


def _rows(files: Sequence[DataFile], read_table: ReadTable) -> Iterator[RawRow]:
    for file in files:
        plain = _plain_rows(file)
        yield from read_table(file).rows() if plain is None else plain[0]


def _plain_rows(file: DataFile) -> tuple[list[RawRow], tuple[str, ...]] | None:
    """The rows of a small UTF-8 file of one JSON value, and remarks; None: it is anything else, or broken."""
    try:
        with file.open() as opened:
            content = opened.read(SMALL_BYTES + 1)
        if len(content) > SMALL_BYTES:
            return None
        value = parse_json(content.decode("utf-8-sig").strip())
        records, remark = records_in(file.name, value) if isinstance(value, dict) else (value, None)
        if not isinstance(records, list) or not records:
            return None
        rows = [
            raw_row(file.name, row, require_object(record, file.name, row)) for row, record in enumerate(records, 1)
        ]
        return rows, (remark,) if remark else ()
    except (OSError, ValueError, RecursionError, SourceError):
        return None
