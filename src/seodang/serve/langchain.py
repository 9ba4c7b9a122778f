"""A seodang model as LangChain's chat model. Needs langchain-core, which the extra `langchain` brings."""

import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Self
from weakref import WeakValueDictionary

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from seodang.data.template.jinja import Turn
from seodang.errors import SeodangError
from seodang.recipe import Generate
from seodang.serve.chat_model import ChatModel, load_chat_model, with_system
from seodang.types import Message

try:
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import get_config_list
except ImportError as error:
    raise ImportError("ChatSeodang needs langchain-core: pip install 'seodang[langchain]'") from error

if TYPE_CHECKING:
    from seodang.model.generate.batch import Completion

_ROLES = {"system": "system", "developer": "system", "human": "user", "ai": "assistant", "tool": "tool"}
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
    seed: int | None = None
    stop: list[str] | str | None = Field(
        None, description="a text that ends an answer and is no part of it, or several"
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
        if tools is not None:
            warnings.warn("tools are not part of the prompt and are not counted", stacklevel=2)
        turns = [_turn(message) for message in messages]
        own = any(turn["role"] == "system" for turn in turns)  # wherever it stands: trim_messages reverses
        return self._chat_model.count_tokens(turns if own else self._with_system(turns))

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
        message = AIMessage(
            content=completion.text,
            usage_metadata=_usage(completion),
            response_metadata=self._response_metadata(completion),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
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
        prompt = self._chat_model.prompt(self._with_system([_turn(message) for message in messages]))
        strings = _stop_strings(self.stop if stop is None else stop)
        return _Request(prompt=tuple(prompt), settings=self._settings(changes), stop=strings)

    def _with_system(self, turns: Sequence[Turn]) -> list[Turn]:
        return with_system(turns, self._chat_model.system if self.system is None else self.system)

    def _settings(self, changes: Mapping[str, Any]) -> Generate:
        """The recipe's settings, changed by this instance's, changed by the call's."""
        changes = {name: value for name, value in changes.items() if name != "stream"}  # LangChain's own
        if "max_tokens" in changes:
            changes["max_new_tokens"] = changes.pop("max_tokens")
        if unknown := [name for name in changes if name not in _SETTINGS]:
            close = difflib.get_close_matches(unknown[0], _SETTINGS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join((*_SETTINGS, 'stop'))}"
            raise TypeError(f"ChatSeodang knows no setting {unknown[0]!r}; {hint}")
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
            changes = {name: value for name, value in given.items() if name in (*_SETTINGS, "max_tokens")}
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


def _usage(completion: "Completion") -> UsageMetadata:
    read, written = completion.prompt_tokens, completion.new_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
