"""What a judge made of the answers, in words and in the terminal. Reads the `Judgement` alone."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from seodang.judge.judgement import Calibration, Judgement, LengthAdjusted, Tally
from seodang.judge.of_run import BASE, read_judgement
from seodang.proof.behaviour import Share
from seodang.proof.proof import Proof
from seodang.proof.statistics import Interval
from seodang.run.evidence import Evidence
from seodang.run.folder import JUDGEMENT
from seodang.show import sentences
from seodang.show.formatting import MISSING, percent, visible, whole
from seodang.show.language import ENGLISH, Texts
from seodang.show.terminal.console import get_console, quiet_table

COLUMNS = ("pairs", "number", "wins", "ties", "losses", "difference", "interval")  # keys of their headings


def judgement_of(evidence: Evidence) -> Judgement | None:
    """The judgement of a run's answers; None where there is none, or the run was proven again with other answers.

    Raises:
        SeodangError: it was written by another version of seodang, or is damaged.
    """
    return read_judgement(evidence.judgement, evidence.answers, where=JUDGEMENT)


def lead(proof: Proof, judgement: Judgement | None, texts: Texts = ENGLISH) -> str:
    """The sentence directly under a report's headline: whether the answers were judged, by whom, and what was found."""
    if judgement:
        return verdict_sentence(judgement, texts)
    is_of_other_answers = proof.verdict.answers.startswith("judged")
    return texts("headline.not_judged") if is_of_other_answers else sentences.not_judged(proof, texts)


def verdict_sentence(found: Judgement, texts: Texts = ENGLISH) -> str:
    """What the judge found, or why it found nothing."""
    who = {"judge": found.judge, "date": found.date[:10]}
    if found.all is None or found.verdict == "none":
        calibration = found.calibration
        if not calibration.is_fit:
            return texts("judged.unfit", right=calibration.right, of=calibration.of, **who)
        return texts("judged.too_many_errors", errors=found.errors, pairs=found.pairs, **who)
    difference = found.all.difference
    figures = texts(
        "judged.figures",
        wins=whole(found.all.wins.count),
        ties=whole(found.all.ties.count),
        losses=whole(found.all.losses.count),
        of=whole(found.all.wins.of),
        difference=_signed(difference.difference),
        interval=_between(difference.interval, texts),
    )
    theirs = texts("judged.base") if found.theirs == BASE else found.theirs
    what = {
        "better": texts("judged.better", ours=found.ours, theirs=theirs),
        "worse": texts("judged.worse", ours=found.ours, theirs=theirs),
        "not shown": texts("judged.not_shown", ours=found.ours, theirs=theirs),
    }[found.verdict]
    return texts("judged.verdict", what=what, figures=figures, **who)


def judgement_sentences(found: Judgement, texts: Texts = ENGLISH) -> list[str]:
    """What a reader needs beside the verdict, the most important first; the criteria word by word."""
    return [
        *_calibration(found.judge, found.calibration, texts),
        *_order(found, texts),
        *_length(found, texts),
        *_left(found, texts),
        *(texts(f"judged.criteria_{language}", criteria=text) for language, text in found.criteria.items()),
    ]


def judgement_rows(found: Judgement, texts: Texts = ENGLISH) -> list[tuple[str, ...]]:
    """Rows of a table with `COLUMNS`."""
    rows = []
    for name, one in (("judged.all", found.all), ("judged.similar_length", found.similar_length)):
        if one:
            rows.append((texts(name), *_row(one, texts)))
    if adjusted := found.length_adjusted:
        ends = _between(adjusted.interval, texts)
        rows.append((texts("judged.equally_long"), "", "", "", "", _signed(adjusted.value), ends))
    return rows


def show_judgement(found: Judgement, *, out: Console | None = None) -> None:
    """The verdict, the figures and what they rest on."""
    out = out or get_console()
    out.print(Text(visible(verdict_sentence(found)), style="bold"))
    if rows := judgement_rows(found):
        first, *others = (ENGLISH(f"judged.column_{name}") for name in COLUMNS)
        table = quiet_table(first, *(f"{head}>" for head in others))
        for row in rows:
            table.add_row(*row)
        out.print()
        out.print(table)
        out.print()
    for sentence in judgement_sentences(found):
        out.print(Text(visible(sentence), style="dim"))


def _row(one: Tally, texts: Texts) -> tuple[str, ...]:
    """How many pairs; wins, ties and losses; wins − losses, and its interval."""
    portions = (f"{portion.count} ({_range(portion)})" for portion in (one.wins, one.ties, one.losses))
    difference = one.difference
    return str(one.wins.of), *portions, _signed(difference.difference), _between(difference.interval, texts)


def _calibration(judge: str, found: Calibration, texts: Texts) -> Iterator[str]:
    faults = [
        texts("judged.fault", fault=texts.known("judged_fault", one.fault), right=one.right, of=one.of)
        for one in found.faults
    ]
    yield texts("judged.planted", judge=judge, right=found.right, of=found.of, faults=texts.listing(faults))
    if found.is_fit:
        return
    if 2 * found.first_twice > found.of:
        yield texts("judged.first_planted", count=found.first_twice, of=found.of)
    if 2 * found.second_twice > found.of:
        yield texts("judged.second_planted", count=found.second_twice, of=found.of)
    if found.longer and found.longer.of >= 5 and found.longer.count == found.longer.of:
        yield texts("judged.longer_planted", count=found.longer.of, of=found.of)
    if found.errors:
        yield texts("judged.errors_planted", count=found.errors, of=found.of, examples="; ".join(found.examples))


def _order(found: Judgement, texts: Texts) -> Iterator[str]:
    if flips := found.flips:
        yield texts(
            "judged.flips",
            share=percent(flips.value),
            range=_range(flips),
            first=found.first_twice,
            second=found.second_twice,
        )


def _length(found: Judgement, texts: Texts) -> Iterator[str]:
    adjusted = found.length_adjusted
    if found.verdict in ("better", "worse") and adjusted and not _agrees(found, adjusted):
        yield texts("judged.by_length")


def _agrees(found: Judgement, adjusted: LengthAdjusted) -> bool:
    if adjusted.interval is None:
        return False
    return adjusted.interval.low > 0 if found.verdict == "better" else adjusted.interval.high < 0


def _left(found: Judgement, texts: Texts) -> Iterator[str]:
    if found.errors:
        yield texts("judged.errors", errors=found.errors, pairs=found.pairs)
    if without := sum(not one.has_reference for one in found.judged):
        yield texts("judged.no_reference", count=without, pairs=found.pairs)
    if found.same_text:
        yield texts("judged.same_text", count=found.same_text, pairs=found.pairs)
    yield texts(
        "judged.requests",
        requests=whole(found.requests),
        cached=whole(found.cached),
        repeated=whole(found.repeated),
        prompt_tokens=whole(found.prompt_tokens),
        reply_tokens=whole(found.reply_tokens),
    )
    yield from found.warnings


def _signed(value: float) -> str:
    text = percent(value)
    return f"+{text}" if round(100 * value) > 0 else text


def _between(interval: Interval | None, texts: Texts) -> str:
    return texts("list.range", low=_signed(interval.low), high=_signed(interval.high)) if interval else MISSING


def _range(share: Share) -> str:
    """`59–81%`: short, for a table's cell."""
    interval = share.interval
    return f"{percent(interval.low).removesuffix('%')}–{percent(interval.high)}" if interval else MISSING
