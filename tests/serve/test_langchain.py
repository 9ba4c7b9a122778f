"""ChatSeodang: LangChain's own standard tests, and what they do not ask."""

import asyncio
import copy
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from transformers import PreTrainedTokenizerFast

from paths import ROOT
from seodang.errors import ModelError, RunError, SeodangError, TemplateError
from seodang.run.folder import Run
from seodang.serve.langchain import ChatSeodang
from taught_calls import teach_calls
from tiny_run import make_run

DOCS = ROOT / "docs" / "langchain.md"
QUESTIONS = ["감기에 걸렸어요.", "물", "What is the capital of France?", "사과는 왜 빨간가요?"] * 2
SYSTEM = "의사처럼 답하세요."


@pytest.fixture(scope="module")
def run(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a system text; its model is random."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo", tiny_folder, _tokenizer, system=SYSTEM)


@pytest.fixture(scope="module")
def tools_run(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("tools") / "demo", tiny_folder, _tokenizer, template="qwen3")


@pytest.fixture(scope="module")
def taught_run(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that makes the calls which LangChain's standard tests ask for."""
    ask = {"generate": {"max_new_tokens": 64}}
    run = make_run(tmp_path_factory.mktemp("taught") / "demo", tiny_folder, _tokenizer, ask=ask)
    teach_calls(run)
    return run


@pytest.fixture(scope="module")
def llm(run: Run) -> ChatSeodang:
    return ChatSeodang(model=str(run.folder))


@pytest.fixture
def steps(llm: ChatSeodang) -> Iterator[list[int]]:
    """Rows of every forward pass of the model, in order."""
    seen: list[int] = []
    handle = llm._chat_model.model.register_forward_hook(lambda *given: seen.append(given[2].logits.shape[0]))
    yield seen
    handle.remove()


@pytest.fixture
def chain(llm: ChatSeodang) -> Runnable[dict[str, str], str]:
    return ChatPromptTemplate.from_messages([("user", "{question}")]) | llm | StrOutputParser()


class _Standard:
    """What both sets of standard tests are given."""

    @pytest.fixture(autouse=True)
    def _take_run(self, run: Run) -> None:
        self.run = run

    @property
    def chat_model_class(self) -> type[ChatSeodang]:
        return ChatSeodang

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.run.folder)}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        """Those that mean something without a server."""
        return {"temperature": 0, "max_tokens": 12, "stop": []}

    @pytest.fixture(scope="class")
    def run(self, tools_run: Run) -> Run:
        """A run whose template has tools."""
        return tools_run


class TestStandardUnit(_Standard, ChatModelUnitTests):
    """LangChain's unit tests."""


@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:.*is not an async function")
class TestStandard(_Standard, ChatModelIntegrationTests):
    """LangChain's integration tests, those of tools and structured output too, on a model that was taught the calls."""

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 64, "stop": []}

    @pytest.fixture(scope="class")
    def run(self, taught_run: Run) -> Run:
        return taught_run


def test_batch_is_one_generation(llm: ChatSeodang, steps: list[int]) -> None:
    """Eight inputs go through the model as eight rows at once, and answer as one by one, in their order."""
    together = llm.batch(QUESTIONS)
    assert set(steps) == {8}
    assert [answer.content for answer in together] == [llm.invoke(question).content for question in QUESTIONS]
    assert [answer.usage_metadata for answer in together] == [llm.invoke(q).usage_metadata for q in QUESTIONS]


def test_batch_of_a_chain(chain: Runnable[dict[str, str], str], steps: list[int]) -> None:
    """A chain's batch and abatch are batched too, and so is a model with bound settings."""
    inputs = [{"question": question} for question in QUESTIONS]
    alone = [chain.invoke(given) for given in inputs]
    steps.clear()
    assert chain.batch(inputs) == alone
    assert asyncio.run(chain.abatch(inputs)) == alone
    assert set(steps) == {8}


def test_bound_settings_reach_the_batch(llm: ChatSeodang, steps: list[int]) -> None:
    """Settings that were bound hold for a batch, which stays one generation."""
    answers = llm.bind(max_tokens=3).batch(QUESTIONS)
    assert [answer.usage_metadata["output_tokens"] for answer in answers] == [3] * 8
    assert steps == [8] * 3


def test_generate_is_one_generation(llm: ChatSeodang, steps: list[int]) -> None:
    """LangChain's own `generate` and `agenerate` take their conversations together, each with its own answer."""
    alone = [llm.invoke(question).content for question in QUESTIONS]
    conversations = [[HumanMessage(question)] for question in QUESTIONS]
    for result in (lambda: llm.generate(conversations), lambda: asyncio.run(llm.agenerate(conversations))):
        steps.clear()
        assert [answers[0].text for answers in result().generations] == alone
        assert set(steps) == {8}


def test_batch_draws_for_each_input(run: Run) -> None:
    """The same question thrice in a batch has three answers at a temperature, the same ones every time."""
    llm = ChatSeodang(model=str(run.folder), temperature=1.0)
    answers = [answer.content for answer in llm.batch(["물"] * 3)]
    assert len(set(answers)) == 3
    assert [answer.content for answer in llm.batch(["물"] * 3)] == answers
    assert [answer.content for answer in llm.batch(["물"] * 3, seed=7)] != answers


def test_batch_keeps_the_good(llm: ChatSeodang) -> None:
    """One conversation that is too long fails alone where exceptions are asked for, else for all."""
    inputs = ["물", "물 " * 3000, "감기"]
    answers = llm.batch(inputs, return_exceptions=True)
    assert [answers[0].content, answers[2].content] == [llm.invoke("물").content, llm.invoke("감기").content]
    assert isinstance(answers[1], ModelError)
    with pytest.raises(ModelError, match="exceed"):
        llm.batch(inputs)


def test_cached_batch_generates_nothing(run: Run, llm: ChatSeodang, steps: list[int]) -> None:
    """With LangChain's cache a batch is generated once, and other settings are another question."""
    cached = ChatSeodang(model=str(run.folder), cache=InMemoryCache())
    first = [answer.content for answer in cached.batch(QUESTIONS[:4])]
    count = len(steps)
    assert [answer.content for answer in cached.batch(QUESTIONS[:4])] == first
    assert len(steps) == count
    cached.batch(QUESTIONS[:4], max_tokens=2)
    assert len(steps) == count + 2


class _Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.events.append("start")

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.events.append("end")

    def on_llm_error(self, *_: Any, **__: Any) -> None:
        self.events.append("error")


def test_batch_is_traced_run_by_run(llm: ChatSeodang) -> None:
    """Callbacks of each input hear of its own run."""
    recorders = [_Recorder(), _Recorder()]
    llm.batch(["물", "물 " * 3000], [{"callbacks": [each]} for each in recorders], return_exceptions=True)
    assert [each.events for each in recorders] == [["start", "end"], ["start", "error"]]


def test_stream_is_the_answer(llm: ChatSeodang, steps: list[int]) -> None:
    """The first chunk comes before the generation ends; all chunks are the answer, the last one counts its tokens."""
    expected = llm.invoke("물", max_new_tokens=300)
    steps.clear()
    chunks = llm.stream("물", max_new_tokens=300)
    first = next(chunks)
    assert len(steps) < 300
    whole = sum(chunks, first)
    assert whole.content == expected.content
    assert whole.usage_metadata == expected.usage_metadata
    assert whole.response_metadata == expected.response_metadata


def test_a_stream_that_is_left_ends(llm: ChatSeodang, steps: list[int]) -> None:
    """Whoever leaves the loop does not wait for the rest, and the model is free again."""
    for _ in llm.stream("물", max_new_tokens=1500):
        break
    assert len(steps) < 1000
    assert llm.invoke("물").content


def test_invoke_inside_a_stream(llm: ChatSeodang) -> None:
    """A stream that is being read does not lock out other calls of the same thread."""
    stream = llm.stream("물")
    next(stream)
    assert llm.invoke("감기").content
    assert list(stream)


def test_stop_strings(llm: ChatSeodang) -> None:
    """An answer ends before the first stop string, streamed or not, in a batch or alone; then its reason is "stop"."""
    whole = llm.invoke("하나", max_new_tokens=40).content
    stop = [whole[9:12], "never seen"]
    expected = whole[: whole.index(stop[0])]
    answer = llm.invoke("하나", stop=stop, max_new_tokens=40)
    assert answer.content == expected
    assert answer.response_metadata["stop_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] < 40
    streamed = list(llm.stream("하나", stop=stop, max_new_tokens=40))
    assert "".join(chunk.content for chunk in streamed) == expected
    assert streamed[-1].usage_metadata == answer.usage_metadata
    batched = llm.batch(["하나", "둘"], stop=stop, max_new_tokens=40)
    assert [each.content for each in batched] == [expected, llm.invoke("둘", stop=stop, max_new_tokens=40).content]
    assert ChatSeodang(model=llm.model, stop=stop).invoke("하나", max_new_tokens=40).content == expected
    assert llm.invoke("하나").response_metadata["stop_reason"] == "length"


def test_one_stop_string(llm: ChatSeodang, run: Run) -> None:
    """A single text is one stop string, not its letters: of the instance, bound, and of every way to call."""
    whole = llm.invoke("하나", max_new_tokens=40).content
    stop = whole[9:12]
    expected = whole[: whole.index(stop)]
    own = ChatSeodang(model=str(run.folder), stop=stop, max_new_tokens=40)
    assert own.invoke("하나").content == expected
    assert llm.invoke("하나", stop=stop, max_new_tokens=40).content == expected
    assert llm.bind(stop=stop).invoke("하나", max_new_tokens=40).content == expected
    assert "".join(piece.content for piece in llm.stream("하나", stop=stop, max_new_tokens=40)) == expected
    assert llm.batch(["하나", "둘"], stop=stop, max_new_tokens=40)[0].content == expected
    assert asyncio.run(llm.ainvoke("하나", stop=stop, max_new_tokens=40)).content == expected
    with pytest.raises(TypeError, match="stop takes a text or a list of texts, got 7"):
        llm.invoke("하나", stop=[7])


def test_tokens_of_messages_are_those_of_the_prompt(llm: ChatSeodang, run: Run) -> None:
    """What messages cost is what the model is given: system text, markers and NFC included."""
    messages = [HumanMessage(unicodedata.normalize("NFD", "감기약")), AIMessage("네."), HumanMessage("물")]
    count = llm.get_num_tokens_from_messages(messages)
    assert count == llm.invoke(messages).usage_metadata["input_tokens"]
    own = [SystemMessage("짧게."), *messages]
    assert llm.get_num_tokens_from_messages(own) == llm.invoke(own).usage_metadata["input_tokens"]
    without = ChatSeodang(model=str(run.folder), system="")
    assert without.get_num_tokens_from_messages(messages) < count
    assert llm.get_num_tokens("감기약") == len(
        llm._chat_model.tokenizer("감기약", add_special_tokens=False)["input_ids"]
    )
    assert llm.get_num_tokens(unicodedata.normalize("NFD", "감기약")) == llm.get_num_tokens("감기약")
    assert llm.get_num_tokens_from_messages([]) == 0
    counted = ChatSeodang(model=str(run.folder), custom_get_token_ids=lambda text: [1, 2, 3])
    assert counted.get_num_tokens_from_messages(messages) == 9


@pytest.mark.parametrize("template", ["chatml", "gemma"])
@pytest.mark.parametrize("strategy", ["first", "last"])
def test_trimmed_messages_fit(
    template: str, strategy: Any, tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """trim_messages keeps what fits and no more, though the template refuses parts of a conversation."""
    llm = ChatSeodang(model=make_run(tmp_path / "run", tiny_folder, tiny_tokenizer, template=template).folder)
    turns = [HumanMessage(f"질문 {n}: 감기약은 언제 먹나요?") if n % 2 == 0 else AIMessage(f"답 {n}") for n in range(9)]
    messages = [SystemMessage("짧게 답하세요."), *turns]
    whole = llm.get_num_tokens_from_messages(messages)
    assert trim_messages(messages, max_tokens=whole, token_counter=llm, strategy=strategy) == messages
    ends = {"end_on": "human"} if strategy == "first" else {"start_on": "human", "include_system": True}
    kept = trim_messages(messages, max_tokens=whole // 2, token_counter=llm, strategy=strategy, **ends)
    assert 1 < len(kept) < len(messages)
    assert isinstance(kept[0], SystemMessage)
    assert llm.get_num_tokens_from_messages(kept) <= whole // 2
    assert len(llm._request(kept, None, {}).prompt) <= whole // 2


def test_a_lone_system_text_counts(tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A template that writes a system text into the first question leaves it out alone; it counts all the same."""
    llm = ChatSeodang(model=make_run(tmp_path / "run", tiny_folder, tiny_tokenizer, template="gemma").folder)
    text = "아주 긴 지시입니다. " * 20
    assert llm.get_num_tokens_from_messages([SystemMessage(text)]) > llm.get_num_tokens(text)
    call = {"id": "c1", "name": "weather", "args": {"city": "서울 " * 50}, "type": "tool_call"}
    assert llm.get_num_tokens_from_messages([AIMessage("", tool_calls=[call])]) > 50


def test_a_copy_shares_the_model(llm: ChatSeodang) -> None:
    """Copies, deep ones too, answer alike, have settings of their own, and do not hold the weights twice."""
    for copied in (
        copy.deepcopy(llm),
        copy.copy(llm),
        llm.model_copy(deep=True),
        copy.deepcopy(llm.bind(stop="끝")).bound,
    ):
        assert copied._chat_model is llm._chat_model
        assert copied.invoke("물").content == llm.invoke("물").content
    own = llm.model_copy(update={"max_new_tokens": 3}, deep=True)
    assert own.invoke("물").usage_metadata["output_tokens"] == 3
    assert llm.max_new_tokens is None


def prompt_text(llm: ChatSeodang, messages: list[Any]) -> str:
    prompt = llm._request(messages, None, {}).prompt
    return llm._chat_model.tokenizer.decode(prompt)


def test_templated_once(llm: ChatSeodang, run: Run) -> None:
    """The prompt is the saved template's, in NFC, with one BOS and the recipe's system text."""
    asked = unicodedata.normalize("NFD", "감기약")
    expected = (
        f"<bos><|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n감기약<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt_text(llm, [HumanMessage(asked)]) == expected
    own = [SystemMessage("짧게."), HumanMessage([{"type": "text", "text": "감기약"}])]
    assert prompt_text(llm, own) == expected.replace(SYSTEM, "짧게.")
    without = ChatSeodang(model=str(run.folder), system="")
    assert prompt_text(without, [HumanMessage("감기약")]) == expected.replace(
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", ""
    )


def test_settings_of_run_instance_and_call(run: Run, llm: ChatSeodang) -> None:
    """The recipe's settings hold unless the instance, and that unless the call, says otherwise; 0 means none."""
    assert llm._settings({}).max_new_tokens == 12
    own = ChatSeodang(model=str(run.folder), temperature=0.5, top_k=8, max_tokens=30)
    assert own._settings({}).model_dump() == {
        **llm._settings({}).model_dump(),
        "temperature": 0.5,
        "top_k": 8,
        "max_new_tokens": 30,
    }
    assert own._settings({"temperature": 0, "top_k": 0}).model_dump() == {
        **llm._settings({}).model_dump(),
        "max_new_tokens": 30,
    }


def test_misspelt_settings(run: Run, llm: ChatSeodang) -> None:
    """A setting that does not exist is an error, of the instance as of a call."""
    with pytest.raises(ValueError, match="temprature"):
        ChatSeodang(model=str(run.folder), temprature=0.1)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        llm.invoke("물", temprature=0.1)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        llm.batch(["물", "감기"], temprature=0.1)


def test_one_model_in_memory(run: Run, llm: ChatSeodang) -> None:
    """Instances of one model share its weights."""
    assert ChatSeodang(model=run.folder, temperature=1)._chat_model is llm._chat_model


def test_tool_turns(tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Calls and results reach a template that knows them; one that would leave them out is an error."""
    call = {"id": "c1", "name": "weather", "args": {"city": "서울"}, "type": "tool_call"}
    messages = [HumanMessage("날씨?"), AIMessage("", tool_calls=[call]), ToolMessage("맑음 23", tool_call_id="c1")]
    run = make_run(tmp_path / "qwen", tiny_folder, tiny_tokenizer, template="qwen3")
    text = prompt_text(ChatSeodang(model=run.folder), messages)
    assert "<tool_call>" in text
    assert '"city": "서울"' in text
    assert "맑음 23" in text
    forgetful = (
        "{% for m in messages if m.role in ('user', 'assistant') %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (run.model / "chat_template.jinja").write_text(forgetful)
    copied = run.folder.rename(tmp_path / "forgetful")
    with pytest.raises(TemplateError, match="weather, a tool's result"):
        ChatSeodang(model=copied).invoke(messages)


def test_a_role_that_the_template_drops_is_an_error(
    tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A turn of a role of one's own is in the prompt, or refused: Qwen3's template writes nothing for it."""
    nurse = [ChatMessage(role="nurse", content="열이 납니다."), HumanMessage("왜요?")]
    dropping = make_run(tmp_path / "qwen", tiny_folder, tiny_tokenizer, template="qwen3")
    with pytest.raises(TemplateError, match="leaves out turns of the role nurse"):
        ChatSeodang(model=dropping.folder).invoke(nurse)


def test_errors(tiny_folder: Path, run: Run, llm: ChatSeodang, tmp_path: Path) -> None:
    """What cannot be talked to says so, and how to fix it, when it is made."""
    with pytest.raises(TemplateError, match="no chat template"):
        ChatSeodang(model=tiny_folder)
    with pytest.raises(ModelError, match="no such folder"):
        ChatSeodang(model=tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text((run.folder / "recipe.yaml").read_text())
    with pytest.raises(RunError, match="has not ended"):
        ChatSeodang(model=tmp_path / "begun")
    with pytest.raises(ValueError, match="image_url"):
        llm.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])


def test_no_messages_are_an_error(llm: ChatSeodang) -> None:
    """However they are given: a system text alone, also the recipe's, asks nothing; a batch of nothing is empty."""
    for messages in ([], [SystemMessage(SYSTEM)]):
        for ask in (llm.invoke, lambda given: list(llm.stream(given)), lambda given: llm.batch([given, "물"])):
            with pytest.raises(SeodangError, match=r"no message.*\n.*give the message that is to be answered"):
                ask(messages)
    answered, refused = llm.batch(["물", []], return_exceptions=True)
    assert isinstance(answered, AIMessage)
    assert isinstance(refused, SeodangError)
    assert llm.batch([]) == []


def test_refused_conversation(tiny_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """What the template itself refuses is reported in its words."""
    run = make_run(tmp_path / "gemma", tiny_folder, tiny_tokenizer, template="gemma")
    with pytest.raises(TemplateError, match="alternate"):
        ChatSeodang(model=run.folder).invoke([HumanMessage("하나"), HumanMessage("둘")])


def test_a_conversation_that_ends_with_an_answer_is_an_error(llm: ChatSeodang) -> None:
    """The template would begin a second answer behind it."""
    with pytest.raises(ValueError, match="ends with an answer"):
        llm.invoke([HumanMessage("물"), AIMessage("네.")])


def test_docs_run(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every Python block of docs/langchain.md runs, one after the other."""
    monkeypatch.chdir(run.folder.parent.parent)
    Path("runs").unlink(missing_ok=True)
    Path("runs").symlink_to(run.folder.parent)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    assert len(names["answers"]) == 3
    assert re.search(r"(stop|length)\n\d+\n$", capsys.readouterr().out)


@pytest.mark.slow
def test_real_model() -> None:
    """SmolLM2 answers and stops."""
    try:
        llm = ChatSeodang(model="package:smollm2-135m-instruct", max_new_tokens=32)
    except ModelError as error:
        pytest.skip(str(error))
    answer = llm.invoke("What is the capital of France? Answer in one sentence.")
    assert "Paris" in answer.content
    assert answer.response_metadata["stop_reason"] == "stop"
