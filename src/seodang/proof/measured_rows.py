"""What each held-out row cost base and tuned model: the lines of rows.jsonl, from which the proof is computed.

Knows no model and no statistics. All losses are sums of −log p in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from seodang.json_values import to_json
from seodang.run.base_measurement import Form, PromptLosses, RowLoss
from seodang.run.folder import ROWS, Run

Half = Literal["choose", "prove", "both"]  # what a row is for; both: there are too few to tell them apart


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

    @property
    def tokens(self) -> int:
        """All supervised tokens."""
        return self.content_tokens + self.end_tokens


def write_rows(run: Run, rows: Sequence[MeasuredRow]) -> None:
    """Write rows.jsonl, whole or not at all."""
    run.write_lines(ROWS, map(to_json, rows))


def read_rows(run: Run) -> list[MeasuredRow]:
    """The lines of rows.jsonl; none where there is no such file.

    Raises:
        SeodangError: a line is damaged, or was written by another version of seodang.
    """
    return run.read_values(MeasuredRow, ROWS)
