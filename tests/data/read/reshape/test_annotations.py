"""Exports of annotation tools: what annotators wrote is the answer, and nothing that they discarded is trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.errors import SourceError
from seodang.recipe import Source
from seodang.types import Counts

Q, A, OTHER = "두통이 오면 어떻게 하나요?", "물을 마시고 쉬세요.", "진통제를 드세요."


def pairs(folder: Path, rows: Any, **keys: Any) -> tuple[list[list[str]], Counts]:
    """The texts of each conversation, and the counts."""
    (folder / "export.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    source = Source.model_validate({"name": "s", "role": "domain", "path": str(folder / "export.json"), **keys})
    table, counts = convert(read(source), source)
    rows = zip(table["messages"][:], table["text"][:], strict=True)
    return [[turn["content"] for turn in turns] or [text] for turns, text in rows], counts


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    """A task of Label Studio's JSON export."""
    return {"id": 1, "data": data, "annotations": list(annotations), "drafts": [], "predictions": [], "project": 3}


def annotation(*, was_cancelled: bool = False, **written: Any) -> dict[str, Any]:
    result = [
        {"from_name": name, "to_name": "q", "type": kind, "value": {"text" if kind == "textarea" else kind: value}}
        for name, (kind, value) in written.items()
    ]
    return {"id": 7, "completed_by": 1, "result": result, "was_cancelled": was_cancelled, "ground_truth": False}


def wrote(text: str, **more: Any) -> dict[str, Any]:
    return annotation(answer=("textarea", [text]), **more)


def test_each_annotation_of_label_studio_is_a_row_and_a_cancelled_one_is_dropped(tmp_path: Path) -> None:
    """As in its export JSON-MIN, which has a row for each annotation that was not cancelled."""
    rows = [task(wrote(A), wrote("모름", was_cancelled=True), wrote(OTHER), question=Q), task(question="감기는?")]
    found, counts = pairs(tmp_path, rows)
    assert found == [[Q, A], [Q, OTHER]]
    assert counts.dropped == {"marked as a bad answer (was_cancelled: true)": 1, "empty answer": 1}
    assert "Label Studio's records: a row for each annotator's answer" in counts.remarks[0]


def test_a_chat_that_was_annotated_in_label_studio_is_a_conversation(tmp_path: Path) -> None:
    """Its messages are results of their own, in order."""
    chat = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
    result = [
        {"from_name": "chat", "to_name": "chat", "type": "chatmessage", "value": {"chatmessage": turn}} for turn in chat
    ]
    rows = [task({"id": 1, "result": result, "was_cancelled": False}, scenario="두통")]
    assert pairs(tmp_path, rows)[0] == [[Q, A]]


def test_a_column_of_label_studio_is_named_as_any_other(tmp_path: Path) -> None:
    """Names that are not known are those of the data and of the labeling interface."""
    rows = [task(annotation(corrected=("textarea", [A]), quality=("choices", ["bad"])), text=Q)]
    with pytest.raises(SourceError, match=r"saw 'text' and gave 'corrected', 'quality'"):
        pairs(tmp_path, rows)
    assert pairs(tmp_path, rows, question="text", answer="corrected")[0] == [[Q, A]]


@pytest.mark.parametrize(
    "written", [{"quality": ("choices", ["bad"])}, {"corrected": ("textarea", [A])}, {"stars": ("rating", 2)}]
)
def test_answers_that_annotators_judged_are_not_trained_on_unasked(tmp_path: Path, written: dict[str, Any]) -> None:
    """The answer that was shown may be the wrong one; the recipe decides."""
    rows = [task(annotation(**written), question=Q, response=OTHER)]
    with pytest.raises(SourceError, match=r"saw 'question', 'response' and gave '\w+': it is not known"):
        pairs(tmp_path, rows)
    assert pairs(tmp_path, rows, question="question", answer="response")[0] == [[Q, OTHER]]


def test_a_conversation_with_an_annotated_answer_is_read_only_by_name(tmp_path: Path) -> None:
    """The answer continues the turns that were shown, or corrects the last of them."""
    talk = [{"role": "user", "content": Q}]
    with pytest.raises(SourceError, match=r"saw 'dialogue' and gave 'answer'"):
        pairs(tmp_path, [task(wrote(A), dialogue=talk)])
    assert pairs(tmp_path, [task(wrote(A), dialogue=talk)], question="dialogue", answer="answer")[0] == [[Q, A]]


def test_an_answer_written_under_the_name_of_the_one_shown_replaces_it(tmp_path: Path) -> None:
    """Where an annotator wrote none, the shown one is not trained on in its place."""
    rows = [task(wrote(A), question=Q, answer=OTHER), task(annotation(), question="감기는?", answer=OTHER)]
    found, counts = pairs(tmp_path, rows)
    assert found == [[Q, A]]
    assert counts.dropped == {"empty answer": 1}


ARGILLA_2 = {
    "id": "1",
    "question": Q,
    "answer.responses": [A, OTHER, "초안"],
    "answer.responses.users": ["u1", "u2", "u3"],
    "answer.responses.status": ["submitted", "discarded", "draft"],
    "answer.suggestion": "모델의 제안",
    "answer.suggestion.agent": "gpt",
}
ARGILLA_1 = {
    "question": Q,
    "answer": [
        {"user_id": "u1", "value": A, "status": "submitted"},
        {"user_id": "u2", "value": OTHER, "status": "discarded"},
        {"user_id": "u3", "value": "초안", "status": "draft"},
    ],
    "answer-suggestion": "모델의 제안",
    "external_id": None,
    "metadata": "{}",
}
COLUMNAR = ARGILLA_1 | {
    "answer": {
        "user_id": ["u1", "u2", "u3"],
        "value": [A, OTHER, "초안"],
        "status": ["submitted", "discarded", "draft"],
    }
}


@pytest.mark.parametrize("record", [ARGILLA_2, ARGILLA_1, COLUMNAR])
def test_submitted_responses_of_argilla_are_rows_of_their_own(tmp_path: Path, record: dict[str, Any]) -> None:
    """Those that were discarded or are drafts are dropped and counted; a model's suggestion is not an answer."""
    nobody = {name: None if isinstance(value, str) else [] for name, value in record.items()} | {"question": "감기는?"}
    found, counts = pairs(tmp_path, [record, nobody])
    assert found == [[Q, A]]
    marks = {f"marked as a bad answer (status: {status})": 1 for status in ("discarded", "draft")}
    assert counts.dropped == {**marks, "empty answer": 1}


def test_several_questions_of_argilla_are_joined_by_their_annotator(tmp_path: Path) -> None:
    """Question and answer that one annotator wrote stay together."""
    record = {
        "context": "두통",
        "question.responses": ["둘째 질문", "첫 질문"],
        "question.responses.users": ["u2", "u1"],
        "question.responses.status": ["submitted", "submitted"],
        "answer.responses": ["첫 답", "둘째 답"],
        "answer.responses.users": ["u1", "u2"],
        "answer.responses.status": ["submitted", "submitted"],
    }
    assert pairs(tmp_path, [record])[0] == [["두통\n\n둘째 질문", "둘째 답"], ["두통\n\n첫 질문", "첫 답"]]


@pytest.mark.parametrize(
    "responses",
    [
        {"answer": [{"value": A, "user_id": "u1"}]},
        [{"user_id": "u1", "values": {"answer": {"value": A}}, "status": "submitted"}],
    ],
)
def test_records_of_argilla_that_hide_discarded_answers_are_refused(tmp_path: Path, responses: Any) -> None:
    """`to_json` of Argilla 2 writes no status; the error names the export that does."""
    with pytest.raises(SourceError, match="does not show which answers were discarded") as refused:
        pairs(tmp_path, [{"id": "1", "fields": {"question": Q}, "responses": responses, "suggestions": {}}])
    assert "to_datasets()" in refused.value.hint


def test_the_labels_of_doccano_are_answers_only_if_the_recipe_says_so(tmp_path: Path) -> None:
    """Answers and classes look alike in its export; of several annotators' answers each is a row."""
    rows = [{"id": 1, "text": Q, "label": [A, OTHER], "Comments": []}, {"id": 2, "text": "감기는?", "label": []}]
    with pytest.raises(SourceError, match="answers or classes") as refused:
        pairs(tmp_path, rows)
    assert "`question: text` and `answer: label`" in refused.value.hint
    found, counts = pairs(tmp_path, rows, question="text", answer="label")
    assert found == [[Q, A], [Q, OTHER]]
    assert counts.dropped == {"empty answer": 1}
    assert pairs(tmp_path, rows, text="text")[0] == [[Q], ["감기는?"]]
    assert pairs(tmp_path, rows, role="retention")[0] == [[Q], ["감기는?"]]
