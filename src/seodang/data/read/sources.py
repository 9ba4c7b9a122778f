"""Sources → raw rows: files of any usual kind and encoding, data sets on the hub, the samples that ship.

Reads what is there and says how; knows nothing of questions and answers (`convert` does).
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from seodang.data.read.arrow_values import ArrowRows
from seodang.data.read.column_names import nearest
from seodang.data.read.csv_dialect import DELIMITERS
from seodang.data.read.csv_parquet import read_csv, read_parquet
from seodang.data.read.encoding import find_encoding, first_bytes, refuse_binary
from seodang.data.read.json_files import BLANK_CHARS, read_json, starts_like_json
from seodang.data.read.raw_rows import Block, RawRow, RawRows, column_name
from seodang.errors import SourceError
from seodang.recipe import Source
from seodang.recipe_file import expanded

JSON_NAMES = (".json", ".jsonl", ".ndjson")
LINE_NAMES = (".jsonl", ".ndjson")
TABLE_NAMES = (".csv", ".tsv", ".tab", ".psv")
NOT_UTF_8_NAME = "the file's name is not UTF-8, so no recipe can hold it"
START_CHARS = 1 << 16  # of a file's first line, which tell its kind
BATCH_ROWS = 512  # of a hub data set decoded at a time
KINDS = "JSON, JSON Lines, CSV, TSV or Parquet"
MEDIA = frozenset({"Audio", "Image", "Video", "Pdf"})  # features of hub data sets that are decoded at a price

__all__ = ["RawRow", "RawRows", "read", "shipped_samples"]


def read(source: Source) -> RawRows:
    """The rows of one source; files are joined in the recipe's order.

    Raises:
        SourceError: whatever cannot be read, with file and row; faults further down a file come while iterating.
    """
    if source.hub is not None:
        return _read_hub(source)
    return _joined([_read_file(path, source) for path in source.path or ()])


def local_files(source: Source) -> list[Path]:
    """The files of a source on this machine; none for a hub data set."""
    return [_locate(path) for path in source.path or ()]


def shipped_samples() -> list[str]:
    """Names of the samples that ship, for `sample:NAME`."""
    return sorted(item.name.removesuffix(".jsonl") for item in _samples().iterdir() if item.name.endswith(".jsonl"))


def _samples() -> Path:
    return Path(str(files("seodang").joinpath("samples")))


def _joined(tables: list[RawRows]) -> RawRows:
    if len(tables) == 1:
        return tables[0]

    def rows() -> Iterator[RawRow]:
        for table in tables:
            yield from table.rows()

    def blocks() -> Iterator[Block]:
        for table in tables:
            yield from table.blocks()

    return RawRows(
        where=", ".join(table.where for table in tables[:3]) + (" …" if len(tables) > 3 else ""),
        columns=tuple(dict.fromkeys(name for table in tables for name in table.columns)),
        rows=rows,
        remarks=tuple(f"{table.where}: {remark}" for table in tables for remark in table.remarks),
        unparsed=blocks,
    )


def _read_file(given: str, source: Source) -> RawRows:
    path = _locate(given)
    try:
        if not first_bytes(path, 1):
            raise SourceError("the file is empty", where=given, hint="name a file that holds rows")
        if first_bytes(path, 4) == b"PAR1":
            return read_parquet(given, path)
        refuse_binary(path, given)
        encoding, remark = find_encoding(path, given, source.encoding)
        return _with_remark(_read_text(path, given, encoding, source), remark)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"cannot be read: {reason}", where=given, hint="check the file's permissions") from None


def _read_text(path: Path, given: str, encoding: str, source: Source) -> RawRows:
    opened: Callable[..., TextIO] = partial(path.open, encoding=encoding)
    ending = path.suffix.lower()
    start = _first_text(opened)
    if not start:
        raise SourceError("the file holds nothing but blanks", where=given, hint="name a file that holds rows")
    if "\0" in start[:1] or start.count("\0") > len(start) // 10:
        raise SourceError("this is no text file", where=given, hint=f"name a file of {KINDS}")
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
    rows = read_csv(given, partial(opened, newline=""), [name for name in _named(source) if name])
    return rows if ending in TABLE_NAMES else _with_remark(rows, "the file holds a table")


def _named(source: Source) -> tuple[str | None, ...]:
    return source.question, source.answer, source.context, source.messages, source.text


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


def _locate(given: str) -> Path:
    """The file that a path of the recipe means.

    Raises:
        SourceError: there is none, or the path cannot be one.
    """
    try:
        given.encode()
    except UnicodeEncodeError:
        raise SourceError(NOT_UTF_8_NAME, where=_readable(given), hint="rename the file") from None
    if "\0" in given or not given.strip():
        raise SourceError("this is no path", where=repr(given[:100]), hint="name a file that holds rows")
    try:
        return _found(given)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"cannot be read: {reason}", where=given[:200], hint="check the path") from None


def _readable(name: str) -> str:
    """A file name whose bytes are not UTF-8, as Korean Windows would show it."""
    if name.isprintable():
        return name
    try:
        return os.fsencode(name).decode("cp949", errors="backslashreplace")
    except UnicodeEncodeError:
        return name


def _found(given: str) -> Path:
    if given.startswith("sample:"):
        name = given.removeprefix("sample:")
        if name not in shipped_samples():
            raise SourceError(
                f"no sample has this name{nearest(name, shipped_samples())}",
                where=given[:100],
                hint=f"samples that ship: {', '.join(f'sample:{known}' for known in shipped_samples())}",
            )
        return _samples() / f"{name}.jsonl"
    path = expanded(given)
    if path.is_dir():
        data_files = sorted(
            _readable(item.name)
            for item in path.iterdir()
            if item.suffix.lower() in (*JSON_NAMES, *TABLE_NAMES, ".parquet")
        )
        listed = f"; it holds {', '.join(data_files[:6])}" if data_files else ""
        raise SourceError(
            f"is a folder{listed}", where=given, hint=f"name the files: path: [{', '.join(data_files[:3]) or '…'}]"
        )
    return path if path.is_file() else _find_decomposed(path, given)


def _find_decomposed(path: Path, given: str) -> Path:
    """The file whose name is the same but for Unicode composition: macOS writes Korean names decomposed."""
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    wanted = unicodedata.normalize("NFC", path.name)
    if any(name != wanted and _readable(name) == wanted for name in siblings):
        hint = f"rename it: convmv -f cp949 -t utf-8 --notest '{path.parent}'/*"
        raise SourceError(NOT_UTF_8_NAME, where=given, hint=hint)
    siblings = list(map(_readable, siblings))
    for name in siblings:
        if unicodedata.normalize("NFC", name) == wanted and (path.parent / name).is_file():
            return path.parent / name
    hint = "check the path; a relative one starts at the recipe's folder"
    if "~" in given:
        hint = "write ~/ for your home folder: ~NAME is the home folder of a user of that name"
    elif any(wildcard in path.name for wildcard in "*?["):
        hint = "wildcards are not expanded: list the files"
    elif not path.suffix and len(given) < 200:
        hint += f"; a data set on the hub goes under `hub:`, as in hub: {'/'.join(path.parts[-2:])}"
    if path.name in siblings:
        what = "is no plain file" if path.exists() else "the link leads nowhere"
        raise SourceError(what, where=given, hint="name the file itself")
    missing = nearest(path.name, siblings) if path.parent.is_dir() else f", and no folder {path.parent}"
    raise SourceError(f"no such file{missing}", where=given, hint=hint)


def hub_fingerprint(source: Source) -> str:
    """What `datasets` calls the data set that it finds: another revision or split is called otherwise.

    Raises:
        SourceError: it cannot be found.
    """
    return str(_load_hub(source)._fingerprint)


def _load_hub(source: Source) -> Any:
    import datasets

    name = _hub_name(source.hub or "")
    try:
        return datasets.load_dataset(name, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # `datasets` and the readers below it raise all kinds
        raise SourceError(_first_line(error), where=f"hub:{source.hub}", hint=_hub_hint(error, source)) from None


def _hub_name(hub: str) -> str:
    """What `datasets` is asked for: an id on the hub, or a folder that is written as a path.

    Raises:
        SourceError: anything else; `datasets` would take the name of one of its readers, or of a folder that happens
            to lie in the working folder, for that.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    where = f"hub:{hub[:100]}"
    if hub.startswith((".", "~", "/")) and "\0" not in hub and expanded(hub).is_dir():
        return str(expanded(hub).resolve())
    if hub in _PACKAGED_DATASETS_MODULES:
        what = f"{hub} is the name of a file format, not of a data set"
        raise SourceError(what, where=where, hint="name your files under `path:`, or give an id such as OWNER/NAME")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", hub, re.ASCII):
        raise SourceError(
            "this is no data set id", where=where, hint="give an id such as OWNER/NAME, or name files under `path:`"
        )
    if Path(hub).is_dir():
        what = "there is a folder of this name here, which would be read instead of the hub"
        raise SourceError(what, where=where, hint=f"write `hub: ./{hub}` if you mean the folder, else rename it")
    return hub


def _read_hub(source: Source) -> RawRows:
    where, table = f"hub:{source.hub}", _load_hub(source)
    remarks: list[str] = []
    media = [name for name, feature in table.features.items() if type(feature).__name__ in MEDIA]
    if media:
        table = table.remove_columns(media)
        remarks.append(f"pictures and sound are left out: {', '.join(media)}")
    if table.info.builder_name in ("csv", "pandas"):
        remarks.append(
            "the hub's CSV reader guesses types (007 becomes 7): download the file and name its path to avoid it"
        )

    def rows() -> Iterator[RawRow]:
        reader = ArrowRows(where, table.features.arrow_schema)
        row = 1
        for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield from reader.read(batch, row)
            row += len(batch)

    return RawRows(where=where, columns=tuple(map(column_name, table.column_names)), rows=rows, remarks=tuple(remarks))


def _hub_hint(error: Exception, source: Source) -> str:
    text = str(error)
    if "gated" in text or "authenticat" in text or "401" in text or "403" in text:
        return f"accept its terms at https://huggingface.co/datasets/{source.hub} and run `hf auth login`"
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        return "go online once (and unset HF_HUB_OFFLINE), or download its files and give `path:`"
    if "Unknown split" in text:
        return "give one of these as `split:`"
    if "onfig" in text:
        return "give one of these as `config:`"
    return "check the id on https://huggingface.co/datasets, and `config:`, `split:` and `revision:`"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
