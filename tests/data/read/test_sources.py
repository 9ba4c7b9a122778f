"""Sources: any file kind, encoding and shape becomes rows of text, or one clear error."""

import json
import os
import tracemalloc
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seodang.data.read.containers.find_files import shipped_samples
from seodang.data.read.raw_rows import RawRows
from seodang.data.read.sources import read
from seodang.errors import HubError, SourceError
from seodang.recipe import Source, load_recipe

ROW = {"question": "감기는 왜 걸리나요?", "answer": "바이러스 때문입니다."}
TWO = [ROW, {"question": "약은요?", "answer": "쉬세요."}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TWO)
CSV = "question,answer\r\n감기는 왜 걸리나요?,바이러스 때문입니다.\r\n약은요?,쉬세요.\r\n"


def write(folder: Path, name: str, content: str | bytes, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def read_path(*paths: Path | str, **keys: Any) -> RawRows:
    return read(Source(name="s", role="domain", path=tuple(map(str, paths)), **keys))


def fields(raw: RawRows) -> list[dict[str, Any]]:
    return [row.fields for row in raw.rows()]


def error_of(*paths: Path | str, **keys: Any) -> str:
    with pytest.raises(SourceError) as caught:
        list(read_path(*paths, **keys).rows())
    assert "\n  → " in str(caught.value), "an error names a hint"
    return str(caught.value)


def nested_json(rows: list[dict[str, str]]) -> dict[str, str]:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "array": json.dumps(rows),
        "array, indented": json.dumps(rows, indent=2, ensure_ascii=False),
        "lines": LINES,
        "lines, CRLF and blank lines": LINES.replace("\n", "\r\n\r\n"),
        "one object with data": json.dumps({"version": 1, "data": rows}),
        "one object with train": json.dumps({"train": rows, "licence": {"name": "MIT"}}, indent=1),
        "columnar": json.dumps(columns),
        "columnar as pandas": json.dumps({name: dict(enumerate(values)) for name, values in columns.items()}),
        "split as pandas": json.dumps({"columns": list(columns), "data": [list(row.values()) for row in rows]}),
        "rows under ids": json.dumps({"r1": rows[0], "r2": rows[1]}),
        "indented objects one after another": "\n".join(json.dumps(row, indent=2) for row in rows),
    }


@pytest.mark.parametrize("shape", nested_json(TWO))
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_every_json_shape_gives_the_same_rows(tmp_path: Path, shape: str, ending: str) -> None:
    """Lines, arrays, wrapped and columnar JSON hold the same rows, whatever the file's ending says."""
    raw = read_path(write(tmp_path, f"data{ending}", nested_json(TWO)[shape]))
    assert fields(raw) == TWO
    assert raw.columns == ("question", "answer")
    assert fields(raw) == TWO, "rows() starts over"
    plain = shape.startswith(("array", "lines"))
    assert bool(raw.remarks) is not plain, "a shape that had to be turned is remarked on"


INNER = {"text": "물?", "lang": "ko"}
PANDAS = {"question": {"0": "a", "1": "b"}, "answer": {"0": "c", "1": "d"}}
# name: an object of objects, and how many rows it is
OBJECTS: dict[str, tuple[dict[str, Any], int]] = {
    "fields with the same names inside": ({"question": INNER, "answer": INNER}, 1),
    "fields with different names inside": ({"instruction": {"text": "a"}, "output": {"value": "b"}}, 1),
    "turns under their roles": ({"user": {"content": "a"}, "assistant": {"content": "b"}}, 1),
    "one field that is known": ({"질문": INNER, "라벨": INNER}, 1),
    "the row in one of them": ({"meta": {"id": 1}, "data": ROW}, 1),
    "its parts in two of them": ({"meta": {"id": 1}, "raw": {"질문": "가"}, "label": {"답변": "나"}}, 1),
    "nothing in common": ({"text": {"ko": "가"}, "meta": {"id": 1}}, 1),
    "a conversation in one of them": ({"meta": {"id": 1}, "body": {"messages": []}}, 1),
    "rows under ids": ({"r1": ROW, "r2": ROW, "r3": ROW}, 3),
    "rows under ids, one with a field more": ({"r1": {**ROW, "note": "x"}, "r2": ROW, "r3": ROW}, 3),
    "rows under ids, one without an answer": ({"r1": ROW, "r2": {"question": "a"}}, 2),
    "rows of different names under ids": ({"r1": ROW, "r2": {"instruction": "a", "output": "b"}}, 2),
    "rows and a conversation under ids": ({"r1": ROW, "r2": {"messages": []}}, 2),
    "rows of q and a under ids": ({"r1": {"q": "a", "a": "b", "c": "d"}, "r2": {"q": "a", "a": "b"}}, 2),
    "rows under ids that are names of fields": ({"question": ROW, "test": ROW}, 2),
    "one row under its id": ({"r1": ROW}, 1),
    "rows of unknown names": ({"r1": {"가": "나", "다": "라"}, "r2": {"가": "나"}}, 2),
    "a table as pandas writes it": (PANDAS, 2),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_of_objects_is_a_row_where_its_names_are_a_row_s_fields(tmp_path: Path, kind: str) -> None:
    """Rows under ids repeat the names of fields; one row has each name once, whatever its values are."""
    content, number = OBJECTS[kind]
    raw = read_path(write(tmp_path, "d.json", json.dumps(content, ensure_ascii=False)))
    assert len(fields(raw)) == number
    if kind == "one row under its id":
        assert fields(raw) == [ROW]
    elif number == 1:
        assert (fields(raw)[0].keys() >= content.keys(), raw.remarks) == (
            True,
            ("one JSON object: took it as one row",),
        )
    else:
        assert "took each as a row" in raw.remarks[0] or content is PANDAS


@pytest.mark.parametrize(
    ("encoding", "remark"),
    [
        ("utf-8", None),
        ("utf-8-sig", "UTF-8 with a byte order mark"),
        ("utf-16", "UTF-16 (little-endian)"),
        ("utf-16-le", "UTF-16 without"),
        ("utf-16-be", "UTF-16 without"),
        ("utf-32", "UTF-32"),
        ("cp949", "CP949"),
    ],
)
@pytest.mark.parametrize(
    ("name", "content"), [("d.csv", CSV), ("d.jsonl", LINES), ("d.json", json.dumps(TWO, ensure_ascii=False))]
)
def test_encodings_are_recognised(tmp_path: Path, name: str, content: str, encoding: str, remark: str | None) -> None:
    """UTF-8, UTF-16, UTF-32 and CP949 files give the same rows, and an unusual encoding is remarked on."""
    raw = read_path(write(tmp_path, name, content, encoding))
    assert fields(raw) == TWO
    assert any(remark in found for found in raw.remarks) if remark else not raw.remarks


def test_big_endian_mark_is_recognised(tmp_path: Path) -> None:
    """A UTF-16 big-endian byte order mark is read."""
    raw = read_path(write(tmp_path, "d.csv", b"\xfe\xff" + CSV.encode("utf-16-be")))
    assert fields(raw) == TWO


def test_the_recipes_encoding_wins(tmp_path: Path) -> None:
    """`encoding:` is taken where nothing could be recognised, and its faults name the line."""
    path = write(tmp_path, "d.csv", "вопрос,ответ\nда,нет\n", "cp1251")
    assert fields(read_path(path, encoding="cp1251", question="вопрос", answer="ответ"))[0]["вопрос"] == "да"
    assert f"{path}:1: not UTF-8, and no other encoding reads well" in error_of(path)
    assert f"{path}:1: line 1 holds bytes that are not utf-8" in error_of(path, encoding="utf-8")
    assert "unknown text encoding 'cp9499'" in error_of(path, encoding="cp9499")
    assert "unknown text encoding 'base64'" in error_of(path, encoding="base64")


def test_a_named_encoding_leaves_no_mark_in_the_text(tmp_path: Path) -> None:
    """A byte order mark is no part of the first column's name, even where the recipe names the encoding."""
    for named, written in (("utf-8", "utf-8-sig"), ("utf-16", "utf-16")):
        assert read_path(write(tmp_path, "d.csv", CSV, written), encoding=named).columns == ("question", "answer")


def test_one_broken_byte_does_not_turn_a_file_into_cp949(tmp_path: Path) -> None:
    """A UTF-8 file with a damaged line is refused with that line, not read as another encoding."""
    path = write(tmp_path, "d.jsonl", LINES.encode() * 5 + b'{"question": "\xff", "answer": "b"}\n' + LINES.encode())
    assert f"{path}:11: line 11 holds bytes that are not UTF-8" in error_of(path)


def test_scalars_stay_as_they_are_written(tmp_path: Path) -> None:
    """Leading zeros, "NA", decimals, exponents and booleans are text as written; null is None."""
    line = '{"a": "007", "b": "NA", "c": 1.10, "d": 1e5, "e": true, "f": null, "g": 12345678901234567890, "h": ""}\n'
    raw = read_path(write(tmp_path, "d.jsonl", line * 2))
    expected = {
        "a": "007",
        "b": "NA",
        "c": "1.10",
        "d": "1e5",
        "e": "true",
        "f": None,
        "g": "12345678901234567890",
        "h": "",
    }
    assert fields(raw)[0] == expected
    raw = read_path(write(tmp_path, "d.csv", "question,answer\n007,NA\n1.10,TRUE\n"))
    assert fields(raw) == [{"question": "007", "answer": "NA"}, {"question": "1.10", "answer": "TRUE"}]


def test_nan_is_null_and_reported(tmp_path: Path) -> None:
    """NaN, which pandas writes for a missing value, becomes null and the row says so."""
    row = next(iter(read_path(write(tmp_path, "d.json", '[{"question": "a", "answer": NaN}]')).rows()))
    assert row.fields["answer"] is None
    assert row.changed == ("NaN read as null",)


def test_values_inside_turns_stay_json(tmp_path: Path) -> None:
    """Numbers, booleans and null inside lists and objects keep their JSON types."""
    turns = [{"role": "assistant", "tool_calls": [{"arguments": {"x": 1, "y": 2.5, "z": True, "n": None}}]}]
    raw = read_path(write(tmp_path, "d.json", json.dumps([{"messages": turns}])))
    assert fields(raw) == [{"messages": turns}]


def test_names_are_composed_and_stripped(tmp_path: Path) -> None:
    """Decomposed Korean column names and blanks around names are fixed, so that recipes can name them."""
    decomposed = unicodedata.normalize("NFD", "질문")
    assert read_path(write(tmp_path, "d.csv", f"{decomposed}, 답변 \na,b\n")).columns == ("질문", "답변")
    assert read_path(write(tmp_path, "d.json", json.dumps([{decomposed: "a", "답변 ": "b"}]))).columns == (
        "질문",
        "답변",
    )


def test_a_file_is_found_under_its_decomposed_name(tmp_path: Path) -> None:
    """A Korean file name that macOS wrote decomposed is found by its composed spelling."""
    write(tmp_path, unicodedata.normalize("NFD", "의료.csv"), CSV)
    assert fields(read_path(tmp_path / "의료.csv")) == TWO


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("d.csv", "question;answer\na, b;c, d\n", "semicolons"),
        ("d.csv", "sep=;\r\nquestion;answer\r\na, b;c, d\r\n", "semicolons"),
        ("d.tsv", "question\tanswer\na, b\tc, d\n", None),
        ("d.txt", "question\tanswer\na, b\tc, d\n", "table"),
        ("d.csv", "question|answer\na, b|c, d\n", "bars"),
        ("d.csv", 'question,answer\r"a, b","c, d"\r', None),
        ("d.csv", '\n\n"question","answer"\n\n"a, b","c, d"\n\n', None),
        ("d.csv", 'question,answer\n"a, b","c, d",,\n', None),
    ],
)
def test_delimiters_and_line_ends_are_found(tmp_path: Path, name: str, content: str, remark: str | None) -> None:
    """Commas, tabs, semicolons and bars separate cells; blank lines and blank cells at the end are no data."""
    raw = read_path(write(tmp_path, name, content))
    assert fields(raw) == [{"question": "a, b", "answer": "c, d"}]
    assert [row.row for row in raw.rows()] == [1]
    assert any(remark in found for found in raw.remarks) if remark else not raw.remarks


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ('"question", "answer"\n"a, b", "c, d"\n', "blanks between a delimiter and a quote"),
        ('question, answer\n"a, b",   "c, d"\n', "blanks between a delimiter and a quote"),
        ('question; answer\n"a, b"; "c, d"\n', "blanks between a delimiter and a quote"),
        ("'question','answer'\n'a, b','c, d'\n", "single quotes"),
    ],
)
def test_unusual_quotes_are_recognised(tmp_path: Path, content: str, remark: str) -> None:
    """Quotes after a blank, and single quotes, enclose cells where they do so throughout; that is remarked on."""
    raw = read_path(write(tmp_path, "d.csv", content))
    assert fields(raw) == [{"question": "a, b", "answer": "c, d"}]
    assert any(remark in found for found in raw.remarks)


def test_quotes_that_are_text_stay(tmp_path: Path) -> None:
    """A quote after a blank that encloses nothing, an apostrophe and a TSV's quotes are part of the text."""
    for name, content, expected in (
        ("d.csv", 'question,answer\nWhy?, "so" he said\n', ' "so" he said'),
        ("d.csv", "question,answer\nWhy?,'tis so'\n", "'tis so'"),
        ("d.tsv", 'question\tanswer\nWhy?\t "so"\n', ' "so"'),
    ):
        raw = read_path(write(tmp_path, name, content))
        assert [row["answer"] for row in fields(raw)] == [expected]
        assert not raw.remarks


def test_quotes_after_a_blank_far_down_are_counted(tmp_path: Path) -> None:
    """Where only rows behind the sample have quotes after a blank, they stay text, and the row says so."""
    path = write(tmp_path, "d.csv", "question,answer\n" + "a,b\n" * 300 + 'a, "b"\n')
    *before, last = read_path(path).rows()
    assert last.fields["answer"] == ' "b"'
    assert "quotes after a blank kept as text" in last.changed[0]
    assert not any(row.changed for row in before)


@pytest.mark.parametrize(
    ("name", "text"), [("d.csv", 'question,answer\na,\t"b"\n'), ("d.tsv", 'question\tanswer\na\t "b"\n')]
)
def test_quotes_after_a_tab_or_in_tsv_are_counted(name: str, text: str, tmp_path: Path) -> None:
    """Where blanks before a quote may be text they are kept, and the row says so."""
    [row] = read_path(write(tmp_path, name, text)).rows()
    assert row.fields["answer"].endswith('"b"')
    assert row.changed == ("quotes after a blank kept as text",)


def test_tables_of_absurd_width_are_refused(tmp_path: Path) -> None:
    """Megabytes of commas and 100,000 columns end at once; 5,000 columns, and a row of blank cells, are read."""
    for content in ("," * 3_000_000, ",".join(f"c{number}" for number in range(100_000)) + "\n", ";" * 20_000):
        assert "more than 10,000 columns" in error_of(write(tmp_path, "d.csv", content))
    blank = write(tmp_path, "d.csv", "question,answer\n" + "," * 1_000_000 + "\n")
    assert fields(read_path(blank)) == [{"question": "", "answer": ""}]
    wide = ",".join(f"c{number}" for number in range(5000))
    assert len(read_path(write(tmp_path, "d.csv", f"{wide}\n{wide}\n")).columns) == 5000
    unnamed = read_path(write(tmp_path, "d.csv", "question,answer" + "," * 5000 + "\n" + "," * 5001 + "\n"))
    assert len(unnamed.remarks[0]) < 300


def test_cells_keep_line_ends_quotes_and_length(tmp_path: Path) -> None:
    """Line ends and doubled quotes inside cells are text, and a cell may be longer than csv's own limit."""
    huge = "가" * 200_000
    raw = read_path(write(tmp_path, "d.csv", f'question,answer\n"a\r\nb","c ""d"""\ne,{huge}\n'))
    assert fields(raw) == [{"question": "a\r\nb", "answer": 'c "d"'}, {"question": "e", "answer": huge}]


def test_quotes_of_a_tsv_without_quoting_are_text(tmp_path: Path) -> None:
    """A quote that opens a cell of a tab-separated file but closes nothing is part of the text, and that is said."""
    raw = read_path(write(tmp_path, "d.tsv", '질문\t답변\n"안녕" 이 뭐야\t인사\nb\t"c\n'))
    assert [row["질문"] for row in fields(raw)] == ['"안녕" 이 뭐야', "b"]
    assert "quotes are taken as part of the text" in raw.remarks[0]


def test_unnamed_columns_get_a_name(tmp_path: Path) -> None:
    """The index column that pandas writes has no name; it gets one, and that is said."""
    raw = read_path(write(tmp_path, "d.csv", ",question,answer\n0,a,b\n"))
    assert raw.columns == ("column 1", "question", "answer")
    assert raw.remarks == ("columns without a name are called column 1",)


@pytest.mark.parametrize(
    "content",
    [
        "감기는 왜 걸리나요?,바이러스 때문입니다.\n약은요?,쉬세요.\n",
        "yes,yes\nno,no\n",
        "1,2\n3,4\n",
        f"a,{'long ' * 20}\nb,c\n",
    ],
)
def test_a_csv_without_a_header_is_refused(tmp_path: Path, content: str) -> None:
    """A first line that is data is not taken for columns' names."""
    path = write(tmp_path, "d.csv", content)
    message = error_of(path)
    assert f"{path}:1: the first line seems to be data" in message
    assert "question,answer" in message


def test_a_header_that_the_recipe_names_is_a_header(tmp_path: Path) -> None:
    """A sentence as a column's name is fine where the recipe names it."""
    path = write(tmp_path, "d.csv", "무엇이 궁금하세요?,우리의 답은 이렇습니다.\na,b\n")
    assert fields(read_path(path, question="무엇이 궁금하세요?"))[0]["무엇이 궁금하세요?"] == "a"


CSV_FAULTS = {
    "question,answer,answer\na,b,c\n": (":1: two columns have the same name: answer", "rename"),
    "question,answer\na,b\nc,d,e\n": (":2: cells: 3, but the header names 2", "quotes"),
    "question,answer\na,b\nc\n": (":2: cells: 1, but the header names 2", "quotes"),
    'question,answer\na,b\nc,"d\ne,f\n': (":2: a quote that opens in line 3 is never closed", "twice"),
    'question,answer\na,"b" c\n': (":1: quotes that do not fit in line 2", "twice"),
}


@pytest.mark.parametrize("content", CSV_FAULTS)
def test_broken_tables_are_refused_with_their_row(tmp_path: Path, content: str) -> None:
    """Ragged rows, columns of one name and quotes that do not close are never passed over."""
    path = write(tmp_path, "d.csv", content)
    what, hint = CSV_FAULTS[content]
    message = error_of(path)
    assert f"{path}{what}" in message
    assert hint in message.partition("→")[2]


ITEM = json.dumps(ROW, ensure_ascii=False)
JSON_FAULTS = {
    "trailing comma in a list": ("d.json", f"[{ITEM},\n{ITEM},\n]", ":2: broken JSON in line 3", "remove the comma"),
    "trailing comma in an object": ("d.json", '[{"question": "a",}]', ":1: broken JSON in line 1", "remove the comma"),
    "trailing comma in a line": ("d.jsonl", f'{ITEM}\n{{"question": "a",}}\n', ":2: broken JSON", "remove the comma"),
    "commas between lines": ("d.jsonl", f"{ITEM},\n{ITEM},\n", ":1: broken JSON", "remove the commas between"),
    "commas, no brackets": ("d.json", f"{json.dumps(ROW, indent=1)},\n{ITEM}", ":1: objects separated", "[ before"),
    "no comma in a list": ("d.json", f"[{ITEM}\n{ITEM}]", ":1: broken JSON in line 2 after row 1", "one comma"),
    "list cut off": ("d.json", json.dumps(TWO)[:-20], ":2: broken JSON in line 1", "cut off"),
    "list without its end": ("d.json", f"[{ITEM},{ITEM}", ":2: broken JSON in line 1 after row 2", "cut off"),
    "line cut off": ("d.jsonl", LINES[:-8], ":2: broken JSON in line 2", "cut off"),
    "broken line": (
        "d.jsonl",
        f'{LINES}{{"question" "b"}}\n{LINES}',
        ":3: broken JSON in line 3, character 13",
        "fix",
    ),
    "Python's way": ("d.jsonl", f"{ROW}\n{ROW}\n", ":1: broken JSON", "json.dumps"),
    "Python's None": ("d.jsonl", f'{ITEM}\n{{"answer": None}}\n', ":2: broken JSON", "json.dumps"),
    "key twice": (
        "d.jsonl",
        f'{ITEM}\n{{"answer": "a", "answer": "b"}}\n',
        ":2: duplicate key 'answer'",
        "keep",
    ),
    "keys alike": ("d.json", '[{"answer": "a", "answer ": "b"}]', ":1: two columns have the same name", "rename"),
    "a list as row": (
        "d.json",
        '[["a", "b"]]',
        ":1: expected an object with a key for each column, found a list",
        "write",
    ),
    "a text as row": ("d.jsonl", f'{ITEM}\n"text"\n', ":2: expected an object", "write"),
    "two lists": ("d.json", json.dumps({"train": TWO, "test": TWO}), "several lists: train, test", "by itself"),
    "no list": ("d.json", json.dumps({"a": 1, "b": {"c": [1]}}), "none of its keys holds a list", "by itself"),
    "columns uneven": (
        "d.json",
        json.dumps({"question": ["a"], "answer": []}),
        "question 1, answer 0",
        "one value a row",
    ),
    "after the list": ("d.json", f"[{ITEM}]\n[{ITEM}]", "line 2: text after", "one list"),
    "deeper than code can go": ("d.json", '[{"a": ' + "[" * 500 + "]" * 500 + "}]", ":1: too deeply nested", "flatten"),
    "key twice among many": (
        "d.jsonl",
        '{"a": 1, ' + ", ".join(f'"k{number}": 1' for number in range(50_000)) + ', "k49999": 2}\n' + ITEM,
        ":1: duplicate key 'k49999'",
        "keep",
    ),
    "too deep": ("d.jsonl", '{"a": ' + "[" * 100_000 + "\n" + ITEM, ":1: too deeply nested", "flatten"),
    "too long a number": ("d.jsonl", f'{ITEM}\n{{"a": {"1" * 5000}}}\n', ":2: ", "in quotes"),
    "no JSON": ("d.json", "hello", ":1: not JSON: the file starts with 'hello'", "write"),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_broken_json_is_refused_with_its_row(tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with a JSON file, the message names the row and the hint that fits."""
    name, content, what, hint = JSON_FAULTS[fault]
    message = error_of(write(tmp_path, name, content))
    assert what in message
    assert hint in message.partition("→")[2]


def test_a_fault_far_behind_the_first_chunk_bears_its_line(tmp_path: Path) -> None:
    """An indented list of several megabytes is read in pieces, and a fault in it still has row and line."""
    rows = [{"question": f"질문 {number}", "answer": "가" * 2000} for number in range(1500)]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    assert fields(read_path(write(tmp_path, "d.json", text))) == rows
    message = error_of(write(tmp_path, "d.json", text.replace('"질문 1200",', '"질문 1200"')))
    assert ":1201: broken JSON in line 4804" in message


def test_keys_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    """Half a character (a lone surrogate) or a control character in a key becomes an escape that can be shown."""
    raw = read_path(write(tmp_path, "d.json", r'[{"question": "a", "\ud800": "b", "x\u0000y": "c", "\udc80": "d"}]'))
    assert raw.columns == ("question", r"\ud800", r"x\x00y", r"\udc80")
    message = error_of(write(tmp_path, "d.json", r'[{"\ud800": "a", "\ud800": "b"}]'))
    assert r"duplicate key '\ud800'" in message


def test_a_list_of_turns_in_each_line(tmp_path: Path) -> None:
    """JSON Lines whose lines are conversations themselves are read as messages, and that is remarked on."""
    turns = [{"role": "user", "content": "왜?"}, {"role": "assistant", "content": "그냥."}]
    for name in ("d.jsonl", "d.json"):
        raw = read_path(write(tmp_path, name, f"{json.dumps(turns)}\n{json.dumps(turns)}\n"))
        assert fields(raw) == [{"messages": turns}] * 2
        assert raw.remarks == ("a list of turns in each line: taken as messages",)


def test_a_list_on_one_huge_line_is_read_in_pieces(tmp_path: Path) -> None:
    """A JSON array as json.dump writes it is not taken into memory as one line."""
    path = write(tmp_path, "d.json", json.dumps([{"question": "왜 " * 50, "answer": "예 " * 50}] * 8_000))
    tracemalloc.start()
    try:
        raw = read_path(path)
        assert sum(1 for _ in raw.rows()) == 8_000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size
    finally:
        tracemalloc.stop()


def test_rows_are_read_only_as_far_as_asked(tmp_path: Path) -> None:
    """JSON Lines are streamed: a fault behind the rows taken is not met."""
    path = write(tmp_path, "d.jsonl", LINES * 1000 + "broken\n")
    assert len(list(islice(read_path(path).rows(), 1500))) == 1500
    assert f"{path}:2001: broken JSON" in error_of(path)


NO_DATA = {
    "x.csv": (b"PK\x03\x04rest", "cannot be unpacked: File is not a zip file"),
    "x.json": (b"GGUF\x03\x00", "GGUF"),
    "d.csv": (b"%PDF-1.7", "PDF"),
    "d.jsonl": (b"\x1f\x8b\x08\x00", "cannot be unpacked: Compressed file ended"),
    "d.bin": (bytes(range(256)) * 8, "not a text file"),
    "zero.json": (b"\x00" * 512, "not a text file"),
    "page.json": (b"<!DOCTYPE html><html>", "HTML"),
    "lfs.csv": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "note.txt": ("그냥 글입니다\n또 글\n".encode(), "neither JSON nor a table"),
    "empty.jsonl": (b"", "empty"),
    "blank.csv": (b"\xef\xbb\xbf \n\n", "nothing but blanks"),
    "magic.parquet": (b"PAR1nothing", "not a readable Parquet file"),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_files_that_hold_no_rows_are_named_for_what_they_are(tmp_path: Path, name: str) -> None:
    """Office files, models, archives, pages, pointers and empty files are refused by their content, not their name."""
    content, what = NO_DATA[name]
    path = write(tmp_path, name, content)
    message = error_of(path)
    assert message.startswith(str(path))
    assert what in message


def test_missing_files_and_folders_get_a_hint(tmp_path: Path) -> None:
    """A wrong name brings the nearest file, a pattern what lies there, a hub id the right key."""
    write(tmp_path, "medical.jsonl", LINES)
    assert "did you mean 'medical.jsonl'?" in error_of(tmp_path / "medcal.jsonl")
    assert "did you mean" not in error_of(tmp_path / "cat.jsonl")
    assert "no folder" in error_of(tmp_path / "none" / "a.jsonl")
    assert "holds medical.jsonl" in error_of(tmp_path / "*.csv")
    assert "hub: beomi/KoAlpaca-RealQA" in error_of("beomi/KoAlpaca-RealQA")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert "is a broken link" in error_of(tmp_path / "link.jsonl")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("~data/x.jsonl", "no such file"),
        ("a\0b.jsonl", "not a path"),
        ("", "not a path"),
        ("x" * 5000, "File name too long"),
        ("a/" * 3000 + "x.jsonl", "File name too long"),
        ("\ud800.jsonl", "not UTF-8"),
        ("sample:\0", "not a path"),
        ("sample:" + "x" * 10_000, "unknown sample"),
        ("/dev/zero", "not a regular file"),
    ],
)
def test_paths_that_cannot_be_are_one_short_error(path: str, what: str) -> None:
    """Whatever stands under `path:`, the answer is one message that can be shown."""
    message = error_of(path)
    assert what in message
    assert len(message.encode()) < 500


def test_a_recipe_may_name_a_folder_that_starts_with_a_tilde(tmp_path: Path) -> None:
    """`~data/x.jsonl` is no home folder: the file is found beside the recipe, else the hint says what ~ means."""
    (tmp_path / "~data").mkdir()
    write(tmp_path / "~data", "x.jsonl", LINES)
    recipe = {
        "name": "n",
        "model": {"path": "m"},
        "sources": [{"name": "s", "role": "domain", "path": "~data/x.jsonl"}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    assert fields(read(load_recipe(path).sources[0])) == TWO
    assert "~NAME is the home folder of a user" in error_of("~data/y.jsonl")


def test_a_name_in_cp949_is_refused_readably(tmp_path: Path) -> None:
    """A file whose name is CP949 bytes is named as Korean Windows shows it, with the command that renames it."""
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + "/자료.jsonl".encode("cp949"))).write_text(LINES, encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    [name] = [item for item in tmp_path.iterdir() if item.suffix == ".jsonl"]
    assert f"{tmp_path}/자료.jsonl: the file's name is not UTF-8" in error_of(name)
    assert "convmv -f cp949" in error_of(tmp_path / "자료.jsonl")
    assert [row.where for row in read_path(tmp_path).rows()] == [f"{tmp_path}/자료.jsonl:1", f"{tmp_path}/자료.jsonl:2"]


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    """Files of any kinds are joined in the recipe's order, and each row knows its file and place in it."""
    first, second = (
        write(tmp_path, "a.jsonl", "\n" + LINES),
        write(tmp_path, "b.csv", "question,note\nc,n\n", "utf-8-sig"),
    )
    raw = read_path(first, second)
    assert raw.columns == ("question", "answer", "note")
    assert [(row.file, row.row) for row in raw.rows()] == [(str(first), 2), (str(first), 3), (str(second), 1)]
    assert raw.remarks == (f"{second}: read as UTF-8 with a byte order mark",)


def test_parquet_is_read_by_content_with_scalars_as_text(tmp_path: Path) -> None:
    """Parquet is known by its first bytes; its numbers, dates and booleans become text, lists stay lists."""
    path = tmp_path / "d.data"
    rows = [{"question": "a", "n": 7, "b": True, "turns": [{"role": "user"}]}, {"question": "b", "n": None, "b": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert fields(read_path(path)) == [
        {"question": "a", "n": "7", "b": "true", "turns": [{"role": "user"}]},
        {"question": "b", "n": None, "b": None, "turns": None},
    ]
    broken = write(tmp_path, "cut.parquet", path.read_bytes()[:-30])
    assert "not a readable Parquet file" in error_of(broken)


def test_samples_ship(tmp_path: Path) -> None:
    """`sample:NAME` reads data that ships, and an unknown name lists what there is."""
    assert shipped_samples()
    for name in shipped_samples():
        rows = fields(read_path(f"sample:{name}"))
        assert len(rows) >= 60  # `check` warns below 50
        assert len({row.get("text") or row.get("question") for row in rows}) == len(rows)
    message = error_of("sample:ko_medcial")
    assert f"sample:{shipped_samples()[0]}" in message


def read_hub(hub: str, **keys: Any) -> RawRows:
    return read(Source(name="s", role="domain", hub=hub, **keys))


def test_a_hub_data_set_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set gives rows as text, counted from 1; a wrong split or configuration lists what there is."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    write(
        folder,
        "train.jsonl",
        '{"question": "a", "answer": "007", "n": 1.5}\n{"question": "b", "answer": "x", "n": 2}\n',
    )
    raw = read_hub(str(folder))
    assert fields(raw)[0] == {"question": "a", "answer": "007", "n": "1.5"}
    assert [row.where for row in raw.rows()] == [f"hub:{folder}:1", f"hub:{folder}:2"]
    with pytest.raises(SourceError, match=r"(?s)Unknown split.*train.*give one of these as `split:`"):
        read_hub(str(folder), split="trian")
    with pytest.raises(SourceError, match=r"(?s)Available.*give one of these as `config:`"):
        read_hub(str(folder), config="other")


@pytest.mark.parametrize(
    ("hub", "what"),
    [
        ("", "not a data set id"),
        (" ", "not a data set id"),
        ("a/b/c", "not a data set id"),
        ("..", "not a data set id"),
        ("~/..", "not a data set id"),
        ("a\0b", "not a data set id"),
        ("\ud800", "not a data set id"),
        ("hf://datasets/a", "not a data set id"),
        ("x" * 5000, "not a data set id"),
        ("text", "the name of a file format"),
        ("webdataset", "the name of a file format"),
        ("json", "the name of a file format"),
        ("mine", "a folder of this name here"),
        ("./empty", "contain any data files"),
    ],
)
def test_what_is_no_data_set_id_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str, what: str
) -> None:
    """Names of file formats would read the working folder's files; other names would end in all kinds of errors."""
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "empty"):
        (tmp_path / folder).mkdir()
    write(tmp_path, "secret.txt", "not for training\n")
    with pytest.raises(SourceError) as caught:
        read_hub(hub)
    assert what in str(caught.value)
    assert len(str(caught.value).encode()) < 400


def test_an_unreachable_hub_data_set_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a hub id that is not in the cache says so, how to get it, and which keys name files instead."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"(?s)nobody/nothing-here: .*go online.*sources\.s\.hub=null sources\.s\.path="):
        read_hub("nobody/nothing-here")
