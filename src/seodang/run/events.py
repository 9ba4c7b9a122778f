"""What happens during a run, as values: the lines of metrics.jsonl, and three that are only shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from seodang.errors import SeodangError
from seodang.json_values import DAMAGED, from_json


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainEvent:
    """One or more optimizer steps, logged together."""

    SCHEMA_VERSION: ClassVar[int] = 1
    event: Literal["train"] = "train"
    step: int  # the last of them
    epoch: float
    loss: float  # nats per supervised token
    probability: float  # exp(-loss)
    learning_rate: float
    grad_norm: float | None
    steps: int  # that tokens, operations and seconds are of
    tokens: int
    supervised_tokens: int
    flops: float
    seconds: float = 0.0  # evaluations, checkpoints and answers are not counted; measured when it is logged
    tokens_per_second: float = 0.0
    loss_scale: float | None = None  # where the products are float16
    repeated: int = 0  # passes of these steps whose gradients overflowed in float16, and that ran again
    in_float32: int = 0  # of these steps, because float16 does not hold their numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceEvaluation:
    """The loss on one source's holdout."""

    loss: float  # nats per supervised token
    probability: float
    tokens: int
    rows: int
    bits_per_byte: float | None  # where the supervised text was counted in bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalEvent:
    """One evaluation; that of step 0 is the base's."""

    SCHEMA_VERSION: ClassVar[int] = 1
    event: Literal["eval"] = "eval"
    step: int
    epoch: float
    loss: float | None  # that the best checkpoint is chosen by
    probability: float | None
    sources: Mapping[str, SourceEvaluation]


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenAnswer:
    """An answer during training."""

    kind: Literal["domain", "general"]
    question: str
    text: str
    stopped: bool  # ended by itself, before max_new_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersEvent:
    """The answers to the recipe's questions after some step."""

    SCHEMA_VERSION: ClassVar[int] = 1
    event: Literal["answers"] = "answers"
    step: int
    answers: tuple[GivenAnswer, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedEvent:
    """How fast training is on this machine; once a start."""

    SCHEMA_VERSION: ClassVar[int] = 1
    event: Literal["speed"] = "speed"
    step: int
    tokens_per_second: float
    limit_share: float | None  # of the hardware limit's speed; unknown where weights are quantized or memory is full
    matrix_gflops: float | None  # in matrix products, the rate that the limit was reckoned by
    seconds: float  # that measuring it took


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteEvent:
    """A sentence for the user; shown, not recorded."""

    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveEvent:
    """A checkpoint is about to be written; not recorded."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedEvent:
    """It is written; not recorded."""

    step: int


RecordedEvent = TrainEvent | EvalEvent | AnswersEvent | SpeedEvent
Event = RecordedEvent | NoteEvent | SaveEvent | SavedEvent

_RECORDED: Mapping[str, type[RecordedEvent]] = {
    "train": TrainEvent,
    "eval": EvalEvent,
    "answers": AnswersEvent,
    "speed": SpeedEvent,
}


def read_event(data: Any, *, where: str) -> RecordedEvent:
    """The event that one line of metrics.jsonl holds.

    Args:
        where: file and line, for the message.

    Raises:
        SeodangError: a line of another version, or one that is damaged.
    """
    kind = data.get("event") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _RECORDED:
        raise SeodangError(f"unknown event {kind!r} (choose from {', '.join(_RECORDED)})", where=where, hint=DAMAGED)
    return from_json(_RECORDED[kind], data, where=where)


def evaluations(events: Iterable[RecordedEvent]) -> list[tuple[int, float]]:
    """(step, chosen loss) of every evaluation after the base's."""
    return [
        (event.step, event.loss)
        for event in events
        if isinstance(event, EvalEvent) and event.step and event.loss is not None
    ]
