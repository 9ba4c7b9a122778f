"""What a verification found, as frozen values; its JSON is what `seodang verify --json` prints."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Verdict = Literal["same", "same up to rounding", "different"]
CauseName = Literal[
    "doubled BOS",
    "missing BOS",
    "added BOS",
    "missing system text",
    "another template",
    "no stop token",
    "another stop",
    "repetition penalty",
    "sampling",
    "other dtype",
    "quantization",
    "another model",
    "another tokenizer",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCheck:
    """One conversation: the prompt that the run's template makes of it, and the served one."""

    name: str  # which kind of conversation
    expected_tokens: int
    served_tokens: int | None  # None: the server does not say
    first_difference: int | None = None  # token position, where the server shows its ids; None: it does not, or same
    is_same: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCheck:
    """One question, answered greedily by the run's model and by the server."""

    question: str
    expected: str
    served: str
    tokens: int  # of the served answer
    first_difference: int | None  # token position; None: the same text
    gap: float | None  # nats by which the run's model prefers its own token there; None: not known
    expected_stop: bool
    served_stop: bool

    @property
    def is_same(self) -> bool:
        return self.first_difference is None and self.expected_stop == self.served_stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why what is served differs."""

    name: CauseName
    what: str  # a sentence: how it shows
    hint: str  # how to fix it


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Whether what is served is what was proven."""

    SCHEMA_VERSION: ClassVar[int] = 1

    target: str  # the endpoint's URL or the folder
    run: str
    verdict: Verdict
    causes: tuple[Cause, ...]  # none unless it is different
    prompts: tuple[PromptCheck, ...] = ()
    answers: tuple[AnswerCheck, ...] = ()
    notes: tuple[str, ...] = ()  # what was compared how, and what could not be checked
