"""What was proven: a run's template, settings and answers; its weights are loaded only where those do not suffice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seodang.data.template.default_system import without_default_system
from seodang.data.template.find import own_text
from seodang.data.template.jinja import compile_template, run
from seodang.errors import TemplateError
from seodang.model.load import load_tokenizer
from seodang.recipe import Generate
from seodang.run.evidence import read_answers
from seodang.run.folder import Run
from seodang.serve.chat_model import ChatModel, load_chat_model
from seodang.serve.server import served_model
from seodang.user_paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seodang.serve.engines import ServedModel

NEW_TOKENS = 64  # of an answer that has to be generated for the comparison
BEYOND = 8  # tokens asked for after a stored answer's end, to see that the server stops
QUESTIONS = (  # for a model without a run
    "What is the capital of France?",
    "Why is the sky blue?",
    "감기에 걸렸을 때는 어떻게 해야 하나요?",
    "Write a short poem about the sea.",
    "사과는 왜 빨간가요?",
    "How do I boil an egg?",
    "List three animals that can fly.",
    "제 1형 당뇨병은 어떻게 치료하나요?",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """One question and its greedy answer."""

    question: str
    text: str
    stopped: bool
    max_tokens: int  # to ask the server for
    base: str | None = None  # the base's answer, where the run folder has it


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A run, or a model, that an endpoint is compared with."""

    name: str  # as the user gave it
    served: "ServedModel"  # the folder, the dtype of its weights, its sampling defaults
    tokenizer: "PreTrainedTokenizerBase"
    template: str
    template_without_system: str | None  # None: it brings no system text
    stored: tuple[Expected, ...]  # greedy answers of the run folder, whose weights are not needed
    questions: tuple[str, ...]
    load: Callable[[], ChatModel]  # the weights; loads them once

    @property
    def penalty(self) -> float:
        """The repetition penalty that is served by default."""
        return self.served.sampling.repetition_penalty if self.served.sampling else 1.0

    @property
    def dtype(self) -> str:
        return self.served.dtype or "float32"

    @property
    def bos_id(self) -> int | None:
        found: int | None = self.tokenizer.bos_token_id
        return found

    def ids(self, turns: Sequence[Mapping[str, Any]], tools: Any = None, *, template: str | None = None) -> list[int]:
        """Ids of a prompt, by its own template or another.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        text = run(
            _compiled(self.template if template is None else template),
            turns,
            tools,
            variables=self.tokenizer.special_tokens_map,
            add_generation_prompt=True,
        )
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text, no special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def expected(self, number: int) -> tuple[Expected, ...]:
        """Greedy answers to `number` questions: the run folder's, or generated ones where it has none."""
        if len(self.stored) >= number or (self.stored and not self.questions):
            return self.stored[:number]
        chat_model = self.load()
        settings = Generate(max_new_tokens=NEW_TOKENS, repetition_penalty=self.penalty)
        asked = self.questions[:number]
        prompts = [self.ids([{"role": "user", "content": question}]) for question in asked]
        return tuple(
            Expected(question=question, text=answer.text, stopped=answer.stopped, max_tokens=NEW_TOKENS)
            for question, answer in zip(asked, chat_model.answer(prompts, settings), strict=True)
        )


def load_reference(path: str | Path, *, trust_remote_code: bool = False) -> Reference:
    """A run's folder or a model, without its weights.

    Raises:
        RunError: the run has no model yet.
        TemplateError: the model has no chat template.
        ModelError: there is no such model.
    """
    served = served_model(path, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(served.path, trust_remote_code=trust_remote_code)
    text = own_text(tokenizer)
    if not text:
        hint = "give a run's folder or an instruct model"
        raise TemplateError("the model's tokenizer has no chat template", where=str(path), hint=hint)
    found = Run(folder=expanded(path))
    system = found.recipe().system if found.exists else None
    without = without_default_system(text, system) if system else text

    @cache
    def load() -> ChatModel:
        return load_chat_model(path, trust_remote_code=trust_remote_code)

    own = Reference(
        name=str(path),
        served=served,
        tokenizer=tokenizer,
        template=text,
        template_without_system=None if without == text else without,
        stored=(),
        questions=QUESTIONS,
        load=load,
    )
    return _with_answers(own, found) if found.exists else own


def _with_answers(own: Reference, found: Run) -> Reference:
    """The questions of a run, and its answers where they were generated greedily under the served penalty."""
    settings = found.recipe().ask
    limits = {"holdout": settings.holdout_tokens}
    answers = read_answers(found)
    # a question of several turns is stored by its last one: only its number of tokens shows it
    alone = [
        answer
        for answer in answers
        if answer.model == "tuned" and answer.kind != "repeat" and answer.question
        if len(_asked(own, answer.question) or ()) == answer.prompt_tokens
    ]
    questions = tuple(dict.fromkeys(answer.question for answer in alone))
    before = {answer.question: answer.text for answer in answers if answer.model == "base"}
    is_greedy = settings.generate.temperature is None
    is_served = (settings.generate.repetition_penalty or 1.0) == own.penalty
    stored = [
        Expected(
            question=answer.question,
            text=answer.text,
            stopped=answer.stopped,
            max_tokens=min(answer.new_tokens + BEYOND, limits.get(answer.kind, settings.generate.max_new_tokens)),
            base=before.get(answer.question),
        )
        for answer in alone
        if is_greedy and is_served
    ]
    return replace(own, stored=tuple(stored), questions=(*questions, *QUESTIONS))


def _asked(own: Reference, question: str) -> list[int] | None:
    try:
        return own.ids([{"role": "user", "content": question}])
    except TemplateError:
        return None


@cache
def _compiled(text: str) -> Any:
    return compile_template(text)
