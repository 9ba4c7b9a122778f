"""data/audit.py: what the rows say before training."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from datasets import Dataset

from qa_rows import data_set, numbered, qa, row, shared_qa, texts
from seodang.check.audit import audit
from seodang.data.split import Splits, split
from seodang.recipe import Source, Split
from seodang.types import Counts, Finding

BY_ROW = Split(by="row")


def splits_of(train: Dataset, holdout: Dataset | None = None) -> Splits:
    """A source with these splits."""
    return Splits(
        train=train,
        holdout=train.select([]) if holdout is None else holdout,
        counts=Counts(stage="split", source="medical", rows_in=len(train), kept=len(train)),
    )


def plain(count: int = 60, source: str = "의료") -> list[tuple[str, str]]:
    return [(f"{source} 질문 {number}", f"답 {number}") for number in range(count)]


def found(train: Dataset, holdout: Dataset | None = None) -> dict[str, Finding]:
    findings = audit({"medical": splits_of(train, holdout)}, BY_ROW)
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def test_good_rows_have_no_finding() -> None:
    """Different questions with different answers in one language say nothing."""
    assert audit({"medical": splits_of(qa(plain()), qa(plain(10, "따로"), "held"))}, BY_ROW) == []


def test_copies_are_counted_without_their_first() -> None:
    """Three equal rows are two copies, named by place, also across the two splits."""
    twice = found(qa([*plain(), ("또?", "네"), ("또?", "네")]), qa([("또?", "네")], "held"))
    assert twice["duplicate_rows"].what.startswith("exact copies of another row: 2 of 63 rows")
    assert twice["duplicate_rows"].rows == ("medical.jsonl:62", "held.jsonl:1")
    assert "conflicting_answers" not in twice


def test_one_question_with_two_answers_is_a_conflict() -> None:
    """The same question, whatever its case and blanks, with different answers is told with both places."""
    twice = [("What  is it?", "A cold."), ("언제?", "지금"), ("what is it?", "The flu."), ("언제?", "나중")]
    finding = found(qa([*plain(), *twice]))["conflicting_answers"]
    assert finding.what == "questions with more than one answer: 2"
    assert finding.rows == tuple(f"medical.jsonl:{number}" for number in (61, 63, 62, 64))


def test_equal_answers_are_no_conflict() -> None:
    """Answers that differ in white space alone do not contradict each other."""
    assert "conflicting_answers" not in found(qa([*plain(), ("What is it?", "A cold."), ("what is it?", "A  cold.\n")]))


@pytest.mark.parametrize(
    "conversations",
    [
        ([("system", "be brief"), ("user", "hi"), ("assistant", "yo")], [("user", "hi"), ("assistant", "good day")]),
        (
            [("user", "hi"), ("assistant", "yo"), ("user", "?"), ("assistant", "!")],
            [("user", "hi"), ("assistant", "good day"), ("user", "?"), ("assistant", "!")],
        ),
    ],
)
def test_other_system_texts_and_longer_talks_are_no_conflict(
    conversations: Sequence[list[tuple[str, str]]],
) -> None:
    """The same first question may be answered differently under another system text, or in a longer conversation."""
    rows = [row(number, turns, "medical") for number, turns in enumerate(conversations, 1)]
    assert "conflicting_answers" not in found(data_set([*qa(plain()), *rows]))


def test_the_same_system_text_makes_a_conflict() -> None:
    """Two answers to one question under one system text contradict each other."""
    turns = [("system", "be brief"), ("user", "hi")]
    rows = [row(number, [*turns, ("assistant", answer)], "medical") for number, answer in enumerate(("yo", "no"), 1)]
    assert "conflicting_answers" in found(data_set([*qa(plain()), *rows]))


def test_an_answer_that_repeats_its_question_is_an_echo() -> None:
    """An answer equal to the question but for case and blanks is told with its place."""
    finding = found(qa([*plain(), ("Is it a cold?", " is it  a cold?")]))["echoed_question"]
    assert finding.what == "rows whose answer is the question itself: 1"
    assert finding.rows == ("medical.jsonl:61",)


def test_few_rows_are_warned_of() -> None:
    """Below fifty rows to train on, or to measure a source with that is not trained on."""
    assert "rows to train on: only 49;" in found(qa(plain(49)), numbered(90, "held"))["few_rows"].what
    assert "few_rows" not in found(qa(plain(50)))
    empty = numbered(1).select([])
    assert (
        "rows to measure with: only 30;"
        in found(empty, texts(f"문서 {number}" for number in range(30)))["few_rows"].what
    )


def test_a_holdout_too_small_for_an_interval_is_warned_of() -> None:
    """With the size from which intervals are shown; a source that is only measured gets one warning of its few rows."""
    train, empty = qa(plain()), numbered(1).select([])
    for held_out, warned in ((0, False), (9, True), (12, False)):
        splits = splits_of(train, qa(plain(held_out, "따로"), "held") if held_out else None)
        findings = [one.what for one in audit({"med": splits}, BY_ROW, fewest_held_out=12.0)]
        assert findings == (["9 held-out rows; no interval is shown under 12"] if warned else [])
    measured = splits_of(empty, texts(f"문서 {number}" for number in range(1)))
    (finding,) = audit({"text": measured}, BY_ROW, fewest_held_out=12.0)
    assert finding.where == "source text"
    assert finding.what == "1 held-out row; no interval is shown under 12"


def test_few_rows_of_several_sources_are_one_finding() -> None:
    """As three sources of a quick try would else give three times the same advice; each count is named."""
    train = qa(plain(60))
    splits = {name: splits_of(train, qa(plain(count, name), name)) for name, count in (("a", 10), ("b", 12), ("c", 6))}
    (finding,) = audit(splits, BY_ROW, fewest_held_out=12.0)
    assert (finding.check, finding.where) == ("few_held_out", "sources a, c")
    assert finding.what == "10, 6 held-out rows; no interval is shown under 12"
    few = {name: splits_of(qa(plain(count, name))) for name, count in (("a", 20), ("b", 49), ("c", 50))}
    (finding,) = audit(few, BY_ROW, fewest_held_out=12.0)
    assert (finding.check, finding.where) == ("few_rows", "sources a, b")
    assert finding.what.startswith("rows to train on: only 20, 49;")


def test_a_second_language_is_noted() -> None:
    """Rows mainly in another script are noted with their share; foreign terms in Korean rows are not counted."""
    korean = [(f"MRI, CT, PET 중 무엇 {number}번?", "MRI와 CT입니다.") for number in range(90)]
    english = [(f"What is test {number}?", "It shows soft tissue.") for number in range(10)]
    finding = found(qa(korean + english))["mixed_languages"]
    assert finding.severity == "note"
    assert finding.what == "90% of the rows are mainly in Hangul, 10% mainly in Latin script"
    assert finding.rows[0] == "medical.jsonl:91"
    assert "mixed_languages" not in found(qa(korean))
    assert "mixed_languages" not in found(qa(english * 6))


def test_languages_are_read_from_contents_alone() -> None:
    """A conversation's rendered text, with its Latin markers, does not count."""
    text = "<start_of_turn>user " * 20
    rows = data_set({**row, "text": text if row["row"] <= 30 else None} for row in qa(plain()))
    assert audit({"medical": splits_of(rows)}, BY_ROW) == []


def test_plain_texts_are_audited_too() -> None:
    """Copies and languages of plain text rows are found; they have no answers to contradict."""
    checks = found(texts([*(f"한국어 문서 {number}" for number in range(60)), "same text", "same text"]))
    assert sorted(checks) == ["duplicate_rows", "mixed_languages"]


def test_a_question_on_both_sides_is_a_leak() -> None:
    """Held-out rows whose question is trained on, in the same source or another, are counted with their places."""
    medical = splits_of(qa(plain()), qa([("의료 질문 3", "다른 답"), ("새 질문", "답")], "held"))
    general = splits_of(qa([*plain(60, "일반"), ("새 질문", "또 답")], "general"))
    leaks = [
        finding for finding in audit({"medical": medical, "general": general}, BY_ROW) if finding.check == "split_leak"
    ]
    assert [finding.where for finding in leaks] == ["source medical"]
    assert leaks[0].what.startswith("holdout rows whose question is trained on too: 2 of 2 (in medical, general;")
    assert leaks[0].rows == ("held.jsonl:1", "held.jsonl:2")


def test_a_question_in_another_spelling_is_a_leak() -> None:
    """Blanks and punctuation make no other question, numbers do; the same question is reported once, as itself."""
    asked = ["이 약의 효능은?", "감기 약은 언제 먹나요", "15 mg인가요?", "또?"]
    held = qa(
        [(question, "네") for question in ["이 약의 효능은", "감기약은 언제 먹나요?!", "1.5 mg인가요?", "또?"]], "held"
    )
    findings = found(qa([*plain(), *((question, "네") for question in asked)]), held)
    assert findings["spelling_leak"].what.partition(" (")[0].endswith("with other blanks or punctuation: 2 of 4")
    assert findings["spelling_leak"].rows == ("held.jsonl:1", "held.jsonl:2")
    assert findings["split_leak"].rows == ("held.jsonl:4",)


@pytest.mark.parametrize(("by", "leaks"), [("row", True), ("question", False)])
def test_only_a_split_by_row_leaks(by: str, leaks: bool) -> None:
    """Repeated questions leak when rows are split, and never when questions are."""
    source = Source(name="medical", role="domain", path=("medical.jsonl",), holdout=0.2)
    both = split(numbered(300, questions=100), source, Split(by=by))
    findings = audit({"medical": both}, Split(by=by))
    assert ("split_leak" in {finding.check for finding in findings}) is leaks


def test_leaks_among_many_sources_are_counted_once_and_named_for_each() -> None:
    """A holdout row that two sources train on is one row; every source with such a row is named, and no other."""
    names = [f"s{number}" for number in range(8)]
    trained = {name: [*plain(60, name), (f"자료 {name}?", "답")] for name in names}
    trained["s3"] += [("겹침 1?", "답"), ("겹침, 2", "답")]
    trained["s5"] += [("겹침 1?", "다른 답"), ("겹침 3?", "답")]
    held = {"s0": [("겹침 1?", "답"), ("겹침 2", "답"), ("겹침 3?", "답"), ("따로", "답")], "s7": [("겹침 3?", "답")]}
    sources = {name: splits_of(qa(trained[name]), qa(held[name], "held") if name in held else None) for name in names}
    leaks = [one for one in audit(sources, BY_ROW) if one.check in ("split_leak", "spelling_leak")]
    assert [(one.where, one.check, one.what.split(": ")[1].split(";")[0], one.rows) for one in leaks] == [
        ("source s0", "split_leak", "2 of 4 (in s3, s5", ("held.jsonl:1", "held.jsonl:3")),
        ("source s0", "spelling_leak", "1 of 4 (in s3)", ("held.jsonl:2",)),
        ("source s7", "split_leak", "1 of 1 (in s5", ("held.jsonl:1",)),
    ]


def test_a_turn_of_both_splits_is_a_leak() -> None:
    """A question with its answer leaks whichever turn it is, also where no opening question does."""
    asked = [("user", "감기약은 언제 먹나요?"), ("assistant", "식후에 드세요.")]
    before = [("user", "두통이 있어요."), ("assistant", "쉬세요.")]
    other = [("user", "감기약은 언제 먹나요?"), ("assistant", "아침에 드세요.")]
    held = data_set([row(1, before + asked, "held"), row(2, [("user", "다른 것?"), ("assistant", "답")], "held")])
    leaks = {
        name: found(qa([*plain(), ("감기약은 언제 먹나요?", answer)]), held).get("turn_leak")
        for name, answer in (("same", "식후에 드세요."), ("other", "아침에 드세요."))
    }
    assert leaks["other"] is None
    assert leaks["same"] is not None
    assert leaks["same"].what.partition(" (")[0].endswith("trained as a turn of another row: 1 of 2")
    assert leaks["same"].rows == ("held.jsonl:1",)
    later = found(data_set([row(1, before + asked, "train")]), data_set([row(1, other + asked, "held")]))
    assert later["turn_leak"].rows == ("held.jsonl:1",)


def test_findings_of_the_split_are_among_those_of_the_audit() -> None:
    """What the split had to report is in the one list of findings."""
    finding = Finding(check="large_group", severity="warn", where="source medical", what="large")
    splits = replace(splits_of(qa(plain())), findings=(finding,))
    assert finding in audit({"medical": splits}, BY_ROW)


@pytest.mark.shared
def test_findings_of_real_rows_agree_with_a_plain_count() -> None:
    """On real rows, the number of questions with several answers is what counting in Python gives."""
    rows = shared_qa("ko_general", 3000)
    answers: dict[str, set[str]] = {}
    for key, messages in zip(rows["question_key"], rows["messages"], strict=True):
        answers.setdefault(key, set()).add(" ".join(messages[1]["content"].split()))
    several = sum(len(different) > 1 for different in answers.values())
    assert several > 0
    assert found(rows)["conflicting_answers"].what == f"questions with more than one answer: {several:,}"
