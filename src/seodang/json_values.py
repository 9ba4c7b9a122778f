"""Frozen values → JSON and back. Knows no value: a dataclass's fields and their types are its schema.

A value that is written to a file of its own says by which version of its schema::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Lengths:
        SCHEMA_VERSION: ClassVar[int] = 1  # raised when a field is added, renamed or means something else
        max_tokens: int
        train: Mapping[str, SourceLengths]

    text = json.dumps(to_json(lengths))
    lengths = from_json(Lengths, json.loads(text), where="lengths.json")
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from seodang.errors import SeodangError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
VERSION_KEY = "schema_version"
DAMAGED = "the file is damaged or was edited: write it again"


def to_json(value: "DataclassInstance") -> dict[str, Any]:
    """A dataclass as `json.dumps` takes it, with its class's SCHEMA_VERSION if it has one."""
    version = getattr(value, "SCHEMA_VERSION", None)
    return {**({} if version is None else {VERSION_KEY: version}), **asdict(value)}


def from_json(cls: type[T], data: Any, *, where: str) -> T:
    """The value that `to_json` made into `data`, nested dataclasses included.

    Types are checked, not converted: `"3"` is no number. A missing field takes its default, where it has one.

    Args:
        where: the file, and the line if it holds several values; for the message.

    Raises:
        SeodangError: another schema version, or fields that are missing, unknown or of another type.
    """
    expected: int | None = getattr(cls, "SCHEMA_VERSION", None)
    if not isinstance(data, dict):
        raise SeodangError(f"expected a JSON object, found {type(data).__name__}", where=where, hint=DAMAGED)
    fields = dict(data)
    if expected is not None and (found := fields.pop(VERSION_KEY, None)) != expected:
        raise SeodangError(
            f"schema version {expected} expected, found {'none' if found is None else repr(found)}",
            where=where,
            hint="it was written by another version of seodang: read it with that one, or write it again with this one",
        )
    adapter = _adapter(cls)  # type: ignore[arg-type]  # mypy takes no class for hashable
    try:
        value: T = adapter.validate_json(json.dumps(fields), strict=True, extra="forbid")
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise SeodangError(f"{key}: {_plain(fault['msg'])}", where=where, hint=DAMAGED) from None
    return value


def read_value(cls: type[T], path: Path) -> T:
    """The value that a JSON file holds.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is no JSON.
        SeodangError: as `from_json`.
    """
    return from_json(cls, json.loads(path.read_text(encoding="utf-8")), where=str(path))


def json_text(data: Any, *, where: str, indent: int | None = None) -> str:
    """JSON text as any other program reads it: without NaN and infinity, which Python alone knows.

    Raises:
        SeodangError: a number that is not finite.
    """
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        if not (fault := _not_finite(data)):
            raise
        hint = "weights or rows that are not finite gave it: look for the first such loss in metrics.jsonl"
        raise SeodangError(f"{fault}, which JSON cannot hold", where=where, hint=hint) from None


def _not_finite(data: Any, key: str = "") -> str:
    """`losses.wiki.base is nan`: the first number that is not finite; empty where all are."""
    if isinstance(data, float) and not math.isfinite(data):
        return f"{key or 'it'} is {data}"
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    return next((fault for name, value in items if (fault := _not_finite(value, f"{key}.{name}".lstrip(".")))), "")


def _plain(message: str) -> str:
    """pydantic's sentence in the tone of our own."""
    return {"Field required": "missing", "Unexpected keyword argument": "unknown field"}.get(
        message, message[:1].lower() + message[1:]
    )


@lru_cache(maxsize=64)
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
