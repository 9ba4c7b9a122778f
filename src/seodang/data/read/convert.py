"""Raw rows → conversations and texts in one shape, on disk, with an identity each. Knows no tokenizer and no template.

Rows that cannot be used are dropped and counted; every change of text is counted, too.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Json, List, Value

from seodang.data.arrow import Sink, writing
from seodang.data.counting import Counting, uncounted
from seodang.data.read.clean import (
    canonical_json,
    exchange_hash,
    group_key,
    has_html,
    has_invisible,
    question_hash,
    row_hash,
    text_hash,
)
from seodang.data.read.column_names import FILES, KNOWN_COLUMNS, MEDIA, column_key, is_media
from seodang.data.read.conversation import Conversation, read_row
from seodang.data.read.layout import Layout, find_layout, require_column
from seodang.data.read.raw_rows import Block, RawRow, RawRows
from seodang.data.read.serialized import to_json
from seodang.data.read.turns.loss_flags import ROW_FLAGS
from seodang.data.read.unusable import UnusableRowError
from seodang.data.workers import in_order
from seodang.errors import SourceError, plural
from seodang.recipe import Source
from seodang.recipe_rules import JOIN
from seodang.types import Counts, RowNote

NOTES_KEPT = 1000  # dropped rows listed one by one
NOT_COLUMNS = ("question", "row")  # values of split.by that name no column
HTML = "with HTML tags or entities (kept as they are)"
INVISIBLE = "with invisible characters, such as U+200B (kept as they are)"
DAMAGED = "with U+FFFD, the mark of text damaged before (kept as it is)"
TOO_DEEP = "nested too deeply"
ANSWER_FIRST = "that start with an answer (kept)"


def convert(
    raw: RawRows, source: Source, split_by: str = "question", counting: Counting = uncounted
) -> tuple[Dataset, Counts]:
    """The rows of a source in one shape, memory-mapped from a file that is gone when the session ends.

    Args:
        split_by: `question`, `row`, or the column whose values go into `group`.
        counting: shows how many rows were read.

    Raises:
        SourceError: columns that are ambiguous or missing, or no row that can be used.
        ResourceError: the disk is full.
    """
    layout = find_layout(raw, source)
    group = None if split_by in NOT_COLUMNS else split_by
    if group is not None:
        require_column(group, "split.by", raw)
    conversion = _Conversion(layout, source, group, frozenset(raw.columns))
    tally = _Tally()
    new_columns: dict[str, None] = {}
    with _sink(raw.where) as sink, counting(f"rows of {source.name} read", None) as advance:
        for rows, counted, unknown in in_order(conversion, raw.blocks()):
            sink.write(rows)
            tally.add(counted)
            advance(counted.rows_in)
            new_columns.update(dict.fromkeys(unknown))
    if new_columns:  # JSON rows may bring columns further down than `read` looks ahead
        raw = replace(raw, columns=(*raw.columns, *new_columns))
        if any(column_key(name) in KNOWN_COLUMNS | ROW_FLAGS | MEDIA | FILES for name in new_columns):
            return convert(raw, source, split_by, counting)
    if not tally.kept:
        raise _nothing_left(raw, tally)
    choices = [f"the choices are not put into the questions: {', '.join(layout.choices)}"] if layout.choices else []
    remarks = (*raw.remarks, _layout_remark(layout, raw, group), *choices, *tally.remarks())
    return sink.read(), tally.counts(source.name, remarks, raw.media)


def _group(row: RawRow, column: str | None) -> str | None:
    value = row.fields.get(column) if column is not None else None
    return group_key(value) if value else None


def _dropped_hash(row: RawRow) -> str:
    try:
        return text_hash(json.dumps(row.fields, ensure_ascii=False, sort_keys=True, default=str))
    except RecursionError:
        return text_hash(row.where)


def _unused(layout: Layout, columns: Iterable[str], group: str | None) -> list[str]:
    parts = {part.strip() for name in layout.used for part in name.split(JOIN)}  # a joined name: title + text
    used = layout.used | parts | {part.partition(".")[0] for part in parts}  # a dotted one leads into an object
    return [name for name in columns if name not in used and name != group]


def _layout_remark(layout: Layout, raw: RawRows, group: str | None) -> str:
    unused = _unused(layout, raw.columns, group)
    keys = ", ".join(f"{key}: {name}" for key, name in layout.columns.items())
    return f"read as {layout.format} ({keys})" + (f"; not used: {', '.join(unused)}" if unused else "")


def _nothing_left(raw: RawRows, tally: "_Tally") -> SourceError:
    reasons = ", ".join(f"{count} × {reason}" for reason, count in tally.dropped.most_common(5))
    return SourceError(
        f"none of the {tally.rows_in} rows can be used: {reasons}",
        where=tally.notes[0].where if tally.notes else raw.where,
        hint=tally.hints[tally.dropped.most_common(1)[0][0]],
    )


class _Tally:
    """Counts rows while they pass; can be pickled."""

    def __init__(self) -> None:
        self.rows_in = self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()
        self.media: Counter[str] = Counter()  # column → rows that fill it
        self.hints: dict[str, str] = {}  # reason → how to fix such rows
        self.notes: list[RowNote] = []

    def drop(self, row: RawRow, error: UnusableRowError) -> None:
        self.rows_in += 1
        self.dropped[error.reason] += 1
        self.hints[error.reason] = error.hint
        if len(self.notes) < NOTES_KEPT:
            self.notes.append(RowNote(where=row.where, row_id=_dropped_hash(row), reason=error.note))

    def keep(self, conversation: Conversation, changes: set[str]) -> None:
        self.rows_in += 1
        self.kept += 1
        if changes:
            self.changed.update(sorted(changes))  # a set's order differs from process to process
        whole = conversation.text or "\n".join([turn.content or "" for turn in conversation.messages])
        if has_html(whole):
            self.noticed[HTML] += 1
        if has_invisible(whole):
            self.noticed[INVISIBLE] += 1
        if "\ufffd" in whole:
            self.noticed[DAMAGED] += 1
        if next((turn.role for turn in conversation.messages if turn.role != "system"), "user") != "user":
            self.noticed[ANSWER_FIRST] += 1

    def add(self, more: "_Tally") -> None:
        self.rows_in, self.kept = self.rows_in + more.rows_in, self.kept + more.kept
        self.dropped.update(more.dropped)
        self.changed.update(more.changed)
        self.noticed.update(more.noticed)
        self.media.update(more.media)
        self.hints.update(more.hints)
        self.notes += more.notes[: NOTES_KEPT - len(self.notes)]

    def remarks(self) -> list[str]:
        return [f"rows {what}: {count}" for what, count in self.noticed.items() if count]

    def counts(self, source: str, remarks: tuple[str, ...], media: tuple[str, ...]) -> Counts:
        return Counts(
            stage="convert",
            source=source,
            rows_in=self.rows_in,
            kept=self.kept,
            dropped=dict(self.dropped.most_common()),
            changed=dict(self.changed.most_common()),
            notes=tuple(self.notes),
            remarks=remarks,
            unseen=(*media, *(f"{name} ({plural(count, 'row')})" for name, count in self.media.items())),
        )


@contextmanager
def _sink(where: str) -> Iterator[Sink]:
    """A file for the rows; a source that cannot be read to its end is a user's error."""
    try:
        with writing(features()) as sink:
            yield sink
    except OSError as error:
        raise SourceError(
            f"cannot be read to its end: {error}", where=where, hint="check the file and its disk"
        ) from None


class _Conversion:
    """One block of raw rows → an Arrow table, their counts, and columns that were not known."""

    def __init__(self, layout: Layout, source: Source, group: str | None, known: frozenset[str]) -> None:
        self.layout, self.source, self.group, self.known = layout, source, group, known
        self.schema = features().arrow_schema
        unused = _unused(layout, sorted(known), group)
        self.media = [name for name in unused if column_key(name) in MEDIA | FILES]

    def __call__(self, block: Block) -> tuple[pa.Table, _Tally, list[str]]:
        tally, new_columns = _Tally(), dict[str, None]()
        rows: list[dict[str, Any]] = []
        for row in block():
            if not row.fields.keys() <= self.known:
                new_columns.update(dict.fromkeys(name for name in row.fields if name not in self.known))
            changes = set(row.changed)
            try:
                conversation = read_row(self.layout, row.fields, changes)
                values = self._values(conversation, row, _group(row, self.group))
            except UnusableRowError as error:
                tally.drop(row, error)
                continue
            except RecursionError:
                tally.drop(row, UnusableRowError(TOO_DEEP, hint="flatten such rows"))
                continue
            rows.append(values)
            tally.keep(conversation, changes)
            tally.media.update(name for name in self.media if is_media(name, row.fields.get(name)))
        columns = ((field, [row[field.name] for row in rows]) for field in self.schema)
        arrays = [
            _json_lists(values) if field.name == "messages" else pa.array(values, type=field.type)
            for field, values in columns
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema), tally, list(new_columns)

    def _values(self, conversation: Conversation, row: RawRow, group: str | None) -> dict[str, Any]:
        text = conversation.text
        turns = [message.as_dict() for message in conversation.messages]
        canonical = [_canonical(turn) for turn in turns]
        # Encoded here and not by datasets, whose encoder rounds numbers to ten digits. What a model reads of a tool
        # call depends on the order of its arguments, so only turns without one are stored as they are hashed.
        messages = [
            to_json(turn) if message.tool_calls else line
            for message, turn, line in zip(conversation.messages, turns, canonical, strict=True)
        ]
        return {
            "row_id": row_hash(canonical, conversation.tools) if text is None else text_hash(text),
            "source": self.source.name,
            "role": self.source.role,
            "file": row.file,
            "row": row.row,
            "messages": messages,
            "tools": conversation.tools,
            "text": text,
            "question_key": (question_key := question_hash(conversation.question)),
            "exchange_keys": _exchange_keys(conversation, question_key),
            "group": group,
        }


def _exchange_keys(conversation: Conversation, opening: str) -> list[str]:
    """Keys of its questions with their answers; `opening` is that of the first question, which is known."""
    return [
        exchange_hash(question_hash(question) if number else opening, answer)
        for number, (question, answer) in enumerate(conversation.exchanges)
    ]


def features() -> Features:
    """The columns that `convert` makes."""
    text = Value("string")
    return Features(
        {
            "row_id": text,
            "source": text,
            "role": text,
            "file": text,
            "row": Value("int64"),
            "messages": List(Json()),
            "tools": text,
            "text": text,
            "question_key": text,
            "exchange_keys": List(text),  # the opening question with its answer, then the later ones
            "group": text,
        }
    )


def _canonical(turn: dict[str, Any]) -> str:
    """As `canonical_json`, but fast for turns that hold nothing but a text, as most do."""
    role, content = turn["role"], turn["content"]
    if len(turn) > 2 or content is None:
        return canonical_json(turn)
    return f'{{"content":{encode_basestring(content)},"role":{encode_basestring(role)}}}'


def _json_lists(rows: list[list[str]]) -> pa.Array:
    """Lists of JSON texts as Arrow holds `List(Json())`."""
    offsets = [0]
    for texts in rows:
        offsets.append(offsets[-1] + len(texts))
    storage = pa.array([text for texts in rows for text in texts], type=pa.string())
    values = pa.ExtensionArray.from_storage(pa.json_(), storage)
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), values)
