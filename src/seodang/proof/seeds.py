"""Several runs of one recipe that differ in their seeds: the spread between them, beside what the rows leave open."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from seodang.errors import RunError
from seodang.proof.losses import Unit
from seodang.proof.proof import Proof
from seodang.proof.statistics import Outcome, Spread, common_outcome, spread
from seodang.proof.verdict import Shown
from seodang.types import SourceRole


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsSource:
    """One source over all runs."""

    role: SourceRole
    unit: Unit
    change: Spread  # tuned − base of each run; its interval is the hull of theirs
    outcomes: tuple[Outcome, ...]  # by run
    outcome: Outcome  # what all runs show
    substance: Spread | None  # nats per answer; None where a run has no parts


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsProof:
    """What several runs show together."""

    SCHEMA_VERSION: ClassVar[int] = 1

    runs: tuple[str, ...]
    base: str
    level: float  # of the intervals within rows
    sources: Mapping[str, SeedsSource]
    domain: Shown  # what all runs show; else not shown
    general: Shown
    retention: Shown


def compare_seeds(proofs: Mapping[Path, Proof]) -> SeedsProof:
    """The spread between runs, and one verdict: what every one of them shows.

    Raises:
        RunError: a run was measured against another base, or on other rows.
    """
    folders, found = list(proofs), list(proofs.values())
    for folder, proof in zip(folders[1:], found[1:], strict=True):
        _refuse_other(folders[0], found[0], folder, proof)
    verdicts = [proof.verdict for proof in found]
    return SeedsProof(
        runs=tuple(map(str, folders)),
        base=found[0].compared.base,
        level=found[0].level,
        sources={name: _source(name, found) for name in found[0].sources},
        domain=common_outcome([verdict.domain for verdict in verdicts]),
        general=common_outcome([verdict.general for verdict in verdicts]),
        retention=common_outcome([verdict.retention for verdict in verdicts]),
    )


def _source(name: str, proofs: list[Proof]) -> SeedsSource:
    losses = [proof.sources[name] for proof in proofs]
    parts = [proof.parts[name].substance_per_answer for proof in proofs if name in proof.parts]
    return SeedsSource(
        role=losses[0].role,
        unit=losses[0].unit,
        change=spread([loss.change for loss in losses]),
        outcomes=tuple(loss.outcome for loss in losses),
        outcome=common_outcome([loss.outcome for loss in losses]),
        substance=spread(parts) if len(parts) == len(proofs) else None,
    )


def _refuse_other(first: Path, one: Proof, folder: Path, other: Proof) -> None:
    def rows(proof: Proof) -> dict[str, tuple[int, int]]:
        return {name: (loss.rows, loss.tokens) for name, loss in proof.sources.items()}

    if one.compared.base != other.compared.base:
        what = f"was measured against {other.compared.base}, and {first} against {one.compared.base}"
    elif rows(one) != rows(other):
        what = f"was measured on other rows than {first}"
    else:
        return
    raise RunError(what, where=str(folder), hint="give runs of one recipe, as tune --seeds makes them")
