"""Rows of a file as `convert` gives them."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.recipe import Source
from seodang.types import Counts


def convert_rows(
    folder: Path, rows: Any, split_by: str = "question", name: str = "d.jsonl", **keys: Any
) -> tuple[Dataset, Counts]:
    """The rows written as JSON Lines (or a text as it is), read and converted."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = folder / name
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    source = Source(**{"name": "s", "role": "domain", "path": (str(path),), **keys})
    return convert(read(source), source, split_by)


def converted(folder: Path, *rows: dict[str, Any], **keys: Any) -> tuple[list[list[dict[str, Any]]], Counts]:
    """The messages of the rows that are kept, and the counts."""
    table, counts = convert_rows(folder, list(rows), **keys)
    return table["messages"][:], counts
