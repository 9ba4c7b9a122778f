"""Findings on rendered rows name the rows that they are about."""

from seodang.check.rendered import _rendered
from seodang.data.encode.rows import LOSSY, UNKNOWN
from seodang.types import Counts, RowNote


def _note(row: int, reason: str) -> RowNote:
    return RowNote(where=f"f.jsonl:{row}", row_id=str(row), reason=reason)


def test_findings_name_their_own_rows() -> None:
    """Rows that are too long, unknown or lossy, and not those that were dropped for another reason."""
    long = "longer than 64 tokens"
    counts = Counts(
        stage="render",
        source="s",
        rows_in=10,
        kept=7,
        dropped={"no answer": 1, long: 2},
        changed={UNKNOWN: 1, LOSSY: 1},
        notes=(_note(1, "no answer"), _note(2, long), _note(3, UNKNOWN), _note(4, LOSSY), _note(5, long)),
    )
    found = {finding.check: finding.rows for finding in _rendered(counts)}
    assert found == {
        "too_long": ("f.jsonl:2", "f.jsonl:5"),
        "unknown_tokens": ("f.jsonl:3",),
        "lossy_tokenizer": ("f.jsonl:4",),
    }
