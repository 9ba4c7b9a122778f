"""What each held-out row cost base and tuned model: the lines of rows.jsonl, from which the proof is computed.

Knows no model and no statistics. All losses are sums of −log p in nats.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Half = Literal["choose", "prove", "both"]  # what a row is for; both: there are too few to tell them apart
Form = Literal["template", "plain"]  # the trained chat template; a plain question/answer form in the data's language


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLoss:
    """One model's loss on the supervised tokens of one row."""

    content: float
    ending: float  # of the turn-end tokens; 0 where none is supervised


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLosses:
    """The content of one answer behind its own prompt, and behind those of other rows."""

    own: float
    foreign: tuple[float, ...]  # one for each of `RowContrast.prompts`


@dataclass(frozen=True, kw_only=True, slots=True)
class RowContrast:
    """How much a row's last answer depends on its own question (docs/statistics.md)."""

    content_tokens: int  # of the last answer
    prompts: tuple[str, ...]  # row_id of each foreign prompt
    form: Form  # that the base is asked in, the same for all rows of a source
    base_template: float  # the base's loss on the content behind its own prompt, in the trained template
    base_plain: float | None  # the same in the plain form; None where the base was trained on the template
    base: PromptLosses  # in `form`
    tuned: PromptLosses  # in the trained template
    base_ending: float  # in the trained template
    tuned_ending: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRow:
    """One held-out row, measured with both models."""

    SCHEMA_VERSION: ClassVar[int] = 1

    row_id: str
    source: str
    where: str  # file:row
    cluster: str  # rows of one cluster are not independent: an equal question or answer, one document
    half: Half
    content_tokens: int  # supervised tokens but the turn ends
    end_tokens: int  # supervised turn ends
    num_bytes: int  # UTF-8 bytes of the content
    base: RowLoss
    tuned: RowLoss
    kl: float | None = None  # Σ KL(base‖tuned) over `kl_tokens` positions; None: not measured
    kl_tokens: int = 0
    contrast: RowContrast | None = None
    no_contrast: str = ""  # why there is none: "tools", "too long", "fewer than 16 clusters" …
