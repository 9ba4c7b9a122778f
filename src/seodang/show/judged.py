"""What a judge made of the answers, in words and in the terminal. Reads the `Judgement` alone."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seodang.judge.judgement import Calibration, Judgement, LengthAdjusted, Tally
from seodang.proof.behaviour import Share
from seodang.proof.statistics import Interval
from seodang.show.console import get_console
from seodang.show.formatting import MISSING, listing, percent, plural, visible

NOT_A_PERSON = "A model judged, not a person: it may be wrong where it is sure."


def verdict_sentence(found: Judgement) -> str:
    """What the judge found, or why it found nothing."""
    if found.all is None or found.verdict == "none":
        return f"No answer was judged: {found.why_none} ({found.judge}, {found.date[:10]})."
    figures = (
        f"{plural(found.all.wins.count, 'win')}, {plural(found.all.ties.count, 'tie')}, "
        f"{_losses(found.all.losses.count)} of {found.all.wins.of}"
    )
    difference = f"wins − losses {_signed(found.all.difference.difference)}, {_between(found.all.difference.interval)}"
    what = {
        "better": f"{found.ours}'s answers are better than {found.theirs}'s",
        "worse": f"{found.ours}'s answers are worse than {found.theirs}'s",
        "not shown": f"it is not shown that {found.ours}'s answers are better or worse than {found.theirs}'s",
    }[found.verdict]
    return f"Judged by {found.judge} on {found.date[:10]}: {what} ({figures}; {difference}). {NOT_A_PERSON}"


def judgement_sentences(found: Judgement) -> list[str]:
    """What a reader needs beside the verdict, the most important first."""
    return [*_calibration(found.judge, found.calibration), *_order(found), *_length(found), *_left(found)]


def criteria_sentences(found: Judgement) -> list[str]:
    """The criteria, word by word."""
    return [f"Criteria ({language}): {text}" for language, text in found.criteria.items()]


def judgement_rows(found: Judgement) -> list[tuple[str, ...]]:
    """Rows of a table: which pairs, how many, wins, ties, losses, wins − losses, its interval."""
    rows = []
    for name, one in (("all", found.all), ("similar length", found.similar_length)):
        if one:
            rows.append((name, str(one.wins.of), *_tally(one)))
    if adjusted := found.length_adjusted:
        rows.append(("as if equally long", "", "", "", "", _signed(adjusted.value), _between(adjusted.interval)))
    return rows


JUDGEMENT_COLUMNS = ("pairs", "number", "wins", "ties", "losses", "wins − losses", "95% interval")


def show_judgement(found: Judgement, *, out: Console | None = None) -> None:
    """The verdict, the figures and what they rest on."""
    out = out or get_console()
    out.print(Text(visible(verdict_sentence(found)), style="bold"))
    if rows := judgement_rows(found):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for place, name in enumerate(JUDGEMENT_COLUMNS):
            table.add_column(name, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        out.print()
        out.print(table)
        out.print()
    for sentence in judgement_sentences(found):
        out.print(Text(visible(sentence), style="dim"))


def _tally(one: Tally) -> Sequence[str]:
    return (
        *(f"{portion.count} ({_range(portion)})" for portion in (one.wins, one.ties, one.losses)),
        _signed(one.difference.difference),
        _between(one.difference.interval),
    )


def _calibration(judge: str, found: Calibration) -> Iterator[str]:
    by_fault = listing([f"{one.fault} {one.right} of {one.of}" for one in found.faults])
    yield (
        f"Before, {judge} was asked about planted pairs whose better answer is known, in both orders: "
        f"{found.right} of {found.of} right ({by_fault}); it takes 9 of 10 to be fit."
    )
    if found.is_fit:
        return
    for count, which in ((found.first_twice, "first"), (found.second_twice, "second")):
        if 2 * count > found.of:
            yield f"In {count} of {found.of} planted pairs it chose the answer shown {which}, whichever that was."
    if found.longer and found.longer.of >= 5 and found.longer.count == found.longer.of:
        yield f"Wherever it decided, in {plural(found.longer.of, 'pair')}, it chose the longer answer."
    if found.errors:
        examples = f", such as: {'; '.join(found.examples)}" if found.examples else ""
        yield f"On {plural(found.errors, 'planted pair')} there were no two replies that can be read{examples}."


def _order(found: Judgement) -> Iterator[str]:
    if found.flips:
        flips = f"{percent(found.flips.value)} of its verdicts ({_range(found.flips)}) changed"
        yield (
            f"With the order of the two answers swapped, {flips}; these count as ties. It chose the answer shown first "
            f"in both orders {plural(found.first_twice, 'time')}, the second {plural(found.second_twice, 'time')}."
        )


def _length(found: Judgement) -> Iterator[str]:
    adjusted = found.length_adjusted
    if found.verdict in ("better", "worse") and adjusted and not _agrees(found, adjusted):
        yield "As if both answers were equally long, the difference is not shown: length may explain it."


def _agrees(found: Judgement, adjusted: LengthAdjusted) -> bool:
    if adjusted.interval is None:
        return False
    return adjusted.interval.low > 0 if found.verdict == "better" else adjusted.interval.high < 0


def _left(found: Judgement) -> Iterator[str]:
    if found.errors:
        yield f"{found.errors} of {found.pairs} pairs have no two replies that can be read: errors, which are no ties."
    if without := sum(not one.has_reference for one in found.judged):
        yield f"{without} of {found.pairs} pairs have no reference answer to judge by; all planted pairs have one."
    if found.same_text:
        yield f"In {plural(found.same_text, 'pair')} both answers are the same: ties, of which the judge was not asked."
    asked = f"{plural(found.requests, 'request')} sent, {found.cached:,} answered from the cache"
    repeated = f", {plural(found.repeated, 'failed attempt')} repeated" if found.repeated else ""
    used = f"; {found.prompt_tokens:,} tokens of prompts, {found.reply_tokens:,} of replies"
    tokens = used if found.prompt_tokens else ""
    yield f"{asked}{repeated}{tokens}."
    for warning in found.warnings:
        yield f"{warning[:1].upper()}{warning[1:]}."


def _losses(count: int) -> str:
    return f"{count:,} loss" if count == 1 else f"{count:,} losses"


def _signed(value: float) -> str:
    text = percent(value)
    return f"+{text}" if round(100 * value) > 0 else text


def _between(interval: Interval | None) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}" if interval else MISSING


def _range(share: Share) -> str:
    interval = share.interval
    return f"{percent(interval.low).removesuffix('%')}–{percent(interval.high)}" if interval else MISSING
