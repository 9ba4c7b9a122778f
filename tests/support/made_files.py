"""Makes the containers in which rows arrive: tables, zip archives, spreadsheets, trees of one-object files."""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """A CSV table of these rows."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip archive of these files."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_objects(folder: Path, rows: Sequence[Any], name: str = "QA_{}.json", encoding: str = "utf-8-sig") -> Path:
    """A file for each row, as AI Hub writes its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows, 1):
        text = json.dumps(row, ensure_ascii=False, indent=4)
        (folder / name.format(number)).write_bytes(text.encode(encoding))
    return folder


def zip_folder(folder: Path, path: Path) -> Path:
    """A zip archive of all files below a folder."""
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }
    return write_zip(path, files)


def write_xlsx(
    path: Path, sheets: Mapping[str, Sequence[Sequence[str | float | None]]], merged: Sequence[str] = ()
) -> Path:
    """A workbook of these sheets, cells as they are.

    Args:
        merged: ranges of each sheet whose cells are one, such as A2:A3.
    """
    ranges = "".join(f'<mergeCell ref="{one}"/>' for one in merged)
    merges = f'<mergeCells count="{len(merged)}">{ranges}</mergeCells>' if merged else ""
    numbered = list(enumerate(sheets.items(), 1))
    listed = "".join(f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="rId{n}"/>' for n, (name, _) in numbered)
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n, _ in numbered
    )
    workbook = f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>'
    files = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" '
        'ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": workbook,
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{related}</Relationships>',
    }
    for number, (_, rows) in numbered:
        data = "".join(f'<row r="{r}">{_cells(r, row)}</row>' for r, row in enumerate(rows, 1))
        files[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{_MAIN}"><sheetData>{data}</sheetData>{merges}</worksheet>'
        )
    return write_zip(path, {name: content.encode() for name, content in files.items()})


def _cells(row: int, values: Sequence[str | float | None]) -> str:
    cells = ""
    for place, value in enumerate(values):
        cell = f"{chr(ord('A') + place)}{row}"
        if isinstance(value, str):
            text = f'<t xml:space="preserve">{escape(value)}</t>'
            cells += f'<c r="{cell}" t="inlineStr"><is>{text}</is></c>'
        elif value is not None:
            cells += f'<c r="{cell}"><v>{value}</v></c>'
    return cells
