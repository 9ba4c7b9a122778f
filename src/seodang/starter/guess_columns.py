"""A guess at columns whose names are not recognised, by their contents. The package `data` itself never guesses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.column_names import column_key
from seodang.data.read.messages import is_turn, turn_list
from seodang.data.read.raw_rows import RawRow, RawRows

Ask = Callable[[str, Sequence[str]], str]  # a question and its choices, the guess first → one of the choices

SAMPLE_ROWS = 200
FEW_VALUES = 0.2  # share of different values below which a column is a label
LABEL_ROWS = 10  # fewer rows cannot show that a column is a label
OTHER_NAMES = (
    column_names.CONTEXT
    | column_names.SYSTEM
    | column_names.TOOLS
    | {"id", "idx", "index", "uuid", "key", "url", "link", "source", "date", "time", "file", "category", "label", "tag"}
    | {"rejected"}
)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The contents of one column of the sample."""

    name: str
    filled: float  # share of the rows
    length: float  # mean characters
    asks: float  # share of the values that are questions


def guess_columns(raw: RawRows, ask: Ask | None) -> dict[str, str] | None:
    """Recipe keys with the columns that are most likely meant; None if none is likely.

    Args:
        ask: decides where several columns could be meant; the guess comes first.
    """
    sample = list(islice(raw.rows(), SAMPLE_ROWS))
    keys = {column_key(name) for name in raw.columns}
    if keys & column_names.CHOICES or {"a", "b", "c"} <= keys:
        return None  # the number of a choice is no answer, and no other column is one

    def choose(what: str, columns: list[str]) -> str:
        return ask(f"{raw.where}: which column holds the {what}?", columns) if ask and columns[1:] else columns[0]

    if conversations := _conversations(raw.columns, sample):
        return {"messages": choose("conversations", conversations)}
    texts = [column for name in raw.columns if (column := _column(name, sample)) is not None]
    questions = [column for column in texts if column_key(column.name) in column_names.QUESTION]
    answers = [column for column in texts if column_key(column.name) in column_names.ANSWER and column not in questions]
    if len(texts) == 1 and not questions and not answers:
        return {"text": texts[0].name}
    questions = sorted(
        questions or [column for column in texts if column not in answers],
        key=lambda column: (-round(column.filled, 1), -round(column.asks, 1), column.length),
    )
    if not questions:
        return None
    question = choose("questions", [column.name for column in questions])
    answers = sorted(
        answers or [column for column in texts if column_key(column.name) not in column_names.QUESTION],
        key=lambda column: (-round(column.filled, 1), -column.length),
    )
    left = [column.name for column in answers if column.name != question]
    return {"question": question, "answer": choose("answers", left)} if left else None


def _conversations(columns: Sequence[str], sample: Sequence[RawRow]) -> list[str]:
    """Columns that hold lists of turns; rejected conversations do not count."""

    def holds(name: str) -> bool:
        turns = next((found for row in sample if (found := turn_list(row.fields.get(name)))), None)
        return turns is not None and is_turn(turns[0])

    return [name for name in columns if column_key(name) not in OTHER_NAMES and holds(name)]


def _column(name: str, sample: Sequence[RawRow]) -> _Column | None:
    """A column of texts; None for numbers, labels, addresses, nested values, and names of anything else."""
    values: list[Any] = [value for row in sample if (value := row.fields.get(name)) not in (None, "")]
    texts = [value.strip() for value in values if isinstance(value, str) and any(map(str.isalpha, value))]
    if (
        column_key(name) in OTHER_NAMES
        or not values
        or len(texts) < 0.5 * len(values)
        or len(texts) < 0.5 * len(sample)
    ):
        return None
    if len(sample) >= LABEL_ROWS and len(set(texts)) < FEW_VALUES * len(texts):
        return None
    if sum(text.startswith(("http://", "https://", "/", "file:")) for text in texts) > len(texts) / 2:
        return None
    return _Column(
        name=name,
        filled=len(texts) / len(sample),
        length=sum(map(len, texts)) / len(texts),
        asks=sum(text.endswith(("?", "？", "까", "까요", "나요", "죠")) for text in texts) / len(texts),
    )
