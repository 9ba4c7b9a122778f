"""data/mix.py: joining, shuffling, token shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from qa_rows import numbered, shared_qa, texts
from seodang.data.mix import mix
from seodang.data.split import Splits, separate, split
from seodang.errors import SourceError
from seodang.recipe import Mix, Source, Split
from seodang.types import Counts

BY_ROW = Split(by="row")


def source(name: str, **keys: Any) -> Source:
    return Source(**{"name": name, "role": "domain", "path": (f"{name}.jsonl",), **keys})


def tutorial(general: Dataset, medical: Dataset) -> dict[str, Splits]:
    """The tutorial's shape: a third of the general training rows, then the medical ones, 5 % held out of each."""
    splits = {
        "general": split(general, source("general", role="general", holdout=0.05, take="1/3"), BY_ROW),
        "medical": split(medical, source("medical", holdout=0.05), BY_ROW),
    }
    return separate(splits, BY_ROW)[0]


def datasets_own(general: Dataset, medical: Dataset) -> dict[str, Dataset]:
    """The same with nothing but datasets' calls."""
    first = general.train_test_split(test_size=0.05, seed=42)
    second = medical.train_test_split(test_size=0.05, seed=42)
    return {
        "train": concatenate_datasets([first["train"].shard(3, 0), second["train"]]).shuffle(seed=42),
        "holdout": concatenate_datasets([first["test"], second["test"]]).shuffle(seed=42),
    }


def test_the_tutorials_rows_are_datasets_own() -> None:
    """Split, take, joined and shuffled rows are those of datasets' calls, row by row."""
    general, medical = numbered(1000, "general"), numbered(400, "medical")
    rows, _ = mix(tutorial(general, medical), Mix(seed=42))
    own = datasets_own(general, medical)
    assert rows["train"][:] == own["train"][:]
    assert rows["holdout"][:] == own["holdout"][:]


@pytest.mark.shared
def test_the_tutorials_rows_are_datasets_own_on_real_data() -> None:
    """On the real general and medical rows too, every row stands where datasets' calls put it."""
    general, medical = shared_qa("ko_general"), shared_qa("ko_medical")
    rows, counts = mix(tutorial(general, medical), Mix(seed=42))
    own = datasets_own(general, medical)
    for side in ("train", "holdout"):
        assert list(rows[side]["row_id"]) == list(own[side]["row_id"])
        assert list(rows[side]["source"]) == list(own[side]["source"])
    assert counts.rows_in == counts.kept == len(own["train"]) + len(own["holdout"])


def test_the_seed_orders_the_rows() -> None:
    """Another seed gives the same rows in another order."""
    splits = tutorial(numbered(90, "general"), numbered(60, "medical"))
    first, second = (mix(splits, Mix(seed=seed))[0]["train"]["row_id"] for seed in (1, 2))
    assert list(first) != list(second)
    assert sorted(first) == sorted(second)


def test_a_source_that_is_not_trained_on_is_measured() -> None:
    """A retention source stands in the holdout and in no training row."""
    splits = {
        "medical": split(numbered(40), source("medical"), BY_ROW),
        "wiki": split(texts(f"문서 {n}" for n in range(20)), source("wiki", role="retention"), BY_ROW),
    }
    rows, _ = mix(splits, Mix())
    assert set(rows["train"]["source"]) == {"medical"}
    assert sorted(set(rows["holdout"]["source"])) == ["medical", "wiki"]


def test_no_holdout_at_all_gives_an_empty_one() -> None:
    """Without any held-out row, `holdout` is empty and keeps its columns."""
    rows, _ = mix({"medical": split(numbered(20), source("medical", holdout=0), BY_ROW)}, Mix())
    assert len(rows["holdout"]) == 0
    assert rows["holdout"].column_names == rows["train"].column_names


def test_nothing_to_train_on_is_an_error() -> None:
    """Sources that are only measured make no training set."""
    splits = {"wiki": split(numbered(20), source("wiki", role="retention"), BY_ROW)}
    with pytest.raises(SourceError, match="no training rows left"):
        mix(splits, Mix())


def rendered(tokens: Mapping[str, Sequence[int]]) -> dict[str, Splits]:
    """Sources whose training rows have these numbers of supervised tokens, with two held-out rows each."""
    splits = {}
    for name, counts in tokens.items():
        rows = numbered(len(counts) + 2, name).add_column("num_supervised", np.array([*counts, 5, 5], dtype=np.int32))
        splits[name] = Splits(
            train=rows.select(range(len(counts))),
            holdout=rows.select(range(len(counts), len(counts) + 2)),
            counts=Counts(stage="split", source=name, rows_in=len(rows), kept=len(rows)),
        )
    return splits


def supervised(rows: Dataset) -> dict[str, int]:
    """Supervised tokens of each source."""
    totals: dict[str, int] = {}
    for name, count in zip(rows["source"], rows["num_supervised"], strict=True):
        totals[name] = totals.get(name, 0) + count
    return totals


@pytest.mark.parametrize("medical_share", [0.01, 0.3, 0.7, 0.95])
def test_shares_are_met_within_one_row(medical_share: float) -> None:
    """Each source has its share of the unchanged total of supervised tokens, to within its longest row."""
    draw = np.random.default_rng(0)
    tokens = {"general": draw.integers(10, 90, 300).tolist(), "medical": draw.integers(10, 400, 50).tolist()}
    total = sum(map(sum, tokens.values()))
    shares = {"medical": medical_share, "general": 1 - medical_share}
    rows, _ = mix(rendered(tokens), Mix(shares=shares))
    for name, found in supervised(rows["train"]).items():
        assert abs(found - shares[name] * total) <= max(tokens[name])


def test_a_source_is_repeated_whole_before_a_row_comes_once_more() -> None:
    """No row of a repeated source stands more than one time more often than another, and the copies are counted."""
    splits = rendered({"general": [10] * 100, "medical": [10] * 20})
    rows, counts = mix(splits, Mix(shares={"general": 0.5, "medical": 0.5}))
    times = [list(rows["train"]["row_id"]).count(row_id) for row_id in splits["medical"].train["row_id"]]
    assert sum(times) == 60
    assert set(times) == {3}
    assert counts.changed == {"medical: repeated to its share": 40}
    assert counts.dropped == {"general: thinned to its share": 40}
    assert (counts.rows_in, counts.kept) == (124, 84)
    rows, _ = mix(splits, Mix(shares={"general": 0.4, "medical": 0.6}))
    times = [list(rows["train"]["row_id"]).count(row_id) for row_id in splits["medical"].train["row_id"]]
    assert (sum(times), set(times)) == (72, {3, 4})


def test_the_holdout_is_neither_thinned_nor_repeated() -> None:
    """Shares change training rows only."""
    rows, _ = mix(rendered({"general": [10] * 100, "medical": [10] * 20}), Mix(shares={"general": 0.1, "medical": 0.9}))
    assert sorted(rows["holdout"]["source"]) == ["general", "general", "medical", "medical"]


def test_shares_are_told_and_taken_as_weights() -> None:
    """Shares that do not sum up to one count in proportion, and the remarks say what came of them."""
    splits = rendered({"general": [10] * 100, "medical": [10] * 20})
    rows, counts = mix(splits, Mix(shares={"general": 1, "medical": 3}))
    assert supervised(rows["train"]) == {"general": 300, "medical": 900}
    assert counts.remarks[1] == "medical: 90 examples, 900 supervised tokens, 75.0% of all (asked for 75.0%)"


def test_mixing_with_shares_is_repeatable() -> None:
    """The same splits and seed give the same rows in the same order; another seed thins to other rows."""
    splits = rendered({"general": list(range(5, 105)), "medical": [10] * 20})
    first, again, other = (
        mix(splits, Mix(seed=seed, shares={"general": 0.3, "medical": 0.7}))[0]["train"] for seed in (1, 1, 2)
    )
    assert list(first["row_id"]) == list(again["row_id"])
    assert set(first["row_id"]) != set(other["row_id"])


@pytest.mark.parametrize(("share", "rows_taken"), [(0.14, 1), (0.16, 2)])
def test_the_nearest_number_of_rows_is_taken(share: float, rows_taken: int) -> None:
    """A share between two numbers of rows takes the nearer one."""
    rows, _ = mix(
        rendered({"general": [5] * 10, "medical": [10] * 5}), Mix(shares={"general": 1 - share, "medical": share})
    )
    assert list(rows["train"]["source"]).count("medical") == rows_taken


def test_a_tiny_share_keeps_one_row() -> None:
    """A source with a share is never left out."""
    rows, _ = mix(rendered({"general": [10] * 10, "medical": [500] * 3}), Mix(shares={"general": 1, "medical": 0.001}))
    assert list(rows["train"]["source"]).count("medical") == 1


def test_a_source_without_supervised_tokens_cannot_fill_a_share() -> None:
    """A share of a source with nothing to learn from is an error that names it."""
    with pytest.raises(SourceError, match="source medical: holds no supervised token"):
        mix(rendered({"general": [10] * 10, "medical": [0] * 3}), Mix(shares={"general": 0.5, "medical": 0.5}))
