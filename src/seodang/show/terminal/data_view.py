"""What became of the data, in the terminal: counts, findings, the template, first rows and lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from seodang.data.template.find import ChatTemplate
from seodang.show.formatting import fold, number, percent, visible, visible_line, whole
from seodang.show.terminal.console import get_console, quiet_table, show_title
from seodang.show.terminal.verbosity import is_verbose
from seodang.types import Counts, Finding, Lengths, Sample
from seodang.user_paths import shown_path

ALL_SOURCES = "all"  # counts of the mix, which joins them
SHOWN_PARTS, SHOWN_CHARACTERS = 6, 300  # of a row; of each of its parts
SEVERITIES = {"refuse": "bold red", "warn": "yellow", "fixed": "green", "note": "dim"}


def show_counts(counts: Sequence[Counts], *, out: Console | None = None) -> None:
    """What the stages kept, dropped and changed, per source.

    A stage that did neither is listed with --verbose alone; a source with no other has one line.
    """
    out = out or get_console()
    show_title(out, "data")
    table = quiet_table("source", "stage", "in>", "kept>", "dropped and changed")
    for source in dict.fromkeys(count.source for count in counts):
        stages = [count for count in counts if count.source == source]
        if is_verbose() or any(count.dropped or count.changed for count in stages):
            shown = [count for count in stages if is_verbose() or count.dropped or count.changed or count.remarks]
        elif source == ALL_SOURCES and not any(count.remarks for count in stages):
            continue
        else:
            remarks = "; ".join(remark for count in stages for remark in count.remarks)
            shown = [replace(stages[0], stage="", remarks=(remarks,) if remarks else ())]
        for place, count in enumerate(shown):
            name = Text(visible(source) if place == 0 else "", style="bold")
            table.add_row(name, count.stage, whole(count.rows_in), whole(count.kept), _effects(count))
    out.print(table)


def _effects(count: Counts) -> Text:
    """What a stage dropped and changed, and its remarks."""
    effects = Text()
    for sign, style, reasons in (("−", "yellow", count.dropped), ("~", "cyan", count.changed)):
        for reason, rows in reasons.items():
            effects.append("\n" if effects else "").append(f"{sign}{rows:,} {visible(reason)}", style=style)
    for remark in count.remarks:
        effects.append("\n" if effects else "").append(visible(remark), style="dim")
    return effects


def show_findings(findings: Sequence[Finding], *, out: Console | None = None) -> None:
    """Findings, the gravest first, those of one kind together, with example rows and how to fix them."""
    out = out or get_console()
    if not findings:
        return
    show_title(out, "findings")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=6)
    grid.add_column(overflow="fold")
    kinds = list(dict.fromkeys(finding.check for finding in findings))
    ordered = sorted(findings, key=lambda one: (list(SEVERITIES).index(one.severity), kinds.index(one.check)))
    for finding, after in zip(ordered, [*ordered[1:], None], strict=True):
        text = Text(f"{visible_line(finding.where)}: {visible(finding.what)}")
        if rows := [visible_line(shown_path(row)) for row in finding.rows[:3]]:
            text.append(f" ({', '.join(rows)}{', …' if len(finding.rows) > 3 else ''})", style="dim")
        if finding.hint and (after is None or (after.severity, after.hint) != (finding.severity, finding.hint)):
            text.append(f"\n→ {visible(finding.hint)}", style="dim")
        grid.add_row(Text(finding.severity, style=SEVERITIES[finding.severity]), text)
    out.print(grid)


def show_template(template: ChatTemplate, *, out: Console | None = None) -> None:
    """Where the chat template is from, and what ends a turn."""
    text = Text().append("template  ", style="bold").append(visible(template.origin))
    text.append(f"; an answer ends with {visible(template.turn_end)} (token {template.turn_end_id})")
    out = out or get_console()
    out.print()
    out.print(text)


def show_samples(
    samples: Mapping[str, Mapping[str, Sample]], *, will_train: bool = True, out: Console | None = None
) -> None:
    """The first rendered row of each source, what is supervised marked; long parts folded.

    Args:
        will_train: show a training row where there is one.
    """
    out = out or get_console()
    show_title(out, "first rows, ⟦supervised⟧")
    for source, splits in samples.items():
        row = (will_train and splits.get("train")) or splits.get("holdout")
        if not row:
            continue
        head = Text().append(f"{visible(source)} ", style="bold")
        out.print(head.append(visible_line(shown_path(row.where)), style="dim"))
        out.print(Padding(_marked(row), (0, 0, 1, 2)))


def _marked(row: Sample) -> Text:
    """A row's text with brackets around what is supervised; without --verbose the beginning of each part."""
    ends = [0, *(place for span in row.supervised for place in span), len(row.text)]
    parts = [(row.text[start:end], bool(number % 2)) for number, (start, end) in enumerate(pairwise(ends))]
    parts = [part for part in parts if part[0]]
    shown = parts if is_verbose() else parts[:SHOWN_PARTS]
    text = Text()
    for part, is_supervised in shown:
        head, rest = (part, "") if is_verbose() else fold(part, SHOWN_CHARACTERS)
        end = "\n" if "\n" in part[len(part.rstrip()) :] else ""  # before the next turn
        folded = f"{visible(head)} … ({len(rest):,} more characters){end}" if rest else visible(head)
        text.append(f"⟦{folded}⟧" if is_supervised else folded, style="green" if is_supervised else "dim")
    if more := sum(len(part) for part, _ in parts[len(shown) :]):
        text.append(f"\n… ({more:,} more characters)", style="dim")
    text.rstrip()
    return text


def show_lengths(lengths: Lengths, *, will_train: bool = True, out: Console | None = None) -> None:
    """Tokens per example, per source and split, and how many are above `max_tokens`.

    Args:
        will_train: show those of the training rows.
    """
    out = out or get_console()
    show_title(out, "tokens per example")
    above = f"above {lengths.max_tokens:,}>"
    table = quiet_table("source", "part", "examples>", "median>", "mean>", "p95>", "longest>", "supervised>", above)
    both = ("train", lengths.train, lengths.cut), ("holdout", lengths.holdout, lengths.cut_holdout)
    for split, sources, cut in both if will_train else both[1:]:
        for source, row in sources.items():
            stats = row.tokens
            share = row.supervised.total / stats.total if stats.total else None
            table.add_row(
                Text(visible(source), style="bold"),
                split,
                *(whole(stats.count), whole(stats.median), number(stats.mean, 1)),
                *(whole(stats.p95), whole(stats.max), percent(share), whole(cut.get(source, 0))),
            )
    out.print(table)
