"""data/read/clean.py: the normal forms by which rows are compared and kept together."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from seodang.data.read.clean import group_key
from seodang.data.read.convert import convert
from seodang.data.read.raw_rows import Number
from seodang.data.read.sources import read
from seodang.recipe import Source

QA = {"question": "감기는?", "answer": "쉬세요."}


def converted(path: Path, split_by: str = "question") -> Dataset:
    source = Source(name="s", role="domain", path=(str(path),))
    return convert(read(source), source, split_by)[0]


def converted_rows(folder: Path, rows: Any, split_by: str = "question", name: str = "d.jsonl") -> Dataset:
    """Rows written as JSON Lines, or a text as it is."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return converted(folder / name, split_by)


@pytest.mark.parametrize(
    "other",
    [
        "감기\u200b약은 언제?", "\ufeff감기약은 언제?", "감기약은 언제?\u200e",
        "감기약은 언\u00ad제?",
        "감기약은 언제？", "감기약은\u00a0언제?", "\u3164감기약은 언제?", "감기약은 언제?\ufe0f",
        "감기\u2060약은　언제?",
    ],
)  # fmt: skip
def test_what_is_not_seen_makes_no_other_question(other: str, tmp_path: Path) -> None:
    """Zero-width characters, marks of byte order and direction, fillers and widths leave the key as it is."""
    table = converted_rows(tmp_path, [{"question": q, "answer": "a"} for q in ("감기약은 언제?", other, "감기약은?")])
    keys = table["question_key"][:]
    assert keys[0] == keys[1] != keys[2]


def test_exchanges_are_the_questions_with_their_answers(tmp_path: Path) -> None:
    """One key for each user turn, the same in every row and place; another answer makes another one."""
    turns = [("감기?", "쉬세요."), ("언제까지?", "나을 때까지.")]
    talk = [
        {"role": role, "content": text}
        for question, answer in turns
        for role, text in (("user", question), ("assistant", answer))
    ]
    rows = [{"messages": talk}, {"messages": talk[2:]}, {"messages": [talk[0], {**talk[1], "content": "주무세요."}]}]
    keys = converted_rows(tmp_path, rows)["exchange_keys"][:]
    assert [len(row) for row in keys] == [2, 1, 1]
    assert keys[0][1] == keys[1][0]
    assert keys[0][0] != keys[2][0]


def test_a_group_is_the_same_in_every_file_kind(tmp_path: Path) -> None:
    """3.0 of a Parquet column with nulls, 3 of CSV and "3" of JSON are one patient; "007" is another than 7."""
    pq.write_table(
        pa.table({"question": ["q"] * 3, "answer": ["a"] * 3, "patient": pa.array([3.0, None, float("nan")])}),
        tmp_path / "d.parquet",
    )
    assert converted(tmp_path / "d.parquet", "patient")["group"][:] == ["3", None, None]
    csv = converted_rows(tmp_path, "question,answer,patient\nq,a,3\nq,a,007\n", "patient", name="d.csv")
    assert csv["group"][:] == ["3", "007"]
    rows = [{**QA, "patient": patient} for patient in ("3", 3, 3.0, " 3\u200b", "3.00", 7)]
    assert converted_rows(tmp_path, rows, "patient")["group"][:] == ["3"] * 5 + ["7"]


def test_a_group_may_be_nested(tmp_path: Path) -> None:
    """Objects with NaN, infinities, days and whole numbers are keys as well, whatever the order of their names."""
    text = "".join(
        f'{{"question": "q", "answer": "a", "meta": {meta}}}\n'
        for meta in (
            '{"id": 3.0, "score": NaN, "top": [Infinity, -Infinity]}',
            '{"top": [Infinity, -Infinity], "id": 3, "score": NaN}',
            '{"id": 4, "score": NaN, "top": [Infinity, -Infinity]}',
        )
    )
    keys = converted_rows(tmp_path, text, "meta")["group"][:]
    assert keys[0] == keys[1] != keys[2]
    day = datetime(2024, 5, 1)
    metas = [{"day": day, "id": 1.0}, {"day": day, "id": 2.0}]
    pq.write_table(pa.table({"question": ["q"] * 2, "answer": ["a"] * 2, "meta": metas}), tmp_path / "d.parquet")
    keys = converted(tmp_path / "d.parquet", "meta")["group"][:]
    assert len(set(keys)) == 2
    assert "2024-05-01" in keys[0]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (3, "3"), (3.0, "3"), ("3.00", "3"), (Number("1.10"), "1.1"), ("1e3", "1000"), ("-0.0", "0"), ("+5", "5"),
        ("007", "007"), ("1e9999", "1E+9999"), (True, "true"), ("True ", "true"), (float("inf"), "inf"),
        (datetime(2024, 5, 1), "2024-05-01"), ("2024-05-01 00:00:00", "2024-05-01"),
        ("2024-05-01T00:00:01", "2024-05-01t00:00:01"), ("Kim\u200b  A", "kim a"),
    ],
)  # fmt: skip
def test_the_key_of_a_value(value: Any, key: str) -> None:
    """Numbers and days are the same however they are written; names keep their zeros."""
    assert group_key(value) == key


def test_a_deeply_nested_value_has_a_short_key() -> None:
    """Its key grows with the value, not with what escapes of escapes would take."""
    value: object = {"a": "1.0"}
    for _ in range(90):
        value = [value]
    assert len(group_key(value)) < 400
    assert group_key({"b": [1], "a": {"x": None}}) == group_key({"a": {"x": None}, "b": ["1.0"]})


def test_half_a_character_in_a_value_has_a_key() -> None:
    """A lone surrogate, which no file can hold, is replaced; nested, and as a name."""
    assert group_key("\ud800").encode()
    assert group_key({"\ud800": ["\udfff"]}).encode()
