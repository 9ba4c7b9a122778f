"""Rows of CSV, TSV and Parquet files, streamed. Knows cells and columns, not what they mean."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow.lib as arrow
import pyarrow.parquet as parquet

from seodang.data.read.arrow_values import ArrowRows
from seodang.data.read.column_names import KNOWN_COLUMNS, SHORT_ANSWER, SHORT_QUESTION, column_key
from seodang.data.read.raw_rows import RawRow, RawRows, column_name, raw_row
from seodang.errors import SourceError

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SAMPLE_RECORDS = 200
SAMPLE_CHARS = 1 << 20
PARQUET_BATCH = 512  # rows decoded at a time
BATCH_BYTES = 1 << 24  # a batch of huge rows has fewer
MAX_CELL = 2**31 - 1  # csv's own limit of 131,072 characters is below a long document
LONG_NAME = 60  # characters: longer than any column's name
SENTENCE = re.compile(r".[.?!。？！…]$|.* .*(다|요|까)$")
ADD_HEADER = "add a first line with the columns' names, such as: question,answer"


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """How the cells of one file are separated and quoted."""

    delimiter: str
    quotes: bool = True  # may enclose cells
    skip: int = 0  # lines before the header

    def records(self, file: Iterator[str]) -> Iterator[list[str]]:
        """Records of a file at its start; blank lines come as empty lists."""
        csv.field_size_limit(MAX_CELL)
        for _ in range(self.skip):
            next(file, None)
        # strict: a quote that is never closed would otherwise swallow the rest of the file as one cell
        if self.quotes:
            return csv.reader(file, delimiter=self.delimiter, strict=True)
        return csv.reader(file, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)


def read_csv(path: str, open_text: Callable[[], TextIO], named: Sequence[str]) -> RawRows:
    """The rows of a CSV or TSV file; the delimiter is found, the first line must name the columns.

    Args:
        path: as the recipe gives it.
        open_text: opens the decoded file at its start, line ends kept.
        named: columns that the recipe names.

    Raises:
        SourceError: no header, columns of the same name, ragged rows or quotes that do not close.
    """
    dialect, remarks = _find_dialect(path, open_text)
    with open_text() as file:
        header = next((record for record in _with_source_errors(dialect.records(file), path) if record), [])
    if not header:
        raise SourceError("the file is empty", where=path, hint="name a file that holds rows")
    columns = _columns(header, path, named)
    if unnamed := [name for name, cell in zip(columns, header, strict=True) if not column_name(cell)]:
        remarks.append(f"columns without a name are called {', '.join(unnamed)}")
    return RawRows(
        where=path,
        columns=tuple(columns),
        rows=lambda: _csv_rows(path, open_text, dialect, columns),
        remarks=tuple(remarks),
    )


def _csv_rows(path: str, open_text: Callable[[], TextIO], dialect: _Dialect, columns: list[str]) -> Iterator[RawRow]:
    with open_text() as file:
        records = filter(None, _with_source_errors(dialect.records(file), path))
        next(records)
        for row, record in enumerate(records, 1):
            if len(record) != len(columns):
                record = _drop_blank_cells(record, columns, path, row)
            yield raw_row(path, row, dict(zip(columns, record, strict=True)))


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
    if len(record) > len(columns) and not any(cell.strip() for cell in record[len(columns) :]):
        return record[: len(columns)]
    raise SourceError(
        f"cells: {len(record)}, but the header names {len(columns)} columns ({', '.join(columns[:6])})",
        where=f"{path}:{row}",
        hint='put cells that hold the delimiter or line ends in quotes ("…"), and give every row all its cells',
    )


def _columns(header: list[str], path: str, named: Sequence[str]) -> list[str]:
    cells = [column_name(cell) for cell in header]
    keys = set(map(column_key, cells))
    known = keys & KNOWN_COLUMNS or {SHORT_QUESTION, SHORT_ANSWER} <= keys or set(named) & set(cells)
    if not known and (evidence := _looks_like_data(cells)):
        raise SourceError(
            f"the first line seems to be data, not the columns' names ({evidence}: {', '.join(cells)[:60]!r})",
            where=f"{path}:1",
            hint=ADD_HEADER,
        )
    columns = [cell or f"column {number}" for number, cell in enumerate(cells, 1)]
    if duplicates := sorted({name for name in columns if columns.count(name) > 1}):
        raise SourceError(
            f"two columns have the same name: {', '.join(duplicates)}",
            where=f"{path}:1",
            hint="rename one of them, or add a header line if this line is data",
        )
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
    return "a value stands twice" if len(set(filter(None, cells))) < len(list(filter(None, cells))) else None


def _find_dialect(path: str, open_text: Callable[[], TextIO]) -> tuple[_Dialect, list[str]]:
    with open_text() as file:
        start = file.readline(200)
        if declared := re.match(r'\ufeff?"?sep=([,;\t|])"?\s*$', start):  # Excel declares the delimiter so
            return _Dialect(delimiter=declared[1], skip=1), [f"cells are separated by {DELIMITERS[declared[1]]}"]
        sample = start + file.read(SAMPLE_CHARS)
    usual = "\t" if path.lower().endswith((".tsv", ".tab")) else ","
    order = sorted(DELIMITERS, key=lambda delimiter: delimiter != usual)
    best = max(order, key=lambda delimiter: _score(_Dialect(delimiter=delimiter), sample))
    remarks = [] if best == usual else [f"cells are separated by {DELIMITERS[best]}"]
    unquoted = _Dialect(delimiter=best, quotes=False)
    if best == "\t" and _score(unquoted, sample) > _score(_Dialect(delimiter=best), sample):
        return unquoted, [*remarks, "quotes are taken as part of the text: they do not enclose cells here"]
    return _Dialect(delimiter=best), remarks


def _score(dialect: _Dialect, sample: str) -> tuple[bool, int, int]:
    """How well a dialect fits: uniform rows of at least two cells, known names in the header, number of columns."""
    records: list[list[str]] = []
    complete = True
    try:
        records.extend(islice(filter(None, dialect.records(io.StringIO(sample, newline=""))), SAMPLE_RECORDS))
    except csv.Error as error:
        complete = len(sample) >= SAMPLE_CHARS and "end of data" in str(error)  # the sample ends there, not the file
    if not records:
        return False, 0, 0
    width = len(records[0])
    if width < 2:
        return False, 0, width
    uniform = sum(len(record) == width for record in records) >= 0.9 * len(records)
    return complete and uniform, sum(column_key(cell) in KNOWN_COLUMNS for cell in records[0]), width


def read_parquet(path: str, file: Path) -> RawRows:
    """The rows of a Parquet file, a batch in memory at a time.

    Args:
        path: as the recipe gives it.
        file: its place on this machine.

    Raises:
        SourceError: a file that Arrow cannot read.
    """

    def rows() -> Iterator[RawRow]:
        row = 0
        try:
            with parquet.ParquetFile(file) as table:
                reader = ArrowRows(path, table.schema_arrow)
                for batch in table.iter_batches(batch_size=_batch_rows(table.metadata)):
                    for read in reader.read(batch, row + 1):
                        row += 1
                        yield read
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise SourceError(
                f"the Parquet file cannot be read after row {row}: {_first_line(error)}",
                where=f"{path}:{row + 1}",
                hint="copy, download or write it again",
            ) from None

    try:
        with parquet.ParquetFile(file) as table:
            columns = [column_name(name) for name in table.schema_arrow.names]
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise SourceError(
            f"no readable Parquet file: {_first_line(error)}",
            where=path,
            hint="copy, download or write it again",
        ) from None
    if duplicates := sorted({name for name in columns if columns.count(name) > 1}):
        raise SourceError(
            f"two columns have the same name: {', '.join(duplicates)}", where=path, hint="rename one of them"
        )
    return RawRows(where=path, columns=tuple(columns), rows=rows)


def _batch_rows(metadata: parquet.FileMetaData) -> int:
    """How many rows are decoded at a time: few where they are large."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(PARQUET_BATCH, BATCH_BYTES // max(largest, 1)))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
