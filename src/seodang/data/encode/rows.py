"""Rows → rows with text, input_ids and labels. One true render and one tokenization of each."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from seodang.data.arrow import block, read_columns, writing
from seodang.data.encode.tokenize import MOST_AT_ONCE, Encoded, Encoder, windows
from seodang.data.read.raw_rows import Number
from seodang.data.template.find import adds_bos
from seodang.data.template.jinja import Turn
from seodang.data.template.renderer import LEFT_OUT, Example, Renderer, parse_tools
from seodang.data.workers import in_order
from seodang.errors import GateError, TemplateError, plural
from seodang.types import IGNORED, Counts, RowNote

TooLong = Literal["drop", "cut_question", "refuse"]
STEP = 64  # tokens, of limits that are proposed
BATCH = 1000  # rows that are rendered together, and of one Arrow batch
MANY_ROWS, MANY_BYTES = 5000, 5_000_000  # from one of them on caching words pays
MAX_NOTES = 1000  # dropped rows that are listed by name; all are counted
CHARACTERS = 8  # for each token that is allowed: texts that are longer are looked at before they are encoded whole
MAX_CUTS = 8  # a shortened question can tokenize to a little more than was aimed at
ROUND_TRIPS = 2000  # rows of each source whose ids are decoded again
TOO_LARGE = f"a text of more than {MOST_AT_ONCE:,} characters that cannot be cut: make several rows of it"
UNKNOWN = "supervised text that the vocabulary does not have"
LOSSY = "text that the tokenizer does not give back as it was"
CUT = "question cut at its beginning to fit max_tokens"
ADDED = ("input_ids", "labels", "num_tokens", "num_supervised", "num_bytes", "largest_id")


def render(
    rows: Dataset,
    renderer: Renderer,
    *,
    max_tokens: int,
    too_long: TooLong = "drop",
    on_rows: Callable[[int], None] | None = None,
    into: Path | None = None,
) -> tuple[Dataset, Counts]:
    """Add text (rendered), input_ids, labels (unshifted), numbers of tokens, supervised tokens and bytes to the rows.

    Plain text rows (no messages) are cut into windows of nearly equal length, each with BOS in front where the model
    knows one. Conversations have one example, or several where earlier answers are split off. The second window's or
    example's `row_id` ends in "#2". Many rows are rendered by several processes, which changes nothing but the time.

    Args:
        rows: of one source, as `convert` gives them.
        renderer: of the model's template.
        max_tokens: of one row.
        too_long: what happens to conversations above it.
        on_rows: called with the number of rows rendered since the last call.
        into: the Arrow file to write; none: one that is gone when the session ends.

    Raises:
        GateError: conversations are too long and `too_long` is "refuse".
        ResourceError: the disk is full.
    """
    source = ", ".join(read_columns(rows, "source")["source"].unique().to_pylist())
    work = _BlockRenderer(rows, renderer, max_tokens, too_long)
    outcome = _Outcome()
    with writing(_features(rows), into) as sink:
        for made, counted in in_order(work, range(0, len(rows), BATCH)):
            sink.write(made)
            outcome.add(counted)
            if on_rows:
                on_rows(counted.rows_in)
    reason = work.too_long_reason
    if too_long == "refuse" and (found := outcome.dropped[reason] + outcome.changed[LEFT_OUT + reason]):
        named = [note.where for note in outcome.notes if note.reason.endswith(reason)]
        raise GateError(
            f"rows longer than {max_tokens} tokens: {found:,} ({', '.join(named[:10])}{' …' if found > 10 else ''})",
            where=f"source {source}",
            hint=f"train.max_tokens={limit_of_all(rows, renderer)} keeps all of them; or shorten these rows, or set "
            "train.too_long to drop or cut_question",
        )
    return sink.read(), outcome.counts(source, max_tokens)


def limit_of_all(rows: Dataset, renderer: Renderer) -> int:
    """The smallest multiple of 64 tokens that no conversation of these rows is above."""
    rendered, _ = render(rows, renderer, max_tokens=np.iinfo(np.int32).max)
    columns = read_columns(rendered, "num_tokens", "messages")
    is_conversation = pc.greater(pc.list_value_length(columns["messages"]), 0)  # other texts are cut into windows
    longest = pc.max(columns["num_tokens"].filter(is_conversation)).as_py() or 0
    return STEP * max(1, math.ceil(longest / STEP))


def _features(rows: Dataset) -> Features:
    """The columns of rendered rows."""
    lists, numbers = dict.fromkeys(ADDED[:2], List(Value("int32"))), dict.fromkeys(ADDED[2:], Value("int32"))
    return Features({**rows.features, **lists, **numbers})


class _Line(NamedTuple):
    """One row of the result."""

    text: str
    input_ids: NDArray[np.int32]  # [tokens]
    labels: NDArray[np.int32]  # [tokens]
    num_bytes: int  # UTF-8 bytes of the supervised text
    changes: tuple[str, ...] = ()
    part: int = 1  # which window of its text, or which example of its conversation
    num_messages: int = 0  # that it takes from the conversation's beginning


@dataclass(kw_only=True)
class _Outcome:
    """What became of rows."""

    rows_in: int = 0
    kept: int = 0
    num_texts: int = 0
    num_windows: int = 0
    num_split: int = 0  # conversations of which several examples were made
    num_examples: int = 0  # of these
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    notes: list[RowNote] = field(default_factory=list)

    def add(self, more: "_Outcome") -> None:
        self.rows_in, self.kept = self.rows_in + more.rows_in, self.kept + more.kept
        self.num_texts, self.num_windows = self.num_texts + more.num_texts, self.num_windows + more.num_windows
        self.num_split, self.num_examples = self.num_split + more.num_split, self.num_examples + more.num_examples
        self.dropped.update(more.dropped)
        self.changed.update(more.changed)
        self.notes += more.notes[: MAX_NOTES - len(self.notes)]

    def note(self, table: pa.Table, number: int, reason: str) -> None:
        if len(self.notes) < MAX_NOTES:
            file, row, row_id = (table[name][number].as_py() for name in ("file", "row", "row_id"))
            self.notes.append(RowNote(where=f"{file}:{row}", row_id=row_id, reason=reason))

    def counts(self, source: str, max_tokens: int) -> Counts:
        remarks: list[str] = []
        if self.num_windows > self.num_texts:
            remarks.append(
                f"{plural(self.num_texts, 'text')} cut into {self.num_windows:,} windows of at most {max_tokens} tokens"
            )
        if self.num_split:
            remarks.append(f"{plural(self.num_split, 'conversation')} split into {self.num_examples:,} examples")
        return Counts(
            stage="render",
            source=source,
            rows_in=self.rows_in,
            kept=self.kept,
            dropped=dict(self.dropped),
            changed=dict(self.changed),
            notes=tuple(self.notes),
            remarks=tuple(remarks),
        )


class _BlockRenderer:
    """Turns one block of rows after the other into rendered ones; what it gives depends on nothing but the block."""

    def __init__(self, rows: Dataset, renderer: Renderer, max_tokens: int, too_long: TooLong) -> None:
        self.rows, self.renderer, self.max_tokens, self.too_long = rows, renderer, max_tokens, too_long
        self.encoder = Encoder(renderer.tokenizer, renderer.template, by_words=_are_many(rows))
        self.bos_id = bos_id(renderer)
        self.too_long_reason = f"longer than {max_tokens} tokens"

    def __call__(self, start: int) -> tuple[pa.Table, _Outcome]:
        table = block(self.rows, start, start + BATCH)
        outcome = _Outcome(rows_in=len(table))
        messages = messages_of(table)
        done: dict[int, list[_Line] | str] = {}  # the row's lines, or why it is dropped
        done.update(self._conversations(messages, [parse_tools(tools) for tools in table["tools"].to_pylist()]))
        texts = table["text"].to_pylist()
        done.update(self._texts({number: texts[number] or "" for number, turns in enumerate(messages) if not turns}))
        lines: list[tuple[int, int, _Line]] = []
        for number, made in sorted(done.items()):
            if isinstance(made, str):
                outcome.dropped[made] += 1
                outcome.note(table, number, made)
                continue
            outcome.kept += 1
            lines += [(number, line.part, line) for line in made]
            changes = sorted({change for line in made for change in line.changes})
            outcome.changed.update(changes)
            for change in changes:
                if change.startswith(LEFT_OUT):
                    outcome.note(table, number, change)
            if not messages[number]:
                outcome.num_texts, outcome.num_windows = outcome.num_texts + 1, outcome.num_windows + len(made)
            elif len(made) > 1:
                outcome.num_split, outcome.num_examples = outcome.num_split + 1, outcome.num_examples + len(made)
        lines = self._looked_at(lines, start)
        for change in (UNKNOWN, LOSSY):
            found = dict.fromkeys(number for number, _, line in lines if change in line.changes)
            outcome.changed.update({change: len(found)} if found else {})
            for number in found:
                outcome.note(table, number, change)
        return _table(table, lines), outcome

    def _looked_at(self, lines: Sequence[tuple[int, int, _Line]], start: int) -> list[tuple[int, int, _Line]]:
        """The lines, with what was lost in their ids as a change."""
        unknown = self.renderer.tokenizer.unk_token_id
        labels = [line.labels for _, _, line in lines]
        has_unknown = unknown is not None and bool(labels) and bool((np.concatenate(labels) == unknown).any())
        is_decoded = [start < ROUND_TRIPS and line.num_messages > 0 for _, _, line in lines]
        decoded = iter(self.encoder.decode([line.input_ids for *_, line in compress(lines, is_decoded)]))
        made = []
        for (number, part, line), has_text in zip(lines, is_decoded, strict=True):
            text = next(decoded) if has_text else None
            is_unknown = has_unknown and bool((line.labels == unknown).any())
            is_lossy = text is not None and _inked(text) != _inked(line.text)
            more = (UNKNOWN,) if is_unknown else (LOSSY,) if is_lossy else ()
            made.append((number, part, line._replace(changes=(*line.changes, *more)) if more else line))
        return made

    def _conversations(
        self, messages: Sequence[Sequence[Turn]], tools: Sequence[list[dict[str, Any]] | None]
    ) -> dict[int, list[_Line] | str]:
        done: dict[int, list[_Line] | str] = {}
        whole: list[tuple[int, int, Example]] = []  # conversation, which of its examples: those that are encoded whole
        parts: dict[int, list[_Line | str]] = {}  # conversation → its examples, or why they are left out
        for number, turns in enumerate(messages):
            if not turns:
                continue
            try:
                examples = self.renderer.examples(turns, tools[number])
            except TemplateError as error:
                done[number] = error.what
                continue
            parts[number] = [self.too_long_reason] * len(examples)
            for part, example in enumerate(examples):
                if not self._is_far_too_long(example.rendered.text):
                    whole.append((number, part, example))
                elif self.too_long == "cut_question":
                    parts[number][part] = self._shortened(example)
        encoded = self.encoder.label([example.rendered for *_, example in whole])
        for (number, part, example), ids in zip(whole, encoded, strict=True):
            parts[number][part] = self._checked(example, ids)
        return done | {number: _joined(lines) for number, lines in parts.items()}

    def _is_far_too_long(self, text: str) -> bool:
        """Whether a text has more than twice the tokens that are allowed: known from its beginning alone."""
        size = CHARACTERS * self.max_tokens
        while size < len(text):
            if self.encoder.num_tokens(text[:size]) > 2 * self.max_tokens:
                return True
            size *= 2
        return False

    def _checked(self, example: Example, ids: Encoded) -> _Line | str:
        if ids.fault is None and len(ids.input_ids) > self.max_tokens:
            return self._shortened(example) if self.too_long == "cut_question" else self.too_long_reason
        return ids.fault or _line(example, ids)

    def _shortened(self, example: Example) -> _Line | str:
        """Take tokens off the front of the longest question until the row fits; the answers stay whole."""
        messages = list(example.messages)
        questions = [number for number, turn in enumerate(messages) if turn["role"] == "user"]
        longest = max(questions, key=lambda number: len(messages[number]["content"] or ""), default=-1)
        for _ in range(MAX_CUTS + 1 if questions else 0):
            content = self._end_of(messages[longest]["content"] or "")
            try:
                messages[longest] = {**messages[longest], "content": content}
                example = self.renderer.with_messages(example, messages)
                if self._is_far_too_long(example.rendered.text.replace(content, "", 1)):
                    break
                ids = self.encoder.label([example.rendered])[0]
            except TemplateError as error:
                return error.what
            excess = len(ids.input_ids) - self.max_tokens
            if ids.fault or excess <= 0:
                return ids.fault or _line(example, ids, CUT)
            offsets = self.encoder.encode([content])[0][1]
            if len(offsets) <= excess:
                break
            messages[longest] = {**messages[longest], "content": content[offsets[excess - 1, 1] :].lstrip()}
        return f"{self.too_long_reason} even without its question"

    def _end_of(self, text: str) -> str:
        """The end of a text, with more than twice the tokens that are allowed."""
        size = CHARACTERS * self.max_tokens
        while size < len(text):
            if self.encoder.num_tokens(text[-size:]) > 2 * self.max_tokens:
                return text[-size:]
            size *= 2
        return text

    def _texts(self, texts: Mapping[int, str]) -> dict[int, list[_Line] | str]:
        done: dict[int, list[_Line] | str] = {}
        for number, text in texts.items():
            try:
                self.renderer.check_text(text)
            except TemplateError as error:
                done[number] = error.what
            if not text.strip():
                done[number] = "empty text"
        for number, text in texts.items():
            if number in done:
                continue
            encoded = self.encoder.encode_long(text)
            if encoded is None:
                done[number] = TOO_LARGE
                continue
            parts = windows(text, *encoded, max_tokens=self.max_tokens, bos_id=self.bos_id)
            done[number] = [
                _Line(text=window, input_ids=own, labels=labels, num_bytes=num_bytes, part=part)
                for part, (window, own, labels, num_bytes) in enumerate(parts, start=1)
            ]
        return done


def _are_many(rows: Dataset) -> bool:
    """Whether rows have so many words that caching them pays."""
    table = rows.data
    num_bytes = table.nbytes * len(rows) / max(len(table), 1)  # a data set may show some rows of its table
    return len(rows) >= MANY_ROWS or num_bytes >= MANY_BYTES


def messages_of(table: pa.Table) -> list[list[dict[str, Any]]]:
    """The conversations of a block of rows, parsed all at once, which is faster; numbers keep their text."""
    if not len(table):  # which has no chunks to combine
        return []
    column = table["messages"].combine_chunks()
    turns = iter(json.loads(f"[{','.join(column.flatten().storage.to_pylist())}]", parse_float=Number))
    return [list(islice(turns, number or 0)) for number in column.value_lengths().to_pylist()]


def _inked(text: str) -> str:
    """A text without blanks: where they stand around control tokens is the tokenizer's affair."""
    return text.replace(" ", "")


def _joined(lines: Sequence[_Line | str]) -> list[_Line] | str:
    """The examples of one conversation that are left; why it is dropped if none is."""
    if len(lines) == 1:
        return lines[0] if isinstance(lines[0], str) else [lines[0]]
    kept = [line._replace(part=part) for part, line in enumerate(lines, start=1) if not isinstance(line, str)]
    reasons = [line for line in lines if isinstance(line, str)]
    if not kept:
        return reasons[0]
    return [kept[0]._replace(changes=(*kept[0].changes, *(LEFT_OUT + reason for reason in reasons))), *kept[1:]]


def _line(row: Example, ids: Encoded, *changes: str) -> _Line:
    text, spans = row.rendered.text, row.rendered.spans
    return _Line(
        text=text,
        input_ids=ids.input_ids,
        labels=ids.labels,
        num_bytes=sum(len(text[start:end].encode()) for start, end in spans),
        changes=(*row.changes, *changes),
        num_messages=row.num_messages,
    )


def _table(table: pa.Table, lines: Sequence[tuple[int, int, _Line]]) -> pa.Table:
    """The rows that `lines` name, in their order, with the new columns."""
    without_text = _with_column(table, "text", pa.nulls(len(table), pa.string()))  # each window would take it whole
    taken = without_text.take(pa.array([number for number, _, _ in lines], pa.int64()))
    if any(part > 1 for _, part, _ in lines):
        names = [
            f"{name}#{part}" if part > 1 else name
            for name, (_, part, _) in zip(taken["row_id"].to_pylist(), lines, strict=True)
        ]
        taken = _with_column(taken, "row_id", pa.array(names, pa.string()))
    if any(part > 1 and line.num_messages for _, part, line in lines):
        taken = _with_column(
            taken, "messages", _beginnings(taken["messages"], [line.num_messages for *_, line in lines])
        )
    made = [line for _, _, line in lines]
    ends = np.cumsum([0, *(len(line.input_ids) for line in made)], dtype=np.int32)
    empty = np.zeros(0, dtype=np.int32)
    ids = np.concatenate([empty, *(line.input_ids for line in made)])
    labels = np.concatenate([empty, *(line.labels for line in made)])
    supervised = np.concatenate([[0], np.cumsum(labels != IGNORED)])[ends]
    columns = (
        pa.ListArray.from_arrays(ends, ids),
        pa.ListArray.from_arrays(ends, labels),
        pa.array(np.diff(ends), pa.int32()),
        pa.array(np.diff(supervised), pa.int32()),
        pa.array([line.num_bytes for line in made], pa.int32()),
        pa.array(_largest_ids(ids, ends), pa.int32()),
    )
    taken = _with_column(taken, "text", pa.array([line.text for line in made], pa.string()))
    for name, column in zip(ADDED, columns, strict=True):
        taken = taken.append_column(name, column)
    return taken


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def _beginnings(lists: pa.ChunkedArray, sizes: Sequence[int]) -> pa.Array:
    """The first so many items of each list."""
    whole = lists.combine_chunks()
    starts = whole.offsets.to_numpy()[:-1]
    ends = np.cumsum([0, *sizes], dtype=np.int32)
    chosen = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], sizes)
    return pa.ListArray.from_arrays(pa.array(ends), whole.values.take(pa.array(chosen)), type=whole.type)


def _largest_ids(ids: NDArray[np.int32], ends: NDArray[np.int32]) -> NDArray[np.int32]:
    """The largest id of each row of rows that are put end to end; 0 of an empty one."""
    found = np.maximum.reduceat(np.append(ids, np.int32(0)), ends[:-1]) if len(ends) > 1 else ids[:0]
    return np.where(np.diff(ends) > 0, found, np.int32(0))


def bos_id(renderer: Renderer) -> int | None:
    """BOS in front of plain text: where the tokenizer or the template puts it in front of everything."""
    tokenizer, template = renderer.tokenizer, renderer.template
    bos = tokenizer.bos_token
    opens = bos in dict(template.markers) and bos != template.turn_end and bos not in template.header
    return int(tokenizer.bos_token_id) if bos is not None and (opens or adds_bos(tokenizer)) else None
