"""Tables whose columns are questions about what a row names (a drug in e약은요) → a row for each answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from seodang.data.read import column_names
from seodang.data.read.column_names import column_key, is_question
from seodang.data.read.raw_rows import RawRow, RawRows
from seodang.data.read.reshape.nested import mapped

ENOUGH = 2  # columns that are questions
COLUMNS = ("question", "answer", "context")


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Which columns are questions, and which names what they ask about."""

    name: str
    questions: tuple[str, ...]
    kept: tuple[str, ...]


def question_columns(raw: RawRows, sample: Sequence[RawRow]) -> RawRows | None:
    """A row for each question and cell, the thing asked about as its context; None: the columns are not questions."""
    questions = tuple(name for name in raw.columns if is_question(name))
    name = next((column for column in raw.columns if column_key(column) in column_names.THING), None)
    if len(questions) < ENOUGH or name is None:
        return None
    kept = tuple(column for column in raw.columns if column not in questions and column not in COLUMNS)
    table = _Table(name=name, questions=questions, kept=kept)
    remark = f"{len(questions)} columns are questions about {name}: each of their cells is a row"
    return mapped(raw, partial(_asked, table), columns=(*COLUMNS, *kept), remarks=(*raw.remarks, remark))


def _asked(table: _Table, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        if row.fields.keys().isdisjoint(table.questions):  # of another file: counted where rows are read
            yield row
            continue
        thing = row.fields.get(table.name)
        context = f"{table.name}: {thing}" if thing else None
        kept = {name: row.fields.get(name) for name in table.kept}
        for question in table.questions:
            fields = {"question": question, "answer": row.fields.get(question), "context": context, **kept}
            yield RawRow(file=row.file, row=row.row, fields=fields, changed=row.changed)
