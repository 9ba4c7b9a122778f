"""What a run has shown, in the terminal: the answers side by side, the verdict, losses and behaviour."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from seodang.proof.behaviour import AnswerBehaviour
from seodang.proof.gain_parts import PARTS
from seodang.proof.proof import Proof
from seodang.proof.seeds import SeedsProof
from seodang.show import sentences
from seodang.show.formatting import (
    digits_of,
    duration,
    fold,
    level,
    number,
    percent,
    plural,
    signed,
    visible,
    visible_line,
    whole,
)
from seodang.show.language import ENGLISH
from seodang.show.terminal.console import get_console, quiet_table, show_title
from seodang.show.terminal.verbosity import is_verbose
from seodang.types import Answer, AnswerKind
from seodang.user_paths import shown_path

SHOWN_QUESTIONS, SHOWN_REMARKS = 5, 4  # without --verbose; all are in the report
SHOWN_CHARACTERS = 400  # of an answer; all of it stands in answers.jsonl and in the report
LOOP_CHARACTERS = 120  # of one that was cut off
SHOWN_DIFFERENT = 4  # answers to the question asked again
WIDE = 100  # columns; a narrower terminal has fewer columns of a table: all are in the report
WIDE_BEHAVIOUR = ("tokens", "chrf")
TONES = {"gained": "green", "same": "", "lost": "red", "broken": "red"}


def show_proof(proof: Proof, *, out: Console | None = None) -> None:
    """The verdict; losses with their intervals, what the gain is made of, and how the answers behave; warnings.

    In English, as all that is printed; the report is in the run's language. Other remarks are there, and printed with
    --verbose.
    """
    out = out or get_console()
    show_title(out, ENGLISH("table.verdict"))
    clauses = sentences.headline(proof)
    line = Text()
    for place, (tone, clause) in enumerate(clauses):
        mark = ENGLISH("headline.join" if place < len(clauses) - 1 else "headline.end")
        line.append(visible(clause), style=f"bold {TONES[tone]}").append(mark)
    out.print(line)
    out.print(Text(sentences.not_judged(proof), style="bold"))
    is_narrow = out.width < WIDE
    for table_of in (_axes, _parts, _behaviour):
        table = table_of(proof, is_narrow=is_narrow)
        if table.row_count:
            out.print()
            out.print(table)
    remarks = sentences.sentences(proof)
    shown = remarks if is_verbose() else sentences.warnings(proof)[:SHOWN_REMARKS]
    if remarks:
        out.print()
    for sentence in shown:
        out.print(Text(visible(sentence), style="dim"))
    if more := len(remarks) - len(shown):
        out.print(Text(ENGLISH("sentence.more", remarks=ENGLISH.count("remark", more)), style="dim"))


def show_seeds(found: SeedsProof, *, out: Console | None = None) -> None:
    """What several runs show together: each run's change, the spread between them, and the interval within rows."""
    out = out or get_console()
    show_title(out, f"{len(found.runs)} runs")
    shown = {"domain": found.domain, "general": found.general, "retention": found.retention}
    verdict = "; ".join(f"{role} {outcome}" for role, outcome in shown.items())
    out.print(Text(f"With every seed: {verdict}.", style="bold"))
    out.print(Text(ENGLISH("headline.not_judged"), style="bold"))
    table = quiet_table("source", "loss in", "change by seed>", "mean>", "sd>", "within rows>", "shown")
    for name, source in found.sources.items():
        change = source.change
        ends = (change.interval.low, change.interval.high) if change.interval else ()
        digits = digits_of((*change.values, *ends))
        table.add_row(
            Text(visible(name), style="bold"),
            ENGLISH(f"unit_short.{source.unit}"),
            " ".join(signed(value, digits) for value in change.values),
            signed(change.mean, digits),
            number(change.sd, digits),
            ENGLISH.between(change.interval, digits),
            Text(source.outcome, style=TONES[sentences.TONES[source.outcome]]),
        )
    out.print()
    out.print(table)


def show_answers(answers: Sequence[Answer], *, out: Console | None = None) -> None:
    """Questions with the answers of base and tuned model side by side; below 80 columns one above the other.

    A handful of questions, some of each kind; with --verbose all.
    """
    out = out or get_console()
    pairs: dict[tuple[str, str, str | None], dict[str, list[Answer]]] = {}
    for answer in answers:
        pairs.setdefault((answer.kind, answer.question, answer.row_id), {}).setdefault(answer.model, []).append(answer)
    shown, chosen = None, list(pairs) if is_verbose() else _few(list(pairs))
    for kind, question, row_id in sorted(chosen, key=lambda key: get_args(AnswerKind).index(key[0])):
        models = pairs[kind, question, row_id]
        if kind != shown:
            show_title(out, ENGLISH.known("kind", kind))
        else:
            out.print()
        shown = kind
        out.print(Text(visible(question), style="bold"))
        columns = [_model_answers(model, models.get(model, ())) for model in ("base", "tuned")]
        if out.width < 80:
            out.print(Group(*columns))
        else:
            grid = Table.grid(padding=(0, 3), expand=True)
            grid.add_column(ratio=1, overflow="fold")
            grid.add_column(ratio=1, overflow="fold")
            grid.add_row(*columns)
            out.print(grid)
    if more := len(pairs) - len(chosen):
        out.print()
        out.print(Text(f"{plural(more, 'more question')} in the report", style="dim"))


def _few(asked: Sequence[tuple[str, str, str | None]]) -> list[tuple[str, str, str | None]]:
    """A handful of questions: the first of each kind, then the second of each, and so on."""
    places: Counter[str] = Counter()
    ranked = []
    for key in asked:
        ranked.append((places[key[0]], key))
        places[key[0]] += 1
    return [key for _, key in sorted(ranked, key=lambda item: item[0])][:SHOWN_QUESTIONS]


def show_end(
    model: str, page: Path, seconds: float, *, in_english: str | None = None, out: Console | None = None
) -> None:
    """Where the tuned model and the report are, and how long it took.

    Args:
        in_english: the command that writes the report in English, where it is in another language that nobody chose.
    """
    out = out or get_console()
    out.print()
    text = Text(f"model   {visible_line(shown_path(model))}\nreport  {visible_line(shown_path(page))}\n")
    if in_english:
        text.append(f"        {korean_note(in_english)}\n", style="dim")
    out.print(text.append(f"took {duration(seconds)}", style="dim"), soft_wrap=True)


def korean_note(in_english: str) -> str:
    """Why the report is in Korean, and on a line of its own the command that writes it in English."""
    return f"in Korean, as most questions are; in English:\n  {visible_line(in_english)}"


def _model_answers(model: str, answers: Sequence[Answer]) -> RenderableType:
    """One model's answer; of a question asked again, each different answer with how often it came."""
    different: dict[str, list[Answer]] = {}
    for answer in answers:
        different.setdefault(" ".join(answer.text.split()), []).append(answer)
    text = Text().append(model, style="dim")
    commonest = sorted(different.values(), key=len, reverse=True)
    for same in commonest[:SHOWN_DIFFERENT]:
        head, rest = fold(visible(same[0].text).strip(), SHOWN_CHARACTERS if same[0].stopped else LOOP_CHARACTERS)
        text.append(f"\n{len(same)}× " if len(answers) > 1 else "\n", style="bold").append(head)
        if rest:
            text.append(f" … ({len(rest):,} more)", style="dim")
        if not same[0].stopped:
            text.append(f"\ncut off at {same[0].new_tokens:,} tokens", style="yellow")
    if len(commonest) > SHOWN_DIFFERENT:
        text.append(f"\nand {plural(len(commonest) - SHOWN_DIFFERENT, 'more different answer')}", style="dim")
    return text if answers else Text(f"{model}: no answer", style="dim")


def _axes(proof: Proof, *, is_narrow: bool) -> Table:
    interval = ENGLISH("table.interval", level=level(proof.level))
    heads = [ENGLISH(f"table.{key}") for key in ("source", "role", "loss_in")]
    numbers = (f"{ENGLISH(f'table.{key}')}>" for key in ("base", "tuned", "change"))
    last = (f"{interval}>", ENGLISH("table.shown"), _examples(is_narrow=is_narrow))
    table = quiet_table(*(heads[::2] if is_narrow else heads), *numbers, *last)
    for name, loss in proof.sources.items():
        style, change = TONES[sentences.tone(loss)], ENGLISH.change(loss.change, loss.tolerance)
        table.add_row(
            Text(visible(name), style="bold"),
            *([] if is_narrow else [sentences.role_name(loss)]),
            ENGLISH(f"unit_short.{loss.unit}"),
            number(loss.before, change.digits),
            number(loss.after, change.digits),
            Text(change.value, style=style),
            change.interval,
            Text(ENGLISH.known("outcome", loss.outcome), style=style),
            whole(loss.rows),
        )
    return table


def _examples(*, is_narrow: bool) -> str:
    """The head above the number of examples."""
    return f"{ENGLISH('table.examples_narrow' if is_narrow else 'table.examples')}>"


def _parts(proof: Proof, *, is_narrow: bool) -> Table:
    parts = ("gain", *PARTS)
    table = quiet_table(
        ENGLISH("table.gain_of"),
        *(f"{ENGLISH(f'part.{part}')}>" for part in parts),
        f"{ENGLISH('table.wins')}>",
        _examples(is_narrow=is_narrow),
    )
    for name, found in proof.parts.items():
        wins, chance = found.own_question_wins, ENGLISH("table.chance", chance=percent(found.chance))
        beside = "" if is_narrow else f" ({chance})"
        table.add_row(
            Text(visible(name), style="bold"),
            *(ENGLISH.change(getattr(found, part)).value for part in parts),
            f"{percent(wins.first)} → {percent(wins.second)}{beside}",
            whole(found.rows),
        )
    return table


def _behaviour(proof: Proof, *, is_narrow: bool) -> Table:
    shown = [key for key in BEHAVIOUR if not (is_narrow and key in WIDE_BEHAVIOUR)]
    heads = ("answers", *shown)
    table = quiet_table(ENGLISH("table.behaviour"), *(f"{ENGLISH(f'table.{head}')}>" for head in heads))
    for group in proof.behaviour:
        either = group.tuned or group.base
        assert either, f"no answers to {group.kind}"
        table.add_row(
            Text(visible(sentences.group_name(group)), style="bold"),
            str(either.answers),
            *(f"{BEHAVIOUR[key](group.base)} → {BEHAVIOUR[key](group.tuned)}" for key in shown),
        )
    return table


def _value(model: AnswerBehaviour | None, key: str) -> float | None:
    found = getattr(model, key) if model else None
    return found.value if found else None


BEHAVIOUR: Mapping[str, Callable[[AnswerBehaviour | None], str]] = {  # heading → what stands below it
    "ends": lambda model: percent(_value(model, "stopped")),
    "tokens": lambda model: whole(_value(model, "mean_tokens")),
    "repetition": lambda model: percent(_value(model, "repetition")),
    "hangul": lambda model: percent(_value(model, "hangul")),
    "chrf": lambda model: number(_value(model, "chrf"), 1),
}
