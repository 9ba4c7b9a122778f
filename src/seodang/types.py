"""The values that travel along the pipeline. This module knows no library but NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

SourceRole = Literal["domain", "general", "retention", "replay"]
LossOn = Literal["answers", "last_answer", "all"]
EarlierAnswers = Literal["auto", "split", "context", "keep"]  # examples of their own, unsupervised, trained as they are
AnswerKind = Literal["domain", "general", "repeat", "holdout"]  # what a question is asked for
ModelName = Literal["base", "tuned"]
Checkpointing = Literal["none", "selective", "full"]  # which layers are computed again in the backward pass
IGNORED = -100  # the label of a token that is not supervised (torch's ignore_index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user, assistant or tool
    content: str | None  # None only where tool_calls or a tool result stand instead
    reasoning: str | None = None  # thinking that precedes the answer
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None  # of the tool that a tool turn reports from
    supervised: bool = True  # of an answer: else it is context only
    prefill: str | None = None  # how the content of an answer begins where that was given with the question: no loss

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates and Arrow take it: no key for what is absent."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            turn["reasoning_content"] = self.reasoning
        if self.tool_calls:
            turn["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        if not self.supervised:
            turn["supervised"] = False
        if self.prefill is not None:
            turn["prefill"] = self.prefill
        return turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A conversation as the model reads it."""

    text: str
    spans: tuple[tuple[int, int], ...]  # [start, end) in characters of `text`: supervised, in order


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Several examples end to end in one row; attention does not cross `cu_seqlens`.

    `targets[t]` is the token that position t must predict (labels shifted by one), so an example of n tokens
    takes n − 1 positions here, and fewer if it ends unsupervised. Three examples of 3, 4 and 2 tokens::

        input_ids      a b | d e f | h
        targets        b c | _ f g | i        _ is IGNORED
        position_ids   0 1 | 0 1 2 | 0
        cu_seqlens     0     2       5   6
    """

    input_ids: NDArray[np.int64]  # [positions]
    targets: NDArray[np.int64]  # [positions]
    position_ids: NDArray[np.int64]  # [positions], from 0 in each example
    cu_seqlens: NDArray[np.int32]  # [examples + 1]
    members: tuple[int, ...]  # which of the examples given to `pack`, in their order here


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """All that one optimizer step of one rank works on."""

    packs: tuple[Pack, ...]
    supervised: int  # supervised tokens of the whole step, over all ranks: the loss's denominator
    tokens: int  # positions of the whole step, over all ranks
    rows: tuple[int, ...]  # indices into the training set


@dataclass(frozen=True, kw_only=True, slots=True)
class RowNote:
    """One row that a stage dropped or changed."""

    where: str  # file:row
    row_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What one stage did to one source. `notes` lists the dropped rows; the counts are complete, the list is capped."""

    stage: str  # of the pipeline
    source: str
    rows_in: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason → rows
    changed: Mapping[str, int] = field(default_factory=dict)  # change → rows
    notes: tuple[RowNote, ...] = ()
    remarks: tuple[str, ...] = ()  # sentences for people: sniffed format, encoding …
    unseen: tuple[str, ...] = ()  # columns of images, sounds and videos, of which the model gets nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something known before training. `refuse` stops the pipeline, `warn` is shown, `fixed` was corrected."""

    check: str  # a short name: "control_tokens", "split_leak" …
    severity: Literal["refuse", "warn", "fixed", "note"]
    where: str
    what: str
    hint: str = ""
    rows: tuple[str, ...] = ()  # file:row of examples


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row as the model reads it."""

    where: str  # file:row
    text: str
    supervised: tuple[tuple[int, int], ...]  # [start, end) in characters of `text`


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthStats:
    """Tokens per row; `std` is the population's."""

    count: int  # rows
    total: int  # tokens
    mean: float
    median: float
    min: int
    max: int
    std: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Rows per bin of lengths, and a density curve."""

    edges: tuple[int, ...]  # [bins + 1] tokens
    counts: tuple[int, ...]  # [bins] rows
    density_x: tuple[float, ...]  # [points] tokens
    density_y: tuple[float, ...]  # [points] per token


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLengths:
    """Lengths of one source's rows in one split."""

    tokens: LengthStats  # all tokens of a row
    supervised: LengthStats  # those that are trained on
    histogram: Histogram  # of all tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths of all rendered rows: the run folder's `lengths.json`. A repeated row counts each time."""

    SCHEMA_VERSION: ClassVar[int] = 1

    max_tokens: int  # limit of one row
    train: Mapping[str, SourceLengths]  # by source
    holdout: Mapping[str, SourceLengths]
    cut: Mapping[str, int]  # source → rows to train on that were above the limit, dropped or cut
    cut_holdout: Mapping[str, int] = field(default_factory=dict)  # the same of held-out rows; older runs lack it


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Device, precision and attention of a model."""

    device: str  # cpu, cuda, cuda:1, mps
    dtype: str  # of the weights
    compute_dtype: str  # of the products, by autocast; the same as `dtype` if there is none
    attention: Literal["packed", "padded"]
    reasons: tuple[str, ...]  # for people, one sentence a choice
    training_dtype: str | None = None  # of the products of passes that train, if a trial on real rows allows it
    rounds_stochastically: bool = False  # weights are trained in bf16 by `adamw_bf16`


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model, as the manifest names it; before it is loaded, its path alone is known."""

    path: str
    architecture: str | None = None
    parameters: int | None = None
    layers: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    tokens: int | None = None  # of the tokenizer
    dtype: str | None = None
    sha256: str | None = None  # of names, shapes, and up to 4,096 evenly spaced values of each tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A token-weighted loss: the sum of −log p over `tokens` supervised tokens."""

    source: str
    loss_sum: float  # nats
    tokens: int
    rows: int
    num_bytes: int = 0  # UTF-8 bytes of the supervised text; for bits per byte of retention texts

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.loss_sum / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per UTF-8 byte: comparable across tokenizers."""
        return self.loss_sum / (self.num_bytes * float(np.log(2.0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofCost:
    """What measuring both models takes; what was measured of the base before does not count."""

    sequences: int  # that each model reads
    tokens: int  # of them
    answers: int  # that each model writes
    answer_tokens: int  # at most
    seconds: float | None  # of all that is measured; None: the architecture cannot be estimated
    gflops: float  # that the hardware was measured to do in a second
    reading_seconds: float | None = None  # of the tuned model
    writing_seconds: float | None = None  # of one model
    of_base: Literal["all", "answers", "nothing"] = "all"  # what is still to be measured of the base


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveCost:
    """What measuring the alpha curve takes."""

    alphas: int  # blends that read the rows that choose
    sequences: int  # that each of them reads
    tokens: int  # of them
    proving_sequences: int  # that three models read, beside those: rows that prove and do not choose
    proving_tokens: int
    seconds: float | None  # of all that is measured; None: the architecture cannot be estimated
    weight_bytes: int | None  # of both models in memory; None: the same
    known: int = 0  # of the alphas: measured before, so that they read nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One generated answer."""

    kind: AnswerKind
    model: ModelName
    question: str
    text: str
    stopped: bool  # ended by itself, before max_new_tokens
    prompt_tokens: int
    new_tokens: int
    reference: str | None = None  # the holdout's own answer
    row_id: str | None = None
    source: str | None = None
