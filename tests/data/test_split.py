"""data/split.py: holdout, take, and separation across sources."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from qa_rows import data_set, numbered, qa, row, shared_qa, texts
from seodang.data.split import Splits, separate, split
from seodang.errors import SourceError
from seodang.recipe import Source, Split

BY_ROW = Split(by="row")
BY_QUESTION = Split()
BY_GROUP = Split(by="patient")


def source(**keys: Any) -> Source:
    return Source(**{"name": "medical", "role": "domain", "path": ("medical.jsonl",), **keys})


def ids(rows: Dataset) -> list[str]:
    return list(rows["row_id"])


def questions_of(splits: Splits) -> dict[str, set[str]]:
    return {"train": set(splits.train["question_key"]), "holdout": set(splits.holdout["question_key"])}


@pytest.mark.parametrize("count", [20, 101, 1000])
@pytest.mark.parametrize("holdout", [0.05, 0.33, 1, 7])
def test_by_row_is_datasets_own_split(count: int, holdout: float) -> None:
    """By row, both splits hold the rows of train_test_split(test_size, seed=42), in that order."""
    rows = numbered(count)
    splits = split(rows, source(holdout=holdout), BY_ROW)
    own = rows.train_test_split(test_size=holdout, seed=42)
    assert splits.train[:] == own["train"][:]
    assert splits.holdout[:] == own["test"][:]


def test_texts_are_not_called_questions() -> None:
    """What is said of a source of plain text names texts; of questions, questions; of a column, the column."""
    raw = texts([f"글 {n}" for n in range(40)])
    assert split(raw, source(holdout=4), BY_QUESTION).counts.remarks == ("36 rows to train on, 4 held out by text",)
    assert split(raw, source(holdout=4), BY_ROW).counts.remarks == ("36 rows to train on, 4 held out by row",)
    asked = split(numbered(40), source(holdout=4), BY_QUESTION)
    assert asked.counts.remarks == ("36 rows to train on, 4 held out by question",)
    with pytest.raises(SourceError, match="but each text has at least 10"):
        split(texts(["같은 글"] * 10 + ["다른 글"] * 10), source(holdout=4), BY_QUESTION)


@pytest.mark.parametrize("shard", [1, 2, 3])
def test_a_shard_is_datasets_own_shard(shard: int) -> None:
    """`take: 2/3` is .shard(num_shards=3, index=1) of the training rows."""
    rows = numbered(100)
    splits = split(rows, source(holdout=0.05, take=f"{shard}/3"), BY_ROW)
    own = rows.train_test_split(test_size=0.05, seed=42)["train"].shard(3, shard - 1)
    assert ids(splits.train) == ids(own)


@pytest.mark.shared
def test_by_row_is_datasets_own_split_on_real_rows() -> None:
    """On real rows too, the default holdout and seed give train_test_split(test_size=0.05, seed=42)."""
    rows = shared_qa("ko_medical")
    splits = split(rows, source(), BY_ROW)
    own = rows.train_test_split(test_size=0.05, seed=42)
    assert ids(splits.train) == ids(own["train"])
    assert ids(splits.holdout) == ids(own["test"])


def test_a_question_stays_on_one_side() -> None:
    """Rows that ask the same question are held out together."""
    splits = split(numbered(600, questions=200), source(holdout=0.2), BY_QUESTION)
    found = questions_of(splits)
    assert found["train"].isdisjoint(found["holdout"])
    assert len(splits.holdout) == 3 * len(found["holdout"])


def test_the_share_is_about_kept() -> None:
    """A share of many questions is held out within three standard deviations."""
    splits = split(numbered(4000), source(holdout=0.05), BY_QUESTION)
    assert abs(len(splits.holdout) - 200) < 3 * np.sqrt(4000 * 0.05 * 0.95)


@pytest.mark.parametrize("holdout", [0.1, 40])
def test_sides_survive_reordering(holdout: float) -> None:
    """Shuffled rows are held out as the same set, for a share and for a number of rows."""
    rows = numbered(400)
    before = questions_of(split(rows, source(holdout=holdout), BY_QUESTION))
    after = questions_of(split(rows.shuffle(seed=7), source(holdout=holdout), BY_QUESTION))
    assert before == after


def test_sides_survive_added_rows() -> None:
    """Added questions move none of the old ones to the other split."""
    old, new = numbered(300), numbered(300, source="more")
    before = questions_of(split(old, source(holdout=0.1), BY_QUESTION))
    after = questions_of(split(concatenate_datasets([new, old]), source(holdout=0.1), BY_QUESTION))
    assert before["holdout"] <= after["holdout"]
    assert before["train"] <= after["train"]


@pytest.mark.parametrize(("smaller", "larger"), [(0.05, 0.2), (10, 50)])
def test_a_smaller_holdout_lies_inside_a_larger_one(smaller: float, larger: float) -> None:
    """With one seed, what a smaller holdout measures is never trained on under a larger one."""
    rows = numbered(400)
    inner = questions_of(split(rows, source(holdout=smaller), BY_QUESTION))
    outer = questions_of(split(rows, source(holdout=larger), BY_QUESTION))
    assert inner["holdout"] < outer["holdout"]


def test_another_seed_holds_out_other_questions() -> None:
    """The seed chooses the holdout."""
    rows = numbered(400)
    assert questions_of(split(rows, source(holdout=40), Split(seed=1))) != questions_of(
        split(rows, source(holdout=40), Split(seed=2))
    )


def test_rows_keep_their_order() -> None:
    """By question, both splits keep the order of the file."""
    splits = split(numbered(200), source(holdout=0.3), BY_QUESTION)
    assert list(splits.train["row"]) == sorted(splits.train["row"])
    assert list(splits.holdout["row"]) == sorted(splits.holdout["row"])


def test_a_number_of_rows_is_met_and_never_passed() -> None:
    """Single questions give exactly the number; questions of three rows stop before passing it."""
    assert len(split(numbered(100), source(holdout=17), BY_QUESTION).holdout) == 17
    assert len(split(numbered(99, questions=33), source(holdout=17), BY_QUESTION).holdout) == 15


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("large", "size"), [(600, 20), (600, 1), (30, 29), (2, 399)])
def test_questions_that_do_not_fit_are_passed_over(large: int, size: int, seed: int) -> None:
    """Wherever a greeting of many conversations falls, the number is met by the other questions."""
    rows = qa([("안녕하세요?", f"답 {n}") for n in range(large)] + [(f"질문 {n}", "답") for n in range(400)])
    splits = split(rows, source(holdout=size), Split(seed=seed))
    assert len(splits.holdout) == size
    assert len(splits.train) == len(rows) - size


@pytest.mark.parametrize("by", [BY_QUESTION, BY_GROUP])
def test_a_number_below_every_key_is_an_error(by: Split) -> None:
    """Nothing is held out above the number; the hint is a split by row."""
    rows = qa([(f"질문 {n % 3}", f"답 {n}") for n in range(99)], groups=[f"환자 {n % 3}" for n in range(99)])
    with pytest.raises(SourceError, match=f"asks for 5 rows, but each {by.by} has at least 33\n.*split: {{by: row}}"):
        split(rows, source(holdout=5), by)


def test_a_share_that_is_asked_for_is_not_empty() -> None:
    """One question is held out even if all lie above the share."""
    assert len(split(numbered(3), source(holdout=0.0001), BY_QUESTION).holdout) == 1


@pytest.mark.parametrize("holdout", [0.05, 0.9, 7])
def test_a_constant_question_is_split_by_row(holdout: float) -> None:
    """An instruction that all rows share, with the material elsewhere: the hint is a split by row."""
    rows = qa([("요약하세요.", f"요약 {n}") for n in range(50)])
    with pytest.raises(SourceError) as error:
        split(rows, source(holdout=holdout), BY_QUESTION)
    assert "split: {by: row}" in error.value.hint
    assert "fewer" not in error.value.hint


def test_many_questions_that_are_all_held_out_are_another_fault() -> None:
    """There, holding out fewer helps."""
    with pytest.raises(SourceError) as error:
        split(numbered(20), source(holdout=0.9999), BY_QUESTION)
    assert error.value.hint == "hold out fewer, take more, or give more rows"


def test_a_share_far_from_what_was_asked_is_a_finding() -> None:
    """Seeds that hold the large question out report it; its size is reported under every seed."""
    rows = qa([("안녕하세요?", f"답 {n}") for n in range(600)] + [(f"질문 {n}", "답") for n in range(400)])
    far = 0
    for seed in range(60):
        splits = split(rows, source(holdout=0.02), Split(seed=seed))
        checks = {finding.check: finding for finding in splits.findings}
        assert ("holdout_size" in checks) == (abs(len(splits.holdout) - 20) > 15)
        assert "one question has 600 of 1,000 rows" in checks["large_group"].what
        assert checks["large_group"].rows == tuple(f"medical.jsonl:{n}" for n in range(1, 6))
        far += len(splits.holdout) >= 600
    assert 0 < far < 10


@pytest.mark.parametrize("holdout", [0, 0.05, 0.3, 12])
def test_an_ordinary_split_has_no_finding(holdout: float) -> None:
    """Different questions, a few of them repeated."""
    for seed in range(20):
        assert split(numbered(300, questions=150), source(holdout=holdout), Split(seed=seed)).findings == ()


@pytest.mark.parametrize("by", [BY_ROW, BY_QUESTION])
def test_no_holdout_if_none_is_asked_for(by: Split) -> None:
    """`holdout: 0` leaves all rows to train on, in their order."""
    rows = numbered(20)
    splits = split(rows, source(holdout=0), by)
    assert len(splits.holdout) == 0
    assert ids(splits.train) == ids(rows)


def test_by_column_rows_with_one_value_stay_together() -> None:
    """A column's value goes to one split as a whole, whatever the questions are."""
    patients = [f"환자 {number % 40}" for number in range(400)]
    rows = qa(((f"질문 {number}", "답") for number in range(400)), groups=patients)
    splits = split(rows, source(holdout=0.2), BY_GROUP)
    assert set(splits.train["group"]).isdisjoint(splits.holdout["group"])
    assert len(splits.holdout) == 10 * len(set(splits.holdout["group"])) > 0


def test_a_row_without_the_columns_value_is_an_error() -> None:
    """A missing value is refused with the row's place: such rows would all be one group."""
    rows = qa([("a", "b"), ("c", "d"), ("e", "f")], groups=["1", None, "2"])
    with pytest.raises(SourceError, match=r"medical\.jsonl:2 .*no value for 'patient'"):
        split(rows, source(holdout=1), BY_GROUP)


@pytest.mark.parametrize("by", [BY_ROW, BY_QUESTION])
def test_all_rows_of_an_untrained_source_are_held_out(by: Split) -> None:
    """A retention source is measured with every row, in order, and trained on with none, also if it says how many."""
    rows = texts(f"문서 {number}" for number in range(30))
    for holdout in (None, 30):
        splits = split(rows, source(role="retention", holdout=holdout), by)
        assert ids(splits.holdout) == ids(rows)
        assert len(splits.train) == 0
        assert splits.counts.dropped == {}


@pytest.mark.parametrize("by", [BY_ROW, BY_QUESTION])
def test_an_untrained_source_with_a_holdout_drops_the_rest(by: Split) -> None:
    """Rows neither trained on nor held out are counted as dropped."""
    splits = split(numbered(100), source(train=False, holdout=10), by)
    assert (len(splits.train), len(splits.holdout)) == (0, 10)
    assert splits.counts.dropped == {"not trained": 90}


def test_a_fraction_takes_its_rows_in_order() -> None:
    """`take: 0.29` of a hundred rows is 29 rows, in the file's order, and a smaller fraction lies inside a larger."""
    taken = {share: split(numbered(100), source(holdout=0, take=share), BY_QUESTION) for share in (0.29, 0.5)}
    rows = list(taken[0.29].train["row"])
    assert len(rows) == 29
    assert rows == sorted(rows)
    assert set(rows) < set(taken[0.5].train["row"])
    assert taken[0.29].counts.dropped == {"take": 71}


def test_a_number_of_rows_is_taken_whatever_the_order() -> None:
    """`take: 30` takes the same 30 rows of shuffled data, and all where there are fewer."""
    rows = numbered(100)
    taken = set(ids(split(rows, source(holdout=0, take=30), BY_QUESTION).train))
    assert len(taken) == 30
    assert taken == set(ids(split(rows.shuffle(seed=3), source(holdout=0, take=30), BY_QUESTION).train))
    assert taken != set(ids(split(rows, source(holdout=0, take=30), Split(seed=1)).train))
    assert len(split(rows, source(holdout=0, take=500), BY_QUESTION).train) == 100


@pytest.mark.parametrize(
    ("keys", "by", "message"),
    [
        ({"holdout": 10}, BY_ROW, "holdout asks for 10 rows; the source has 10"),
        ({"holdout": 11}, BY_QUESTION, "holdout asks for 11 rows; the source has 10"),
        ({"holdout": 11, "train": False}, BY_ROW, "holdout asks for 11 rows; the source has 10"),
        ({"holdout": 0.99}, BY_ROW, r"no training rows left \(10 rows, 10 held out\)"),
        ({"holdout": 0.9999999}, BY_QUESTION, "no training rows left"),
        ({"holdout": 0, "take": "0.05"}, BY_ROW, r"no training rows left \(10 rows, 0 held out, take 0\.05\)"),
        ({"holdout": 0, "take": "12/12"}, BY_ROW, "no training rows left"),
    ],
)
def test_an_impossible_split_is_an_error(keys: dict[str, Any], by: Split, message: str) -> None:
    """A split that leaves nothing to train on names the source and what it asked for."""
    with pytest.raises(SourceError, match=f"source medical: {message}"):
        split(numbered(10), source(**keys), by)


def test_a_source_without_rows_is_an_error() -> None:
    """No rows cannot be split."""
    with pytest.raises(SourceError, match="has no rows"):
        split(numbered(2).select([]), source(), BY_QUESTION)


@pytest.mark.parametrize("by", [BY_ROW, BY_QUESTION])
@pytest.mark.parametrize("keys", [{}, {"take": "1/3"}, {"take": 20}, {"train": False, "holdout": 0.5}])
def test_every_row_is_counted(by: Split, keys: dict[str, Any]) -> None:
    """Rows in are rows kept plus rows dropped, and the kept ones are those of the two splits."""
    splits = split(numbered(100, questions=50), source(**keys), by)
    assert splits.counts.rows_in == 100 == splits.counts.kept + sum(splits.counts.dropped.values())
    assert splits.counts.kept == len(splits.train) + len(splits.holdout)


def two_sources(by: Split = BY_QUESTION) -> dict[str, Splits]:
    """A general source that shares half its questions with a medical one, held out in different shares."""
    general = qa(
        [(f"일반 {number}", "답") for number in range(100)] + [(f"의료 {number}", "다른 답") for number in range(100)],
        "general",
    )
    medical = qa([(f"의료 {number}", "답") for number in range(200)])
    return {
        "general": split(general, source(name="general", role="general", holdout=0.1), by),
        "medical": split(medical, source(holdout=0.3), by),
    }


def test_no_question_leaks_across_sources() -> None:
    """After separation, no question that any source holds out is trained on in any source."""
    splits, counts = separate(two_sources(), BY_QUESTION)
    held = set().union(*(questions_of(one)["holdout"] for one in splits.values()))
    trained = set().union(*(questions_of(one)["train"] for one in splits.values()))
    assert held.isdisjoint(trained)
    assert all(len(one.holdout) == len(two_sources()[name].holdout) for name, one in splits.items())
    assert [one.source for one in counts] == ["general", "medical"]


def test_separated_rows_are_counted_and_named() -> None:
    """A row that is taken away is counted under the source that holds its question out, and noted by place."""
    before = two_sources()
    splits, (general, medical) = separate(before, BY_QUESTION)
    lost = len(before["general"].train) - len(splits["general"].train)
    assert general.dropped == {"question is in the holdout of medical": lost}
    assert lost > 0
    assert len(general.notes) == lost
    kept = set(splits["general"].train["row"])
    assert not kept & {int(note.where.removeprefix("general.jsonl:")) for note in general.notes}
    assert medical.dropped == {}  # a smaller share of the same questions lies inside the larger one
    assert general.kept == general.rows_in - lost == len(splits["general"].train) + len(splits["general"].holdout)


def test_a_retention_source_holds_its_rows_back_from_training() -> None:
    """What a source that is never trained on asks is taken out of every training one."""
    before = two_sources()
    probe = split(qa([("일반 3", "답"), ("의료 150", "답")], "probe"), source(name="probe", train=False), BY_QUESTION)
    splits, _ = separate({**before, "probe": probe}, BY_QUESTION)
    for one in (splits["general"], splits["medical"]):
        assert set(probe.holdout["question_key"]).isdisjoint(one.train["question_key"])


def test_a_row_that_two_sources_hold_out_is_counted_once() -> None:
    """What several holdouts ask is dropped, and counted, for the first of them."""
    held = [source(name=name, train=False) for name in ("first", "second")]
    probes = {probe.name: split(qa([("의료 150", "답")], probe.name), probe, BY_QUESTION) for probe in held}
    medical = split(qa([(f"의료 {number}", "답") for number in range(200)]), source(holdout=0), BY_QUESTION)
    splits, counts = separate({"medical": medical, **probes}, BY_QUESTION)
    assert counts[0].dropped == {"question is in the holdout of first": 1}
    assert len(splits["medical"].train) == counts[0].kept == 199


def talk(*turns: str) -> list[tuple[str, str]]:
    """A conversation of questions and answers in turn."""
    return [("user" if number % 2 == 0 else "assistant", turn) for number, turn in enumerate(turns)]


@pytest.mark.parametrize("trained_in", ["same", "other"])
def test_a_held_out_question_is_not_trained_on_as_a_later_turn(trained_in: str) -> None:
    """A training row goes if one of its later turns is a held-out question with its answer, and is counted."""
    held = qa([("감기약은 언제 먹나요?", "식후에 드세요.")], "probe")
    talks = [
        talk("두통이 있어요.", "쉬세요.", " 감기약은 언제\u200b 먹나요？", "식후에  드세요."),
        talk("두통이 심해요.", "병원에 가세요.", "감기약은 언제 먹나요?", "아침에 드세요."),
        talk("열이 나요.", "물을 드세요.", "왜요?", "땀이 나서요."),
    ]
    rows = data_set([row(number, turns, "talks") for number, turns in enumerate(talks, start=1)])
    talks_splits = split(rows, source(name="talks", holdout=0), BY_QUESTION)
    probe = split(held, source(name="probe", train=False), BY_QUESTION)
    splits = {"talks": talks_splits, "probe": probe}
    if trained_in == "same":
        splits = {"talks": replace(talks_splits, holdout=held)}
    separated, counts = separate(splits, BY_QUESTION)
    assert separated["talks"].train["row"][:] == [2, 3]
    reason = f"a later turn is in the holdout of {'talks' if trained_in == 'same' else 'probe'}"
    assert counts[0].dropped == {reason: 1}
    assert [(note.where, note.reason) for note in counts[0].notes] == [("talks.jsonl:1", reason)]


def test_by_row_nothing_is_separated() -> None:
    """By row, the sources stay as datasets split them."""
    before = two_sources(BY_ROW)
    splits, counts = separate(before, BY_ROW)
    assert splits == before
    assert counts == []


def test_a_source_that_another_holds_out_entirely_is_an_error() -> None:
    """The same file given as training data and as retention leaves nothing to train on, and says so."""
    rows = numbered(60)
    splits = {
        "medical": split(rows, source(), BY_QUESTION),
        "again": split(rows, source(name="again", role="retention"), BY_QUESTION),
    }
    with pytest.raises(SourceError, match=r"source medical: each of its .* another source holds out"):
        separate(splits, BY_QUESTION)


@pytest.mark.shared
def test_no_question_leaks_on_real_rows() -> None:
    """Real rows that ask the same in two sources stay in one split after separation."""
    rows = shared_qa("ko_general", 4000)
    halves = {
        "first": split(rows.select(range(2500)), source(name="first"), BY_QUESTION),
        "second": split(rows.select(range(1500, 4000)), source(name="second", holdout=0.2), BY_QUESTION),
    }
    splits, counts = separate(halves, BY_QUESTION)
    held = set().union(*(questions_of(one)["holdout"] for one in splits.values()))
    trained = set().union(*(questions_of(one)["train"] for one in splits.values()))
    assert held.isdisjoint(trained)
    assert sum(counts[0].dropped.values()) > 0
