"""What was gained and what was lost, in words. Reads the `Proof` alone; knows neither page nor terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from seodang.proof.behaviour import AnswerBehaviour, GroupBehaviour
from seodang.proof.gain_parts import PARTS, GainParts
from seodang.proof.losses import SourceLoss
from seodang.proof.proof import Proof, Training
from seodang.proof.statistics import FEWEST_ALONE, FEWEST_CLUSTERS, Interval
from seodang.proof.verdict import broken_answers, has_retention, unlike_references, without_parts
from seodang.recipe_rules import BY_TOLERANCE
from seodang.run.checkpoint_choice import STOPPING_SHARE, CheckpointChoice
from seodang.show.formatting import digits_of, number, percent, probabilities, signed, whole
from seodang.show.language import ENGLISH, Texts

Tone = Literal["gained", "same", "lost", "broken"]
TONES: dict[str, Tone] = {"improved": "gained", "kept": "same", "not shown": "same", "worse": "lost", "lost": "lost"}
ADVISED_ANSWERS = 32  # of a source: of fewer, shares are known to a fifth or worse


def headline(proof: Proof, texts: Texts = ENGLISH) -> tuple[tuple[Tone, str], ...]:
    """The clauses of one sentence: whether the answers can be used, then the domain, then what it cost."""
    if not proof.sources:
        return (("broken", texts.start(texts("headline.nothing"))),)
    order = {"domain": 0, "general": 1, "retention": 2, "replay": 3}
    sources = sorted(proof.sources.items(), key=lambda item: order[item[1].role])
    why = texts("headline.why_join").join(_not_usable(proof, texts))
    clauses: list[tuple[Tone, str]] = [("broken", texts("headline.not_usable", why=why))] if why else []
    clauses += [(tone(loss), _clause(name, loss, texts)) for name, loss in sources if not loss.is_replayed]
    if not clauses:
        return (("broken", texts.start(texts("headline.only_replay"))),)
    (first_tone, first), *others = clauses
    return (first_tone, texts.start(first)), *others


def headline_sentence(proof: Proof, texts: Texts = ENGLISH) -> str:
    """The headline as one sentence."""
    return texts("headline.join").join(clause for _, clause in headline(proof, texts)) + texts("headline.end")


def not_judged(proof: Proof, texts: Texts = ENGLISH) -> str:
    """The sentence directly under the headline: no figure shows that an answer is right."""
    if proof.verdict.answers.startswith("judged"):
        return texts(f"headline.{proof.verdict.answers}")
    return texts("headline.not_asked" if proof.verdict.answers == "not asked" else "headline.not_judged")


def sentences(proof: Proof, texts: Texts = ENGLISH) -> list[str]:
    """What a reader needs beside the headline, the most important first."""
    return [
        *_probability(proof, texts),
        *_substance(proof, texts),
        *_format(proof, texts),
        *_stops(proof.behaviour, texts),
        *_training(proof, texts),
        *_limits(proof, texts),
    ]


def warnings(proof: Proof, texts: Texts = ENGLISH) -> list[str]:
    """Those of `sentences` that a reader acts on: what is not shown or not measured and why, one for each cause.

    The others explain figures that stand in the tables.
    """
    training = proof.compared.training
    outside = training.choice if training and training.choice and not training.choice.kept.is_within else None
    return [
        *(_choice(outside, texts) if outside else ()),
        *(_turned(training, texts) if training else ()),
        *_limits(proof, texts),
    ]


def tone(loss: SourceLoss) -> Tone:
    """How a source's outcome is coloured."""
    return TONES[loss.outcome]


def p_value(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return f"p = {number(p)}" if p >= 0.001 else "p < 0.001"


def role_name(loss: SourceLoss, texts: Texts = ENGLISH) -> str:
    """What a source stands for, and whether it was trained on where that makes a difference."""
    role = texts.known("role", loss.role)
    return texts("role.trained", role=role) if loss.is_replayed else role


def group_name(group: GroupBehaviour, texts: Texts = ENGLISH) -> str:
    """What a group of questions is called."""
    kind = texts.known("kind", group.kind)
    return texts("kind.source", kind=kind, source=group.source) if group.source else kind


def _not_usable(proof: Proof, texts: Texts) -> Iterator[str]:
    if found := broken_answers(proof.behaviour):
        yield texts("headline.broken", broken=found[0], answers=found[1])
    if unlike := unlike_references(proof.behaviour):
        yield texts("headline.unlike", sources=texts.listing(unlike))


def _share_text(model: AnswerBehaviour, texts: Texts) -> str:
    """`20 of 24 (64% to 93%)`: how many answers ended by themselves."""
    found = model.stopped
    if found.interval is None:
        return texts("sentence.share", count=found.count, of=found.of)
    return texts("sentence.share_range", count=found.count, of=found.of, range=texts.percents(found.interval))


def _subject(name: str, loss: SourceLoss, texts: Texts) -> str:
    """What a source's loss is a loss on."""
    return texts("headline.text" if loss.ending is None else "headline.answers", source=name)


def _clause(name: str, loss: SourceLoss, texts: Texts) -> str:
    about, interval = _subject(name, loss, texts), loss.change.interval
    tolerance = f"{loss.tolerance:g}" if loss.tolerance is not None else ""
    if loss.outcome in ("improved", "worse", "lost"):
        assert interval, f"{name}: {loss.outcome} without an interval"
        return _moved(loss, about, interval, tolerance, texts)
    if loss.outcome == "kept":
        return texts("headline.kept", about=about, tolerance=tolerance)
    if loss.tolerance is None:
        return texts("headline.not_shown_fell", about=about)
    return texts("headline.not_shown_kept", about=about, tolerance=tolerance)


def _moved(loss: SourceLoss, about: str, interval: Interval, tolerance: str, texts: Texts) -> str:
    """`loss on … fell by 0.598 nats per token (0.512 to 0.684)`; only for an interval without 0."""
    fell, digits = interval.high < 0, texts.change(loss.change, loss.tolerance).digits
    low, high = (-interval.high, -interval.low) if fell else (interval.low, interval.high)
    amount = texts.amount(number(abs(loss.change.value), digits), loss.unit)
    ends = texts("list.range", low=number(low, digits), high=number(high, digits))
    if loss.outcome == "lost":
        return texts("headline.beyond", about=about, amount=amount, range=ends, tolerance=tolerance)
    return texts("headline.fell" if fell else "headline.rose", about=about, amount=amount, range=ends)


def _probability(proof: Proof, texts: Texts) -> Iterator[str]:
    """What a loss in nats means: e to the power of minus it is the geometric mean of the tokens' probabilities."""
    for name, loss in proof.sources.items():
        if loss.role == "domain" and loss.unit == "nats per token" and loss.before and loss.after:
            before, after = probabilities(math.exp(-loss.before), math.exp(-loss.after))
            yield texts("sentence.probability", source=name, before=before, after=after)


def _substance(proof: Proof, texts: Texts) -> Iterator[str]:
    keys = {"more": "substance_more", "less": "substance_less", "not shown": "substance_not_shown"}
    for name, parts in proof.parts.items():
        found, change = parts.substance_per_answer, texts.change(parts.substance_per_answer, digits=2)
        figure = (
            texts("sentence.per_answer_range", value=change.value, range=change.interval)
            if found.interval
            else texts("sentence.per_answer", value=change.value)
        )
        yield texts(f"sentence.{keys[parts.dependence]}", source=name, figure=figure)
        yield _composition(name, parts, texts)


def _composition(name: str, parts: GainParts, texts: Texts) -> str:
    """What the gain is made of: in percent only where the gain itself is shown."""
    shares = {part: parts.share(part) for part in PARTS}
    words = {part: texts(f"part_words.{part}") for part in PARTS}
    rows = texts.count("example", parts.rows)
    if any(share is None for share in shares.values()):
        figures = [
            texts("sentence.value_of", part=words[part], value=texts.change(getattr(parts, part)).value)
            for part in PARTS
        ]
        gain, key = texts.change(parts.gain).value, "sentence.no_gain"
    else:
        figures = [texts("sentence.share_of", part=words[part], share=percent(share)) for part, share in shares.items()]
        gain, key = number(parts.gain.value, texts.change(parts.gain).digits), "sentence.made_of"
    return texts(key, gain=gain, rows=rows, source=name, figures=texts.listing(figures))


def _format(proof: Proof, texts: Texts) -> Iterator[str]:
    general = [name for name, loss in proof.sources.items() if loss.role == "general"]
    if not general or proof.compared.base_has_template:
        return
    text = [name for name, loss in proof.sources.items() if loss.role == "retention" and not loss.is_replayed]
    if text:
        yield texts("sentence.format_text", general=texts.listing(general), text=texts.listing(text))
    else:
        yield texts("sentence.format", general=texts.listing(general))


def _stops(groups: Sequence[GroupBehaviour], texts: Texts) -> Iterator[str]:
    for group in groups:
        if group.base and group.tuned and group.stops:
            yield texts(
                "sentence.stops",
                group=group_name(group, texts),
                base=_share_text(group.base, texts),
                tuned=_share_text(group.tuned, texts),
                p=p_value(group.stops.p),
            )


def _training(proof: Proof, texts: Texts) -> Iterator[str]:
    training = proof.compared.training
    if training and training.choice:
        yield from _choice(training.choice, texts)
    elif training and training.best_step is not None:
        yield texts("sentence.kept_step", step=whole(training.best_step))
    if training:
        yield from _turned(training, texts)


def _turned(training: Training, texts: Texts) -> Iterator[str]:
    if training.turned_at is not None:
        yield texts("sentence.turned", step=whole(training.turned_at))


def _choice(choice: CheckpointChoice, texts: Texts) -> Iterator[str]:
    """Which checkpoint is kept where tolerances limited the choice, and why."""
    kept = choice.kept
    rises = [
        texts(
            "sentence.rise",
            source=source,
            value=texts.amount(signed(rise.value, digits_of([rise.value], (0.0, rise.tolerance))), rise.unit),
            tolerance=f"{rise.tolerance:g}",
        )
        for source, rise in kept.rises.items()
    ]
    key = "kept_within" if kept.is_within else "kept_outside"
    figures = {"step": whole(kept.step), "within": choice.within, "evaluations": choice.evaluations}
    yield texts(f"sentence.{key}", **figures, rises="; ".join(rises) or texts("sentence.no_rises"))
    if kept.stopped is not None:
        asked = "sentence.kept_stops_base" if kept.is_base_asked else "sentence.kept_stops"
        yield texts(asked, share=percent(kept.stopped), least=percent(STOPPING_SHARE))


def best_by(wanted: str, texts: Texts = ENGLISH) -> str:
    """By which loss the model that is kept is the best."""
    if wanted in ("all", BY_TOLERANCE):
        return texts("curve.best_all" if wanted == "all" else "curve.best_within")
    return texts("curve.best_by", source=wanted)


def _limits(proof: Proof, texts: Texts) -> Iterator[str]:
    """What the figures cannot show: of all of them first, then of single ones."""
    if proof.compared.is_quick:
        yield texts("sentence.quick")
    if not proof.compared.same_tokenizer:
        yield texts("sentence.tokenizers")
    yield from _few_rows(proof, texts)
    if shared := [name for name, loss in proof.sources.items() if loss.is_trained and loss.half == "both"]:
        yield texts("sentence.same_rows", sources=texts.listing(shared))
    if replayed := [name for name, loss in proof.sources.items() if loss.is_replayed]:
        yield texts("sentence.replayed", sources=texts.listing(replayed))
    if few_answers := [
        f"{group.source} ({group.tuned.answers})"
        for group in proof.behaviour
        if group.kind == "holdout" and group.tuned and group.tuned.answers < ADVISED_ANSWERS
    ]:
        yield texts("sentence.few_answers", advised=ADVISED_ANSWERS, sources=texts.listing(few_answers))
    yield from _not_measured(proof, texts)


def _few_rows(proof: Proof, texts: Texts) -> Iterator[str]:
    if few := [
        texts(
            "sentence.few_rows_source",
            source=name,
            rows=texts.count("example", loss.rows),
            effective=number(loss.change.n_eff, 1),
        )
        for name, loss in proof.sources.items()
        if loss.change.interval is None
    ]:
        yield texts(
            "sentence.few_rows", effective=f"{FEWEST_CLUSTERS:g}", alone=FEWEST_ALONE, sources=texts.listing(few)
        )


def _not_measured(proof: Proof, texts: Texts) -> Iterator[str]:
    if proof.compared.no_kl:
        yield texts("sentence.no_kl", reason=texts.known("no_kl", proof.compared.no_kl))
    if not has_retention(proof.sources):
        yield texts("sentence.no_retention")
    if names := without_parts(proof.sources, proof.parts):
        yield texts("sentence.no_parts", sources=texts.listing([_without_parts(name, proof, texts) for name in names]))


def _without_parts(name: str, proof: Proof, texts: Texts) -> str:
    """A source, and why its change was not taken apart."""
    reasons = [
        texts("sentence.reason", rows=texts.count("example", count), reason=texts.known("skip", reason))
        for reason, count in proof.skipped.get(name, {}).items()
    ]
    return texts("sentence.no_parts_why", source=name, reasons=", ".join(reasons)) if reasons else name
