"""The data part of the pipeline: sources → convert → split, and then encode → mix."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from seodang.data.counting import Counting, uncounted
from seodang.data.encode.earlier_answers import choose_earlier_answers
from seodang.data.encode.rows import CUT, TooLong, limit_of_all, render
from seodang.data.encode.tokenize import Encoder, supervised_spans
from seodang.data.lengths import lengths
from seodang.data.mix import mix
from seodang.data.read.convert import convert
from seodang.data.read.sources import read
from seodang.data.split import Splits, separate, split
from seodang.data.template.renderer import LEFT_OUT, Renderer
from seodang.errors import SourceError
from seodang.recipe import Mix, Source, Split
from seodang.types import Counts, Finding, Lengths, Sample

# a thought in front of an answer; some data leave its opening out, and then a line of its own closes it
THOUGHT = re.compile(
    r"\s*<think>\s*(?!</think>)\S.*?</think>|(?!\s*<think>)\s*\S.*?\n\s*</think>[ \t]*(\n|\Z)", re.DOTALL
)
THOUGHT_SIGNS = ('"reasoning_content"', "/think>")  # in the JSON text of a turn that may come with a thought


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The sources as conversations and texts, split; no tokenizer has seen them yet."""

    splits: Mapping[str, Splits]  # by source
    counts: tuple[Counts, ...]
    has_thinking: bool  # whether any answer comes with the thinking that led to it
    findings: tuple[Finding, ...] = ()  # of the audit, which the caller makes

    @property
    def num_rows(self) -> int:
        return sum(len(splits.train) + len(splits.holdout) for splits in self.splits.values())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows that a model can be trained and measured on."""

    rows: DatasetDict  # train and holdout, mixed and shuffled
    holdouts: Mapping[str, Dataset]  # source → its holdout
    counts: tuple[Counts, ...]
    lengths: Lengths
    samples: Mapping[str, Mapping[str, Sample]]  # source → split → its first row
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RenderedSources:
    """The sources as rows that a model reads, each by itself."""

    splits: Mapping[str, Splits]  # by source
    counts: tuple[Counts, ...]
    cut: Mapping[str, Mapping[str, int]]  # split → source → rows above max_tokens
    samples: Mapping[str, Mapping[str, Sample]]  # source → split → its first row
    has_thinking: bool  # of the sources: decides how a template is rendered
    findings: tuple[Finding, ...] = ()  # of the sources


def gather(sources: Sequence[Source], by: Split, counting: Counting = uncounted) -> Gathered:
    """Read, convert and split every source.

    Args:
        counting: shows how many files and rows were read.

    Raises:
        SourceError: the first source that cannot be used.
    """
    counts: list[Counts] = []
    splits: dict[str, Splits] = {}
    has_thinking = False
    for source in sources:
        rows, converted = convert(read(source, counting), source, by.by, counting)
        has_thinking = has_thinking or has_thoughts(rows)
        parts = split(rows, source, by)
        splits[source.name] = replace(parts, findings=(*_unseen(converted), *parts.findings))
        counts += [converted, splits[source.name].counts]
    splits, separated = separate(splits, by)
    return Gathered(splits=splits, counts=(*counts, *separated), has_thinking=has_thinking)


def render_sources(
    gathered: Gathered,
    renderer: Renderer,
    *,
    max_tokens: int,
    too_long: TooLong,
    on_rows: Callable[[int], None] | None = None,
    into: Path | None = None,
) -> RenderedSources:
    """Render, tokenize and mask every row.

    Args:
        max_tokens: limit of one row.
        too_long: what becomes of longer rows.
        on_rows: called with the number of rows rendered since the last call.
        into: folder for an Arrow file of each split of each source; none: a temporary one.

    Raises:
        SourceError: a source of which no row is left to train on.
        GateError: rows are too long, and the recipe refuses such rows.
    """
    trained = {name: splits.train for name, splits in gathered.splits.items()}
    choice, finding = choose_earlier_answers(trained, renderer, max_tokens=max_tokens)
    renderer = renderer.with_earlier_answers(choice)
    counts = list(gathered.counts)
    rendered: dict[str, Splits] = {}
    cut: dict[str, dict[str, int]] = {"train": {}, "holdout": {}}
    for name, splits in gathered.splits.items():
        both: dict[str, Dataset] = {}
        for split_name, stage in (("train", "render"), ("holdout", "render holdout")):
            rows = getattr(splits, split_name)
            both[split_name], counted = render(
                rows,
                renderer,
                max_tokens=max_tokens,
                too_long=too_long,
                on_rows=on_rows,
                into=into and into / rows_file(name, split_name),
            )
            cut[split_name][name] = _above_limit(counted)
            if len(rows):
                counts.append(replace(counted, stage=stage))
            if split_name == "train" and len(rows) and not len(both[split_name]):
                raise _nothing_left(counted, rows, renderer)
        rendered[name] = replace(splits, **both)
    return RenderedSources(
        splits=rendered,
        counts=tuple(counts),
        cut=cut,
        samples={name: _first_rows(splits, renderer) for name, splits in rendered.items()},
        has_thinking=gathered.has_thinking,
        findings=(*gathered.findings, *([finding] if finding else ())),
    )


def mix_sources(rendered: RenderedSources, settings: Mix, *, max_tokens: int) -> Prepared:
    """Join the sources by their shares and measure their rows: indices and lengths alone, no text is read.

    Raises:
        SourceError: nothing to train on, or a source that cannot fill its share.
    """
    mixed, counts = mix(rendered.splits, settings)
    return Prepared(
        rows=mixed,
        holdouts={name: splits.holdout for name, splits in rendered.splits.items() if len(splits.holdout)},
        counts=(*rendered.counts, counts),
        lengths=lengths(mixed, max_tokens=max_tokens, cut=rendered.cut),
        samples=rendered.samples,
        findings=rendered.findings,
    )


def _unseen(converted: Counts) -> list[Finding]:
    """What a source holds beside its text, and is not trained on."""
    if not converted.unseen:
        return []
    what = f"the model does not get the images, sounds or videos of some columns: {', '.join(converted.unseen)}"
    hint = "leave out the rows that ask about them: only their text is trained on and measured"
    return [Finding(check="media_columns", severity="warn", where=f"source {converted.source}", what=what, hint=hint)]


def rows_file(source: str, split_name: str) -> str:
    """The name of the file that holds one split of a source."""
    return f"{source}-{split_name}.arrow"


def _nothing_left(counts: Counts, rows: Dataset, renderer: Renderer) -> SourceError:
    reasons = ", ".join(f"{rows} × {reason}" for reason, rows in counts.dropped.items())
    hints = []
    if too_long := _above_limit(counts):
        kept = "all of them" if too_long == counts.rows_in else f"the {too_long} that are too long"
        hints.append(f"train.max_tokens={limit_of_all(rows, renderer)} keeps {kept}")
    if too_long < counts.rows_in:
        hints.append("fix the rows at fault or choose another template")
    return SourceError(
        f"none of its {counts.rows_in} training rows can be trained on: {reasons}; first {counts.notes[0].where}",
        where=f"source {counts.source}",
        hint="; ".join(hints),
    )


def _above_limit(counts: Counts) -> int:
    """Rows that were longer than max_tokens, dropped or shortened."""
    dropped = sum(rows for reason, rows in counts.dropped.items() if reason.startswith("longer than"))
    left_out = sum(rows for change, rows in counts.changed.items() if change.startswith(f"{LEFT_OUT}longer than"))
    return dropped + left_out + counts.changed.get(CUT, 0)


def _first_rows(splits: Splits, renderer: Renderer) -> dict[str, Sample]:
    """The first row of each split as the model reads it, with the characters that are supervised."""
    first: dict[str, Sample] = {}
    encoder = Encoder(renderer.tokenizer, renderer.template)
    for split_name in ("train", "holdout"):
        rows: Dataset = getattr(splits, split_name)
        if len(rows):
            row = rows[0]
            spans: tuple[tuple[int, int], ...] = ((0, len(row["text"])),)
            if row["messages"]:
                spans = supervised_spans(row["text"], row["labels"], encoder)
            first[split_name] = Sample(where=f"{row['file']}:{row['row']}", text=row["text"], supervised=spans)
    return first


def has_thoughts(rows: Dataset) -> bool:
    """Whether any assistant turn comes with a thought. A question that speaks of the tags has none."""
    for chunk in rows.data.column("messages").chunks:
        turns = chunk.flatten().storage
        texts = turns.buffers()[2]  # end to end: most chunks hold no sign at all
        written = texts.to_pybytes() if texts else b""
        for sign in THOUGHT_SIGNS:
            if sign.encode() in written:
                found = turns.filter(pc.match_substring(turns, sign)).to_pylist()
                if any(map(_has_thought, map(json.loads, found))):
                    return True
    return False


def _has_thought(turn: Mapping[str, Any]) -> bool:
    thought, content = turn.get("reasoning_content"), turn.get("content")
    if turn["role"] != "assistant":
        return False
    if isinstance(thought, str) and thought.strip():
        return True
    return isinstance(content, str) and bool(THOUGHT.match(content))
