"""What a gain is made of: the turn end, the chat format, the style of the answers, and what depends on the question.

For one row, L is a model's loss on the content of the last answer behind its own prompt, F the mean loss behind the
prompts of K other rows, S = F − L, e the loss on the turn end; b is the form in which the base is asked (the trained
template T or a plain one). With sums over rows::

    ending    = Σ (e_base − e_tuned)
    format    = Σ (L_base,T − L_base,b)
    style     = Σ (F_base,b − F_tuned)
    substance = Σ (S_tuned − S_base,b)

The four add up to the loss gained, whatever b and K are. Substance measures how much an answer depends on its own
question, not whether it is right; other questions of the same topic make part of it look like style.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seodang.proof.measured_rows import MeasuredRow, RowContrast
from seodang.proof.statistics import Estimate, PairedShare, paired_share, ratio, ratios
from seodang.run.base_measurement import Form, PromptLosses

PARTS = ("ending", "format", "style", "substance")
Dependence = Literal["more", "less", "not shown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GainParts:
    """The parts of one source's gain: nats per token of loss that went away, so that positive is better."""

    rows: int
    tokens: int  # Σ (content tokens + 1)
    foreign: int  # K: prompts of other rows behind which each answer is measured
    form: Form  # in which the base is asked
    gain: Estimate
    ending: Estimate
    format: Estimate
    style: Estimate
    substance: Estimate
    substance_per_answer: Estimate  # nats
    dependence: Dependence  # on their own question, of the tuned model's answers against the base's
    own_question_wins: PairedShare  # base, then tuned: rows whose loss is lowest behind their own question

    @property
    def chance(self) -> float:
        """The share of rows that would win if no answer depended on its question."""
        return 1 / (self.foreign + 1)

    def share(self, part: str) -> float | None:
        """A part as a share of the gain; None where the gain itself is not shown."""
        interval, estimate = self.gain.interval, getattr(self, part)
        if interval is None or interval.low <= 0:
            return None
        return float(estimate.value / self.gain.value)


def gain_parts(rows: Sequence[MeasuredRow], *, level: float, effective_share: float | None = None) -> GainParts | None:
    """The parts of the gain on those rows of one source that were contrasted; None where none was.

    Args:
        level: of the intervals.
        effective_share: of the source's rows, by their lengths (`statistics.ratio`).
    """
    measured = [(row, row.contrast) for row in rows if row.contrast]
    if not measured:
        return None
    contrasts = [contrast for _, contrast in measured]
    clusters = [row.cluster for row, _ in measured]
    tokens = [contrast.content_tokens + 1 for contrast in contrasts]
    parts = [_parts(contrast) for contrast in contrasts]
    sums = {name: [part[name] for part in parts] for name in PARTS}
    numerators = {"gain": list(map(_gain, contrasts)), **sums}
    found = ratios(numerators, tokens, clusters, level=level, effective_share=effective_share)
    per_answer = ratio(sums["substance"], [1] * len(parts), clusters, level=level)
    return GainParts(
        rows=len(measured),
        tokens=sum(tokens),
        foreign=len(contrasts[0].prompts),
        form=contrasts[0].form,
        **found,
        substance_per_answer=per_answer,
        dependence=_dependence(per_answer),
        own_question_wins=paired_share(
            [_own_wins(contrast.base) for contrast in contrasts],
            [_own_wins(contrast.tuned) for contrast in contrasts],
            clusters,
            level=level,
        ),
    )


def skipped(rows: Sequence[MeasuredRow]) -> dict[str, int]:
    """Why rows were not contrasted: reason → rows."""
    return dict(Counter(row.no_contrast for row in rows if not row.contrast and row.no_contrast))


def _parts(row: RowContrast) -> Mapping[str, float]:
    """One row's parts, in nats."""
    foreign_base, foreign_tuned = _mean(row.base.foreign), _mean(row.tuned.foreign)
    return {
        "ending": row.base_ending - row.tuned_ending,
        "format": row.base_template - row.base.own,
        "style": foreign_base - foreign_tuned,
        "substance": (foreign_tuned - row.tuned.own) - (foreign_base - row.base.own),
    }


def _gain(row: RowContrast) -> float:
    return row.base_template - row.tuned.own + row.base_ending - row.tuned_ending


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)


def _own_wins(losses: PromptLosses) -> bool:
    return losses.own < min(losses.foreign)


def _dependence(substance: Estimate) -> Dependence:
    interval = substance.interval
    if interval is None:
        return "not shown"
    return "more" if interval.low > 0 else "less" if interval.high < 0 else "not shown"
