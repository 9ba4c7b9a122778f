"""Parquet files and data sets on the hub give the values that were written, not what Arrow's types make of them."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from seodang.data.read.arrow_values import CLASS_NAMES, NULLS
from seodang.data.read.csv_parquet import _batch_rows
from seodang.data.read.raw_rows import RawRow
from seodang.data.read.sources import read
from seodang.errors import SourceError
from seodang.recipe import Source


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ROWS = [
    {
        "messages": [{"role": "user", "content": "날씨?"}, call("weather", {"city": "서울"})],
        "tools": [tool("weather", {"city": {"type": "string"}})],
    },
    {
        "messages": [{"role": "user", "content": "약?"}, call("drug", {"name": "타이레놀", "limit": 3})],
        "tools": [tool("drug", {"name": {"type": "string"}, "limit": {"type": "integer"}}, required=["name"])],
    },
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def both(folder: Path, rows: Dataset | pa.Table) -> list[list[RawRow]]:
    """The rows as a Parquet file gives them by its path, and through `datasets`."""
    (folder / "set").mkdir(exist_ok=True)
    path = folder / "set" / "train.parquet"
    if isinstance(rows, Dataset):
        rows.to_parquet(path)
    else:
        pq.write_table(rows, path)
    sources = ({"path": (str(path),)}, {"hub": str(folder / "set")})
    return [list(read(Source(name="s", role="domain", **keys)).rows()) for keys in sources]


def calls_of(row: RawRow) -> Any:
    return row.fields["messages"][1]["tool_calls"][0]["function"]["arguments"]


def test_nulls_that_arrow_fills_in_are_no_arguments(tmp_path: Path) -> None:
    """Calls and tool definitions have the keys that their row has, not those of all rows; rows say what was removed."""
    for rows in both(tmp_path, Dataset.from_list(ROWS)):
        assert [calls_of(row) for row in rows] == [{"city": "서울"}, {"name": "타이레놀", "limit": 3}]
        assert [row.fields["tools"] for row in rows] == [given["tools"] for given in ROWS]
        assert [row.changed for row in rows] == [(NULLS,), (NULLS,)]
        assert rows[0].fields["messages"][1]["content"] is None, "a turn keeps its keys"


@pytest.mark.parametrize("mixed", [None, "use_json"])
def test_json_features_are_read_as_values(tmp_path: Path, mixed: Any) -> None:
    """Columns of datasets' Json feature are the values that were stored; a null in them was written and stays."""
    given = [{**row, "extra": {"limit": None}} for row in ROWS]
    features = None
    if mixed is None:
        of_json = datasets.List(datasets.Json())
        features = datasets.Features({"messages": of_json, "tools": of_json, "extra": datasets.Json()})
    for rows in both(tmp_path, Dataset.from_list(given, features=features, on_mixed_types=mixed)):
        assert [calls_of(row) for row in rows] == [{"city": "서울"}, {"name": "타이레놀", "limit": 3}]
        assert [row.fields["tools"] for row in rows] == [row["tools"] for row in given]
        if mixed is None:
            assert [row.fields for row in rows] == given
            assert [row.changed for row in rows] == [(), ()]


def test_a_json_feature_is_known_from_the_metadata_alone(tmp_path: Path) -> None:
    """Files that another tool wrote with plain strings, but with the metadata of `datasets`, are read alike."""
    features = datasets.Features({"messages": datasets.List(datasets.Json()), "n": {"deep": datasets.Json()}})
    metadata = features.arrow_schema.metadata
    plain = pa.table({"messages": [['{"role": "user", "content": "1.10"}']], "n": [{"deep": '{"x": 1.10, "y": null}'}]})
    path = tmp_path / "d.parquet"
    pq.write_table(plain.replace_schema_metadata(metadata), path)
    [row] = read(Source(name="s", role="domain", path=(str(path),))).rows()
    assert row.fields["messages"] == [{"role": "user", "content": "1.10"}]
    assert row.fields["n"]["deep"]["y"] is None
    assert row.fields["n"]["deep"]["x"].literal == "1.10", "numbers keep their text"


def test_broken_json_in_a_json_column_names_its_row(tmp_path: Path) -> None:
    """A column that is declared as JSON and holds something else is refused with its row."""
    metadata = datasets.Features({"a": datasets.Json()}).arrow_schema.metadata
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"a": ["1", "{'b': 1}"]}).replace_schema_metadata(metadata), path)
    with pytest.raises(SourceError, match=r"d.parquet:2: the column 'a' is declared as JSON but does not hold it"):
        list(read(Source(name="s", role="domain", path=(str(path),))).rows())


def test_numbers_and_other_values_are_written_as_they_were(tmp_path: Path) -> None:
    """Single precision, decimals, maps, categories, dates and bytes give what a person would have written."""
    day = datetime.date(2024, 5, 1)
    table = pa.table(
        {
            "float": pa.array([2.8, 1e-7, None], pa.float32()),
            "half": pa.array([0.1, 2.0, None], pa.float16()),
            "list": pa.array([[0.1, None], [], None], pa.list_(pa.float32())),
            "decimal": pa.array([Decimal("1.10"), Decimal("100"), None], pa.decimal128(6, 2)),
            "map": pa.array([[("city", 2.8)], [], None], pa.map_(pa.string(), pa.float32())),
            "category": pa.array(["가", "나", None]).dictionary_encode(),
            "when": pa.array([{"day": day}, {"day": None}, None]),
            "bytes": pa.array([{"b": b"abc"}, None, None]),
            "large": pa.array([["x"], None, []], pa.large_list(pa.large_string())),
        }
    )
    path = tmp_path / "d.parquet"
    pq.write_table(table, path)
    first, second, third = read(Source(name="s", role="domain", path=(str(path),))).rows()
    assert first.fields == {
        "float": "2.8",
        "half": "0.1",
        "list": [0.1, None],
        "decimal": "1.10",
        "map": {"city": 2.8},
        "category": "가",
        "when": {"day": "2024-05-01"},
        "bytes": {"b": "abc"},
        "large": ["x"],
    }
    assert (second.fields["float"], second.fields["decimal"], second.fields["map"]) == ("1e-07", "100.00", {})
    assert second.fields["when"] == {}
    assert third.fields == {**dict.fromkeys(table.column_names), "large": []}


def test_class_labels_are_read_as_their_names(tmp_path: Path) -> None:
    """A number would be trained as the answer; one without a name is no value. Also inside lists and objects."""
    label = datasets.ClassLabel(names=["음성", "양성"])
    features = datasets.Features({"question": datasets.Value("string"), "answer": label, "all": [label]})
    rows = Dataset.from_dict({"question": ["가", "나"], "answer": [1, -1], "all": [[0, 1], []]}, features=features)
    for found in both(tmp_path, rows):
        assert [row.fields["answer"] for row in found] == ["양성", None]
        assert found[0].fields["all"] == ["음성", "양성"]
        assert CLASS_NAMES in found[0].changed


def test_single_precision_inside_arguments(tmp_path: Path) -> None:
    """2.8 in a call's arguments is 2.8, by path and through `datasets`."""
    arguments = pa.array([{"dose": 2.8, "unit": None}], pa.struct({"dose": pa.float32(), "unit": pa.string()}))
    for [row] in both(tmp_path, pa.table({"arguments": arguments})):
        assert row.fields == {"arguments": {"dose": 2.8}}


def test_batches_of_huge_rows_are_small(tmp_path: Path) -> None:
    """Rows of megabytes are decoded one or a few at a time, ordinary rows by the hundred."""
    sizes = {}
    for chars in (10, 9_000_000):
        path = tmp_path / f"{chars}.parquet"
        pq.write_table(pa.table({"answer": ["a" * chars] * 2}), path, compression="zstd", use_dictionary=False)
        sizes[chars] = _batch_rows(pq.read_metadata(path))
    assert sizes == {10: 512, 9_000_000: 1}
