"""A seodang model as LangChain's chat model. Needs langchain-core, which the extra `langchain` brings."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import uuid4
from weakref import WeakValueDictionary

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from seodang.data.template.jinja import Turn
from seodang.errors import SeodangError, TemplateError, nearest
from seodang.optional_packages import install_command
from seodang.recipe import Generate
from seodang.serve.call_format import CallFormat, parse_calls
from seodang.serve.chat_model import ChatModel, load_chat_model, with_system
from seodang.types import Message

try:
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.messages.tool import invalid_tool_call, tool_call
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.runnables.config import get_config_list
    from langchain_core.utils.function_calling import convert_to_openai_tool
except ImportError as error:
    raise ImportError(f"ChatSeodang needs langchain-core: {install_command('langchain')}") from error

if TYPE_CHECKING:
    from seodang.model.generate.batch import Completion

_ROLES = {"system": "system", "developer": "system", "human": "user", "ai": "assistant", "tool": "tool"}
_CHOICES = ("auto", "none", "any", "required")  # of tools, beside their names
_OF_TOOLS = ("tools", "tool_choice")
_ELSEWHERE = ("tool_use", "tool_call", "function_call", "reasoning", "thinking")  # blocks that are no part of the text
_SETTINGS = tuple(Generate.model_fields)
# (path, trusted) → model: instances with other settings share it
_loaded: WeakValueDictionary[tuple[str, bool], ChatModel] = WeakValueDictionary()
_loading = Lock()


class ChatSeodang(BaseChatModel):
    """A run's model, or any instruct model, in a LangChain chain: invoke, stream and batch, sync and async.

    Settings left out are those of the run's recipe (`ask.generate`); of a model without a run: greedy, 256 tokens.
    Each may also be given to a call or bound to it, as `stop` may: `llm.invoke(question, temperature=0.7)`.
    `batch` generates all its answers together, whatever `max_concurrency` says.

    Raises:
        SeodangError: the model cannot be loaded; at a call: its template refuses the messages, or they are too long.
    """

    model_config = ConfigDict(extra="forbid")  # a misspelt setting would be without effect

    model: Annotated[str, BeforeValidator(str)] = Field(description="a run's folder; or a folder, hub id or package")
    temperature: float | None = Field(None, ge=0, description="0: greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, description="0: all tokens")
    repetition_penalty: float | None = Field(None, gt=0)
    max_new_tokens: int | None = Field(None, gt=0, validation_alias=AliasChoices("max_new_tokens", "max_tokens"))
    seed: int | None = Field(None, ge=0)
    stop: list[str] | str | None = Field(
        None, description="a text that ends an answer and is not part of it, or several"
    )
    system: str | None = Field(None, description="system text; default the recipe's, empty: none")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    streaming: bool = Field(False, description="LangChain's: let invoke stream to the callbacks")
    _chat_model: ChatModel = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._chat_model = _shared(self.model, self.trust_remote_code)
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """The model's ids of a text by itself, in NFC."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._chat_model.token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the prompt that the messages become: the template's markers and the system text included.

        A part of a conversation that the template refuses is counted turn by turn: a few too many rather than too few.
        """
        if self.custom_get_token_ids is not None or not messages:
            return super().get_num_tokens_from_messages(messages, tools)
        schemas = [convert_to_openai_tool(tool) for tool in tools or ()] or None
        turns = [_turn(message) for message in messages]
        own = any(turn["role"] == "system" for turn in turns)  # wherever it stands: trim_messages reverses
        return self._chat_model.count_tokens(turns if own else self._with_system(turns), schemas)

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | bool | dict[str, Any] | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools: their schemas go into the prompt, and calls in an answer become `tool_calls`.

        A call that cannot be read stands in `invalid_tool_calls`. `with_structured_output` builds on this.

        Args:
            tools: functions, pydantic classes, LangChain tools or JSON schemas.
            tool_choice: the name of a tool that has to be called; "any", "required" or True: one of them has to be;
                "auto" or None: the model decides; "none": tools are left out.

        Raises:
            TemplateError: the model's template knows no tools, or no format of calls that can be read.
            ValueError: `tool_choice` is unknown.
        """
        if self._chat_model.call_format is None:
            hint = "use a model whose template writes tool calls as JSON, such as Qwen3's"
            raise TemplateError("the chat template writes no tool calls", where=self.model, hint=hint)
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        names = [schema["function"]["name"] for schema in schemas]
        chosen = tool_choice["function"]["name"] if isinstance(tool_choice, dict) else tool_choice
        if isinstance(chosen, str) and chosen not in (*_CHOICES, *names):
            raise ValueError(f"unknown tool {chosen!r} (choose from {', '.join(names)})")
        return self.bind(tools=schemas, tool_choice="any" if chosen is True else chosen or None, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "seodang"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "system": self.system,
            "stop": list(_stop_strings(self.stop)) or None,
            **self._settings({}).model_dump(),
        }

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs, generated together."""
        with self._answered_together([self._convert_input(given).to_messages() for given in inputs], kwargs):
            return super().batch(inputs, _one_by_one(config, len(inputs)), **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs, generated together."""
        with self._answered_together([self._convert_input(given).to_messages() for given in inputs], kwargs):
            return await super().abatch(inputs, _one_by_one(config, len(inputs)), **kwargs)

    def generate(
        self, messages: list[list[BaseMessage]], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer all conversations, generated together."""
        with self._answered_together(messages, {**kwargs, "stop": stop}):
            return super().generate(messages, stop, *args, **kwargs)

    async def agenerate(
        self, messages: list[list[BaseMessage]], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer all conversations, generated together."""
        with self._answered_together(messages, {**kwargs, "stop": stop}):
            return await super().agenerate(messages, stop, *args, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        batch = _BATCH.get()
        completion = batch.answer(request) if batch else None
        if completion is None:
            (completion,) = self._chat_model.answer([request.prompt], request.settings, stop=request.stop)
        return ChatResult(generations=[ChatGeneration(message=self._message(request, completion))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        if request.form:  # a call is read when it is whole
            (whole,) = self._chat_model.answer([request.prompt], request.settings, stop=request.stop)
            yield ChatGenerationChunk(message=_as_chunk(self._message(request, whole)))
            return
        pieces = self._chat_model.stream(request.prompt, request.settings, stop=request.stop)
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                completion: Completion = end.value
                break
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        last = AIMessageChunk(
            content="",
            usage_metadata=_usage(completion),
            response_metadata=self._response_metadata(completion),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def _request(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | str | None, changes: Mapping[str, Any]
    ) -> "_Request":
        tools, choice = changes.get("tools"), changes.get("tool_choice")
        form = self._chat_model.call_format if tools and choice != "none" else None
        beginning = _beginning(form, tools, choice) if form and tools else ""
        turns = self._with_system([_turn(message) for message in messages])
        _refuse_answered(turns)
        prompt = self._chat_model.prompt(turns, tools if form else None, beginning=beginning)
        return _Request(
            prompt=tuple(prompt),
            settings=self._settings({name: value for name, value in changes.items() if name not in _OF_TOOLS}),
            stop=_stop_strings(self.stop if stop is None else stop),
            form=form,
            beginning=beginning,
        )

    def _message(self, request: "_Request", completion: "Completion") -> AIMessage:
        """An answer, its calls taken out of its text where there are tools."""
        message = AIMessage(
            content=completion.text,
            usage_metadata=_usage(completion),
            response_metadata=self._response_metadata(completion),
        )
        if request.form is None:
            return message
        found = parse_calls(request.beginning + self._chat_model.written(completion), request.form)
        if found.calls or found.malformed:
            message.content = found.text
        message.tool_calls = [tool_call(name=call.name, args=dict(call.arguments), id=_id()) for call in found.calls]
        message.invalid_tool_calls = [
            invalid_tool_call(name=None, args=each.text, id=_id(), error=each.why) for each in found.malformed
        ]
        return message

    def _with_system(self, turns: Sequence[Turn]) -> list[Turn]:
        return with_system(turns, self._chat_model.system if self.system is None else self.system)

    def _settings(self, changes: Mapping[str, Any]) -> Generate:
        """The recipe's settings, changed by this instance's, changed by the call's."""
        changes = {name: value for name, value in changes.items() if name != "stream"}  # LangChain's own
        if "max_tokens" in changes:
            changes["max_new_tokens"] = changes.pop("max_tokens")
        if unknown := [name for name in changes if name not in _SETTINGS]:
            hint = nearest(unknown[0], _SETTINGS) or f" (choose from {', '.join((*_SETTINGS, 'stop'))})"
            raise TypeError(f"unknown setting {unknown[0]!r}{hint}")
        own = {name: getattr(self, name) for name in _SETTINGS}
        given = {name: value for name, value in {**own, **changes}.items() if value is not None}
        for name in ("temperature", "top_k"):
            given[name] = given.get(name, getattr(self._chat_model.settings, name)) or None  # 0 means none
        return Generate.model_validate({**self._chat_model.settings.model_dump(), **given})

    def _response_metadata(self, completion: "Completion") -> dict[str, Any]:
        return {"stop_reason": "stop" if completion.stopped else "length", "model_name": self.model}

    @contextmanager
    def _answered_together(
        self, conversations: Sequence[Sequence[BaseMessage]], given: Mapping[str, Any]
    ) -> Iterator[None]:
        """Inside, the first of these conversations that has to be answered has all of them answered."""
        if len(conversations) < 2:
            yield
            return

        def requests() -> Iterator[_Request]:
            changes = {name: value for name, value in given.items() if name in (*_SETTINGS, "max_tokens", *_OF_TOOLS)}
            for messages in conversations:
                try:
                    yield self._request(messages, given.get("stop"), changes)
                except (SeodangError, TypeError, ValueError):
                    continue  # raised again where this one is answered

        token = _BATCH.set(_Batch(requests=requests, chat_model=self._chat_model))
        try:
            yield
        finally:
            _BATCH.reset(token)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """All that an answer depends on."""

    prompt: tuple[int, ...]
    settings: Generate
    stop: tuple[str, ...]
    form: CallFormat | None = None  # of the calls that the answer may hold
    beginning: str = ""  # of the answer, where it has to be a call


@dataclass(kw_only=True)
class _Batch:
    """Conversations that are answered in one go, by the first that needs its answer: none, if a cache has them all."""

    requests: Callable[[], Iterator[_Request]]
    chat_model: ChatModel
    answers: "list[tuple[_Request, Completion]] | None" = None
    lock: Lock = field(default_factory=Lock)

    def answer(self, wanted: _Request) -> "Completion | None":
        """The next answer to this question: one asked twice has two. None if it has to be generated by itself."""
        with self.lock:
            if self.answers is None:
                self.answers = self._generate_all(list(self.requests()))
            place = next((place for place, (request, _) in enumerate(self.answers) if request == wanted), None)
            return None if place is None else self.answers.pop(place)[1]

    def _generate_all(self, requests: list[_Request]) -> "list[tuple[_Request, Completion]]":
        if not requests:
            return []
        try:
            prompts = [request.prompt for request in requests]
            completions = self.chat_model.answer(prompts, requests[0].settings, stop=requests[0].stop)
        except SeodangError:  # one that is too long must not keep the others from their answers
            return []
        return list(zip(requests, completions, strict=True))


_BATCH: ContextVar[_Batch | None] = ContextVar("batch", default=None)


def _shared(model: str, trust_remote_code: bool) -> ChatModel:
    with _loading:
        if (chat_model := _loaded.get(key := (str(Path(model).absolute()), trust_remote_code))) is None:
            _loaded[key] = chat_model = load_chat_model(model, trust_remote_code=trust_remote_code)
        return chat_model


def _refuse_answered(turns: Sequence[Turn]) -> None:
    """A template may begin an answer behind an answer, as it was never trained."""
    if turns and turns[-1]["role"] == "assistant":
        raise ValueError("the conversation ends with an answer: end it with a question or a tool's result")


def _stop_strings(stop: Sequence[str] | str | None) -> tuple[str, ...]:
    """One text or several, as LangChain's own models take them.

    Raises:
        TypeError: something else.
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if wrong := [string for string in strings if not isinstance(string, str)]:
        raise TypeError(f"stop takes a text or a list of texts, got {wrong[0]!r}")
    return strings


def _one_by_one(config: RunnableConfig | list[RunnableConfig] | None, number: int) -> list[RunnableConfig]:
    """In order, so that the same batch gives the same answers; the work is done together anyway."""
    return [RunnableConfig({**each, "max_concurrency": 1}) for each in get_config_list(config, number)]


def _turn(message: BaseMessage) -> Turn:
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type)
    if role is None:
        raise ValueError(f"ChatSeodang knows no {message.type} message; give system, human, ai or tool messages")
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    text = _text(message)
    return Message(
        role=role,
        content=None if calls and not text else text,
        tool_calls=tuple(
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in calls
        ),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name if role == "tool" else None,
    ).as_dict()


def _text(message: BaseMessage) -> str:
    """The message's text blocks, joined."""
    if isinstance(message.content, str):
        return message.content
    pieces = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind == "text":
            pieces.append(block if isinstance(block, str) else str(block["text"]))
        elif kind not in _ELSEWHERE:
            raise ValueError(f"ChatSeodang reads text; a {message.type} message holds {kind!r}")
    return "".join(pieces)


def _beginning(form: CallFormat, tools: Sequence[Mapping[str, Any]], choice: str | None) -> str:
    """How an answer has to begin; nothing where the model decides."""
    if choice in (None, "auto"):
        return ""
    if choice in _CHOICES:
        return form.forced(tools[0]["function"]["name"] if len(tools) == 1 else None)
    return form.forced(str(choice))


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    """A whole message as the only one of a stream."""
    calls: list[tuple[str | None, str | None, str | None]] = [
        (call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"]) for call in message.tool_calls
    ]
    calls += [(None, call["args"], call["id"]) for call in message.invalid_tool_calls]
    return AIMessageChunk(
        content=message.content,
        tool_call_chunks=[
            {"name": name, "args": text, "id": own, "index": number, "type": "tool_call_chunk"}
            for number, (name, text, own) in enumerate(calls)
        ],
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
        chunk_position="last",
    )


def _id() -> str:
    return f"call_{uuid4().hex[:24]}"


def _usage(completion: "Completion") -> UsageMetadata:
    read, written = completion.prompt_tokens, completion.new_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
