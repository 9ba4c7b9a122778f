"""SQuAD's and KorQuAD's nested form (articles of paragraphs of questions) → a row for each question."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from seodang.data.read.raw_rows import RawRow, RawRows, raw_row

NESTED = "articles with paragraphs (SQuAD, KorQuAD): a row for each question, numbered through the file"


def paragraphs(raw: RawRows, sample: Sequence[RawRow]) -> RawRows | None:
    """A row for each question; None: the rows are not articles."""
    if "paragraphs" not in raw.columns or not any(map(_is_article, sample)):
        return None
    return replace(
        raw,
        columns=("title", "context", "question", "answers", "id"),
        rows=partial(_questions, raw),
        unparsed=None,
        remarks=(*raw.remarks, NESTED),
    )


def _is_article(row: RawRow) -> bool:
    found = row.fields.get("paragraphs")
    return isinstance(found, list) and any(isinstance(one, dict) and isinstance(one.get("qas"), list) for one in found)


def _questions(raw: RawRows) -> Iterator[RawRow]:
    """Rows that hold no question pass unchanged, so that they are counted where rows are read."""
    file, number = "", 0
    for article in raw.rows():
        if article.file != file:
            file, number = article.file, 0
        found = False
        for paragraph in _objects(article.fields.get("paragraphs")):
            for question in _objects(paragraph.get("qas")):
                found, number = True, number + 1
                fields = {
                    "title": article.fields.get("title"),
                    "context": paragraph.get("context"),
                    **{name: question.get(name) for name in ("question", "answers", "id")},
                }
                yield raw_row(file, number, fields, article.changed)
        if not found:
            yield article


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
