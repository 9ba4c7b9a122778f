"""Findings on the prepared rows, before any training; some of them stop the pipeline."""

import re
from collections.abc import Iterator, Mapping

import pyarrow.compute as pc

from seodang.data.arrow import read_columns
from seodang.data.encode.rows import LOSSY, UNKNOWN
from seodang.data.prepare import Prepared
from seodang.data.template.renderer import KEPT, MASKED, SPLIT, Renderer
from seodang.errors import plural
from seodang.types import Counts, Finding

MANY_LEFT_OUT = 0.05  # share of a source's rows that is worth a warning: above max_tokens, or dropped for other reasons
FEWEST_LEFT_OUT = 2  # of few rows, one is more than the share
TOO_LONG = "longer than"  # how the reason begins that has a finding of its own
INJECTED = 40  # characters of a template's own text that are worth a warning: more than role names


def check_rows(prepared: Prepared, renderer: Renderer, *, num_embeddings: int) -> list[Finding]:
    """Findings on rendered rows: rows left out, thinking lost, ids beyond the embedding, text the template adds."""
    rendered = [counts for counts in prepared.counts if counts.stage.startswith("render")]
    found = [finding for counts in rendered for finding in _rendered(counts)]
    converted = [counts for counts in prepared.counts if counts.stage == "convert"]
    found += [finding for counts in (*converted, *rendered) for finding in _dropped(counts)]
    if not any(finding.check == "earlier_answers" for finding in prepared.findings):
        found += [finding for counts in rendered for finding in _earlier_answers(counts)]
    found += _ids(prepared, num_embeddings + len(renderer.template.added))
    found += _own_text(renderer)
    return found


def _rendered(counts: Counts) -> Iterator[Finding]:
    where = f"source {counts.source}"
    too_long = sum(rows for reason, rows in counts.dropped.items() if reason.startswith(TOO_LONG))
    if too_long > MANY_LEFT_OUT * counts.rows_in:
        yield Finding(
            check="too_long",
            severity="warn",
            where=where,
            what=f"rows longer than train.max_tokens, which are left out: {too_long:,} of {counts.rows_in:,}",
            hint="raise train.max_tokens, or set train.too_long: cut_question",
            rows=tuple([note.where for note in counts.notes if note.reason.startswith(TOO_LONG)][:5]),
        )
    yield from _lost(counts, where)
    for change, rows in counts.changed.items():
        if change == "the template leaves out thinking":
            yield Finding(
                check="thinking_lost",
                severity="refuse",
                where=where,
                what=f"answers whose thinking the template leaves out: {rows:,}",
                hint="borrow a template that renders it (qwen3), or take the thinking out of the data",
            )
        elif change.startswith(("the template altered", "the template leaves out tool")):
            yield Finding(
                check="text_altered", severity="warn", where=where, what=f"{change} ({plural(rows, 'row')})",
                hint="look at the first rows, and choose another template if the text matters",
            )  # fmt: skip


def _dropped(counts: Counts) -> Iterator[Finding]:
    """Many rows that cannot be trained on, and why most of them cannot: column or template may be the wrong one."""
    reasons = {reason: rows for reason, rows in counts.dropped.items() if not reason.startswith(TOO_LONG)}
    dropped = sum(reasons.values())
    if dropped < FEWEST_LEFT_OUT or dropped <= MANY_LEFT_OUT * counts.rows_in:
        return
    most = max(reasons, key=reasons.__getitem__)
    yield Finding(
        check="many_dropped",
        severity="warn",
        where=f"source {counts.source}",
        what=f"{dropped:,} of {counts.rows_in:,} rows are dropped, {reasons[most]:,} of them for: {most}",
        hint="if these rows matter: name other columns, choose another template, or change the rows",
        rows=tuple([note.where for note in counts.notes if note.reason == most][:5]),
    )


def _lost(counts: Counts, where: str) -> Iterator[Finding]:
    """What a tokenizer cannot write: unknown tokens in answers, and texts that do not come back from their ids."""
    for check, change, hint in (
        (
            "unknown_tokens",
            UNKNOWN,
            "use a model whose vocabulary has these characters, or take them out",
        ),
        (
            "lossy_tokenizer",
            LOSSY,
            "look at these rows: the tokenizer changes case, accents or Unicode forms",
        ),
    ):
        if rows := counts.changed.get(change):
            named = tuple(note.where for note in counts.notes if note.reason == change)[:5]
            what = (
                f"{change} ({plural(rows, 'row')})" if change == UNKNOWN else f"{change} ({rows:,} of the first rows)"
            )
            yield Finding(check=check, severity="warn", where=where, what=what, hint=hint, rows=named)


def _earlier_answers(counts: Counts) -> Iterator[Finding]:
    """Where the sample that the choice was made on held no such answer."""
    for change in (SPLIT, MASKED, KEPT):
        if rows := counts.changed.get(change):
            yield Finding(
                check="earlier_answers", severity="warn" if change == KEPT else "note",
                where=f"source {counts.source}", what=f"{change} ({plural(rows, 'row')})",
                hint="set template.earlier_answers to split, context or keep",
            )  # fmt: skip


def _ids(prepared: Prepared, num_embeddings: int) -> Iterator[Finding]:
    for split, rows in prepared.rows.items():
        if len(rows):
            largest = pc.max(read_columns(rows, "largest_id")["largest_id"]).as_py()
            if largest >= num_embeddings:
                yield Finding(
                    check="ids_beyond_embedding",
                    severity="refuse",
                    where=split,
                    what=f"token id {largest} lies beyond the model's {num_embeddings} embedding rows",
                    hint="use the tokenizer that belongs to this model",
                )


def _own_text(renderer: Renderer) -> Iterator[Finding]:
    """What a template adds to a bare question: some bring a system text of their own."""
    question = "seodang"
    added = renderer.prompt([{"role": "user", "content": question}]).replace(question, "", 1)
    for text in (*(name for name, _ in renderer.template.markers), renderer.system or "", "<think>", "</think>"):
        added = added.replace(text, "") if text else added
    added = re.sub(r"\s+", " ", added).strip()
    added = re.sub(r"^system |( (user|assistant|model))+$", "", added)  # names of roles, which stand beside markers
    if len(added) > INJECTED:
        shown = added[:120] + (" …" if len(added) > 120 else "")
        yield Finding(
            check="template_text",
            severity="warn",
            where=f"template ({renderer.template.origin})",
            what=f"puts a system text in front of every question: {shown!r}",
            hint="set `system:` in the recipe to a text of yours, or choose another template",
        )


def rows_beyond_context(prepared: Prepared, *, positions: int, learnt: bool) -> Iterator[Finding]:
    """Rows that are longer than the model's context, trained on or held out.

    Args:
        positions: tokens of the model's context.
        learnt: each position has weights of its own, so that there are none beyond the last one.
    """
    longer_context = "" if learnt else ", or choose a model with a longer context"
    splits = {
        "train": prepared.rows["train"],
        **{f"holdout of {name}": rows for name, rows in prepared.holdouts.items()},
    }
    for where, rows in splits.items():
        if not len(rows):
            continue
        lengths = read_columns(rows, "num_tokens")["num_tokens"]
        if longer := pc.sum(pc.greater(lengths, positions)).as_py():
            yield Finding(
                check="beyond_context",
                severity="refuse" if learnt else "warn",
                where=where,
                what=f"examples longer than the model's {positions:,} positions: {longer:,} of {len(rows):,} "
                f"(the longest: {pc.max(lengths).as_py():,} tokens)",
                hint=f"set train.max_tokens to {positions} or less" + longer_context,
            )


def answers_beyond_context(needed: Mapping[str, int], *, positions: int) -> Iterator[Finding]:
    """Questions that leave no room for their answers.

    Args:
        needed: recipe key that limits the answers → tokens of the longest prompt with its answer.
    """
    for key, tokens in needed.items():
        if tokens > positions:
            yield Finding(
                check="beyond_context",
                severity="refuse",
                where=key,
                what=f"a question and its answer take up to {tokens:,} tokens; the model has {positions:,} positions",
                hint=f"lower {key} by {tokens - positions:,}, or ask shorter questions",
            )
