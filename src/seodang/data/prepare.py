"""The data part of the line: sources → convert → split → audit, and then render → mix."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from seodang.check.audit import audit
from seodang.data.encode.rows import CUT, Renderer, parse_tools, render
from seodang.data.lengths import lengths
from seodang.data.mix import mix
from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.data.split import Splits, separate, split
from seodang.errors import SourceError
from seodang.recipe import Recipe
from seodang.types import Counts, Finding

THINKING = (b'"reasoning_content"', b"</think>")  # in a message's JSON


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The sources as conversations and texts, on their sides; no tokenizer has seen them yet."""

    splits: Mapping[str, Splits]  # source → its training part and holdout
    counts: tuple[Counts, ...]
    findings: tuple[Finding, ...]
    has_thinking: bool  # whether any answer comes with the thinking that led to it

    @property
    def num_rows(self) -> int:
        return sum(len(part.train) + len(part.holdout) for part in self.splits.values())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows that a model can be trained and measured on."""

    rows: DatasetDict  # train and holdout, mixed and shuffled
    holdouts: Mapping[str, Dataset]  # source → its holdout
    counts: tuple[Counts, ...]
    findings: tuple[Finding, ...]
    lengths: Mapping[str, Any]
    samples: Mapping[str, Any]  # source → side → the first row, with its supervised characters


@dataclass(frozen=True, kw_only=True)
class RenderedSources:
    """The sources as rows that a model reads, each by itself."""

    splits: Mapping[str, Splits]  # source → its rendered sides
    counts: tuple[Counts, ...]
    findings: tuple[Finding, ...]
    cut: Mapping[str, int]  # source → rows above max_tokens
    samples: Mapping[str, Any]  # source → side → the first row, with its supervised characters
    has_thinking: bool  # of the sources: decides how a template is rendered


def gather(recipe: Recipe) -> Gathered:
    """Read, convert and split every source.

    Raises:
        SourceError: the first source that cannot be used.
    """
    counts: list[Counts] = []
    parts: dict[str, Splits] = {}
    has_thinking = False
    for source in recipe.sources:
        rows, converted = convert(read(source), source, recipe.split.by)
        has_thinking = has_thinking or any(_holds(rows, mark) for mark in THINKING)
        parts[source.name] = split(rows, source, recipe.split)
        counts += [converted, parts[source.name].counts]
    parts, separated = separate(parts, recipe.split)
    return Gathered(
        splits=parts,
        counts=(*counts, *separated),
        findings=tuple(audit(parts, recipe.split)),
        has_thinking=has_thinking,
    )


def prepare(
    recipe: Recipe, gathered: Gathered, renderer: Renderer, *, on_rows: Callable[[int], None] | None = None
) -> Prepared:
    """Render, tokenise and mask every row, and join the sources.

    Raises:
        SourceError, GateError: as `render_sources`.
    """
    return join(recipe, render_sources(recipe, gathered, renderer, on_rows=on_rows))


def render_sources(
    recipe: Recipe,
    gathered: Gathered,
    renderer: Renderer,
    *,
    on_rows: Callable[[int], None] | None = None,
    into: Path | None = None,
) -> RenderedSources:
    """Render, tokenise and mask every row.

    Args:
        on_rows: called with the number of rows rendered since the last call.
        into: folder for an Arrow file of each side of each source; none: a temporary one.

    Raises:
        SourceError: a source of which no row is left to train on.
        GateError: rows are too long, and the recipe refuses such rows.
    """
    counts = list(gathered.counts)
    rendered: dict[str, Splits] = {}
    cut: dict[str, int] = {}
    settings = recipe.train
    for name, part in gathered.splits.items():
        both: dict[str, Dataset] = {}
        for side, stage in (("train", "render"), ("holdout", "render holdout")):
            rows = getattr(part, side)
            both[side], counted = render(
                rows,
                renderer,
                max_tokens=settings.max_tokens,
                too_long=settings.too_long,
                on_rows=on_rows,
                into=into and into / rows_file(name, side),
            )
            cut[name] = cut.get(name, 0) + _above_limit(counted)
            if len(rows):
                counts.append(replace(counted, stage=stage))
            if side == "train" and len(rows) and not len(both[side]):
                raise _nothing_left(counted)
        rendered[name] = replace(part, **both)
    return RenderedSources(
        splits=rendered,
        counts=tuple(counts),
        findings=gathered.findings,
        cut=cut,
        samples={name: _first_rows(part, renderer) for name, part in rendered.items()},
        has_thinking=gathered.has_thinking,
    )


def join(recipe: Recipe, rendered: RenderedSources) -> Prepared:
    """Mix the sources and measure their rows: indices and lengths alone, no text is read.

    Raises:
        SourceError: nothing to train on, or a source that cannot fill its share.
    """
    mixed, joined = mix(rendered.splits, recipe.mix)
    return Prepared(
        rows=mixed,
        holdouts={name: part.holdout for name, part in rendered.splits.items() if len(part.holdout)},
        counts=(*rendered.counts, joined),
        findings=rendered.findings,
        lengths=lengths(mixed, max_tokens=recipe.train.max_tokens, cut=rendered.cut),
        samples=rendered.samples,
    )


def rows_file(source: str, side: str) -> str:
    """The name of the file that holds one side of a source."""
    return f"{source}-{side}.arrow"


def _nothing_left(counts: Counts) -> SourceError:
    reasons = ", ".join(f"{rows} × {reason}" for reason, rows in counts.dropped.items())
    return SourceError(
        f"none of its {counts.rows_in} training rows can be trained on: {reasons}",
        where=f"source {counts.source} ({counts.notes[0].where} …)",
        hint="raise train.max_tokens if they are too long, else mend these rows or take another template",
    )


def _above_limit(counts: Counts) -> int:
    """Rows that were longer than max_tokens, dropped or shortened."""
    dropped = sum(rows for reason, rows in counts.dropped.items() if reason.startswith("longer than"))
    return dropped + counts.changed.get(CUT, 0)


def _first_rows(part: Splits, renderer: Renderer) -> dict[str, Any]:
    """The first row of each side as the model reads it, with the characters that are supervised."""
    shown: dict[str, Any] = {}
    for side in ("train", "holdout"):
        rows: Dataset = getattr(part, side)
        if len(rows):
            row = rows[0]
            spans: tuple[tuple[int, int], ...] = ((0, len(row["text"])),)
            if row["messages"]:
                rendered = renderer.render(row["messages"], parse_tools(row["tools"]))
                spans = rendered.spans if rendered.text == row["text"] else ()  # its question may have been cut
            shown[side] = {"where": f"{row['file']}:{row['row']}", "text": row["text"], "supervised": spans}
    return shown


def _holds(rows: Dataset, text: bytes) -> bool:
    """Whether a text stands in the messages, whose bytes lie end to end in each chunk."""
    buffers = (chunk.flatten().storage.buffers()[2] for chunk in rows.data.column("messages").chunks)
    return any(text in buffer.to_pybytes() for buffer in buffers if buffer)
