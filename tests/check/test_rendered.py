"""Findings on rendered rows name the rows that they are about."""

from types import SimpleNamespace
from typing import Any

from seodang.check.rendered import _dropped, _own_text, _rendered
from seodang.data.encode.rows import LOSSY, UNKNOWN
from seodang.types import Counts, Finding, RowNote


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


def test_many_dropped_rows_are_a_finding() -> None:
    """More than a twentieth, and more than one row, with the most frequent reason; rows too long have their own."""
    refused, empty, long = "the template refuses it: no", "empty answer", "longer than 64 tokens"

    def found(rows_in: int, **dropped: int) -> list[Finding]:
        named = {{"refused": refused, "empty": empty, "long": long}[key]: rows for key, rows in dropped.items()}
        kept = rows_in - sum(dropped.values())
        notes = (_note(1, empty), _note(2, refused))
        return list(
            _dropped(Counts(stage="render", source="s", rows_in=rows_in, kept=kept, dropped=named, notes=notes))
        )

    [finding] = found(100, empty=1, refused=5)
    assert finding.what == f"6 of 100 rows are dropped, 5 of them for: {refused}"
    assert finding.rows == ("f.jsonl:2",)
    assert not found(100, empty=5)
    assert not found(10, empty=1)
    assert not found(100, long=50, empty=1)


def test_a_templates_own_text_is_shown_without_the_marks_of_its_roles() -> None:
    """Neither turn markers nor the names of the roles beside them are part of it."""
    text = "You are a helpful assistant. Answer in Korean, and keep it short."

    def prompt(messages: list[dict[str, str]]) -> str:
        own = f"<|im_start|>system\n{text}<|im_end|>\n"
        return f"{own}<|im_start|>user\n{messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n"

    markers = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    template = SimpleNamespace(markers=markers, origin="the tokenizer's own")
    renderer: Any = SimpleNamespace(prompt=prompt, template=template, system=None)
    [found] = _own_text(renderer)
    assert found.where == "template (the tokenizer's own)"
    assert found.what == f"puts a system text in front of every question: {text!r}"
