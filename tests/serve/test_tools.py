"""Tools on ChatSeodang: a tiny model that was taught one call makes it, streams it, and is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from pydantic import BaseModel
from transformers import PreTrainedTokenizerFast

from seodang.errors import TemplateError
from seodang.serve.langchain import ChatSeodang
from tiny_run import make_run, teach

QUESTION = "Find it."


class Find(BaseModel):
    """Finds a drug."""

    name: str


def magic(number: int) -> int:
    """Adds."""
    return number


CALL = '<tool_call>\n{"name": "Find", "arguments": {"name": "aspirin"}}\n</tool_call>'


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that answers the question with the call, whether or not the answer was begun for it."""
    place = tmp_path_factory.mktemp("runs") / "tools"
    run = make_run(place, tiny_folder, _tokenizer, template="qwen3", ask={"generate": {"max_new_tokens": 64}})
    llm = ChatSeodang(model=str(place))
    tokenizer = llm._chat_model.tokenizer
    tools = _bound(llm.bind_tools([Find]))["tools"]
    examples = []
    for beginning in ("", llm._chat_model.call_format.forced("Find")):  # type: ignore[union-attr]
        prompt = llm._chat_model.prompt([{"role": "user", "content": QUESTION}], tools, beginning=beginning)
        rest = tokenizer(CALL.removeprefix(beginning), add_special_tokens=False)["input_ids"]
        examples.append((prompt, [*rest, llm._chat_model.turn_end_id]))
    teach(run.model, examples, steps=60)
    del llm
    return place


@pytest.fixture(scope="module")
def llm(folder: Path) -> ChatSeodang:
    return ChatSeodang(model=str(folder), temperature=0)


def _bound(runnable: Any) -> dict[str, Any]:
    assert isinstance(runnable, RunnableBinding)
    return dict(runnable.kwargs)


@pytest.mark.parametrize(
    "choice", [None, "auto", "any", "Find", True, {"type": "function", "function": {"name": "Find"}}]
)
def test_a_call_is_made_and_read(llm: ChatSeodang, choice: Any) -> None:
    """Whether the model decides or has to call, the call stands in tool_calls and not in the text."""
    answer = llm.bind_tools([Find], tool_choice=choice).invoke(QUESTION)
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("Find", {"name": "aspirin"})]
    assert answer.content == ""
    assert answer.tool_calls[0]["id"]


def test_a_streamed_call_is_the_same(llm: ChatSeodang) -> None:
    """A stream's pieces together hold the call."""
    pieces = list(llm.bind_tools([Find]).stream(QUESTION))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert isinstance(whole, AIMessage)
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("Find", {"name": "aspirin"})]


def test_a_batch_of_calls(llm: ChatSeodang) -> None:
    """Tools hold for each input of a batch, and each call has an id of its own."""
    answers = llm.bind_tools([Find]).batch([QUESTION] * 2)
    assert [answer.tool_calls[0]["args"] for answer in answers] == [{"name": "aspirin"}] * 2
    assert len({answer.tool_calls[0]["id"] for answer in answers}) == 2


def test_structured_output(llm: ChatSeodang) -> None:
    """A schema is filled by a call that has to be made."""
    assert llm.with_structured_output(Find).invoke(QUESTION) == Find(name="aspirin")
    raw = llm.with_structured_output(Find, include_raw=True).invoke(QUESTION)
    assert raw["parsed"] == Find(name="aspirin")  # type: ignore[index]


def test_a_broken_call_is_reported(llm: ChatSeodang) -> None:
    """Cut off in the middle, a call is an invalid one; the structured output says so."""
    answer = llm.bind_tools([Find], tool_choice="Find", max_tokens=3).invoke(QUESTION)
    assert not answer.tool_calls
    assert "Find" in (answer.invalid_tool_calls[0]["args"] or "")
    assert "JSON" in (answer.invalid_tool_calls[0]["error"] or "")


def test_tools_and_their_results_go_through_the_template(llm: ChatSeodang) -> None:
    """Schemas count as tokens, and a conversation with a call and its result can go on."""
    turns = [HumanMessage(QUESTION)]
    assert llm.get_num_tokens_from_messages(turns, tools=[Find]) > llm.get_num_tokens_from_messages(turns)
    call = llm.bind_tools([Find]).invoke(turns)
    result = ToolMessage(json.dumps({"found": True}), tool_call_id=call.tool_calls[0]["id"])
    assert llm.bind_tools([Find], max_tokens=2).invoke([*turns, call, result]).usage_metadata


def test_without_tools_nothing_is_parsed(llm: ChatSeodang) -> None:
    """tool_choice "none" leaves the schemas out of the prompt."""
    with_tools, without = llm.bind_tools([Find], max_tokens=2), llm.bind_tools([Find], tool_choice="none", max_tokens=2)
    first, second = (each.invoke(QUESTION).usage_metadata for each in (with_tools, without))
    assert first
    assert second
    assert first["input_tokens"] > second["input_tokens"]


def test_what_cannot_be_bound_is_refused(
    llm: ChatSeodang, tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """An unknown tool, and a template without tools."""
    with pytest.raises(ValueError, match="unknown tool 'other'"):
        llm.bind_tools([Find, magic], tool_choice="other")
    make_run(tmp_path / "plain", tiny_folder, tiny_tokenizer)
    with pytest.raises(TemplateError, match="writes no tool calls"):
        ChatSeodang(model=str(tmp_path / "plain")).bind_tools([Find])
