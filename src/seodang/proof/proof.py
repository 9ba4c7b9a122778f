"""Evaluations and answers of two models → the proof: what was gained, what was lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seodang.json_values import from_json, to_json
from seodang.proof.behaviour import Behaviour, behaviour
from seodang.proof.stability import Stability, stability
from seodang.proof.verdict import change_of
from seodang.run.folder import PROOF
from seodang.types import Answer, Metric, SourceRole


def proof(
    *,
    name: str,
    base: str,
    tuned: str,
    roles: Mapping[str, SourceRole],
    before: Mapping[str, Metric],
    after: Mapping[str, Metric],
    answers: Sequence[Answer],
    training: Mapping[str, Any],
    temperature: float | None,
) -> dict[str, Any]:
    """Everything that proof.json holds; each number follows from metrics.jsonl and answers.jsonl.

    Args:
        roles: source → what it stands for.
        before, after: source → the base's and the tuned model's metric.
        training: best_step, best_by, turned_at; empty where models are compared that were not trained here.
        temperature: at which the repeated question was asked.
    """
    losses = {
        source: {
            "role": roles[source],
            "rows": metric.rows,
            "tokens": metric.tokens,
            "base": _loss(before[source]),
            "tuned": _loss(metric),
            "change": _finite(metric.loss - before[source].loss),
        }
        for source, metric in after.items()
    }
    return {
        "name": name,
        "base": base,
        "tuned": tuned,
        "best_step": None,
        "best_by": None,
        "turned_at": None,
        **training,
        "losses": losses,
        "behaviour": to_json(behaviour(answers)),
        "stability": to_json(stability(answers, temperature=temperature)),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outer:
    """What proof.json holds beside its parts, which are checked where they are read."""

    best_step: int | None = None
    best_by: str | None = None
    turned_at: int | None = None
    losses: Mapping[str, Any] = field(default_factory=dict)


def check_proof(proof: Mapping[str, Any]) -> None:
    """Refuse a proof.json that no version of seodang wrote, before anything is read from it.

    Raises:
        SeodangError: a part is of another type, or was written by another version of seodang.
    """
    known = {key: proof[key] for key in _Outer.__dataclass_fields__ if key in proof}
    outer = from_json(_Outer, known, where=PROOF)
    for name, loss in outer.losses.items():
        change_of(name, loss)
    behaviour_of(proof)
    stability_of(proof)


def behaviour_of(proof: Mapping[str, Any]) -> Behaviour:
    """How the answers behave, as proof.json holds it; empty where it holds nothing of the kind.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    data = proof.get("behaviour")
    return from_json(Behaviour, data, where="proof.json, behaviour") if data else Behaviour()


def stability_of(proof: Mapping[str, Any]) -> Stability:
    """How alike the answers to the repeated question are, as proof.json holds it; empty where it was not asked.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    data = proof.get("stability")
    return from_json(Stability, data, where="proof.json, stability") if data else Stability()


def turned_at(evaluations: Sequence[tuple[int, float]]) -> int | None:
    """The step at which the evaluation loss turned: its lowest point, if it rose again afterwards.

    Args:
        evaluations: (step, loss) in order, the base's at step 0 aside.
    """
    if not evaluations:
        return None
    lowest = min(range(len(evaluations)), key=lambda i: (evaluations[i][1], i))
    return evaluations[lowest][0] if lowest < len(evaluations) - 1 else None


def _loss(metric: Metric) -> dict[str, float | None]:
    return {
        "loss": _finite(metric.loss),
        "bits_per_byte": _finite(metric.bits_per_byte) if metric.num_bytes else None,
    }


def _finite(number: float) -> float | None:
    """None for what JSON cannot hold: no usable loss was measured."""
    return number if math.isfinite(number) else None
