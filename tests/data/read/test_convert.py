"""Convert: rows of any format become messages or text with an identity; what cannot be used is counted."""

import hashlib
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Json, List, Value

from converted import convert_rows
from paths import SHARED
from seodang.data.prepare import gather
from seodang.data.read.clean import exchange_hash, question_hash
from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.errors import SourceError
from seodang.recipe import Source, Split

DATA = SHARED / "data"
CONVERSATION = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "반가워요."}]
QA = {"question": "감기는?", "answer": "쉬세요."}


def messages(folder: Path, row: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    table, _ = convert_rows(folder, [row, row], **keys)
    found: list[dict[str, Any]] = table[0]["messages"]
    return found


def error_of(folder: Path, rows: Any, **keys: Any) -> str:
    with pytest.raises(SourceError) as caught:
        convert_rows(folder, rows, **keys)
    assert "\n  → " in str(caught.value), "an error has a hint"
    return str(caught.value)


def question_and_answer(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_columns_and_identity(tmp_path: Path) -> None:
    """A row has the agreed columns; row_id is the hash of the canonical JSON of its messages."""
    table, counts = convert_rows(tmp_path, [QA, {**QA, "answer": "b"}])
    row = table[0]
    canonical = json.dumps(
        question_and_answer("감기는?", "쉬세요."), ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    assert row == {
        "row_id": hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest(),
        "source": "s",
        "role": "domain",
        "file": str(tmp_path / "d.jsonl"),
        "row": 1,
        "messages": question_and_answer("감기는?", "쉬세요."),
        "tools": None,
        "text": None,
        "question_key": hashlib.blake2b("감기는?".encode(), digest_size=8).hexdigest(),
        "exchange_keys": [exchange_hash(question_hash("감기는?"), "쉬세요.")],
        "group": None,
    }
    assert table.features["messages"] == List(Json())
    assert table[1]["row"] == 2
    assert table[1]["row_id"] != row["row_id"]
    assert (counts.stage, counts.source, counts.rows_in, counts.kept, counts.dropped) == ("convert", "s", 2, 2, {})


def test_the_same_content_has_the_same_identity_everywhere(tmp_path: Path) -> None:
    """File, format, column names and composition of Korean do not change what a row is."""
    ids = {
        table["row_id"][0]
        for table in (
            convert_rows(tmp_path, [QA] * 2)[0],
            convert_rows(tmp_path, [{"질문": "감기는?", "답변": unicodedata.normalize("NFD", "쉬세요.")}] * 2)[0],
            convert_rows(tmp_path, [{"messages": question_and_answer("감기는?", "쉬세요.")}] * 2)[0],
            convert_rows(tmp_path, "question,answer\n감기는?,쉬세요.\n", name="d.csv")[0],
        )
    }
    assert len(ids) == 1


def test_question_key_passes_over_case_blanks_and_composition(tmp_path: Path) -> None:
    """Spellings of one question share a key; another context makes another question."""
    questions = ["What IS  한글?", "what is\n한글?", unicodedata.normalize("NFD", " What is 한글? "), "What is 글?"]
    table, _ = convert_rows(tmp_path, [{"question": question, "answer": "a"} for question in questions])
    keys = table["question_key"][:]
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    table, _ = convert_rows(tmp_path, [{"question": "q", "context": context, "answer": "a"} for context in ("x", "y")])
    assert len(set(table["question_key"][:])) == 2


QA_NAMES = [
    ("question", "answer"), ("Question", "Answer"), ("질문", "답변"), ("q", "a"), ("Q", "A"), ("prompt", "response"),
    ("instruction", "response"), ("instruction", "output"), ("prompt", "completion"), ("query", "answer"),
    ("input", "output"), ("user input", "reply"), ("문의 내용", "답변 내용"), ("문", "답"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), QA_NAMES)
def test_usual_names_of_question_and_answer_are_known(tmp_path: Path, question: str, answer: str) -> None:
    """English and Korean names are known in any case, and other columns are reported as not used."""
    table, counts = convert_rows(tmp_path, [{"id": 1, question: "감기는?", answer: "쉬세요."}] * 2)
    assert table[0]["messages"] == question_and_answer("감기는?", "쉬세요.")
    assert f"question: {question}, answer: {answer}" in counts.remarks[0]
    assert "not used: id" in counts.remarks[0]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"info": {"q": "가?", "a": "나"}, "id": 1}, {"question": "info.q", "answer": "info.a"}),
        ({"head": "가", "body": "나", "a": "다", "id": 1}, {"question": ["head", "body"], "answer": "a"}),
    ],
)
def test_a_column_that_a_dotted_or_joined_name_reads_is_in_use(
    tmp_path: Path, row: dict[str, Any], keys: dict[str, Any]
) -> None:
    """Only columns that nothing is read from are reported as not used."""
    _, counts = convert_rows(tmp_path, [row] * 2, **keys)
    assert counts.remarks[0].endswith("not used: id")


def test_the_recipe_names_columns(tmp_path: Path) -> None:
    """Columns of any name are taken where the recipe names them, and then nothing else is."""
    row = {"Frage": "감기는?", "Antwort": "쉬세요.", "Kontext": "겨울.", "context": "x", "question": "y"}
    named = {"question": "Frage", "answer": "Antwort"}
    assert messages(tmp_path, row, **named) == question_and_answer("감기는?", "쉬세요.")
    assert messages(tmp_path, row, **named, context="Kontext") == question_and_answer("겨울.\n\n감기는?", "쉬세요.")
    assert messages(tmp_path, row, answer="Antwort") == question_and_answer("y", "쉬세요.")
    assert messages(tmp_path, {"q1": CONVERSATION}, messages="q1") == CONVERSATION


def test_a_column_name_is_found_in_any_unicode_composition(tmp_path: Path) -> None:
    """A recipe written on macOS may name columns decomposed, with blanks around: they look the same."""
    row = {"물어보기": "감기는?", "말하기": "쉬세요.", "환자": "7"}
    names = {
        key: f" {unicodedata.normalize('NFD', name)} "
        for key, name in {"question": "물어보기", "answer": "말하기"}.items()
    }
    assert messages(tmp_path, row, **names) == question_and_answer("감기는?", "쉬세요.")
    csv = "물어보기,말하기.\n감기는?,쉬세요.\n"
    named = {"question": names["question"], "answer": unicodedata.normalize("NFD", "말하기.")}
    table, _ = convert_rows(tmp_path, csv, name="d.csv", **named)
    assert table[0]["messages"] == question_and_answer("감기는?", "쉬세요.")
    assert Split(by=unicodedata.normalize("NFD", "환자")).by == "환자"


def test_context_stands_before_the_question_and_input_after_it(tmp_path: Path) -> None:
    """A context column comes first, alpaca's input last, each with a blank line; blank ones leave no trace."""
    assert messages(tmp_path, {**QA, "context": "글."}) == question_and_answer("글.\n\n감기는?", "쉬세요.")
    assert messages(tmp_path, {**QA, "context": ""}) == question_and_answer("감기는?", "쉬세요.")
    assert messages(tmp_path, {**QA, "context": None}) == question_and_answer("감기는?", "쉬세요.")
    alpaca = {"instruction": "옮겨라", "input": "cat", "output": "고양이", "text": "### Instruction …"}
    assert messages(tmp_path, alpaca) == question_and_answer("옮겨라\n\ncat", "고양이")
    assert messages(tmp_path, {**alpaca, "input": ""}) == question_and_answer("옮겨라", "고양이")


def test_a_system_column_becomes_the_system_turn(tmp_path: Path) -> None:
    """A system column is put first, unless it is blank or the conversation has its own."""
    table, counts = convert_rows(tmp_path, [{**QA, "system": system} for system in ("친절히.", None, " ")])
    assert [row[0]["role"] for row in table["messages"]] == ["system", "user", "user"]
    own = [{"role": "system", "content": "own"}, *CONVERSATION]
    table, counts = convert_rows(tmp_path, [{"messages": own, "system": "other"}] * 2)
    assert table[0]["messages"] == own
    assert counts.changed == {"system not used: the conversation has a system turn": 2}


def test_openai_conversations_keep_tools_and_reasoning(tmp_path: Path) -> None:
    """Null content beside tool calls, JSON arguments, tool turns, reasoning and definitions come through."""
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"z": 0.1234567890123, "a": "서울"}'},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    turns = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "찾자"},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": {"온도": 3}},
        {"role": "assistant", "content": "3도", "thinking": "음"},
    ]
    table, counts = convert_rows(tmp_path, [{"messages": turns, "tools": tools}] * 2)
    row = table[0]
    called = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": {"z": 0.1234567890123, "a": "서울"}},
    }
    assert row["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": None, "reasoning_content": "찾자", "tool_calls": [called]},
        {"role": "tool", "content": '{"온도": 3}', "tool_call_id": "c1", "name": "f"},
        {"role": "assistant", "content": "3도", "reasoning_content": "음"},
    ]
    arguments = row["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert list(arguments) == ["z", "a"], "the order of arguments is what the model will read"
    assert json.loads(row["tools"]) == tools
    assert counts.changed["role developer read as system"] == 2
    assert counts.changed["tool call arguments read as JSON"] == 2


def test_sharegpt_roles_are_mapped_and_counted(tmp_path: Path) -> None:
    """ShareGPT's names become ours, calls and observations included, and the report says so."""
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": '{"y": 2}'},
        {"from": "gpt", "value": "a"},
    ]
    tools = '[{"name": "f"}]'
    table, counts = convert_rows(
        tmp_path, [{"conversations": turns, "tools": tools}, {"conversations": turns, "tools": ""}]
    )
    assert table[0]["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": '{"y": 2}'},
        {"role": "assistant", "content": "a"},
    ]
    assert [json.loads(tools), None] == [json.loads(found) if found else None for found in table["tools"]]
    assert counts.remarks[0].startswith("read as sharegpt (messages: conversations, tools: tools)")
    assert counts.changed["role human read as user"] == counts.changed["role gpt read as assistant"] == 2


def test_prompt_and_completion_may_be_turns(tmp_path: Path) -> None:
    """Prompt and completion are read as texts or as lists of turns."""
    assert messages(tmp_path, {"prompt": "q", "completion": "a"}) == question_and_answer("q", "a")
    assert messages(tmp_path, {"prompt": CONVERSATION[:1], "completion": CONVERSATION[1:]}) == CONVERSATION


def test_turns_in_a_csv_cell_are_read(tmp_path: Path) -> None:
    """A cell that holds a conversation as JSON text is a conversation."""
    cell = json.dumps(CONVERSATION, ensure_ascii=False).replace('"', '""')
    table, _ = convert_rows(tmp_path, f'messages\n"{cell}"\n', name="d.csv")
    assert table[0]["messages"] == CONVERSATION


def test_plain_text_rows(tmp_path: Path) -> None:
    """Text rows have no messages; their identity and key come from the text; blank ones are dropped."""
    table, counts = convert_rows(tmp_path, [{"title": "t", "text": "글\r\n"}, {"title": "t", "text": " "}])
    assert table[0]["text"] == "글\n"
    assert table[0]["messages"] == []
    assert table[0]["row_id"] == hashlib.blake2b("글\n".encode(), digest_size=8).hexdigest()
    assert counts.dropped == {"empty text": 1}
    assert convert_rows(tmp_path, [{**QA, "text": "t"}] * 2)[0][0]["text"] is None, "a stray text column takes nothing"


def test_late_columns_are_not_missed(tmp_path: Path) -> None:
    """A known column that only the last of many rows has is used like any other."""
    table, counts = convert_rows(tmp_path, [QA] * 1500 + [{**QA, "system": "s", "odd": "o"}])
    assert table[1500]["messages"][0] == {"role": "system", "content": "s"}
    assert table[0]["messages"] == question_and_answer("감기는?", "쉬세요.")
    assert "not used: odd" in counts.remarks[0]


def test_text_is_cleaned_and_counted(tmp_path: Path) -> None:
    """Decomposed Korean, CRLF, U+0000 and half characters are corrected in any text, rows counted once each."""
    rows = [
        {"question": unicodedata.normalize("NFD", "감기는?"), "answer": unicodedata.normalize("NFD", "쉬세요.")},
        {"question": "a\r\nb\rc", "answer": "d\x00e"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"question": "a \\ud83d", "answer": "\\ud83d\\ude00"}\n'
    table, counts = convert_rows(tmp_path, text)
    assert table["messages"][:] == [
        question_and_answer("감기는?", "쉬세요."),
        question_and_answer("a\nb\nc", "de"),
        question_and_answer("a ", "😀"),
    ]
    assert counts.changed == {
        "text composed to NFC": 1,
        "CRLF line ends turned into LF": 1,
        "U+0000 removed": 1,
        "halves of characters (lone surrogates) removed": 1,
    }


def test_rows_without_question_or_answer_are_dropped_and_listed(tmp_path: Path) -> None:
    """Null, blank and missing cells drop the row under one reason each; "NA", "007" and 0 are answers."""
    rows = [{"question": "q", "answer": answer} for answer in ("NA", "007", 0, False, None, "", " \n")]
    table, counts = convert_rows(
        tmp_path, [*rows, {"question": "q"}, {"question": None, "answer": "a"}, {"answer": "a"}]
    )
    assert [row[1]["content"] for row in table["messages"]] == ["NA", "007", "0", "false"]
    assert counts.dropped == {"empty answer": 4, "empty question": 2}
    assert [note.where for note in counts.notes] == [f"{tmp_path / 'd.jsonl'}:{row}" for row in (5, 6, 7, 8, 9, 10)]
    assert all(len(note.row_id) == 16 for note in counts.notes)
    assert counts.rows_in == counts.kept + sum(counts.dropped.values())


CALL = {"function": {"name": "f", "arguments": "{}"}}
UNUSABLE_CONVERSATIONS: list[tuple[Any, str]] = [
    ([CONVERSATION[0]], "no assistant turn"),
    ([CONVERSATION[0], {"role": "assistant", "content": None}], "empty answer"),
    ([CONVERSATION[0], {"role": "assistant", "content": " "}, *CONVERSATION], "empty answer"),
    ([{"role": "user", "content": ""}, CONVERSATION[1]], "empty question"),
    ([{"role": "critic", "content": "x"}, *CONVERSATION], "unknown role"),
    ([{"role": "user", "content": [{"type": "image_url"}]}, CONVERSATION[1]], "content that is not text: image_url"),
    ([{"role": "user", "content": {"a": 1}}, CONVERSATION[1]], "the content of a turn is an object"),
    ([{"role": "user"}, CONVERSATION[1]], "a turn without role or content"),
    (["a", "b"], "a turn without role or content"),
    (
        [CONVERSATION[0], {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
        "a tool call without a name",
    ),
    ([CONVERSATION[0], {"from": "function_call", "value": "f(x)"}], "a tool call that cannot be read"),
    (
        [
            CONVERSATION[0],
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 2**70}}}]},
        ],
        "a whole number beyond 64 bits in a tool call",
    ),
    (None, "messages holds no list of turns"),
    ("hello", "messages holds no list of turns"),
    ([], "no assistant turn"),
]


@pytest.mark.parametrize(("turns", "reason"), UNUSABLE_CONVERSATIONS)
def test_conversations_that_cannot_be_used_are_dropped_with_the_reason(tmp_path: Path, turns: Any, reason: str) -> None:
    """A conversation is dropped as a whole, never in part, and the reason is counted."""
    table, counts = convert_rows(tmp_path, [{"messages": CONVERSATION}, {"messages": turns}])
    assert counts.dropped == {reason: 1}
    assert table["messages"][:] == [CONVERSATION]


def test_what_is_cut_or_noticed_is_reported(tmp_path: Path) -> None:
    """Turns after the last answer are cut; an answer that comes first, HTML and damaged text are remarked on."""
    rows = [
        [*CONVERSATION, CONVERSATION[0]],
        CONVERSATION[1:],
        question_and_answer("<p>a</p>", "b &nbsp; c"),
        question_and_answer("a\ufffd", "3 < 4 & 5 > 2"),
    ]
    table, counts = convert_rows(tmp_path, [{"messages": row} for row in rows])
    assert table["messages"][:] == [CONVERSATION, *rows[1:]]
    assert counts.changed == {"turns after the last answer cut": 1}
    assert counts.remarks[1:] == (
        "rows that start with an answer (kept): 1",
        "rows with HTML tags or entities (kept as they are): 1",
        "rows with U+FFFD, the mark of text damaged before (kept as it is): 1",
    )


def test_group_holds_the_column_that_splits(tmp_path: Path) -> None:
    """The column that `split.by` names goes into `group` as text, null where it is missing."""
    rows = [{**QA, "doc": 7}, {**QA, "doc": None}, QA]
    assert convert_rows(tmp_path, rows, "doc")[0]["group"][:] == ["7", None, None]
    assert convert_rows(tmp_path, rows, "row")[0]["group"][:] == [None] * 3
    message = error_of(tmp_path, rows, split_by="dok")
    assert "split.by: no column is named 'dok'; did you mean 'doc'?" in message


AMBIGUOUS = [
    {"question": "a", "prompt": "b", "answer": "c"},
    {"question": "a", "answer": "b", "response": "c"},
    {"messages": CONVERSATION, "question": "a", "answer": "b"},
    {"instruction": "a", "output": "b", "question": "c", "answer": "d"},
    {"chosen": CONVERSATION, "rejected": CONVERSATION},
    {"text": "a", "document": "b"},
    {"question": "a", "response": "b", "reference": "c"},
    {"prompt": "a", "completion": "b", "gold_response": "c"},
    {"instruction": "a", "input": "", "output": "b", "expected": "c"},
    {"question": "a", "answer": "b", "corrected answer": "c"},
    {"질문": "a", "답변": "b", "수정 답변": "c"},
]


@pytest.mark.parametrize("row", AMBIGUOUS)
def test_more_than_one_reading_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    """Where two readings are possible none is chosen; the message shows both and the keys that decide."""
    message = error_of(tmp_path, [row] * 2)
    assert "in more than one way: (" in message
    assert "name the columns in the recipe with `" in message


def test_the_reference_of_ragas_rows_is_the_answer(tmp_path: Path) -> None:
    """`response` is what the evaluated system answered; also where the recipe names the question alone."""
    row = {"user_input": "질문", "retrieved_contexts": ["문서"], "response": "시스템의 답", "reference": "바른 답"}
    for keys in ({}, {"question": "user_input"}):
        table, counts = convert_rows(tmp_path, [row], **keys)
        assert table["messages"][0][-1]["content"] == "바른 답"
        assert "not used: retrieved_contexts, response" in counts.remarks[-1]
    table, _ = convert_rows(tmp_path, [row], question="user_input", answer="response")
    assert table["messages"][0][-1]["content"] == "시스템의 답"


@pytest.mark.parametrize("other", ["reference", "prediction", "model_output", "generated", "baseline", "target"])
def test_a_column_beside_a_plain_answer_changes_nothing(tmp_path: Path, other: str) -> None:
    """A reference beside `answer` names where it is from; a prediction is not the answer."""
    table, _ = convert_rows(tmp_path, [{"question": "a", "answer": "b", other: "c"}])
    assert table["messages"][0][-1]["content"] == "b"


def test_a_reference_that_the_recipe_names_as_context_is_no_answer(tmp_path: Path) -> None:
    """What a column is to be read as is not read as another thing as well."""
    table, _ = convert_rows(tmp_path, [{"question": "a", "response": "b", "reference": "c"}], context="reference")
    assert [turn["content"] for turn in table["messages"][0]] == ["c\n\na", "b"]


def test_references_that_are_no_texts_are_no_answers(tmp_path: Path) -> None:
    """Lists of documents and nulls."""
    rows = [{"question": "a", "response": "b", "reference": ["문서 1", "문서 2"], "target": None}]
    table, _ = convert_rows(tmp_path, rows)
    assert table["messages"][0][-1]["content"] == "b"


UNREADABLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"prompt": "a", "id": 1}, {}, "no column is known to hold answers"),
    ({"question": "a", "text": "b"}, {}, "no column is known to hold answers"),
    ({"turns": ["a", "b"]}, {}, "cannot tell what the columns hold: turns"),
    ({"안녕": "a", "반가워": "b"}, {}, "if these names are data, add a header line"),
    (QA, {"question": "questoin"}, "question: no column is named 'questoin'; did you mean 'question'?"),
    (QA, {"context": "background"}, "context: no column is named 'background'"),
    (QA, {"format": "sharegpt"}, "as format: sharegpt"),
    (QA, {"format": "text", "question": "question"}, "format: text does not go with"),
    (QA, {"text": "answer", "question": "question"}, "columns of more than one reading"),
    ({"question": "a", "choices": ["x", "y"], "answer": 1}, {}, "multiple-choice rows"),
    ({"question": "a", "A": "x", "B": "y", "C": "z", "answer": "B"}, {}, "multiple-choice rows"),
    ({"question": "q", "answer": None}, {}, "none of the 2 rows can be used: 2 × empty answer"),
    ({"question": "q", "answer": {"text": ["x"]}}, {}, "answer holds an object, not text"),
]


@pytest.mark.parametrize(("row", "keys", "what"), UNREADABLE)
def test_sources_that_cannot_teach_are_refused(
    tmp_path: Path, row: dict[str, Any], keys: dict[str, Any], what: str
) -> None:
    """No answers, unknown columns, impossible formats, numbers of choices: one clear error with a hint."""
    assert what in error_of(tmp_path, [row] * 2, **keys)


def test_format_decides_where_names_allow_two_readings(tmp_path: Path) -> None:
    """`format:` picks one of the possible readings."""
    row = {"messages": CONVERSATION, "question": "a", "answer": "b", "text": "t"}
    assert messages(tmp_path, row, format="messages") == CONVERSATION
    assert messages(tmp_path, row, format="qa") == question_and_answer("a", "b")


def test_one_answer_in_a_list_is_taken(tmp_path: Path) -> None:
    """A list of one text is that text, and counted; a longer list drops the row."""
    rows = [{"question": "q", "answers": ["a"]}, {"question": "q", "answers": ["a", "b"]}]
    table, counts = convert_rows(tmp_path, rows)
    assert table["messages"][:] == [question_and_answer("q", "a")]
    assert counts.changed == {"answers: a list of one text taken as the text": 1}
    assert counts.dropped == {"answers holds a list, not text": 1}


def test_each_call_reads_the_file_again(tmp_path: Path) -> None:
    """A changed file gives changed rows: no stale cache, and an earlier result stays what it was."""
    first, _ = convert_rows(tmp_path, [QA] * 2)
    second, _ = convert_rows(tmp_path, [{**QA, "answer": "다른 답"}] * 2)
    assert first[0]["messages"] == question_and_answer("감기는?", "쉬세요.")
    assert second[0]["messages"] == question_and_answer("감기는?", "다른 답")
    assert first._fingerprint != second._fingerprint


def test_a_fault_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    """A row that breaks the reading ends in its error and no half-written file stays."""
    from datasets.fingerprint import get_temporary_cache_files_directory

    folder = Path(get_temporary_cache_files_directory())
    before = Counter(folder.iterdir())
    lines = (json.dumps(QA) + "\n") * 3000
    assert ":3001: broken JSON" in error_of(tmp_path, lines + '{"question": "a"')
    assert Counter(folder.iterdir()) == before


def test_many_rows_cross_batches_in_order(tmp_path: Path) -> None:
    """Rows of several batches come in their order, messages with the right row."""
    table, counts = convert_rows(tmp_path, [{"question": f"q{n}", "answer": f"a{n}"} for n in range(2500)])
    assert table["row"][:] == list(range(1, 2501))
    assert table[2400]["messages"] == question_and_answer("q2400", "a2400")
    assert counts.kept == len(table) == 2500


SHARED_FILES = {
    "ko_medical.jsonl": ("qa", 7036),
    "ko_general.jsonl": ("qa", 9596),
    "en_medical.jsonl": ("qa", 8185),
    "en_general.jsonl": ("qa", 10056),
    "en_general_gsm8k.jsonl": ("qa", 1300),
    "chat_multiturn.jsonl": ("messages", 1400),
    "chat_multiturn_ko_tools.jsonl": ("messages", 45),
    "chat_sharegpt_tools.json": ("sharegpt", 300),
    "cpt_en_medical.jsonl": ("text", 198),
    "cpt_ko_health_law.jsonl": ("text", 228),
    "cpt_ko_medical_drug.jsonl": ("text", 150),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED_FILES)
def test_real_data_is_read_whole(name: str) -> None:
    """Every row of the real data is kept, in the format that its columns say."""
    if not (DATA / name).is_file():
        pytest.skip("no real data beside the repository")
    kind, rows = SHARED_FILES[name]
    source = Source(name="s", role="domain", path=(str(DATA / name),))
    table, counts = convert(read(source), source)
    assert (len(table), counts.kept, counts.dropped) == (rows, rows, {})
    assert counts.remarks[0].startswith(f"read as {kind} (")
    assert any("context: context" in remark for remark in counts.remarks) is (name == "en_general.jsonl")


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["prompts_ifeval.jsonl", "prompts_mtbench.jsonl", "mc_ko_boolq.jsonl", "mc_en_piqa.jsonl"]
)
def test_real_prompts_and_choices_are_refused(name: str) -> None:
    """Prompts without answers and multiple-choice rows cannot be taken for training data."""
    if not (DATA / name).is_file():
        pytest.skip("no real data beside the repository")
    source = Source(name="s", role="domain", path=(str(DATA / name),))
    with pytest.raises(SourceError, match="→ "):
        convert(read(source), source)


def test_broken_characters_of_a_tool_call_are_removed(tmp_path: Path) -> None:
    """Half a character in an id, a name or an argument of a tool call cannot stop the pipeline."""
    function = {"name": "f\ud83d", "arguments": {"x": "\ud83d"}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "\ud83d1", "function": function}]},
        {"role": "tool", "tool_call_id": "\ud83d1", "name": "f\ud83d", "content": "y"},
        {"role": "assistant", "content": "a"},
    ]
    rows = json.dumps({"messages": turns}) + "\n"
    table, counts = convert_rows(tmp_path, rows * 2)
    _, called, reported, _ = table[0]["messages"]
    assert called["tool_calls"] == [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": ""}}}]
    assert (reported["tool_call_id"], reported["name"]) == ("1", "f")
    assert counts.changed == {"halves of characters (lone surrogates) removed": 2}


MEDIA_ROWS = {  # columns, and what is said of them
    "an image": ([{"image": "a.png"}, {"image": ""}, {"image": "b.png"}], "image (2 rows)"),
    "as datasets stores it": ([{"image": {"bytes": None, "path": "a.png"}}, {"image": None}], "image (1 row)"),
    "a list and a sound": ([{"images": ["a.png"], "음성": "b"}, {"images": []}], "images (1 row), 음성 (1 row)"),
    "a file by its name": ([{"file": "scan/1.JPG"}, {"file": "notes.txt"}], "file (1 row)"),
    "no media": ([{"file": "notes.txt", "image": None, "path": "a/b"}, {}], ""),
    "a column that comes late": ([{}] * 1200 + [{"video": "v.mp4"}], "video (1 row)"),
}


@pytest.mark.parametrize("kind", MEDIA_ROWS)
def test_images_that_the_model_does_not_get_are_a_warning(tmp_path: Path, kind: str) -> None:
    """A filled column of images, sounds or videos is reported with its rows: the model is trained on the text alone."""
    rows, said = MEDIA_ROWS[kind]
    path = tmp_path / "d.jsonl"
    lines = (json.dumps({"question": f"무엇 {n}?", "answer": "간", **row}) for n, row in enumerate(rows))
    path.write_text("\n".join(lines), encoding="utf-8")
    source = Source(name="s", role="domain", path=(str(path),), holdout=0)
    (parts,) = gather([source], Split()).splits.values()
    found = [f"{one.severity} {one.where}: {one.what}" for one in parts.findings if one.check == "media_columns"]
    expected = f"warn source s: the model does not get the images, sounds or videos of some columns: {said}"
    assert found == ([expected] if said else [])


def test_images_of_a_data_set_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """A column that `datasets` would decode is not read; it is reported beside those that hold names of files."""
    features = Features(
        {"question": Value("string"), "answer": Value("string"), "scan": Image(), "image": Value("string")}
    )
    rows = [{"question": f"무엇 {n}?", "answer": "간", "scan": None, "image": "a.png"} for n in range(3)]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    source = Source(name="s", role="domain", hub=str(tmp_path / "set"), holdout=0)
    (parts,) = gather([source], Split()).splits.values()
    (found,) = (one.what for one in parts.findings if one.check == "media_columns")
    assert found.endswith("videos of some columns: scan, image (3 rows)")
    assert len(parts.train) == 3


def test_invisible_characters_are_counted(tmp_path: Path) -> None:
    """Zero-width spaces and soft hyphens come with copied text; the joiner of an emoji belongs to it."""
    texts = ["쉬\u200b세요", "soft\u00adly", "\ufeff네", "👩\u200d⚕️", "네"]
    _, counts = convert_rows(tmp_path, [{"question": "a", "answer": text} for text in texts])
    assert "rows with invisible characters, such as U+200B (kept as they are): 3" in counts.remarks


def test_turns_of_numbered_speakers_are_read_with_the_recipes_roles(tmp_path: Path) -> None:
    """AI Hub's dialogues name participants; without roles the error says how to map them, or where the turns are."""
    turns = [{"participantID": "P01", "utterance": "두통이요"}, {"participantID": "P02", "utterance": "쉬세요"}]
    rows = [{"id": n, "body": turns} for n in range(2)]
    with pytest.raises(SourceError) as refused:
        convert_rows(tmp_path, rows)
    assert "name `messages: body`" in refused.value.hint
    with pytest.raises(SourceError, match="unknown role") as refused:
        convert_rows(tmp_path, rows, messages="body")
    assert "`roles: {P01: user, P02: assistant}`" in refused.value.hint
    table, _ = convert_rows(tmp_path, rows, messages="body", roles={"P01": "user", "P02": "assistant"})
    assert [turn["content"] for turn in table["messages"][0]] == ["두통이요", "쉬세요"]


@pytest.mark.parametrize("comment", ["// 상담", "# 상담", "/* 상담 */"])
@pytest.mark.parametrize("place", [0, 1])
def test_comments_in_json_lines_are_named(tmp_path: Path, comment: str, place: int) -> None:
    """The first line or any other."""
    lines = [json.dumps({"question": "a", "answer": "b"})] * 3
    lines.insert(place, comment)
    with pytest.raises(SourceError) as refused:
        convert_rows(tmp_path, "\n".join(lines))
    assert refused.value.hint == "remove the comments: JSON has none"
