"""Which held-out rows are not independent, which choose and which prove."""

from collections import Counter
from pathlib import Path

from datasets import Dataset

from held_out import prepared, qa, renderer
from seodang.proof.held_out import drawn, drawn_tokens, held_out_rows
from seodang.types import IGNORED

ENDS = {8: "<|im_end|>"}


def _rows(*lines: tuple[str, str, str, str | None]) -> Dataset:
    """(row_id, question, answer, value of the split column); an empty question stands for a plain text."""
    return Dataset.from_dict(
        {
            "row_id": [line[0] for line in lines],
            "file": ["a.jsonl"] * len(lines),
            "row": list(range(1, len(lines) + 1)),
            "question_key": [line[1] for line in lines],
            "group": [line[3] for line in lines],
            "messages": [
                [{"role": "user", "content": line[1]}, {"role": "assistant", "content": line[2]}] if line[1] else []
                for line in lines
            ],
            "labels": [[IGNORED, 30, 31, 8]] * len(lines),
            "num_bytes": [20] * len(lines),
        }
    )


def _clusters(*lines: tuple[str, str, str, str | None]) -> list[str]:
    return [row.cluster for row in held_out_rows(_rows(*lines), ENDS, seed=1)]


def test_rows_that_share_a_question_an_answer_a_group_or_a_document_are_one_cluster() -> None:
    """Also by way of other rows; a cluster has the smallest identity in it for a name."""
    assert _clusters(("c", "q1", "하나", None), ("a", "q1", "둘", None), ("b", "q2", "둘 ", None)) == ["a", "a", "a"]
    assert _clusters(("a", "q1", "하나", "g"), ("b", "q2", "둘", "g"), ("c", "q3", "셋", "h")) == ["a", "a", "c"]
    assert _clusters(("t", "", "", None), ("t#2", "", "", None), ("u", "", "", None)) == ["t", "t", "u"]


def test_tokens_and_bytes_of_the_turn_end_are_counted_apart() -> None:
    """Content is what is supervised but the turn end, in tokens and in bytes."""
    (row,) = held_out_rows(_rows(("a", "q", "답", None)), ENDS, seed=1)
    assert (row.content_tokens, row.end_tokens, row.num_bytes) == (2, 1, 20 - len("<|im_end|>"))
    assert row.where == "a.jsonl:1"


def test_from_a_hundred_clusters_on_half_of_them_choose() -> None:
    """Clusters go to a half whole, whatever rows stand beside them; below, all rows do both."""
    lines = [(f"{number:03}", f"q{number // 2}", f"a{number}", None) for number in range(400)]
    rows = held_out_rows(_rows(*lines), ENDS, seed=1)
    halves = {row.cluster: row.half for row in rows}
    assert len(halves) == 200
    assert all(row.half == halves[row.cluster] for row in rows)
    assert set(halves.values()) == {"choose", "prove"}
    assert 70 < Counter(halves.values())["choose"] < 130
    fewer = held_out_rows(_rows(*lines[100:]), ENDS, seed=1)
    assert all(row.half == halves[row.cluster] for row in fewer)
    assert {row.half for row in held_out_rows(_rows(*lines[:150]), ENDS, seed=1)} == {"both"}
    assert [row.half for row in held_out_rows(_rows(*lines), ENDS, seed=2)] != [row.half for row in rows]


def test_rows_are_drawn_by_what_they_are() -> None:
    """The order depends on no other row; only rows that prove give tokens."""
    lines = [(f"{number:03}", f"q{number}", f"a{number}", None) for number in range(200)]
    rows, fewer = (held_out_rows(_rows(*some), ENDS, seed=1) for some in (lines, lines[::2]))
    order = [rows[number].row_id for number in drawn(rows, seed=1)]
    assert [row_id for row_id in order if int(row_id) % 2 == 0] == [fewer[n].row_id for n in drawn(fewer, seed=1)]
    taken = drawn_tokens(rows, 31, seed=1)
    assert len(taken) == 10
    assert all(rows[number].proves for number in taken)


def test_real_rows_have_one_turn_end_and_the_bytes_of_their_answers(tmp_path: Path) -> None:
    """Rendered with a chat template, what is left without the turn end is the answer itself."""
    own, lines = renderer(), qa(5)
    found = held_out_rows(prepared(tmp_path, lines, own), {own.template.turn_end_id: own.template.turn_end}, seed=1)
    assert [row.num_bytes for row in found] == [len(line["answer"].encode()) for line in lines]
    assert {row.end_tokens for row in found} == {1}
