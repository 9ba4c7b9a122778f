"""A model that answers conversations, with its own template, system text and settings. Knows no terminal."""

import json
import unicodedata
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seodang import recipe
from seodang.data.template.default_system import without_default_system
from seodang.data.template.find import find_template, own_text
from seodang.data.template.jinja import Turn, compile_template, run
from seodang.errors import RunError, SeodangError, TemplateError
from seodang.model.find_model import find_model
from seodang.recipe import Generate
from seodang.run.folder import Run
from seodang.run.sealed import refuse_unsaved
from seodang.serve.call_format import CallFormat, call_format
from seodang.user_paths import expanded

if TYPE_CHECKING:
    import jinja2
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seodang.model.generate.batch import Completion

Tools = Sequence[Mapping[str, Any]] | None
_KNOWS_TOOLS = "use a model whose template knows tools"
_PROBE = "seodangprobe"  # stands for a turn's content, to see whether a template writes it
_ROLES = frozenset({"system", "user", "assistant", "tool"})  # that templates know in general


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatModel:
    """A model in memory, ready to answer."""

    name: str  # as the user gave it
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    template: "jinja2.Template"
    turn_end_id: int
    system: str | None  # of the run's recipe
    settings: Generate  # of the run's recipe

    def prompt(self, turns: Sequence[Turn], tools: Tools = None, *, beginning: str = "") -> list[int]:
        """A conversation's ids, rendered once (NFC), up to where the answer begins.

        Args:
            tools: JSON schemas of the tools that the model may call.
            beginning: of the answer, which is given.

        Raises:
            TemplateError: the template refuses the conversation, or would leave out tools, a tool turn or a turn of
                another role.
            SeodangError: nothing is asked: there is no turn but a system text.
        """
        if all(turn["role"] == "system" for turn in turns):  # a system text may be added to no messages at all
            what = "no message is given, only a system text" if turns else "no message is given"
            raise SeodangError(what, where=self.name, hint="give the message that is to be answered")
        turns = [_nfc(turn) for turn in turns]
        text = self._render(turns, tools)
        self._check_tools(turns, text)
        self._check_roles(turns)
        if tools and text == self._render(turns):
            raise TemplateError("the chat template leaves tools out", where=self.name, hint=_KNOWS_TOOLS)
        return self._token_ids(text + beginning)

    @cached_property
    def call_format(self) -> CallFormat | None:
        """How the template writes a model's calls of tools; None: it writes none."""
        variables = self.tokenizer.special_tokens_map
        return call_format(
            lambda turns, prompt: run(self.template, turns, variables=variables, add_generation_prompt=prompt)
        )

    def written(self, completion: "Completion") -> str:
        """All that an answer holds, control tokens included, but not what ended it."""
        from seodang.model.save import end_ids

        ids = list(completion.token_ids)
        if completion.stopped and ids and ids[-1] in end_ids(self.model, self.turn_end_id):
            ids.pop()
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    def token_ids(self, text: str) -> list[int]:
        """A text's ids by itself, in NFC as all that is asked, no special tokens added."""
        return self._token_ids(unicodedata.normalize("NFC", text))

    def _token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None: the model sets no limit."""
        from seodang.model.context_length import max_positions

        return max_positions(self.model.config)

    def count_tokens(self, turns: Sequence[Turn], tools: Tools = None) -> int:
        """Number of ids in the conversation's prompt, in whichever order its turns are given.

        A part of a conversation that the template refuses counts turn by turn, each as a prompt of its own: a few too
        many rather than too few. So does one without a question, whose system text a template may leave out.
        """
        if any(turn["role"] == "user" for turn in turns):
            for ordered in (turns, turns[::-1]):  # LangChain's trim_messages counts from the newest message backwards
                try:
                    return len(self.prompt(ordered, tools))
                except TemplateError:
                    continue
        return sum(len(self.prompt([{"role": "user", "content": _all_text(turn)}])) for turn in turns)

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Generate,
        *,
        stop: Sequence[str] = (),
        on_progress: Callable[[int], None] | None = None,
    ) -> "list[Completion]":
        """Answer prompts together, in their order; as `seodang.model.generate.batch.generate`."""
        from seodang.model.generate.batch import generate

        return generate(
            self.model,
            self.tokenizer,
            prompts,
            settings,
            turn_end_id=self.turn_end_id,
            stop=stop,
            on_progress=on_progress,
        )

    def stream(
        self, prompt: Sequence[int], settings: Generate, *, stop: Sequence[str] = ()
    ) -> "Generator[str, None, Completion]":
        """Answer one prompt piece by piece; as `seodang.model.generate.batch.stream`."""
        from seodang.model.generate.batch import stream

        return stream(self.model, self.tokenizer, prompt, settings, turn_end_id=self.turn_end_id, stop=stop)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChatModel":
        """Itself: whoever copies its owner wants other settings, not the weights twice."""
        return self

    def _render(self, turns: Sequence[Turn], tools: Tools = None) -> str:
        variables = self.tokenizer.special_tokens_map
        try:
            return run(self.template, turns, tools, variables=variables, add_generation_prompt=True)
        except TemplateError as error:
            hint = "ask in the order and the roles that this template knows"
            raise TemplateError(error.what, where=self.name, hint=hint) from None

    def _check_tools(self, turns: Sequence[Turn], text: str) -> None:
        """A template that knows no tools drops their turns without a word."""
        names = [call["function"]["name"] for turn in turns for call in turn.get("tool_calls") or ()]
        lost = [name for name in names if name not in text]
        if any(turn["role"] == "tool" for turn in turns):
            probed = self._render([{**turn, "content": _PROBE} if turn["role"] == "tool" else turn for turn in turns])
            lost += ["a tool's result"] if _PROBE not in probed else []
        if lost:
            raise TemplateError(f"the chat template leaves out {', '.join(lost)}", where=self.name, hint=_KNOWS_TOOLS)

    def _check_roles(self, turns: Sequence[Turn]) -> None:
        """A template may drop a turn whose role it does not know, such as nurse, without a word."""
        for role in {turn["role"] for turn in turns} - _ROLES:
            probed = self._render([{**turn, "content": _PROBE} if turn["role"] == role else turn for turn in turns])
            if probed.count(_PROBE) < sum(turn["role"] == role for turn in turns):
                hint = f"give roles that this template knows, such as {', '.join(sorted(_ROLES))}"
                raise TemplateError(
                    f"the chat template leaves out turns of the role {role}", where=self.name, hint=hint
                )


def load_chat_model(path: str | Path, *, base: bool = False, trust_remote_code: bool = False) -> ChatModel:
    """Load a run's tuned model (or its base, with the same template), or any instruct model.

    Args:
        path: a run's folder; or a model's folder, hub id or package.
        base: of a run: the model it started from.
        trust_remote_code: run Python code that comes with the model. What a run's recipe says of it is not enough: the
            folder may be someone else's.

    Raises:
        RunError: the run has no model yet, or a model is asked for its base; or its model needs code that may not run.
        TemplateError: the model has no chat template.
        ModelError, ResourceError: it cannot be loaded.
    """
    found = Run(folder=expanded(path))
    if found.exists:
        return _of_run(found, str(path), base, trust_remote_code)
    if base:
        raise RunError("only a run knows its base", where=str(path), hint="give a run's folder, or the base itself")
    return _of_model(str(path), trust_remote_code)


def with_system(turns: Sequence[Turn], system: str | None) -> list[Turn]:
    """The conversation with a system text in front, unless it has one or there is none."""
    if not system or any(turn["role"] == "system" for turn in turns[:1]):
        return list(turns)
    return [{"role": "system", "content": system}, *turns]


def _of_run(found: Run, name: str, base: bool, trust_remote_code: bool) -> ChatModel:
    refuse_unsaved(found)
    from seodang.model.load import grow_vocabulary, load_config, load_tokenizer

    made = found.trusted_recipe(trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(str(found.model), trust_remote_code=made.model.trust_remote_code)
    if not tokenizer.chat_template:
        hint = f"tune it on questions and answers: a recipe with `model: {name}`"
        raise TemplateError("this run was trained on text alone: it has no chat template", where=name, hint=hint)
    tuned = made.model.model_copy(update={"path": str(found.model), "revision": None})
    model = _model(made.model if base else tuned, is_proven=True)
    if base:  # the template's markers were added to the tuned model alone
        grow_vocabulary(model, load_config(tuned).get_text_config().vocab_size, seed=made.train.seed)
    return ChatModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        # without the system text that the saved one brings: whoever asks may leave it out
        template=compile_template(without_default_system(tokenizer.get_chat_template(), made.system or "")),
        turn_end_id=tokenizer.eos_token_id,  # what `apply_template` made it
        system=made.system,
        settings=made.ask.generate,
    )


def _of_model(path: str, trust_remote_code: bool) -> ChatModel:
    find_model(path)  # before anything is imported that takes long
    from seodang.model.load import load_tokenizer

    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    text = own_text(tokenizer)
    if not text:
        hint = "give an instruct model, or a run: `seodang tune` gives a base its template"
        raise TemplateError("the model's tokenizer has no chat template", where=path, hint=hint)
    template = compile_template(text, where=path)
    turn_end_id = _turn_end_id(tokenizer, path)
    return ChatModel(
        name=path,
        model=_model(recipe.Model(path=path, trust_remote_code=trust_remote_code), is_proven=False),
        tokenizer=tokenizer,
        template=template,
        turn_end_id=turn_end_id,
        system=None,
        settings=Generate(),
    )


def _model(spec: recipe.Model, *, is_proven: bool) -> "PreTrainedModel":
    """A run's models answer in the precision of its report; for others, the fastest will do."""
    from seodang.model.load import load_model
    from seodang.model.placement import choose_placement

    placement = choose_placement(spec)
    return load_model(spec, placement if is_proven else replace(placement, dtype=placement.compute_dtype))


def _turn_end_id(tokenizer: "PreTrainedTokenizerBase", path: str) -> int:
    """What the template writes after an answer; makers do not always name it among the model's end tokens."""
    try:
        own = recipe.Template()
        return find_template(tokenizer, own, num_embeddings=len(tokenizer), load_tokenizer=_never).turn_end_id
    except TemplateError as error:  # a template that could not be trained with may still be talked through
        if tokenizer.eos_token_id is None:
            raise TemplateError(f"nothing ends an answer: {error.what}", where=path, hint=error.hint) from None
        return int(tokenizer.eos_token_id)


def _never(path: str) -> "PreTrainedTokenizerBase":
    raise AssertionError(f"nothing is borrowed, least of all {path}")


def _all_text(turn: Turn) -> str:
    """What a turn holds, tool calls included."""
    calls = turn.get("tool_calls")
    texts = (turn.get("reasoning_content"), turn.get("content"), json.dumps(calls, ensure_ascii=False) if calls else "")
    return "\n".join(text for text in texts if text)


def _nfc(turn: Turn) -> Mapping[str, Any]:
    """What a Mac types as NFD is three times the tokens, and nothing like what was trained."""
    content = turn.get("content")
    return {**turn, "content": unicodedata.normalize("NFC", content)} if isinstance(content, str) else turn
