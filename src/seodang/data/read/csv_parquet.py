"""Rows of CSV, TSV, Parquet and Arrow files, streamed. Knows cells and columns, not what they mean."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.lib as arrow
import pyarrow.parquet as parquet

from seodang.data.read.arrow_values import ArrowRows
from seodang.data.read.column_names import KNOWN_COLUMNS, SHORT_ANSWER, SHORT_QUESTION, THING, column_key, is_question
from seodang.data.read.containers.data_file import DataFile
from seodang.data.read.csv_dialect import DELIMITERS, SAMPLE_CHARS, Dialect, find_dialect
from seodang.data.read.raw_rows import RawRow, RawRows, column_name, raw_row, refuse_duplicates
from seodang.errors import SourceError, first_line, plural

BLANK_AND_QUOTE = (' "', '\t"')
QUOTES_KEPT = "quotes after a blank kept as text"
ROWS_AT_ONCE = 512  # decoded from Parquet and Arrow
BATCH_BYTES = 1 << 24  # a batch of huge rows has fewer
ARROW_FILE = b"ARROW1"  # first bytes of a file with an index
MAX_COLUMNS = 10_000  # a table of questions and answers has a few
LISTED = 10  # names in a remark
LONG_NAME = 60  # characters: longer than any column's name
SENTENCE = re.compile(r".[.?!。？！…]$|.* .*(다|요|까)$")
UNREADABLE = (arrow.ArrowException, OSError, ValueError)  # what Arrow raises
WRITE_AGAIN = "copy, download or write it again"
ADD_HEADER = "add a first line with the columns' names, such as: question,answer"

BatchesOf = Callable[[Path], AbstractContextManager[tuple[pa.Schema, Iterator[pa.RecordBatch]]]]


def read_csv(path: str, open_text: Callable[[], TextIO], named: Sequence[str]) -> RawRows:
    """The rows of a CSV or TSV file; the delimiter is found, the first line must name the columns.

    Args:
        path: as the recipe gives it.
        open_text: opens the decoded file at its start, line ends kept.
        named: columns that the recipe names.

    Raises:
        SourceError: no header, columns of the same name, ragged rows or quotes that do not close.
    """
    _refuse_too_wide(path, open_text)
    dialect, remarks = find_dialect(path, open_text)
    with open_text() as file:
        header = next((record for record in _with_source_errors(dialect.records(file), path) if record), [])
    if not header:
        raise SourceError("the file is empty", where=path, hint="name a file that holds rows")
    columns = _columns(header, path, named)
    if unnamed := [name for name, cell in zip(columns, header, strict=True) if not column_name(cell)]:
        more = f" and {len(unnamed) - LISTED} more" * (len(unnamed) > LISTED)
        remarks.append(f"columns without a name are called {', '.join(unnamed[:LISTED])}{more}")
    return RawRows(
        where=path,
        columns=tuple(columns),
        rows=lambda: _csv_rows(path, open_text, dialect, columns),
        remarks=tuple(remarks),
    )


def _refuse_too_wide(path: str, open_text: Callable[[], TextIO]) -> None:
    """Look at the start of the first record, which may be as long as the file."""
    with open_text() as file:
        first = next(filter(str.strip, file.read(SAMPLE_CHARS).splitlines()), "")
    if max(map(first.count, DELIMITERS)) >= MAX_COLUMNS:
        raise SourceError(
            f"more than {MAX_COLUMNS:,} columns",
            where=f"{path}:1",
            hint="give each row a line of its own, and only the columns that are needed",
        )


def _csv_rows(path: str, open_text: Callable[[], TextIO], dialect: Dialect, columns: list[str]) -> Iterator[RawRow]:
    with open_text() as file:
        records = filter(None, _with_source_errors(dialect.records(file), path))
        next(records)
        for row, record in enumerate(records, 1):
            if len(record) != len(columns):
                record = _drop_blank_cells(record, columns, path, row)
            quoted = any(cell.startswith(BLANK_AND_QUOTE) and cell.endswith('"') for cell in record)
            yield raw_row(path, row, dict(zip(columns, record, strict=True)), (QUOTES_KEPT,) if quoted else ())


def _with_source_errors(records: Iterator[list[str]], path: str) -> Iterator[list[str]]:
    """The records, with csv's errors as ours."""
    row = 0
    start = 1
    try:
        for record in records:
            yield record
            row += bool(record)
            start = getattr(records, "line_num", 0) + 1
    except csv.Error as error:
        what = (
            f"a quote that opens in line {start} is never closed"
            if "end of data" in str(error)
            else (f"quotes that do not fit in line {start}: {error}")
        )
        raise SourceError(
            what,
            where=f"{path}:{max(row, 1)}",
            hint='write a quote inside a quoted cell twice ("") and close every cell, or save the table again',
        ) from None


def _drop_blank_cells(record: list[str], columns: list[str], path: str, row: int) -> list[str]:
    """A record that has only blank cells too many; any other number of cells would shift texts into wrong columns."""
    if len(record) > len(columns) and not any(map(str.strip, islice(record, len(columns), None))):
        return record[: len(columns)]
    raise SourceError(
        f"cells: {len(record)}, but the header names {plural(len(columns), 'column')} ({', '.join(columns[:6])})",
        where=f"{path}:{row}",
        hint='put cells that hold the delimiter or line ends in quotes ("…"), and give every row all its cells',
    )


def _columns(header: list[str], path: str, named: Sequence[str]) -> list[str]:
    cells = [column_name(cell) for cell in header]
    keys = set(map(column_key, cells))
    asks = len(list(filter(is_question, cells))) > 1 and not keys.isdisjoint(THING)
    known = asks or keys & KNOWN_COLUMNS or {SHORT_QUESTION, SHORT_ANSWER} <= keys or set(named) & set(cells)
    if not known and (evidence := _looks_like_data(cells)):
        raise SourceError(
            f"the first line seems to be data, not the columns' names ({evidence}: {', '.join(cells)[:60]!r})",
            where=f"{path}:1",
            hint=ADD_HEADER,
        )
    columns = [cell or f"column {number}" for number, cell in enumerate(cells, 1)]
    refuse_duplicates(columns, f"{path}:1", "rename one of them, or add a header line if this line is data")
    return columns


def _looks_like_data(cells: list[str]) -> str | None:
    """Why a first line looks like data; None if it does not."""
    for cell in cells:
        if len(cell) > LONG_NAME or "\n" in cell:
            return "a long text"
        if SENTENCE.search(cell):
            return "a sentence"
        if re.fullmatch(r"[-+]?[\d.,]+", cell):
            return "a number"
    return "a duplicate value" if len(set(filter(None, cells))) < len(list(filter(None, cells))) else None


def read_parquet(data: DataFile) -> RawRows:
    """The rows of a Parquet file, a batch in memory at a time.

    Raises:
        SourceError: a file that Arrow cannot read.
    """
    return _read_batches(data, "Parquet", _parquet)


def read_arrow(data: DataFile) -> RawRows:
    """The rows of an Arrow file, as `datasets` (`save_to_disk`) and Arrow's own writers make them.

    Raises:
        SourceError: a file that Arrow cannot read.
    """
    return _read_batches(data, "Arrow", _arrow)


def _read_batches(data: DataFile, kind: str, batches_of: BatchesOf) -> RawRows:
    def rows() -> Iterator[RawRow]:
        row = 0
        try:
            with data.on_disk() as path, batches_of(path) as (schema, batches):
                reader = ArrowRows(data.name, schema)
                for batch in batches:
                    for read in reader.read(batch, row + 1):
                        row += 1
                        yield read
        except UNREADABLE as error:
            raise SourceError(
                f"the {kind} file cannot be read after row {row}: {first_line(error)}",
                where=f"{data.name}:{row + 1}",
                hint=WRITE_AGAIN,
            ) from None

    try:
        with data.on_disk() as path, batches_of(path) as (schema, _):
            columns = [column_name(name) for name in schema.names]
    except UNREADABLE as error:
        raise SourceError(
            f"not a readable {kind} file: {first_line(error)}", where=data.name, hint=WRITE_AGAIN
        ) from None
    refuse_duplicates(columns, data.name, "rename one of them")
    return RawRows(where=data.name, columns=tuple(columns), rows=rows)


@contextmanager
def _parquet(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with parquet.ParquetFile(path) as table:
        yield table.schema_arrow, table.iter_batches(batch_size=_batch_rows(table.metadata))


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Of a stream, as `datasets` writes them, or of a file with an index."""
    with pa.memory_map(str(path)) as mapped:
        batches: Iterator[pa.RecordBatch]
        if mapped.read(len(ARROW_FILE)) == ARROW_FILE:
            file = pa.ipc.open_file(mapped)
            schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
        else:
            mapped.seek(0)
            stream = pa.ipc.open_stream(mapped)
            schema, batches = stream.schema, iter(stream)
        yield schema, (batch.slice(at, ROWS_AT_ONCE) for batch in batches for at in range(0, len(batch), ROWS_AT_ONCE))


def _batch_rows(metadata: parquet.FileMetaData) -> int:
    """How many rows are decoded at a time: few where they are large."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(ROWS_AT_ONCE, BATCH_BYTES // max(largest, 1)))
