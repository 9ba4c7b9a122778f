"""Rows whose structure is known but not flat → flat rows: what the recipe names, else what the columns show."""

from itertools import islice

from seodang.data.read.raw_rows import RawRows
from seodang.data.read.reshape.annotations import annotations
from seodang.data.read.reshape.nested import nested_pair, with_nested
from seodang.data.read.reshape.paragraphs import paragraphs
from seodang.data.read.reshape.question_columns import question_columns
from seodang.data.read.reshape.turn_rows import turn_rows
from seodang.recipe import Source

SAMPLE_ROWS = 200


def reshape(raw: RawRows, source: Source) -> RawRows:
    """The rows with the columns that the recipe names by dotted or joined names; or, where it names none, with those
    that their structure shows.

    Raises:
        SourceError: a name that leads nowhere, rows of one conversation that are not consecutive, or an export of an
            annotation tool that does not show which answers are right.
    """
    named = named_columns(source)
    sample = list(islice(raw.rows(), SAMPLE_ROWS))
    annotated = annotations(raw, sample, named, is_text=source.role in ("retention", "replay"))
    if annotated is not None:
        raw, sample = annotated, list(islice(annotated.rows(), SAMPLE_ROWS))
    if named:
        return with_nested(raw, named)
    shapes = (
        paragraphs(raw, sample),
        turn_rows(raw, sample, source.roles),
        question_columns(raw, sample),
        nested_pair(raw, sample),
    )
    return next((found for found in shapes if found is not None), raw)


def named_columns(source: Source) -> list[str]:
    """The columns that the recipe names."""
    keys = (source.question, source.answer, source.context, source.messages, source.text, source.reasoning)
    return [name for name in keys if name]
