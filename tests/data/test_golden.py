"""Built-in templates against their makers' own, by text everywhere and by ids where the real tokenizers are at hand."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from chat_styles import Conversation
from qa_rows import FEATURES, key
from real_tokenizers import real_tokenizer
from seodang.data.encode.rows import render
from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.recipe import Template
from seodang.types import IGNORED

GOLDEN = Path(__file__).parent / "golden"
ROWS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "rows.json").read_text(encoding="utf-8"))
RENDERS: dict[str, dict[str, dict[str, Any]]] = json.loads((GOLDEN / "renders.json").read_text(encoding="utf-8"))
CASES = [(name, row) for name, of in RENDERS.items() for row in of]
FOLDERS = {"gemma": "gemma3", "llama3": "llama3_1", "qwen3": "qwen3"}
FILES = ("ko_medical.jsonl", "ko_general.jsonl", "en_general.jsonl", "chat_multiturn.jsonl")
SAMPLE = 200  # rows of each file


def _dressed(
    tokenizer: PreTrainedTokenizerBase, borrow: str | None, *, thinking: bool = False
) -> tuple[PreTrainedTokenizerBase, ChatTemplate]:
    template = find_template(
        tokenizer,
        Template(borrow=borrow),
        num_embeddings=300_000,
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return tokenizer, template


@pytest.fixture(scope="session")
def makers(shared: Path) -> dict[str, PreTrainedTokenizerBase]:
    """The real instruct tokenizers, by the name of the built-in template that stands for theirs."""
    return {name: real_tokenizer(real, shared / "data" / "tokenizers") for name, real in FOLDERS.items()}


@pytest.mark.parametrize(("name", "row"), CASES)
def test_built_in_templates_write_what_their_makers_write(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str, row: str
) -> None:
    """The text of our own rows, kept in golden/, to the character."""
    if name == "llama3":
        tiny_tokenizer.add_tokens(["<|begin_of_text|>"], special_tokens=True)
        tiny_tokenizer.bos_token = "<|begin_of_text|>"
    tokenizer, _ = _dressed(tiny_tokenizer, name, thinking=name == "qwen3")
    made = tokenizer.apply_chat_template(ROWS[row]["messages"], ROWS[row].get("tools"), tokenize=False)
    assert made == RENDERS[name][row]["text"]


@pytest.mark.shared
@pytest.mark.parametrize("borrow", ["own", "built_in"])
@pytest.mark.parametrize(("name", "row"), CASES)
def test_real_tokenizers_give_the_golden_ids(
    makers: dict[str, PreTrainedTokenizerBase], name: str, row: str, borrow: str
) -> None:
    """Own and built-in template alike give the ids that apply_chat_template gave, through the whole step."""
    thinking = row.startswith("thought") or row == "tools_twice"
    tokenizer, template = _dressed(copy.copy(makers[name]), name if borrow == "built_in" else None, thinking=thinking)
    tools = json.dumps(ROWS[row]["tools"], ensure_ascii=False) if "tools" in ROWS[row] else None
    done, counts = render(
        _data_set([(ROWS[row]["messages"], tools)]),
        Renderer(tokenizer, template, earlier_answers="keep"),
        max_tokens=999,
    )
    assert not counts.dropped
    assert done[0]["input_ids"] == RENDERS[name][row]["ids"]
    assert done[0]["text"] == RENDERS[name][row]["text"]


@pytest.mark.shared
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("file", FILES)
def test_real_rows_have_the_makers_ids_and_exact_masks(
    makers: dict[str, PreTrainedTokenizerBase], shared: Path, name: str, file: str
) -> None:
    """On real data the built-in template gives the maker's ids, and labels are the answers with their turn ends."""
    talks = [(talk, None) for talk in _talks(shared / "data" / file)]
    tokenizer, template = _dressed(copy.copy(makers[name]), name)
    done, counts = render(_data_set(talks), Renderer(tokenizer, template, earlier_answers="keep"), max_tokens=100_000)
    assert counts.kept == len(talks)
    trims = name != "qwen3"
    for row, (talk, _) in zip(done, talks, strict=True):
        assert row["input_ids"] == makers[name].apply_chat_template(talk)["input_ids"]
        answers = [
            turn["content"].strip() if trims else turn["content"] for turn in talk if turn["role"] == "assistant"
        ]
        labels = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(labels) == "".join(answer + template.turn_end for answer in answers)


@pytest.mark.shared
def test_real_tool_talks_have_the_makers_ids_and_exact_masks(
    makers: dict[str, PreTrainedTokenizerBase], shared: Path
) -> None:
    """Korean and English tool calls with Qwen3: every assistant turn is supervised once, and no tool's report."""
    talks = [*_tool_talks(shared / "data" / "chat_multiturn_ko_tools.jsonl"), *_glaive(shared / "data")]
    tokenizer, template = _dressed(copy.copy(makers["qwen3"]), "qwen3")
    done, counts = render(_data_set(talks), Renderer(tokenizer, template, earlier_answers="keep"), max_tokens=100_000)
    assert counts.kept == len(talks) > 300
    for row, (talk, tools) in zip(done, talks, strict=True):
        filled = [{**turn, "content": turn["content"] or ""} for turn in talk]
        parsed = json.loads(tools) if tools else None
        assert row["input_ids"] == makers["qwen3"].apply_chat_template(filled, parsed)["input_ids"]
        assert row["labels"].count(template.turn_end_id) == sum(turn["role"] == "assistant" for turn in talk)
        supervised = tokenizer.decode([label for label in row["labels"] if label != IGNORED])
        for turn in talk:
            assert turn["role"] != "assistant" or (turn["content"] or "") in supervised
        assert "<tool_response>" not in supervised
        served = tokenizer.apply_chat_template(filled[:-1], parsed, add_generation_prompt=True)["input_ids"]
        assert row["input_ids"][: len(served)] == served


def _data_set(talks: list[tuple[Conversation, str | None]]) -> Any:
    from datasets import Dataset

    columns: dict[str, Any] = {
        "source": "real",
        "role": "domain",
        "file": "f",
        "text": None,
        "question_key": "",
        "group": None,
    }
    columns["exchange_keys"] = []
    rows = [
        {"row_id": key(str(number)), "row": number, "messages": talk, "tools": tools, **columns}
        for number, (talk, tools) in enumerate(talks)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def _talks(path: Path) -> Iterator[Conversation]:
    with path.open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(SAMPLE), strict=False):
            row = json.loads(line)
            talk = row.get("messages") or [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            yield _until_last_answer(talk)


def _until_last_answer(talk: Conversation) -> Conversation:
    last = max(number for number, turn in enumerate(talk) if turn["role"] == "assistant")
    return talk[: last + 1]


def _tool_talks(path: Path) -> Iterator[tuple[Conversation, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield _until_last_answer(row["messages"]), json.dumps(row["tools"], ensure_ascii=False)


def _glaive(folder: Path) -> Iterator[tuple[Conversation, str]]:
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    for row in json.loads((folder / "chat_sharegpt_tools.json").read_text(encoding="utf-8")):
        talk: Conversation = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                call = {"type": "function", "function": json.loads(turn["value"])}
                talk.append({"role": "assistant", "content": None, "tool_calls": [call]})
            else:
                talk.append({"role": roles[turn["from"]], "content": turn["value"]})
        yield _until_last_answer(talk), row["tools"]
