"""What was gained and what was lost, in words. Reads `proof.json` alone; knows neither page nor terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from seodang.proof.behaviour import AnswerBehaviour
from seodang.proof.proof import behaviour_of
from seodang.proof.verdict import Change, Tone, change_of
from seodang.show.formatting import listing, plural, signed_percent

KINDS = {
    "domain": "domain questions",
    "general": "general questions",
    "repeat": "repeated question",
    "holdout": "holdout",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The answer to: did it get better, and what did it cost?"""

    headline: tuple[tuple[Tone, str], ...]  # sentences, each with its tone
    sentences: tuple[str, ...]
    changes: tuple[Change, ...]


def verdict(proof: Mapping[str, Any]) -> Verdict:
    """Gains and losses per source, and the sentences a reader needs with them."""
    changes = tuple(change_of(name, loss) for name, loss in (proof.get("losses") or {}).items())
    return Verdict(headline=_headline(changes), sentences=tuple(_sentences(proof, changes)), changes=changes)


def kinds(proof: Mapping[str, Any]) -> list[tuple[str, AnswerBehaviour | None, AnswerBehaviour | None]]:
    """(kind, base, tuned) behaviour, in a fixed order, for the kinds that were asked."""
    found = behaviour_of(proof)
    return [
        (kind, found.base.get(kind), found.tuned.get(kind))
        for kind in KINDS
        if kind in found.base or kind in found.tuned
    ]


def _headline(changes: Sequence[Change]) -> tuple[tuple[Tone, str], ...]:
    if not changes:
        return (("broken", "Nothing was measured."),)
    names = {tone: [change.source for change in changes if change.tone == tone] for tone in get_args(Tone)}
    parts: list[tuple[Tone, str]] = []
    parts.append(
        ("gained", f"Gained on {listing(names['gained'])}.") if names["gained"] else ("same", "Nothing gained.")
    )
    if names["lost"]:
        parts.append(("lost", f"Lost on {listing(names['lost'])}."))
    if names["same"]:
        parts.append(("same", f"Unchanged on {listing(names['same'])}."))
    if names["broken"]:
        parts.append(("broken", f"No usable loss on {listing(names['broken'])}."))
    return tuple(parts)


def _sentences(proof: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    retention = [change for change in changes if change.role == "retention"]
    sentences = [_stops(proof)]
    if not retention:
        sentences.append("What was forgotten is not known: no source with role retention was measured.")
    elif any(change.role == "general" and change.tone == "gained" for change in changes):
        cost = listing([f"{change.source} {signed_percent(change.share)}" for change in retention])
        sentences.append(
            "Part of any gain on general questions is the chat format itself, which a base model lacks; "
            f"what it still knows shows on plain text ({cost})."
        )
    if proof.get("best_step") is not None:
        sentences.append(f"The model kept is that of step {proof['best_step']:,}.")
    if proof.get("turned_at") is not None:
        sentences.append(f"The evaluation loss rose again after step {proof['turned_at']:,}.")
    if small := [f"{change.source} ({plural(change.rows, 'row')})" for change in changes if change.is_small]:
        sentences.append(f"Few rows, read with care: {listing(small)}.")
    return [sentence for sentence in sentences if sentence]


def _stops(proof: Mapping[str, Any]) -> str:
    """How many of all answers ended by themselves."""
    found = behaviour_of(proof)
    ended = {}
    for model, by_kind in (("base", found.base), ("tuned", found.tuned)):
        if answers := sum(row.answers for row in by_kind.values()):
            ended[model] = f"{sum(row.stopped for row in by_kind.values())} of {answers}"
    if not ended:
        return ""
    return "Answers that end by themselves: " + ", ".join(f"{model} {share}" for model, share in ended.items()) + "."
