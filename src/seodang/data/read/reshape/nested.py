"""Columns below others, by dotted names, and several joined into one: `answer.body`, `answer.intro + answer.body`.

A name that leads through a list of objects (`qa.question`) makes a row of each of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.clean import is_blank
from seodang.data.read.column_names import column_key
from seodang.data.read.raw_rows import Block, RawRow, RawRows, as_text
from seodang.errors import SourceError, nearest
from seodang.recipe_rules import JOIN

MOST_LEVELS = 3  # of objects inside objects that are looked into for questions and answers
LISTED = 30  # names in a message
SAMPLE_ROWS = 200

Transform = Callable[[Iterator[RawRow]], Iterator[RawRow]]  # can be pickled


def mapped(raw: RawRows, transform: Transform, **changes: Any) -> RawRows:
    """The rows, each made into others; blocks stay blocks, which other processes can read.

    Args:
        changes: fields of the rows' description.
    """
    return replace(
        raw,
        rows=lambda: transform(raw.rows()),
        unparsed=lambda: (replace(block, read=partial(_block, transform, block)) for block in raw.blocks()),
        **changes,
    )


def _block(transform: Transform, block: Block) -> Iterator[RawRow]:
    return transform(block())


def with_nested(raw: RawRows, named: Sequence[str]) -> RawRows:
    """The rows with a column for each dotted or joined name of the recipe.

    Raises:
        SourceError: a part of a name that no row has.
    """
    for _ in range(MOST_LEVELS):
        sample = list(islice(raw.rows(), SAMPLE_ROWS))
        if (path := _list_on_the_way(named, sample)) is None:
            break
        remark = f"{path}: a row for each object of its lists"
        raw = mapped(raw, partial(_each_object, path), remarks=(*raw.remarks, remark))
    new = {name: parts for name in named if name not in raw.columns and (parts := _parts(name)) is not None}
    if not new:
        return raw
    for name, parts in new.items():
        for part in parts:
            if not any(_value_at(row.fields, part) is not None for row in raw.rows()):
                raise _nothing_there(part, name, raw)
    return mapped(raw, partial(_add, new), columns=(*raw.columns, *new))


def _list_on_the_way(named: Sequence[str], sample: Sequence[RawRow]) -> str | None:
    """The name of a list of objects that the dotted names lead through, and that is still to be taken apart."""
    for part in (part for name in named for part in _parts(name) or ()):
        keys = part.split(".")
        for end in range(len(keys) - 1, 0, -1):  # the objects of an outer list bring the inner one under a longer name
            path = ".".join(keys[:end])
            if keys[end].isdecimal() or any(part in row.fields for row in sample):
                break
            if any(_objects(row.fields, path) for row in sample):
                return path
    return None


def _objects(fields: Mapping[str, Any], path: str) -> list[Any]:
    found = _value_at(fields, path)
    return found if isinstance(found, list) and found and all(isinstance(one, dict) for one in found) else []


def _each_object(path: str, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        objects = _objects(row.fields, path) or [{}]  # without any, the row is dropped and counted
        for one in objects:
            yield replace(row, fields={**row.fields, **{f"{path}.{name}": as_text(one[name]) for name in one}})


def pair_in_lists(sample: Sequence[RawRow]) -> tuple[str, str, str] | None:
    """(path, name of question, name of answer) where a column or an object holds lists of questions with answers."""
    for row in sample:
        for path in (*row.fields, *_leaves(row.fields)):
            keys = {column_key(name): name for one in _objects(row.fields, path)[:1] for name in one}
            asked, answered = (
                [keys[key] for key in keys if key in known] for known in (column_names.QUESTION, column_names.ANSWER)
            )
            if len(asked) == 1 and len(answered) == 1:
                return path, f"{path}.{asked[0]}", f"{path}.{answered[0]}"
    return None


def nested_pair(raw: RawRows, sample: Sequence[RawRow]) -> RawRows | None:
    """The rows with the question and answer, or the turns, that one of their objects holds: `info.question`."""
    flat = set(map(column_key, raw.columns))
    if flat & column_names.TURNS or (flat & column_names.QUESTION and flat & column_names.ANSWER):
        return None
    leaves = list(dict.fromkeys(name for row in sample for name in _leaves(row.fields)))
    new: dict[str, tuple[str, ...]] = {}
    for wanted in (column_names.QUESTION, column_names.ANSWER, column_names.TURNS):
        if flat & wanted:
            continue
        found = [name for name in leaves if column_key(name.rpartition(".")[2]) in wanted]
        if len(found) == 1:  # of several, the recipe must choose
            new[found[0]] = (found[0],)
    return mapped(raw, partial(_add, new), columns=(*raw.columns, *new)) if new else None


def _parts(name: str) -> tuple[str, ...] | None:
    parts = tuple(part.strip() for part in name.split(JOIN))
    return parts if len(parts) > 1 or "." in name else None


def _add(new: Mapping[str, tuple[str, ...]], rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        fields, changed = dict(row.fields), row.changed
        for name, parts in new.items():
            fields[name] = _joined([_value_at(row.fields, part) for part in parts])
            if len(parts) > 1:
                changed = (*changed, f"{name}: joined")
        yield replace(row, fields=fields, changed=changed)


def _joined(values: Sequence[Any]) -> Any:
    """Texts with a blank line between them; what is no text stays for the reader of the row to refuse."""
    if len(values) == 1:
        return values[0]
    found = [value for value in values if value is not None and not (isinstance(value, str) and is_blank(value))]
    if not all(isinstance(value, str) for value in found):
        return found
    return "\n\n".join(found) or None


def _value_at(fields: Mapping[str, Any], name: str) -> Any:
    """What stands under a dotted name; a column of just that name comes first. Scalars are texts."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for key in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return as_text(value)


def _leaves(fields: Mapping[str, Any], above: str = "", levels: int = MOST_LEVELS) -> Iterator[str]:
    """Dotted names of the texts and lists that stand in objects."""
    for name, value in fields.items():
        if isinstance(value, dict) and levels:
            yield from _leaves(value, f"{above}{name}.", levels - 1)
        elif above and isinstance(value, str | list):
            yield above + name


def _nothing_there(part: str, name: str, raw: RawRows) -> SourceError:
    first = next(raw.rows(), None)
    known = [*raw.columns, *(_leaves(first.fields) if first else ())]
    inside = f" (in {name!r})" if part != name else ""
    return SourceError(
        f"no row has {part!r}{inside}{nearest(part, known)}",
        where=raw.where,
        hint=f"columns there are: {', '.join(known[:LISTED])}",
    )
