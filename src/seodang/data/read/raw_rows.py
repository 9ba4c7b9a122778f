"""A row as its file has it, before its meaning is known. Knows values, but no file kind and no format."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import lru_cache, partial
from typing import Any

from seodang.errors import UNPRINTABLE, SourceError

BLOCK_ROWS = 1000
BLOCK_CHARS = 1 << 24  # a block of huge cells has fewer rows
NAN_READ_AS_NULL = "NaN read as null"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One row. Scalars are text as they stand in the file ("007", "NA", "1.10", "true"); null is None."""

    file: str  # as given in the recipe
    row: int  # from 1; JSON Lines: the line number; CSV: the record number, header not counted
    fields: dict[str, Any]  # column → text, None, or a nested list or dict with its JSON values kept
    changed: tuple[str, ...] = ()  # what reading had to change

    @property
    def where(self) -> str:
        """`file:row`."""
        return f"{self.file}:{self.row}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some rows that follow one another, still to be parsed. Can be pickled."""

    read: Callable[[], Iterator[RawRow]]  # raises SourceError where a row cannot be parsed
    num_rows: int
    num_chars: int = 0  # roughly, where known

    def __call__(self) -> Iterator[RawRow]:
        """The rows, parsed."""
        return self.read()


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRows:
    """The rows of one source. `rows()` starts over at each call and holds a bounded number of rows in memory."""

    where: str  # for messages: the file, the files or the hub id
    columns: tuple[str, ...]  # in the order they first appear; a JSON file may bring more further down
    rows: Callable[[], Iterator[RawRow]]
    remarks: tuple[str, ...] = ()  # sentences for people: the encoding found, a table transposed …
    media: tuple[str, ...] = ()  # columns of images, sounds and videos that are left out of the rows
    unparsed: Callable[[], Iterator[Block]] | None = None  # the same rows in blocks that are still to be parsed

    def blocks(self) -> Iterator[Block]:
        """The rows in blocks of at most `BLOCK_ROWS`, which other processes can read."""
        if self.unparsed is not None:
            yield from self.unparsed()
            return
        block: list[RawRow] = []
        chars = 0
        for row in self.rows():
            block.append(row)
            chars += _size(row.fields)
            if len(block) >= BLOCK_ROWS or chars >= BLOCK_CHARS:
                yield Block(read=partial(iter, block), num_rows=len(block), num_chars=chars)
                block, chars = [], 0
        if block:
            yield Block(read=partial(iter, block), num_rows=len(block), num_chars=chars)


def merged(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same rows in fewer blocks: many small files would each cost what a block costs."""
    together: list[Block] = []
    rows = chars = 0
    for block in blocks:
        if together and (rows + block.num_rows > BLOCK_ROWS or chars + block.num_chars > BLOCK_CHARS):
            yield _as_one(together)
            together, rows, chars = [], 0, 0
        together.append(block)
        rows, chars = rows + block.num_rows, chars + block.num_chars
    if together:
        yield _as_one(together)


def _as_one(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    num_rows, num_chars = (sum(sizes) for sizes in zip(*((one.num_rows, one.num_chars) for one in blocks), strict=True))
    return Block(read=partial(_rows_of, blocks), num_rows=num_rows, num_chars=num_chars)


def _rows_of(blocks: Sequence[Block]) -> Iterator[RawRow]:
    for block in blocks:
        yield from block()


class Number(float):
    """A JSON number with a fraction or exponent that remembers how it was written: `1.10` is not `1.1`."""

    literal: str

    def __new__(cls, literal: str) -> "Number":
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


def as_text(value: Any) -> Any:
    """A scalar as text, None for null and NaN; lists and mappings stay what they are."""
    if value is None or isinstance(value, str | list | dict):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.literal
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)


def refuse_duplicates(columns: Sequence[str], where: str, hint: str) -> None:
    """Check that no two columns bear the same name.

    Raises:
        SourceError: with the names.
    """
    if len(set(columns)) == len(columns):
        return
    duplicates = sorted(name for name, times in Counter(columns).items() if times > 1)
    raise SourceError(f"two columns have the same name: {', '.join(duplicates[:10])}", where=where, hint=hint)


def _size(value: Any) -> int:
    """Characters of a value, roughly."""
    if isinstance(value, str):
        return len(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 8 + sum(map(_size, items))


@lru_cache(maxsize=1 << 16)
def column_name(name: str) -> str:
    """A column's name without surrounding blanks and in NFC, as a recipe would write it; printable in any case."""
    composed = unicodedata.normalize("NFC", name.replace("\ufeff", "").strip())
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), composed)


def raw_row(file: str, row: int, record: Mapping[str, Any], changed: tuple[str, ...] = ()) -> RawRow:
    """The row with every scalar as text.

    Args:
        changed: what reading had to change before.

    Raises:
        SourceError: two keys are the same but for blanks or Unicode composition.
    """
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if value is not None and value.__class__ is not str:
            text = as_text(value)
            if text is None:
                changed = (*changed, NAN_READ_AS_NULL)
            value = text
        fields[column_name(name)] = value
    if len(fields) != len(record):
        raise SourceError(
            f"two columns have the same name: {', '.join(map(repr, record))}",
            where=f"{file}:{row}",
            hint="rename one of them",
        )
    return RawRow(file=file, row=row, fields=fields, changed=changed)
