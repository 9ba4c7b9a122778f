"""Rows of JSON Lines, JSON arrays and single JSON objects, in bounded memory where the file allows it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import Any, TextIO

from seodang.data.read.column_names import ANSWER, PAIRS, QUESTION, SHORT_ANSWER, SHORT_QUESTION, TURN_LISTS, column_key
from seodang.data.read.raw_rows import BLOCK_CHARS, BLOCK_ROWS, Block, RawRow, RawRows, raw_row
from seodang.data.read.serialized import DECODER, DuplicateKeyError, parse_json, refuse_depth
from seodang.data.read.turns.messages import is_turn, turn_list
from seodang.data.read.turns.variants import has_role
from seodang.errors import SourceError

LOOK_AHEAD = 1000  # rows whose keys make the columns
CHUNK = 1 << 20  # characters
BLANK_CHARS = "\ufeff \t\r\n"  # around a value; a byte order mark in the middle comes from joined files
BLANKS = re.compile(r"[\s\ufeff]*")
CUT_OFF = "the file seems to be cut off: copy, download or write it again"
NO_COMMAS = "remove the commas between the rows, or put [ before the first and ] after the last row"
COMMENTS = ("//", "#", "/*")
NO_COMMENTS = "remove the comments: JSON has none"
PYTHON_REPR = "this is how Python prints objects, not JSON: write it with json.dumps(row, ensure_ascii=False)"
BOTH = frozenset({"question", "answer"})

WRITE_JSON = 'write each row as {"question": "…", "answer": "…"}, one a line (.jsonl)'

OpenText = Callable[[], TextIO]


def read_json(path: str, open_text: OpenText, *, by_line: bool) -> RawRows:
    """The rows of a JSON file of any usual structure.

    Args:
        path: as the recipe gives it.
        open_text: opens the decoded file at its start.
        by_line: the file's name says JSON Lines.

    Raises:
        SourceError: broken JSON with its row, or a structure that holds no rows.
    """
    rows, blocks, remark = _rows_of(path, open_text, by_line=by_line)
    columns = dict.fromkeys(name for row in islice(rows(), LOOK_AHEAD) for name in row.fields)
    remarks = (remark,) if remark else ()
    return RawRows(where=path, columns=tuple(columns), rows=rows, remarks=remarks, unparsed=blocks)


def _rows_of(
    path: str, open_text: OpenText, *, by_line: bool
) -> tuple[Callable[[], Iterator[RawRow]], Callable[[], Iterator[Block]] | None, str | None]:
    """Rows, the same in blocks if they stand one a line, and a remark."""
    with open_text() as file:
        pieces = iter(lambda: file.readline(CHUNK), "")  # a list may be one line as long as the file
        first, second = [*islice(filter(None, (piece.strip(BLANK_CHARS) for piece in pieces)), 2), "", ""][:2]
    if first[:1] == "[":
        if (by_line or second[:1] == "[") and _is_conversation(first):
            conversations = partial(_line_blocks, path, open_text)
            by_turns = "a list of turns in each line: taken as messages"
            return lambda: (row for block in conversations() for row in block()), conversations, by_turns
        return lambda: _array_rows(path, open_text), None, None
    if len(first) >= CHUNK // 2:  # the first row is huge: look at all of it
        with open_text() as file:
            first, second = [*islice(filter(None, (line.strip(BLANK_CHARS) for line in file)), 2), "", ""][:2]
    if first[:1] != "{":
        hint = NO_COMMENTS if first.startswith(COMMENTS) else WRITE_JSON
        raise SourceError(f"not JSON: the file starts with {first[:20]!r}", where=f"{path}:1", hint=hint)
    if second and (_is_object(first.rstrip(",")) or (by_line and second[0] == "{")):
        blocks = partial(_line_blocks, path, open_text)
        return lambda: (row for block in blocks() for row in block()), blocks, None
    values = _values(path, open_text)
    value = next(values)[1]
    if next(values, None) is not None:
        several = "several JSON objects one after another: a row each"
        return lambda: _value_rows(path, _values(path, open_text)), None, several
    records, remark = records_in(path, value)
    return lambda: _value_rows(path, ((index, record) for index, record in enumerate(records, 1))), None, remark


def _is_conversation(text: str) -> bool:
    try:
        return bool(turns := DECODER.decode(text)) and isinstance(turns, list) and is_turn(turns[0])
    except (ValueError, RecursionError):
        return False


def _is_object(text: str) -> bool:
    try:
        return isinstance(DECODER.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _line_blocks(path: str, open_text: OpenText) -> Iterator[Block]:
    """Blocks of JSON Lines; blank lines are passed over, and each row bears its line's number."""
    lines: list[tuple[int, str]] = []
    chars = 0
    with open_text() as file:
        for number, line in enumerate(file, 1):
            text = line.strip(BLANK_CHARS)
            if not text:
                continue
            if len(lines) >= BLOCK_ROWS or chars >= BLOCK_CHARS:
                yield Block(read=partial(_read_lines, path, lines, is_last=False), num_rows=len(lines), num_chars=chars)
                lines, chars = [], 0
            lines.append((number, text))
            chars += len(text)
    yield Block(read=partial(_read_lines, path, lines, is_last=True), num_rows=len(lines), num_chars=chars)


def _read_lines(path: str, lines: list[tuple[int, str]], *, is_last: bool) -> Iterator[RawRow]:
    for number, text in lines:
        try:
            record = parse_json(text)
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", 0)
            cut_off = _is_incomplete(error, text) and is_last and number == lines[-1][0]
            place = f"line {number}, character {at + 1}"
            raise _broken(error, f"{path}:{number}", place, text[at:], cut_off=cut_off) from None
        yield raw_row(path, number, require_object(record, path, number))


def _array_rows(path: str, open_text: OpenText) -> Iterator[RawRow]:
    """Rows of a JSON array, read object by object."""
    with open_text() as file:
        scanner = _Scanner(file, path)
        scanner.skip()  # the opening bracket
        if scanner.peek() == "]":
            scanner.skip()
        else:
            yield from _array_items(scanner, path)
        if scanner.peek():
            raise SourceError(
                f"line {scanner.line}: text after the closing bracket of the list",
                where=path,
                hint="keep one list in the file, or write one object a line (.jsonl)",
            )


def _array_items(scanner: "_Scanner", path: str) -> Iterator[RawRow]:
    for row in count(1):
        yield raw_row(path, row, require_object(scanner.value(row), path, row))
        delimiter = scanner.peek()
        if delimiter not in ("]", ","):
            what = (
                "the list is never closed" if not delimiter else f"found {delimiter!r} where a comma or ] should stand"
            )
            hint = "fix that place: objects of a list are separated by one comma" if delimiter else CUT_OFF
            raise SourceError(
                f"broken JSON in line {scanner.line} after row {row}: {what}", where=f"{path}:{row}", hint=hint
            )
        scanner.skip()
        if delimiter == "]":
            return
        if scanner.peek() == "]":
            raise SourceError(
                f"broken JSON in line {scanner.line}: a comma stands after the last row",
                where=f"{path}:{row}",
                hint="remove the comma before the closing ]",
            )


def _values(path: str, open_text: OpenText) -> Iterator[tuple[int, Any]]:
    """JSON values that stand one after another, however they are broken into lines."""
    with open_text() as file:
        scanner = _Scanner(file, path)
        row = 0
        while scanner.peek():
            row += 1
            yield row, scanner.value(row)
            if scanner.peek() == ",":
                raise SourceError(
                    f"objects separated by commas, but not in a list (line {scanner.line})",
                    where=f"{path}:{row}",
                    hint=NO_COMMAS,
                )


def _value_rows(path: str, values: Iterator[tuple[int, Any]]) -> Iterator[RawRow]:
    for row, record in values:
        yield raw_row(path, row, require_object(record, path, row))


class _Scanner:
    """Takes JSON values off a stream; holds the current value and one chunk."""

    def __init__(self, stream: TextIO, path: str) -> None:
        self.stream, self.path = stream, path
        self.buffer, self.position, self.line = "", 0, 1

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            if blanks := BLANKS.match(self.buffer, self.position):
                self._advance(blanks.end())
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._fill():
                return ""

    def skip(self) -> None:
        """Pass over the character that `peek` showed."""
        self.peek()
        self._advance(self.position + 1)

    def value(self, row: int) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.buffer, self.position)
                refuse_depth(value, self.buffer, self.position, end)
            except (ValueError, RecursionError) as error:
                is_incomplete, at = _is_incomplete(error, self.buffer), getattr(error, "pos", self.position)
                place = f"line {self.line + self.buffer.count(chr(10), self.position, at)}"
                fault = self.buffer[at:]
                if is_incomplete and self._fill():
                    continue
                raise _broken(error, f"{self.path}:{row}", place, fault, cut_off=is_incomplete) from None
            self._advance(end)
            return value

    def _advance(self, to: int) -> None:
        self.line += self.buffer.count("\n", self.position, to)
        self.position = to

    def _fill(self) -> bool:
        rest = self.buffer[self.position :]
        more = self.stream.read(max(CHUNK, len(rest)))  # doubling: one huge value costs linear time
        self.buffer, self.position = rest + more, 0
        return bool(more)


def records_in(path: str, value: Any) -> tuple[list[Any], str | None]:
    """The rows that one JSON object holds, and the remark that says how it was read."""
    record = require_object(value, path, 1)
    nested = [value for value in record.values() if isinstance(value, list | dict)]
    if not nested or _is_row(record) or any(_is_talk(name, value) for name, value in record.items()):
        return [record] if record else [], "one JSON object: took it as one row"
    columns, data = record.get("columns", []), record.get("data", [])
    if (
        columns
        and _is_list_of(columns, str)
        and _is_list_of(data, list)
        and all(len(line) == len(columns) for line in data)
    ):
        rows = [dict(zip(columns, line, strict=True)) for line in data]
        return rows, "one JSON object with columns and data: took its table"
    lists = [name for name, value in record.items() if value and _is_list_of(value, dict)]
    all_lists = all(isinstance(value, list) for value in record.values())
    if all_lists and len(record) > 1 and (not lists or (len(lists) < len(record) and _has_equal_lengths(record))):
        return _transpose(path, record), "columnar JSON (a list a column): turned into rows"
    if all(isinstance(value, dict) for value in record.values()):
        return _nested(record)
    if len(lists) == 1:
        return record[lists[0]], f"one JSON object: took the list under its key {lists[0]!r}"
    what = (
        f"the file is one JSON object with several lists: {', '.join(lists)}"
        if lists
        else (f"the file is one JSON object, and none of its keys holds a list of rows: {', '.join(list(record)[:10])}")
    )
    raise SourceError(what, where=path, hint="save the list of rows by itself, as a JSON array or JSON Lines")


def _is_talk(name: str, value: Any) -> bool:
    """Whether a value is the turns of one conversation."""
    turns = turn_list(value) if isinstance(value, list | dict) else None
    is_usual = column_key(name) in TURN_LISTS
    return turns is not None and any(is_turn(one) or (is_usual and has_role(one)) for one in turns[:1])


def _is_row(record: Mapping[str, Any]) -> bool:
    """Whether an object is itself a row rather than rows under their ids: decided by the names of a row's fields.

    Rows under ids repeat them: {"r1": {"question", "answer"}, "r2": {"question", "answer"}}. A row has each of them
    once: as a name of its own, or in one of its objects.
    """
    first = dict(islice(record.items(), LOOK_AHEAD))
    parts = _parts(name for name, value in first.items() if isinstance(value, str | dict))
    inner = [value for value in first.values() if isinstance(value, dict)]
    inner_parts = [_parts(value) for value in inner]
    if not all(isinstance(value, dict) for value in record.values()):
        return bool(parts) or (any(inner_parts) and not any(isinstance(v, list) for v in record.values()))
    if parts:
        return not (_is_table(record) or all(len(found) == len(BOTH) for found in inner_parts))
    if any(inner_parts):
        return len(inner) > 1 and sum(map(len, inner_parts)) == len(frozenset().union(*inner_parts))
    return len(inner) > 1 and sum(map(len, inner)) == len(set().union(*inner))  # rows have some name in common


def _parts(names: Iterable[str]) -> frozenset[str]:
    """Which parts of a row its names stand for: question, answer, both or none."""
    keys = set(map(column_key, names))
    if keys & TURN_LISTS or any(keys.issuperset(pair) for pair in ((SHORT_QUESTION, SHORT_ANSWER), *PAIRS)):
        return BOTH
    return frozenset(part for part, known in (("question", QUESTION), ("answer", ANSWER)) if keys & known)


def _transpose(path: str, columns: Mapping[str, list[Any]]) -> list[Any]:
    if not _has_equal_lengths(columns):
        found = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise SourceError(
            f"columnar JSON with columns of unequal length: {found}",
            where=path,
            hint="give every column one value a row, or save the list of rows by itself",
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _has_equal_lengths(columns: Mapping[str, list[Any]]) -> bool:
    return len({len(values) for values in columns.values()}) == 1


def _nested(record: Mapping[str, Mapping[str, Any]]) -> tuple[list[Any], str]:
    """pandas' `to_json`: {column: {index: value}}; or rows under their ids: {id: {column: value}}."""
    if _is_table(record):
        indices = next(iter(record.values()))
        rows: list[Any] = [{name: values[index] for name, values in record.items()} for index in indices]
        return rows, "columnar JSON (an object a column, as pandas writes it): turned into rows"
    return list(record.values()), "one JSON object of objects: took each as a row"


def _is_table(record: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all objects have the same keys, and these are the numbers of rows."""
    first = next(iter(record.values()))
    same_keys = all(value.keys() == first.keys() for value in record.values())
    return same_keys and bool(first) and all(index.isdigit() for index in first)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def require_object(record: Any, path: str, row: int) -> dict[str, Any]:
    if isinstance(record, dict):
        return record
    if isinstance(record, list) and record and is_turn(record[0]):
        return {"messages": record}
    found = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(record), "a number")
    raise SourceError(
        f"expected an object with a key for each column, found {found}",
        where=f"{path}:{row}",
        hint=WRITE_JSON,
    )


def _is_incomplete(error: Exception, text: str) -> bool:
    """Whether the value may go on beyond the text; else a fault would be read on over a whole big file."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16


def _broken(error: Exception, where: str, place: str, rest: str, *, cut_off: bool) -> SourceError:
    """The error for JSON that cannot be read, with the hint that fits the text after the fault."""
    if isinstance(error, DuplicateKeyError):
        return SourceError(f"duplicate key {str(error)!r} in one object ({place})", where=where, hint="keep one")
    if isinstance(error, RecursionError):
        return SourceError(f"too deeply nested JSON ({place})", where=where, hint="flatten that row")
    if not isinstance(error, json.JSONDecodeError):
        return SourceError(f"{error} ({place})", where=where, hint="write such a number as text, in quotes")
    if rest.startswith(("'", "None", "True", "False")):
        hint = PYTHON_REPR
    elif rest.lstrip().startswith(COMMENTS):
        hint = NO_COMMENTS
    elif error.msg == "Extra data" and rest.strip() == ",":
        hint = NO_COMMAS
    elif rest.lstrip(", \t\r\n")[:1] in ("}", "]") and not error.msg.startswith(("Extra", "Unterminated")):
        hint = "remove the comma before the closing bracket"
    else:
        hint = CUT_OFF if cut_off else "fix that place, or write the file again with a JSON library"
    return SourceError(f"broken JSON in {place}: {error.msg[:1].lower()}{error.msg[1:]}", where=where, hint=hint)


def starts_like_json(text: str) -> bool:
    """Whether a file holds JSON whatever its name says: its first line opens an object or a list of objects."""
    return bool(re.match(r'\{\s*("|$)|\[\s*(\{|\[|$)', text.strip(BLANK_CHARS)))
