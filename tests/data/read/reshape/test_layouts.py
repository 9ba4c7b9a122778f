"""Layouts of published data sets, rows of our own in their form: each is read by its structure, nothing is invented."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from made_files import csv_text, write_objects, write_xlsx
from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.errors import SourceError
from seodang.recipe import Source
from seodang.types import Counts

Q, A = "두통이 오면 어떻게 하나요?", "물을 마시고 쉬세요."
TURNS = [("user", Q), ("assistant", A)]


def source_of(path: Path | str, **keys: Any) -> Source:
    return Source.model_validate({"name": "s", "role": "domain", "path": str(path), **keys})


def conversations(path: Path | str, **keys: Any) -> tuple[list[list[dict[str, Any]]], Counts]:
    source = source_of(path, **keys)
    table, counts = convert(read(source), source)
    return table["messages"][:], counts


def spoken(messages: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in messages]


def write(folder: Path, name: str, content: Any, encoding: str = "utf-8") -> Path:
    text = (
        content if isinstance(content, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    )
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


SQUAD = {
    "version": "KorQuAD-like",
    "data": [
        {
            "title": "두통",
            "paragraphs": [
                {
                    "context": "두통에는 휴식이 좋다.",
                    "qas": [
                        {"id": "1", "question": "무엇이 좋은가?", "answers": [{"text": "휴식", "answer_start": 5}]},
                        {
                            "id": "2",
                            "question": "어디에 좋은가?",
                            "answers": [{"text": "두통", "answer_start": 0}, {"text": "두통에는", "answer_start": 0}],
                        },
                    ],
                }
            ],
        }
    ],
}
ROWS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {  # layout → (rows, turns of the first)
    "AI Hub 전문 의학지식": ([{"qa_id": 1, "domain": 3, "q_type": 2, "question": Q, "answer": A}], TURNS),
    "info.question": ([{"info": {"question": Q, "answer": A, "no": 1}, "meta": {"date": "x"}}], TURNS),
    "KoAlpaca v1.1a": ([{"instruction": Q, "output": A, "url": "u"}], TURNS),
    "KoAlpaca RealQA": ([{"custom_id": "1", "question": Q, "answer": A}], TURNS),
    "KULLM": (
        [{"id": "1", "instruction": "요약해 줘", "input": "글", "output": A}],
        [("user", "요약해 줘\n\n글"), TURNS[1]],
    ),
    "OpenOrca-ko": (
        [{"id": "1", "system_prompt": "친절하게", "question": Q, "response": A}],
        [("system", "친절하게"), *TURNS],
    ),
    "KoMagpie": (
        [
            {
                "uuid": "1",
                "instruction": Q,
                "response": A,
                "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}],
            }
        ],
        TURNS,
    ),
    "LLaMA-Factory history": (
        [{"instruction": Q, "input": "", "output": A, "history": [["안녕?", "안녕하세요."]]}],
        [("user", "안녕?"), ("assistant", "안녕하세요."), *TURNS],
    ),
    "human and assistant": ([{"human": Q, "assistant": A}], TURNS),
    "pairs in a list": ([{"conversation": [{"human": Q, "assistant": A}]}], TURNS),
    "single keys": ([{"conversation": [{"user": Q}, {"assistant": A}]}], TURNS),
    "LangChain": ([{"messages": [{"type": "human", "content": Q}, {"type": "ai", "content": A}]}], TURNS),
    "LangChain data": (
        [{"messages": [{"type": "human", "data": {"content": Q}}, {"type": "ai", "data": {"content": A}}]}],
        TURNS,
    ),
    "Gemini": ([{"messages": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [A]}]}], TURNS),
    "Gemini's own name": (
        [{"contents": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [A]}]}],
        TURNS,
    ),
    "speaker and text": ([{"dialog": [{"speaker": "환자", "text": Q}, {"speaker": "의사", "text": A}]}], TURNS),
    "object of lists": ([{"conversations": {"from": ["human", "gpt"], "value": [Q, A]}}], TURNS),
    "problem and solution": ([{"problem": Q, "solution": A, "answer": "쉬기"}], TURNS),
    "SQuAD, flat": (
        [
            {
                "id": "1",
                "title": "t",
                "context": "글",
                "question": Q,
                "answers": {"text": [A, A], "answer_start": [0, 0]},
            }
        ],
        [("user", f"글\n\n{Q}"), TURNS[1]],
    ),
}


@pytest.mark.parametrize("layout", ROWS)
def test_a_published_layout_is_read_without_a_word_of_the_recipe(tmp_path: Path, layout: str) -> None:
    """By its columns' names and structure alone, whichever file it stands in."""
    rows, turns = ROWS[layout]
    found, _ = conversations(write(tmp_path, "d.jsonl", rows * 2))
    assert spoken(found[0]) == turns
    single, _ = conversations(write(tmp_path, "one.json", json.dumps(rows[0], ensure_ascii=False), "utf-8-sig"))
    assert spoken(single[0]) == turns


def test_korquad_is_a_row_for_each_question(tmp_path: Path) -> None:
    """Articles and paragraphs are taken apart; of several right answers the first is taken, and counted."""
    found, counts = conversations(write(tmp_path, "d.json", json.dumps(SQUAD, ensure_ascii=False, indent=1)))
    assert [spoken(row)[0][1] for row in found] == [
        "두통에는 휴식이 좋다.\n\n무엇이 좋은가?",
        "두통에는 휴식이 좋다.\n\n어디에 좋은가?",
    ]
    assert [spoken(row)[1][1] for row in found] == ["휴식", "두통"]
    assert counts.changed == {"answers: the first of several right answers taken": 1}
    assert [row.row for row in read(source_of(tmp_path / "d.json")).rows()] == [1, 2]


def test_a_history_that_is_none_drops_its_row(tmp_path: Path) -> None:
    """Earlier exchanges that cannot be read are not left out silently."""
    row = {"instruction": Q, "output": A}
    rows = [{**row, "history": history} for history in ([], None, "", [["가", "나"]], "가", {"a": 1})]
    found, counts = conversations(write(tmp_path, "d.jsonl", rows))
    assert [len(row) for row in found] == [2, 2, 2, 4]
    assert counts.dropped == {"history holds no list of turns": 2}


def test_rows_of_another_structure_are_counted(tmp_path: Path) -> None:
    """Files that a recipe joins may differ: what a structure does not hold is dropped by count, never passed over."""
    plain = write(tmp_path, "plain.jsonl", [{"말": "가", "글": "나"}] * 2)
    asked = write(tmp_path, "asked.csv", csv_text([["제품명", "무엇에 씁니까?", "어떻게 씁니까?"], ["가", "나", "다"]]))
    turns = write(tmp_path, "turns.csv", csv_text(UTTERANCES))
    nested = write(tmp_path, "nested.json", json.dumps(SQUAD))
    for path, kept in ((asked, 2), (turns, 2), (nested, 2)):
        source = Source(name="s", role="domain", path=(str(path), str(plain)))
        made, counts = convert(read(source), source)
        assert len(made) == counts.kept == kept
        assert counts.dropped == {"a row of another format": 2}, path


def answers_only() -> list[dict[str, Any]]:
    return [
        {
            "fileName": f"HC-A-{n}",
            "disease_category": "신경과",
            "disease_name": {"kor": "두통", "eng": "headache"},
            "department": ["신경과"],
            "intention": "치료",
            "answer": {"intro": f"두통 {n}입니다.", "body": "쉬면 낫습니다.", "conclusion": "진료를 받으세요."},
            "num_of_words": 9,
        }
        for n in range(12)
    ]


def questions_only() -> list[dict[str, Any]]:
    return [
        {
            "fileName": f"HC-Q-{n}",
            "participantsInfo": {"age": "30대"},
            "disease_category": "신경과",
            "disease_name": {"kor": "두통", "eng": "headache"},
            "intention": "치료",
            "question": f"두통이 {n}일째예요. 어떻게 하나요?",
            "entities": [{"id": 0, "text": "두통"}],
            "num_of_words": 5,
        }
        for n in range(12)
    ]


def test_questions_and_answers_without_a_common_key_are_never_paired(tmp_path: Path) -> None:
    """AI Hub's health questions and answers lie in trees of their own, with no id in both: refused, and explained."""
    write_objects(tmp_path / "tree/1.질문/신경과", questions_only())
    write_objects(tmp_path / "tree/2.답변/신경과", answers_only())
    with pytest.raises(SourceError, match="the order of the files is never used"):
        conversations(tmp_path / "tree")
    with pytest.raises(SourceError, match="rows without answers cannot teach"):
        conversations(tmp_path / "tree/1.질문")
    with pytest.raises(SourceError, match=r"(?s)seems to hold answers.*`text: answer`"):
        conversations(tmp_path / "tree/2.답변")
    source = source_of(tmp_path / "tree/2.답변", text="answer")
    texts, counts = convert(read(source), source)
    assert texts["text"][0] == "두통 0입니다.\n\n쉬면 낫습니다.\n\n진료를 받으세요."
    assert counts.changed == {"answer: its parts intro, body, conclusion joined": 12}


def test_parts_of_an_answer_are_named_and_joined(tmp_path: Path) -> None:
    """Dotted names reach into objects, several are joined with a blank line between, and the joins are counted."""
    path = write(tmp_path, "d.jsonl", [{"q": {"text": Q}, "answer": {"intro": "가", "body": "나", "etc": 1}}] * 2)
    found, counts = conversations(path, question="q.text", answer=["answer.intro", "answer.body"])
    assert spoken(found[0]) == [("user", Q), ("assistant", "가\n\n나")]
    assert counts.changed == {"answer.intro + answer.body: joined": 2}
    found, _ = conversations(path, question="q.text", answer="answer.body")
    assert spoken(found[0])[1] == ("assistant", "나")
    assert source_of(path, answer=["a.b", "c"]) == source_of(path, answer="a.b + c"), "as a run's recipe holds it"
    with pytest.raises(SourceError, match=r"no row has 'answer\.bod'.*did you mean 'answer\.body'"):
        conversations(path, question="q.text", answer="answer.bod")
    with pytest.raises(SourceError, match=r"no row has 'answer\.end' \(in 'answer\.intro \+ answer\.end'\)"):
        conversations(path, question="q.text", answer=["answer.intro", "answer.end"])


def test_a_column_whose_own_name_has_a_dot_comes_first(tmp_path: Path) -> None:
    """`json_normalize` writes such columns: they are read, and no object is looked into."""
    path = write(tmp_path, "d.csv", csv_text([["info.question", "info.answer"], [Q, A]]))
    assert spoken(conversations(path)[0][0]) == TURNS
    assert spoken(conversations(path, question="info.question", answer="info.answer")[0][0]) == TURNS


def test_multiple_choice_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """Their answer is a letter or number of a choice; whoever names the columns keeps them."""
    asked = "옳은 것은?\n1) 가 2) 나 3) 다 4) 라"
    rows = [
        {"q_type": "객관식", "question": "무엇?", "answer": "3"},
        {"q_type": 1, "question": asked, "answer": "2) 나"},
        {"q_type": 2, "question": Q, "answer": A},
        {"q_type": "서술형", "question": "1) 가 2) 나 3) 다를 설명하라", "answer": "가는 이렇다."},
    ]
    path = write(tmp_path, "d.jsonl", rows)
    found, counts = conversations(path)
    assert len(found) == 2
    assert counts.dropped == {"a multiple-choice question, whose answer is one of its choices": 2}
    assert len(conversations(path, question="question", answer="answer")[0]) == 4


UTTERANCES = [
    ["conversation_id", "turn", "speaker", "utterance", "병원"],
    ["c1", "1", "환자", Q, "가"],
    ["c1", "2", "의사", A, "가"],
    ["c2", "2", "의사", "네.", "나"],
    ["c2", "1", "환자", "열이 나요.", "나"],
]


def test_a_row_for_each_turn_becomes_a_row_for_each_conversation(tmp_path: Path) -> None:
    """Rows with the id of their conversation are joined, in the order of their numbers; the first row is the place."""
    path = write(tmp_path, "d.csv", csv_text(UTTERANCES), "cp949")
    found, counts = conversations(path)
    assert [spoken(row) for row in found] == [TURNS, [("user", "열이 나요."), ("assistant", "네.")]]
    assert counts.changed["turns put into the order of their numbers"] == 1
    assert counts.changed["role 의사 read as assistant"] == 2
    assert [row.row for row in read(source_of(path)).rows()] == [1, 3]
    apart = write(tmp_path, "apart.csv", csv_text([*UTTERANCES, ["c1", "3", "환자", "네", "가"]]))
    with pytest.raises(SourceError, match=r"apart\.csv:5: the rows of conversation 'c1' are not consecutive"):
        conversations(apart)


def test_roles_of_the_data_are_mapped_by_the_recipe(tmp_path: Path) -> None:
    """A and B say nothing by themselves: refused until `roles:` says who answers."""
    rows = [["dialog_id", "speaker", "text"], ["1", "A", Q], ["1", "B", A]]
    path = write(tmp_path, "d.csv", csv_text(rows))
    with pytest.raises(SourceError):
        conversations(path)
    found, counts = conversations(path, roles={"A": "user", "B": "assistant"})
    assert spoken(found[0]) == TURNS
    assert counts.changed == {"role A read as user": 1, "role B read as assistant": 1}
    turns = [{"role": "수의사", "content": A}]
    path = write(tmp_path, "d.jsonl", [{"messages": [{"role": "user", "content": Q}, *turns]}] * 2)
    assert spoken(conversations(path, roles={"수의사": "assistant"})[0][0]) == TURNS


def test_turns_of_one_role_are_merged_where_the_recipe_asks_for_it(tmp_path: Path) -> None:
    """Consecutive texts become one turn with a line end between, counted; else they stay as they are."""
    turns = [
        {"role": role, "content": text} for role, text in (("user", "저기"), TURNS[0], TURNS[1], ("assistant", "네"))
    ]
    path = write(tmp_path, "d.jsonl", [{"messages": turns}] * 2)
    assert len(conversations(path)[0][0]) == 4
    found, counts = conversations(path, merge_turns=True)
    assert spoken(found[0]) == [("user", f"저기\n{Q}"), ("assistant", f"{A}\n네")]
    assert counts.changed == {"consecutive turns of one role merged": 2}


def test_thoughts_in_a_column_are_the_answers_reasoning(tmp_path: Path) -> None:
    """Complex_CoT and its like; not where the recipe names question and answer and leaves it out."""
    path = write(tmp_path, "d.jsonl", [{"Question": Q, "Complex_CoT": "두통이면 쉰다.", "Response": A}] * 2)
    assert conversations(path)[0][0][1] == {"role": "assistant", "content": A, "reasoning_content": "두통이면 쉰다."}
    assert "reasoning_content" not in conversations(path, question="Question", answer="Response")[0][0][1]
    named = conversations(path, question="Question", answer="Response", reasoning="Complex_CoT")
    assert named[0][0][1]["reasoning_content"] == "두통이면 쉰다."


def test_tool_blocks_are_calls_and_results(tmp_path: Path) -> None:
    """Anthropic's blocks inside of a turn's content become calls, and turns of the tool."""
    turns = [
        {"role": "user", "content": "날씨는?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "찾아볼게요."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "서울"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "맑음"}]},
        {"role": "assistant", "content": "맑아요."},
    ]
    tool = {"name": "weather", "description": "날씨", "input_schema": {"type": "object", "properties": {}}}
    source = source_of(write(tmp_path, "d.jsonl", [{"messages": turns, "tools": [tool]}] * 2))
    made, counts = convert(read(source), source)
    asked, called, result, answered = made["messages"][0]
    assert called["content"] == "찾아볼게요."
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "서울"}}
    assert (result["role"], result["content"], result["tool_call_id"]) == ("tool", "맑음", "t1")
    assert answered["content"] == "맑아요."
    assert asked["role"] == "user"
    assert counts.changed["tool blocks of a turn read as calls and results"] == 2
    function = {"name": "weather", "description": "날씨", "parameters": tool["input_schema"]}
    assert json.loads(made["tools"][0]) == [{"type": "function", "function": function}]


def test_columns_that_are_questions_are_asked_about_the_thing_of_the_row(tmp_path: Path) -> None:
    """e약은요's table, in CP949: a drug's name is the context, each question a row; an empty cell is no answer."""
    rows = [
        ["업체명", "제품명", "이 약의 효능은 무엇입니까?", "이 약은 어떻게 사용합니까?"],
        ["가제약", "가정", "두통에 씁니다.", "하루 세 번 먹습니다."],
        ["나제약", "나정", "열에 씁니다.", ""],
    ]
    found, counts = conversations(write(tmp_path, "d.csv", csv_text(rows), "cp949"))
    assert [spoken(row) for row in found] == [
        [("user", "제품명: 가정\n\n이 약의 효능은 무엇입니까?"), ("assistant", "두통에 씁니다.")],
        [("user", "제품명: 가정\n\n이 약은 어떻게 사용합니까?"), ("assistant", "하루 세 번 먹습니다.")],
        [("user", "제품명: 나정\n\n이 약의 효능은 무엇입니까?"), ("assistant", "열에 씁니다.")],
    ]
    assert counts.dropped == {"empty answer": 1}
    assert any("2 columns are questions about 제품명" in remark for remark in counts.remarks)
    book = write_xlsx(tmp_path / "d.xlsx", {"e약은요": [["의약품 정보"], *rows]})
    assert [spoken(row) for row in conversations(book)[0]] == [spoken(row) for row in found]


LISTED_PAIRS = [
    {
        "info": {"병명": "두통"},
        "annotation": {"qa": [{"question": Q, "answer": A}, {"question": "더?", "answer": "네"}]},
    },
    {"info": {"병명": "열"}, "annotation": {"qa": []}},
]


def test_a_name_that_leads_through_a_list_makes_a_row_of_each_of_its_objects(tmp_path: Path) -> None:
    """Questions and answers that AI Hub lists in a file, with what stands beside the list; an empty list is counted."""
    path = write(tmp_path, "d.jsonl", LISTED_PAIRS)
    keys = {"question": "annotation.qa.question", "answer": "annotation.qa.answer"}
    found, counts = conversations(path, **keys)
    assert [spoken(talk) for talk in found] == [TURNS, [("user", "더?"), ("assistant", "네")]]
    assert counts.dropped == {"empty question": 1}
    assert "annotation.qa: a row for each object of its lists" in counts.remarks
    found, _ = conversations(path, **keys, context="info.병명")
    assert found[1][0]["content"] == "두통\n\n더?"


def test_lists_of_pairs_are_rows_or_conversations_as_the_recipe_says(tmp_path: Path) -> None:
    """Whether the second question follows the first one is not known; the error names both ways, and both hold."""
    path = write(tmp_path, "d.jsonl", LISTED_PAIRS[:1])
    with pytest.raises(SourceError, match=r"'annotation\.qa' holds lists of questions with answers") as refused:
        conversations(path)
    assert "`question: annotation.qa.question`" in refused.value.hint
    assert "`messages: annotation.qa`" in refused.value.hint
    (talk,), _ = conversations(path, messages="annotation.qa")
    assert spoken(talk) == [*TURNS, ("user", "더?"), ("assistant", "네")]


def test_lists_in_lists_are_followed(tmp_path: Path) -> None:
    """Each level of objects brings its rows."""
    rows = [
        {
            "문서": [
                {"제목": "가", "qas": [{"q1": Q, "a1": A}]},
                {"제목": "나", "qas": [{"q1": "열?", "a1": "식히세요"}]},
            ]
        }
    ]
    found, _ = conversations(
        write(tmp_path, "d.jsonl", [*rows, {"문서": []}]),
        question="문서.qas.q1",
        answer="문서.qas.a1",
        context="문서.제목",
    )
    assert [talk[0]["content"] for talk in found] == [f"가\n\n{Q}", "나\n\n열?"]
