"""Values that stand in a text: JSON, JSON Lines, or as Python and NumPy print them. Knows syntax, no meaning."""

import ast
import io
import json
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

from seodang.data.read.raw_rows import Number

MAX_DEPTH = 100  # levels of a value; Python's own limit is 1,000, and other code needs some of them
_BESIDE_TOKENS = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}
)
_CONSTANTS = {"None": None, "True": True, "False": False}
_QUOTED_NUMBER = re.compile(r'"\\u0000(-?[0-9][0-9.eE+-]*)\\u0000"')


class DuplicateKeyError(ValueError):
    """A duplicate key in one object: readers would keep the last one silently."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs.

    Raises:
        DuplicateKeyError: its message is the key.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(key for key, _ in pairs)
        raise DuplicateKeyError(next(key for key, count in times.items() if count > 1))
    return found


# not strict: a raw tab or line end inside a string loses nothing
DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_float=Number, strict=False)


def parse_json(text: str) -> Any:
    """The value of a JSON text; numbers keep their text (`Number`).

    Raises:
        ValueError: it is not JSON, or (DuplicateKeyError) has a duplicate key.
        RecursionError: it is too deeply nested.
    """
    value = DECODER.decode(text)
    refuse_depth(value, text, 0, len(text))
    return value


def refuse_depth(value: Any, text: str, start: int, end: int) -> None:
    """Check that a value, read from that part of the text, is not nested so deeply that what comes later would fail.

    Raises:
        RecursionError: it is.
    """
    if text.count("{", start, end) + text.count("[", start, end) <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    if level:
        raise RecursionError


def opens_value(text: str) -> bool:
    """Whether a text begins like a list or an object."""
    first = text[:1]
    return (text.lstrip()[:1] if first.isspace() else first) in ("[", "{")


def parse_text(text: str) -> Any:
    """The value that a text holds as JSON, as JSON Lines (a list), or as Python or NumPy print it.

    Raises:
        ValueError: it is none of these, nested too deeply, or (DuplicateKeyError) has a duplicate key.
    """
    text = text.strip().removeprefix("\ufeff")
    for parse in (parse_json, _parse_lines, _parse_python):
        try:
            return parse(text)
        except DuplicateKeyError:
            raise
        except (ValueError, RecursionError):
            continue
    raise ValueError("neither JSON nor Python's notation")


def to_json(value: Any, **options: Any) -> str:
    """JSON text in which numbers stand as they were written: `1.10` and `1e5`, not 1.1 and 100000.0.

    Args:
        options: of `json.dumps`.

    Raises:
        ValueError, TypeError: what JSON does not have.
    """
    options = {"ensure_ascii": False, "allow_nan": False, **options}
    if not _has_number(value):
        return json.dumps(value, **options)
    return _QUOTED_NUMBER.sub(r"\1", json.dumps(_with_quoted_numbers(value), **options))


def _has_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_number, value.values()))
    return any(map(_has_number, value)) if isinstance(value, list | tuple) else isinstance(value, Number)


def _with_quoted_numbers(value: Any) -> Any:
    """`json.dumps` has no way to write a number's own text: numbers become texts between U+0000."""
    if isinstance(value, dict):
        return {key: _with_quoted_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_quoted_numbers(item) for item in value]
    is_finite = isinstance(value, Number) and abs(value) != float("inf")
    return f"\0{value.literal}\0" if is_finite else value


def _parse_lines(text: str) -> list[Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise ValueError("one line")
    return [parse_json(line) for line in lines]


def _parse_python(text: str) -> Any:
    if text[:1] not in ("[", "{", "("):
        raise ValueError("no list and no object")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "\d" in a text
        try:
            value = _PythonValue(text).whole()
            refuse_depth(value, text, 0, len(text))
            return value
        except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
            raise ValueError(str(error)) from None


class _PythonValue:
    """A literal as `repr` prints it. NumPy leaves out the commas between the items of an array."""

    def __init__(self, text: str) -> None:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self._tokens: Iterator[tokenize.TokenInfo] = (token for token in tokens if token.type not in _BESIDE_TOKENS)
        self._step()

    def whole(self) -> Any:
        value = self._value()
        if self._token is not None:
            raise ValueError("text after the value")
        return value

    def _step(self) -> None:
        self._token = next(self._tokens, None)

    def _take(self) -> tokenize.TokenInfo:
        if (token := self._token) is None:
            raise ValueError("the value is cut off")
        self._step()
        return token

    def _next_is(self, mark: str) -> bool:
        return self._token is not None and self._token.string == mark

    def _value(self) -> Any:
        token = self._take()
        if token.string in ("[", "("):
            return self._items("]" if token.string == "[" else ")")
        if token.string == "{":
            return self._object()
        if token.string == "-":
            return _number("-" + self._take().string)
        if token.type == tokenize.NUMBER:
            return _number(token.string)
        if token.type == tokenize.STRING and isinstance(text := ast.literal_eval(token.string), str):
            return text
        if token.string in _CONSTANTS:
            return _CONSTANTS[token.string]
        raise ValueError("no literal")

    def _items(self, closing: str) -> list[Any]:
        items: list[Any] = []
        while not self._next_is(closing):
            items.append(self._value())
            if self._next_is(","):
                self._take()
        self._take()
        return items

    def _object(self) -> dict[str, Any]:
        pairs: list[tuple[str, Any]] = []
        while not self._next_is("}"):
            key = self._value()
            if not isinstance(key, str) or self._take().string != ":":
                raise ValueError("no object")
            pairs.append((key, self._value()))
            if not self._next_is("}") and self._take().string != ",":
                raise ValueError("no comma after a value")
        self._take()
        return unique_keys(pairs)


def _number(text: str) -> int | Number:
    """A number as JSON could write it, too.

    Raises:
        ValueError: `0x1f`, `1_000`, `1.`, `3j`.
    """
    try:
        value = json.loads(text, parse_float=Number)
    except ValueError:
        raise ValueError("a number that JSON cannot write") from None
    if not isinstance(value, int | Number):
        raise ValueError("no number")
    return value
