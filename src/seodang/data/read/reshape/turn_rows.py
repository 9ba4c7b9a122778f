"""One turn a row, with the id of its conversation → one conversation a row. Holds one conversation in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.column_names import ROLES, column_key
from seodang.data.read.raw_rows import RawRow, RawRows
from seodang.errors import SourceError

LISTED = 10  # names in a message
SORTED = "turns put into the order of their numbers"


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which columns hold what of a turn."""

    conversation: str
    role: str
    content: str
    order: str | None


def turn_rows(raw: RawRows, sample: Sequence[RawRow], roles: Mapping[str, str]) -> RawRows | None:
    """A row for each conversation; None: the rows are not turns.

    Args:
        roles: of the recipe: name in the data → role.

    Raises:
        SourceError: while reading: rows of one conversation that are not consecutive.
    """
    keys = {column_key(name): name for name in reversed(raw.columns)}
    found = [
        next((keys[key] for key in names if key in keys), None)
        for names in (column_names.CONVERSATION_ID, column_names.TURN_ROLE, column_names.TURN_CONTENT)
    ]
    conversation, role, content = found
    if conversation is None or role is None or content is None or conversation == content:
        return None
    known = {*ROLES, *(name.casefold() for name in roles)}
    names = {str(value) for row in sample if (value := row.fields.get(role)) is not None}
    ids = [_id(row, conversation) for row in sample]
    if not names or (len(ids) > 1 and len(set(ids)) == len(ids)):
        return None  # an id of the row, not of a conversation
    if unknown := [name for name in names if name.strip().casefold() not in known]:
        raise _who_answers(sorted(unknown), role, raw)
    order = next((keys[key] for key in column_names.TURN_ORDER if key in keys), None)
    columns = _Columns(conversation=conversation, role=role, content=content, order=order)
    kept = tuple(name for name in raw.columns if name not in (role, content, order))
    return replace(
        raw,
        columns=("messages", *kept),
        rows=partial(_conversations, raw, columns, kept),
        unparsed=None,
        remarks=(*raw.remarks, f"one turn a row: joined by {conversation} ({role}, {content})"),
    )


def _who_answers(unknown: Sequence[str], column: str, raw: RawRows) -> SourceError:
    first = [*unknown, "NAME"][:2]
    return SourceError(
        f"each row is one turn, and it is not known which of these in {column!r} asks and which answers: "
        f"{', '.join(unknown[:LISTED])}",
        where=raw.where,
        hint=f"map them in the recipe: roles: {{{first[0]}: user, {first[1]}: assistant}}",
    )


def _id(row: RawRow, column: str) -> str:
    return str(row.fields.get(column))


def _conversations(raw: RawRows, columns: _Columns, kept: Sequence[str]) -> Iterator[RawRow]:
    seen: set[int] = set()
    for conversation, together in groupby(raw.rows(), key=lambda row: (row.file, _id(row, columns.conversation))):
        turns = list(together)
        if all(turn.fields.keys().isdisjoint((columns.role, columns.content)) for turn in turns):
            yield from turns  # of another file: counted where rows are read
            continue
        if (known := hash(conversation)) in seen:
            raise SourceError(
                f"the rows of conversation {conversation[1]!r} are not consecutive",
                where=turns[0].where,
                hint=f"sort the rows by {columns.conversation}",
            )
        seen.add(known)
        changed = tuple(dict.fromkeys(change for turn in turns for change in turn.changed))
        first = turns[0]
        turns, is_sorted = _in_order(turns, columns.order)
        changed = (*changed, SORTED) if is_sorted else changed
        messages = [
            {"role": turn.fields.get(columns.role), "content": turn.fields.get(columns.content)} for turn in turns
        ]
        fields: dict[str, Any] = {"messages": messages, **{name: first.fields.get(name) for name in kept}}
        yield RawRow(file=first.file, row=first.row, fields=fields, changed=changed)


def _in_order(turns: list[RawRow], column: str | None) -> tuple[list[RawRow], bool]:
    """(the turns by their numbers, whether that changed their order)."""
    numbers = [_number(turn.fields.get(column or "")) for turn in turns]
    known = [number for number in numbers if number is not None]
    if len(known) < len(turns) or known == sorted(known):
        return turns, False
    return [turns[place] for place in sorted(range(len(turns)), key=known.__getitem__)], True


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
