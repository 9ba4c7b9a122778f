"""The verdict: what intervals alone show of gain, loss and substance, and what was not measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seodang.errors import plural
from seodang.proof.behaviour import GroupBehaviour
from seodang.proof.gain_parts import Dependence, GainParts
from seodang.proof.losses import SourceLoss
from seodang.proof.statistics import Outcome

BROKEN_SHARE = 0.5  # of the answers, from which they are called not usable
Shown = Outcome | Literal["not measured"]
# judged: by another model against the base's, in judgement.json; what is not usable stays so, whoever judges it
Answers = Literal["not judged", "not usable", "not asked", "judged better", "judged worse", "judged, not shown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Did it get better, what did it cost, and what is that worth?

    Of several sources with one role: `improved` and `kept` where every one is, `worse` and `lost` where any one is.
    """

    domain: Shown
    general: Shown
    retention: Shown  # of text that was never trained on
    substance: Dependence | Literal["not measured"]  # of the domain's answers
    answers: Answers
    why_not_usable: tuple[str, ...]
    apart: bool  # whether no row that proves chose a checkpoint
    not_measured: tuple[str, ...]  # sentences without their stop


def gate_failures(found: Verdict) -> tuple[str, ...]:
    """Why a gate does not let a model through: the domain did not improve, or something was lost."""
    refuted = "the domain got worse" if found.domain == "worse" else f"that the domain improved is {found.domain}"
    costs = {"general": found.general, "retention": found.retention}
    lost = [f"{name} lost beyond its tolerance" for name, shown in costs.items() if shown == "lost"]
    return (*(() if found.domain == "improved" else (refuted,)), *lost)


def verdict(
    losses: Mapping[str, SourceLoss],
    parts: Mapping[str, GainParts],
    behaviour: Sequence[GroupBehaviour],
    *,
    skipped: Mapping[str, Mapping[str, int]],
) -> Verdict:
    """The verdict on two models.

    Args:
        losses, parts: by source.
        skipped: source → why rows were not contrasted → rows.
    """
    domain = [source for source, loss in losses.items() if loss.role == "domain"]
    reasons = _not_usable(behaviour)
    asked = any(group.tuned for group in behaviour)
    return Verdict(
        domain=_common([losses[source].outcome for source in domain], good="improved", bad="worse"),
        general=_of_role(losses, "general"),
        retention=_of_role(losses, "retention"),
        substance=_dependence([parts[source].dependence for source in domain if source in parts]),
        answers="not usable" if reasons else "not judged" if asked else "not asked",
        why_not_usable=reasons,
        apart=bool(losses) and all(loss.half == "prove" for loss in losses.values() if loss.is_trained),
        not_measured=tuple(_not_measured(losses, parts, skipped)),
    )


def _of_role(losses: Mapping[str, SourceLoss], role: str) -> Shown:
    outcomes = [loss.outcome for loss in losses.values() if loss.role == role and not loss.is_replayed]
    return _common(outcomes, good="kept", bad="lost")


def _common(outcomes: Sequence[Outcome], *, good: Outcome, bad: Outcome) -> Shown:
    if not outcomes:
        return "not measured"
    return bad if bad in outcomes else good if set(outcomes) == {good} else "not shown"


def _dependence(found: Sequence[Dependence]) -> Dependence | Literal["not measured"]:
    if not found:
        return "not measured"
    return "less" if "less" in found else "more" if set(found) == {"more"} else "not shown"


def broken_answers(behaviour: Sequence[GroupBehaviour]) -> tuple[int, int] | None:
    """(tuned answers that are blank, do not end or repeat themselves, and all of them) where these are too many."""
    tuned = [group.tuned for group in behaviour if group.tuned and group.kind != "repeat"]
    answers, broken = sum(one.answers for one in tuned), sum(one.broken for one in tuned)
    return (broken, answers) if answers and broken >= BROKEN_SHARE * answers else None


def unlike_references(behaviour: Sequence[GroupBehaviour]) -> list[str]:
    """Sources whose tuned answers are not shown to be more like their own reference than like another question's."""
    return [
        group.source
        for group in behaviour
        if group.source
        and group.tuned
        and (likeness := group.tuned.likeness)
        and likeness.interval
        and likeness.interval.low <= 0
    ]


def _not_usable(behaviour: Sequence[GroupBehaviour]) -> tuple[str, ...]:
    """What the tuned model's answers look like, where that alone makes them unusable."""
    reasons = []
    if broken := broken_answers(behaviour):
        reasons.append(f"{broken[0]} of {broken[1]} do not end, repeat themselves or are blank")
    if unlike := unlike_references(behaviour):
        sources = " and ".join(unlike)
        reasons.append(f"on {sources} they are not shown to be more like their own reference than like another's")
    return tuple(reasons)


def has_retention(losses: Mapping[str, SourceLoss]) -> bool:
    """Whether plain text is held out that was never trained on."""
    return any(loss.role == "retention" and not loss.is_replayed for loss in losses.values())


def without_parts(losses: Mapping[str, SourceLoss], parts: Mapping[str, GainParts]) -> list[str]:
    """Sources of answers whose change was not taken apart."""
    return [source for source, loss in losses.items() if loss.role in ("domain", "general") and source not in parts]


def _not_measured(
    losses: Mapping[str, SourceLoss], parts: Mapping[str, GainParts], skipped: Mapping[str, Mapping[str, int]]
) -> list[str]:
    found = []
    if not has_retention(losses):
        found.append("what was forgotten: no plain text that was never trained on is held out (role retention)")
    for source in without_parts(losses, parts):
        reasons = ", ".join(f"{plural(count, 'row')}: {reason}" for reason, count in skipped.get(source, {}).items())
        found.append(f"what the change on {source} is made of" + (f" ({reasons})" if reasons else ""))
    return found
