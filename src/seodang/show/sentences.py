"""What was gained and what was lost, in words. Reads the `Proof` alone; knows neither page nor terminal."""

from collections.abc import Iterator, Sequence
from typing import Literal

from seodang.proof.behaviour import AnswerBehaviour, GroupBehaviour
from seodang.proof.gain_parts import PARTS, GainParts
from seodang.proof.losses import SourceLoss
from seodang.proof.proof import Proof
from seodang.proof.statistics import FEWEST_ALONE, FEWEST_CLUSTERS, Interval
from seodang.show.formatting import between, listing, number, percent, plural, signed

KINDS = {
    "domain": "domain questions",
    "general": "general questions",
    "repeat": "repeated question",
    "holdout": "holdout",
}
PART_WORDS = {
    "ending": "the turn end",
    "format": "the chat format",
    "style": "style",
    "substance": "what depends on the question",
}
Tone = Literal["gained", "same", "lost", "broken"]
TONES: dict[str, Tone] = {"improved": "gained", "kept": "same", "not shown": "same", "worse": "lost", "lost": "lost"}
NOT_JUDGED = "No answer was judged: neither a person nor a model has checked whether they are right."
ADVISED_ANSWERS = 32  # of a source: of fewer, shares are known to a fifth or worse


def headline(proof: Proof) -> tuple[tuple[Tone, str], ...]:
    """The clauses of one sentence: whether the answers can be used, then the domain, then what it cost."""
    if not proof.sources:
        return (("broken", "Nothing was measured"),)
    order = {"domain": 0, "general": 1, "retention": 2, "replay": 3}
    sources = sorted(proof.sources.items(), key=lambda item: order[item[1].role])
    why = proof.verdict.why_not_usable
    clauses: list[tuple[Tone, str]] = [("broken", f"the answers are not usable ({'; '.join(why)})")] if why else []
    clauses += [(tone(loss), _clause(name, loss)) for name, loss in sources if not loss.is_replayed]
    if not clauses:
        return (("broken", "Nothing but replayed text was measured"),)
    (first_tone, first), *others = clauses
    return (first_tone, first[:1].upper() + first[1:]), *others


def headline_sentence(proof: Proof) -> str:
    """The headline as one sentence."""
    return "; ".join(clause for _, clause in headline(proof)) + "."


def not_judged(proof: Proof) -> str:
    """The sentence directly under the headline: no figure shows that an answer is right."""
    if proof.verdict.answers == "not asked":
        return "No question was asked: how the tuned model answers is not known."
    return NOT_JUDGED


def sentences(proof: Proof) -> list[str]:
    """What a reader needs beside the headline, the most important first."""
    return [
        *_substance(proof),
        *_format(proof),
        *_stops(proof.behaviour),
        *_training(proof),
        *_limits(proof),
        *proof.compared.notes,
    ]


def tone(loss: SourceLoss) -> Tone:
    """How a source's outcome is coloured."""
    return TONES[loss.outcome]


def p_value(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return f"p = {number(p)}" if p >= 0.001 else "p < 0.001"


def group_name(group: GroupBehaviour) -> str:
    """What a group of questions is called."""
    return f"{KINDS[group.kind]}: {group.source}" if group.source else KINDS[group.kind]


def _share_text(model: AnswerBehaviour) -> str:
    """`20 of 24 (64% to 93%)`: how many answers ended by themselves."""
    found = model.stopped
    return f"{found.count} of {found.of}" + (f" ({_percents(found.interval)})" if found.interval else "")


def _subject(name: str, loss: SourceLoss) -> str:
    """What a source's loss is a loss on."""
    return f"plain text ({name})" if loss.ending is None else f"{name} answers"


def _clause(name: str, loss: SourceLoss) -> str:
    about, interval = _subject(name, loss), loss.change.interval
    if loss.outcome in ("improved", "worse", "lost"):
        assert interval, f"{name}: {loss.outcome} without an interval"
        return f"loss on {about} {_moved(loss.change.value, interval, loss.unit)}" + (
            f", beyond the tolerance of {loss.tolerance:g}" if loss.outcome == "lost" else ""
        )
    if loss.outcome == "kept":
        return f"{about} kept"
    wanted = "fell" if loss.tolerance is None else f"rose by {loss.tolerance:g} at most"
    return f"that the loss on {about} {wanted} is not shown"


def _moved(value: float, interval: Interval, unit: str) -> str:
    """`fell by 0.598 nats per token (0.512 to 0.684)`; only for an interval without 0."""
    if interval.high < 0:
        return f"fell by {number(-value)} {unit} ({number(-interval.high)} to {number(-interval.low)})"
    return f"rose by {number(value)} {unit} ({number(interval.low)} to {number(interval.high)})"


def _substance(proof: Proof) -> Iterator[str]:
    for name, parts in proof.parts.items():
        found = parts.substance_per_answer
        figure = f"{signed(found.value, 2)} nats per answer"
        figure += f", {between(found.interval, 2)}" if found.interval else ""
        yield {
            "more": f"On {name}, the answers depend more on their own question than the base's ({figure}).",
            "less": f"On {name}, the answers depend less on their own question than the base's ({figure}).",
            "not shown": f"On {name}, it is not shown that the answers depend more on their own question than the "
            f"base's ({figure}).",
        }[parts.dependence]
        yield _composition(name, parts)


def _composition(name: str, parts: GainParts) -> str:
    """What the gain is made of: in percent only where the gain itself is shown."""
    shares = {part: parts.share(part) for part in PARTS}
    about = f"on {plural(parts.rows, 'row')} of {name}"
    if any(share is None for share in shares.values()):
        figures = [f"{PART_WORDS[part]} {signed(getattr(parts, part).value)}" for part in PARTS]
        return f"A gain {about} is not shown ({signed(parts.gain.value)} nats per token: {listing(figures)})."
    figures = [f"{percent(share)} {PART_WORDS[part]}" for part, share in shares.items()]
    return f"Of {number(parts.gain.value)} nats per token gained {about}: {listing(figures)}."


def _format(proof: Proof) -> Iterator[str]:
    general = [name for name, loss in proof.sources.items() if loss.role == "general"]
    if general and not proof.compared.base_has_template:
        text = [name for name, loss in proof.sources.items() if loss.role == "retention" and not loss.is_replayed]
        yield (
            f"Part of any fall on {listing(general)} is the chat format itself, which this base was not trained on"
            + (f"; what it still knows shows on plain text ({listing(text)})." if text else ".")
        )


def _stops(groups: Sequence[GroupBehaviour]) -> Iterator[str]:
    for group in groups:
        if group.base and group.tuned and group.stops:
            yield (
                f"Answers to {group_name(group)} that end by themselves: base {_share_text(group.base)}, "
                f"tuned {_share_text(group.tuned)}, {p_value(group.stops.p)}."
            )


def _training(proof: Proof) -> Iterator[str]:
    training = proof.compared.training
    if training and training.best_step is not None:
        yield f"The model kept is that of step {training.best_step:,}."
    if training and training.turned_at is not None:
        yield f"The evaluation loss rose again after step {training.turned_at:,}."


def _limits(proof: Proof) -> Iterator[str]:
    """What the figures cannot show."""
    if few := [
        f"{name} ({plural(loss.rows, 'row')}, {number(loss.change.n_eff, 1)} effective)"
        for name, loss in proof.sources.items()
        if loss.change.interval is None
    ]:
        yield (
            f"Too few rows for an interval, which takes {FEWEST_CLUSTERS:g} effective ones, and {FEWEST_ALONE} where "
            f"no other row of the source is known: {listing(few)}."
        )
    if shared := [name for name, loss in proof.sources.items() if loss.is_trained and loss.half == "both"]:
        yield (
            f"On {listing(shared)} the rows that chose the model kept also prove it: with fewer than 100 held-out "
            "questions there are not enough for both."
        )
    if replayed := [name for name, loss in proof.sources.items() if loss.is_replayed]:
        yield f"Other rows of {listing(replayed)} were trained on: this change shows little of what was forgotten."
    if few_answers := [
        f"{group.source} ({group.tuned.answers})"
        for group in proof.behaviour
        if group.kind == "holdout" and group.tuned and group.tuned.answers < ADVISED_ANSWERS
    ]:
        yield f"Few questions were asked; {ADVISED_ANSWERS} and more are advised (ask.holdout): {listing(few_answers)}."
    for what in proof.verdict.not_measured:
        yield f"Not measured: {what}."
    if not proof.compared.same_tokenizer:
        yield "The two models have different tokenizers: losses are compared in bits per byte of the content."
    if proof.compared.is_quick:
        yield "A quick proof: fewer rows were measured than by default."


def _percents(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"
