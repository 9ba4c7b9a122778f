"""How the cells of a CSV file are separated and quoted, found by trying. Knows the start of a file, no rows to keep."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TextIO

from seodang.data.read.column_names import KNOWN_COLUMNS, column_key

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SAMPLE_RECORDS = 200
SAMPLE_CHARS = 1 << 20
MAX_CELL = 2**31 - 1  # csv's own limit of 131,072 characters is below a long document
QUOTES_ARE_TEXT = "quotes are taken as part of the text: they do not enclose cells here"
BLANKS_SKIPPED = "blanks between a delimiter and a quote are not part of the cells"
SINGLE_QUOTES = "cells are enclosed in single quotes"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How the cells of one file are separated and quoted."""

    delimiter: str
    quote: str | None = '"'  # may enclose cells
    skip_blanks: bool = False  # blanks after a delimiter are no part of the cell
    skip_lines: int = 0  # before the header

    def records(self, file: Iterator[str]) -> Iterator[list[str]]:
        """Records of a file at its start; blank lines come as empty lists."""
        csv.field_size_limit(MAX_CELL)
        for _ in range(self.skip_lines):
            next(file, None)
        if self.quote is None:
            return csv.reader(file, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        # strict: a quote that is never closed would otherwise swallow the rest of the file as one cell
        return csv.reader(
            file, delimiter=self.delimiter, quotechar=self.quote, skipinitialspace=self.skip_blanks, strict=True
        )


def find_dialect(path: str, open_text: Callable[[], TextIO]) -> tuple[Dialect, list[str]]:
    """The dialect that fits the start of a file best, and remarks about what is unusual in it."""
    with open_text() as file:
        start = file.readline(200)
        if declared := re.match(r'\ufeff?"?sep=([,;\t|])"?\s*$', start):  # Excel declares the delimiter so
            remark = f"cells are separated by {DELIMITERS[declared[1]]}"
            return Dialect(delimiter=declared[1], skip_lines=1), [remark]
        sample = start + file.read(SAMPLE_CHARS)
    usual = "\t" if path.lower().endswith((".tsv", ".tab")) else ","
    order = sorted(DELIMITERS, key=lambda delimiter: delimiter != usual)
    candidates = [Dialect(delimiter=delimiter) for delimiter in order]
    candidates += [replace(dialect, skip_blanks=True) for dialect in candidates if dialect.delimiter != "\t"]
    delimiter = max(candidates, key=lambda dialect: _score(dialect, sample)).delimiter
    remarks = [] if delimiter == usual else [f"cells are separated by {DELIMITERS[delimiter]}"]
    dialect, about_quotes = _with_quotes(Dialect(delimiter=delimiter), sample)
    return dialect, remarks + about_quotes


def _with_quotes(dialect: Dialect, sample: str) -> tuple[Dialect, list[str]]:
    """The dialect with what encloses its cells, and a remark where that is unusual."""
    records, _ = _sample_records(dialect, sample)
    plain = _score(dialect, sample)
    unquoted = replace(dialect, quote=None)
    if dialect.delimiter == "\t" and _score(unquoted, sample) > plain:
        return unquoted, [QUOTES_ARE_TEXT]
    skipping = replace(dialect, skip_blanks=True)
    has_blanks = any(re.match(' +"', cell) for record in records for cell in record)
    if dialect.delimiter != "\t" and has_blanks and _score(skipping, sample) >= plain:
        return skipping, [BLANKS_SKIPPED]
    single = replace(dialect, quote="'")
    if records and all(re.fullmatch("'.+'", cell) for cell in records[0]) and _score(single, sample) >= plain:
        return single, [SINGLE_QUOTES]
    return dialect, []


def _score(dialect: Dialect, sample: str) -> tuple[bool, int, int]:
    """How well a dialect fits: uniform rows of at least two cells, known names in the header, number of columns."""
    first, _ = _sample_records(dialect, sample, most=1)  # nearly always enough to see that a delimiter is none
    width = len(first[0]) if first else 0
    if width < 2:
        return False, 0, width
    records, is_complete = _sample_records(dialect, sample)
    is_uniform = sum(len(record) == width for record in records) >= 0.9 * len(records)
    return is_complete and is_uniform, sum(column_key(cell) in KNOWN_COLUMNS for cell in records[0]), width


def _sample_records(dialect: Dialect, sample: str, most: int = SAMPLE_RECORDS) -> tuple[list[list[str]], bool]:
    """The first records, and whether nothing speaks against the dialect in them."""
    records: list[list[str]] = []
    try:
        records.extend(islice(filter(None, dialect.records(io.StringIO(sample, newline=""))), most))
    except csv.Error as error:
        is_cut = len(sample) >= SAMPLE_CHARS and "end of data" in str(error)  # the sample ends there, not the file
        return records, is_cut
    return records, True
