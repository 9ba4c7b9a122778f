"""Rows of a spreadsheet (xlsx, xlsm, xlsb, xls, ods): one sheet, whose header is found. Knows cells, no meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetVisibleEnum

from seodang.data.read.column_names import KNOWN_COLUMNS, SHORT_ANSWER, SHORT_QUESTION, column_key
from seodang.data.read.containers.data_file import DataFile
from seodang.data.read.raw_rows import RawRow, RawRows, column_name, raw_row, refuse_duplicates
from seodang.errors import SourceError, first_line, nearest

HEADER_ROWS = 20  # looked at: titles and remarks may stand above the columns' names
MERGED = "cells of a merged range filled with its value"
SAVE_AGAIN = "open it in the program it comes from and save it as .xlsx or CSV (UTF-8)"


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A sheet with the place of its header."""

    sheet: str
    columns: tuple[str, ...]
    header: int  # number of its row, as the spreadsheet shows it
    known: int  # columns whose names are known
    rows: int


def read_spreadsheet(file: DataFile, named: Sequence[str]) -> RawRows:
    """The rows of one sheet: the one that the path names, else the visible one whose columns are known best.

    A sheet is held in memory as a whole while it is read (it has at most 1,048,576 rows). Rows bear the numbers that
    the spreadsheet shows.

    Args:
        named: columns that the recipe names.

    Raises:
        SourceError: it cannot be read, or no sheet holds a table.
    """
    book = file.name if file.sheet is None else file.name.removesuffix(f"/{file.sheet}")
    with file.on_disk() as path:
        workbook = _opened(str(path), book)
        visible = [sheet.name for sheet in workbook.sheets_metadata if sheet.visible is SheetVisibleEnum.Visible]
        names = [file.sheet] if file.sheet is not None else visible or workbook.sheet_names
        if file.sheet is not None and file.sheet not in workbook.sheet_names:
            raise SourceError(
                f"unknown sheet {file.sheet[:100]!r}{nearest(file.sheet, workbook.sheet_names)}",
                where=file.name,
                hint=f"choose from: {', '.join(workbook.sheet_names[:20])}",
            )
        tables = [table for name in names if (table := _table(_sheet(workbook, name, book), named)) is not None]
        if not tables:
            raise SourceError("no sheet holds rows", where=file.name, hint="name a file that holds rows")
    table = max(tables, key=lambda table: (table.known, table.rows))
    where = f"{book}/{table.sheet}"
    refuse_duplicates(table.columns, where, "rename one of them")
    remarks = [f"sheet {table.sheet!r} is read"]
    if others := [name for name in workbook.sheet_names if name != table.sheet]:
        remarks[0] += f"; not the others ({', '.join(others[:10])}): name one as {book}/SHEET"
    if table.header > 1:
        remarks.append(f"the column names are in row {table.header}")
    return RawRows(
        where=where, columns=table.columns, rows=lambda: _rows(file, book, table, where), remarks=tuple(remarks)
    )


def _opened(path: str, book: str) -> CalamineWorkbook:
    try:
        return CalamineWorkbook.from_path(path)
    except PasswordError:
        raise SourceError("is protected by a password", where=book, hint="save it without the password") from None
    except (CalamineError, OSError) as error:
        raise SourceError(f"not a readable spreadsheet: {first_line(error)}", where=book, hint=SAVE_AGAIN) from None


def _sheet(workbook: CalamineWorkbook, name: str, book: str) -> CalamineSheet:
    try:
        return workbook.get_sheet_by_name(name)
    except CalamineError as error:
        raise SourceError(f"cannot be read: {first_line(error)}", where=f"{book}/{name}", hint=SAVE_AGAIN) from None


def _table(sheet: CalamineSheet, named: Sequence[str]) -> _Table | None:
    """Where a sheet's header is: the row that names the most known columns, else the first with two or more cells."""
    if sheet.end is None:
        return None
    best: tuple[int, bool, int] | None = None
    header: list[str] = []
    for row, cells in enumerate(islice(sheet.iter_rows(), HEADER_ROWS), 1):  # from the first row, blank or not
        names = [column_name(cell) if isinstance(cell, str) else "" for cell in cells]
        keys = set(map(column_key, filter(None, names)))
        known = len(keys & KNOWN_COLUMNS) + len(set(names) & set(named)) + ({SHORT_QUESTION, SHORT_ANSWER} <= keys)
        score = known, len(list(filter(None, names))) > 1, -row
        if any(names) and (best is None or score > best):
            best, header = score, names
    if best is None:
        return None
    columns = tuple(name or f"column {number}" for number, name in enumerate(header, 1))
    known, _, place = best
    return _Table(sheet=sheet.name, columns=columns, header=-place, known=known, rows=sheet.end[0] + 1 + place)


def _rows(file: DataFile, book: str, table: _Table, where: str) -> Iterator[RawRow]:
    with file.on_disk() as path:
        sheet = _sheet(_opened(str(path), book), table.sheet, book)
    merged = _merged_below(sheet, table.header)
    above: list[Any] = []
    for number, cells in enumerate(islice(sheet.iter_rows(), table.header, None), table.header + 1):
        values = list(map(_value, cells))
        is_blank = all(value in (None, "") for value in values)
        filled = [column for column in merged.get(number, ()) if values[column] in (None, "")]
        for column in filled:
            values[column] = above[column]
        above = values
        if not is_blank:
            yield raw_row(where, number, dict(zip(table.columns, values, strict=True)), (MERGED,) if filled else ())


def _merged_below(sheet: CalamineSheet, header: int) -> dict[int, list[int]]:
    """Row number → columns whose cell is merged with the one above it; those of the header are not the rows'."""
    below: dict[int, list[int]] = {}
    first_column = sheet.start[1] if sheet.start else 0
    for (top, column), (bottom, _) in sheet.merged_cell_ranges or ():
        for row in range(top + 2, bottom + 2) if top >= header and column >= first_column else ():
            below.setdefault(row, []).append(column - first_column)
    return below


def _value(cell: Any) -> Any:
    """A cell as the spreadsheet shows it: all numbers are floats in it."""
    if isinstance(cell, str):
        return cell.replace("_x000D_", "")  # how Excel writes a carriage return
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return int(cell)
    if isinstance(cell, datetime) and not (cell.hour or cell.minute or cell.second or cell.microsecond):
        return cell.date()
    return str(cell) if isinstance(cell, timedelta) else cell
