"""Measured rows and answers of two models → the proof: what was gained, what was lost, of what it is made, how sure.

`Proof` is one frozen value; proof.json is its JSON, and all that terminal, report, model card and `--json` read.
Whoever has rows.jsonl and answers.jsonl can compute it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from seodang.errors import RunError, SeodangError
from seodang.json_values import VERSION_KEY, from_json
from seodang.proof.behaviour import GroupBehaviour, behaviour
from seodang.proof.gain_parts import GainParts, gain_parts, skipped
from seodang.proof.losses import SourceLoss, proving, source_loss
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.stability import Stability, stability
from seodang.proof.statistics import headline_level
from seodang.proof.verdict import Verdict, verdict
from seodang.recipe import Tolerance
from seodang.run.checkpoint_choice import CheckpointChoice
from seodang.run.folder import PROOF, Run
from seodang.types import Answer, SourceRole

SHOWN_EXAMPLES = 3  # answers whose loss fell most, and as many whose loss rose most


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How the tuned model was trained, as far as the proof speaks of it."""

    best_step: int | None = None  # whose weights are kept
    best_by: str | None = None  # the loss that chose it: all, a source, or domain_within_tolerance
    choice: CheckpointChoice | None = None  # why, where tolerances limited the choice
    turned_at: int | None = None  # the step after which the evaluation loss rose again


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredRow:
    """A held-out row that both models answered."""

    row_id: str
    source: str
    where: str  # file:row
    change: float  # of its reference answer's loss, nats per token


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Which two models were compared, and how."""

    name: str
    base: str
    tuned: str
    same_tokenizer: bool = True
    base_has_template: bool = True  # whether the base was trained on the chat template
    is_quick: bool = False  # fewer rows than by default
    training: Training | None = None  # None: the tuned model was not trained here
    no_kl: str = ""  # why KL(base‖tuned) is not measured; empty where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What became of a base model, measured: the content of proof.json."""

    SCHEMA_VERSION: ClassVar[int] = 3

    compared: Compared
    level: float  # of the intervals of losses and parts: 1 − 0.05 / sources; those of behaviour are 0.95
    sources: Mapping[str, SourceLoss]
    parts: Mapping[str, GainParts]  # by source; where they were measured
    skipped: Mapping[str, Mapping[str, int]]  # source → why rows have no parts → rows
    behaviour: tuple[GroupBehaviour, ...]
    stability: Stability
    best: tuple[AnsweredRow, ...]  # the loss fell most
    worst: tuple[AnsweredRow, ...]  # it rose most, or fell least
    verdict: Verdict


def prove_rows(
    rows: Sequence[MeasuredRow],
    answers: Sequence[Answer],
    compared: Compared,
    *,
    roles: Mapping[str, SourceRole],
    trained: Sequence[str] = (),
    tolerance: Tolerance | None = None,
    effective_shares: Mapping[str, float] | None = None,
    temperature: float | None = None,
) -> Proof:
    """The proof that follows from what was measured.

    Args:
        rows: of all sources.
        roles: source → what it stands for.
        trained: sources of which other rows were trained on.
        tolerance: by default the recipe's own default.
        effective_shares: source → share, from `losses.effective_shares`; by default the rows' own.
        temperature: at which the repeated question was asked.
    """
    shares = effective_shares or {}
    by_source = {source: proving([row for row in rows if row.source == source]) for source in roles}
    by_source = {source: own for source, own in by_source.items() if own}
    level = headline_level(len(by_source))
    losses = {
        source: source_loss(
            own,
            roles[source],
            tolerance or Tolerance(),
            is_trained=source in trained,
            same_tokenizer=compared.same_tokenizer,
            level=level,
            effective_share=shares.get(source),
        )
        for source, own in by_source.items()
    }
    parts = {
        source: found
        for source, own in by_source.items()
        if (found := gain_parts(own, level=level, effective_share=shares.get(source)))
    }
    unmeasured = {source: why for source, own in by_source.items() if (why := skipped(own))}
    described = behaviour(answers, {row.row_id: row.cluster for row in rows})
    examples = _examples(rows, answers)
    return Proof(
        compared=compared,
        level=level,
        sources=losses,
        parts=parts,
        skipped=unmeasured,
        behaviour=described,
        stability=stability(answers, temperature=temperature),
        best=tuple(examples[: (len(examples) + 1) // 2][:SHOWN_EXAMPLES]),
        worst=tuple(examples[(len(examples) + 1) // 2 :][: -SHOWN_EXAMPLES - 1 : -1]),
        verdict=verdict(losses, parts, described, skipped=unmeasured),
    )


def read_proof(data: Mapping[str, Any], *, where: str) -> Proof:
    """The proof that proof.json holds.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    data = _without_notes(data)
    if data.get(VERSION_KEY) != Proof.SCHEMA_VERSION:
        found = data.get(VERSION_KEY, "none")
        raise SeodangError(
            f"schema version {Proof.SCHEMA_VERSION} expected, found {found}: another version of seodang wrote it",
            where=where,
            hint="measure the run again: seodang prove RUN",
        )
    return from_json(Proof, dict(data), where=where)


def _without_notes(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A proof of version 2, whose sentences on what was not measured became `no_kl`, as one of version 3."""
    compared = data.get("compared")
    if data.get(VERSION_KEY) != 2 or not isinstance(compared, dict):
        return data
    kept = {key: value for key, value in compared.items() if key != "notes"}
    if notes := compared.get("notes"):
        kept["no_kl"] = " ".join(notes).removeprefix("KL(base‖tuned) is not measured: ").removesuffix(".")
    return {**data, VERSION_KEY: Proof.SCHEMA_VERSION, "compared": kept}


def proof_of_run(run: Run) -> Proof:
    """A run's proof.

    Raises:
        RunError: it has none.
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    if not run.is_proven:
        raise RunError("this run has no proof", where=str(run.folder), hint=f"seodang prove {run.folder}")
    return read_proof(run.read_json(PROOF), where=str(run.folder / PROOF))


def turned_at(evaluations: Sequence[tuple[int, float]]) -> int | None:
    """The step at which the evaluation loss turned: its lowest point, if it rose again afterwards.

    Args:
        evaluations: (step, loss) in order, the base's at step 0 aside.
    """
    if not evaluations:
        return None
    lowest = min(range(len(evaluations)), key=lambda i: (evaluations[i][1], i))
    return evaluations[lowest][0] if lowest < len(evaluations) - 1 else None


def _examples(rows: Sequence[MeasuredRow], answers: Sequence[Answer]) -> list[AnsweredRow]:
    """Rows that both models answered, those whose loss fell most first."""
    answered = {answer.row_id for answer in answers if answer.model == "tuned"}
    answered &= {answer.row_id for answer in answers if answer.model == "base"}
    examples = [
        AnsweredRow(
            row_id=row.row_id,
            source=row.source,
            where=row.where,
            change=(row.tuned.total - row.base.total) / row.tokens,
        )
        for row in rows
        if row.row_id in answered
    ]
    return sorted(examples, key=lambda example: (example.change, example.row_id))
