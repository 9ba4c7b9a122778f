"""data/arrow.py: columns as Arrow tables, seeded draws."""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from qa_rows import numbered
from seodang.data import arrow
from seodang.data.arrow import BATCH_ROWS, read_columns, uniform_hash


def test_columns_follow_the_order_of_a_shuffled_data_set(tmp_path: Path) -> None:
    """Columns of selected and shuffled rows on disk come in the rows' order."""
    numbered(30).to_parquet(str(tmp_path / "rows.parquet"))
    rows = (
        Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path)).shuffle(seed=1).select([5, 3, 9])
    )
    table = read_columns(rows, "row", "question_key")
    assert table.column_names == ["row", "question_key"]
    assert table["row"].to_pylist() == list(rows["row"])


def test_columns_of_no_rows_have_their_types() -> None:
    """An empty data set gives empty columns, also beside a JSON column."""
    table = read_columns(numbered(3).select([]), "messages", "row")
    assert table.num_rows == 0
    assert table["row"].type == pa.int64()


def test_values_of_a_column_come_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are those of the rows one by one, in their order, with one access for each block of rows."""
    monkeypatch.setattr(arrow, "BLOCK_ROWS", 4)
    rows = numbered(30).select([*range(29, 12, -1)])
    accesses: list[object] = []
    one = Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, key: (accesses.append(key), one(self, key))[1])
    assert list(arrow.column_values(rows, "messages")) == [one(rows, number)["messages"] for number in range(17)]
    assert len(accesses) == 5


def test_draw_is_the_first_eight_bytes_of_blake2b() -> None:
    """A draw is blake2b("SALT:KEY") read as a big-endian number, so that another program can repeat it."""
    expected = int.from_bytes(blake2b("42:당뇨".encode(), digest_size=8).digest(), "big")
    assert uniform_hash(pa.array(["a", "당뇨"]), "42")[1] == expected


def test_draws_depend_on_nothing_but_salt_and_key() -> None:
    """The same key has the same draw in every place and batch; another salt gives another."""
    keys = [str(number) for number in range(BATCH_ROWS + 7)]
    drawn = uniform_hash(pa.chunked_array([keys[:100], keys[100:]]), "1")
    assert np.array_equal(uniform_hash(pa.array(keys[::-1]), "1"), drawn[::-1])
    assert not np.any(uniform_hash(pa.array(keys), "2") == drawn)


def test_draws_are_uniform() -> None:
    """A quarter of many keys lies below a quarter of the range."""
    drawn = uniform_hash(pa.array([str(number) for number in range(20_000)]), "42")
    assert abs(np.mean(drawn < 2.0**62) - 0.25) < 0.01
