"""Rows: read, split and audited; encoded by a template; mixed. Kept in the user's cache between starts.

No weights are loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import datasets
from transformers import PreTrainedTokenizerBase

from seodang.check.audit import audit
from seodang.data.prepare import Gathered, Prepared, RenderedSources, gather, render_sources
from seodang.data.row_cache import Store, rows_key, sources_key
from seodang.data.template.find import apply_template, find_template
from seodang.data.template.renderer import Renderer
from seodang.model.load import load_tokenizer
from seodang.proof.statistics import FEWEST_CLUSTERS
from seodang.recipe import Source, Split, Template, Train
from seodang.show.terminal import console, data_view, progress
from seodang.types import LossOn
from seodang.user_paths import cache_folder, shown_path


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The sources as conversations and texts. Files are read only once their rows are needed."""

    key: str  # of the sources, in the row cache
    has_thinking: bool  # whether any answer comes with the thinking that led to it
    gather: Callable[[], Gathered]  # reads, converts, splits and audits; the same value at each call


def open_row_cache() -> Store:
    """The user's cache of encoded rows."""
    datasets.disable_progress_bars()  # what is being done is shown by `console`
    return Store(cache_folder() / "prepared", console.show_note)


def read_sources(sources: Sequence[Source], split: Split, row_cache: Store) -> SourceRows:
    """Read, convert, split and audit every source. Files that the cache knows are not read before they have to be.

    Raises:
        SourceError: the first source that cannot be used.
    """

    @cache
    def gathered() -> Gathered:
        rows = gather(sources, split, progress.watching)
        return replace(rows, findings=tuple(audit(rows.splits, split, fewest_held_out=FEWEST_CLUSTERS)))

    key = sources_key(sources, split, progress.watching)
    known = row_cache.has_thinking(key)
    return SourceRows(key=key, has_thinking=gathered().has_thinking if known is None else known, gather=gathered)


def make_renderer(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    num_embeddings: int,
    has_thinking: bool,
    system: str | None,
    loss_on: LossOn,
) -> Renderer:
    """Find the chat template and give it to the tokenizer; what renders with both.

    Args:
        num_embeddings: rows of the base's embedding.
        has_thinking: whether the data holds thoughts, which some templates render only where they are asked to.

    Raises:
        TemplateError: none fits.
    """
    found = find_template(
        tokenizer,
        template,
        num_embeddings=num_embeddings,
        load_tokenizer=load_tokenizer,
        system=system,
        thinking=has_thinking,
    )
    apply_template(tokenizer, found)
    return Renderer(tokenizer, found, system, loss_on, template.earlier_answers)


def encode(rows: SourceRows, renderer: Renderer, settings: Train, row_cache: Store) -> RenderedSources:
    """Render, tokenize and label every row, or take the rows as an earlier start left them.

    Raises:
        SourceError: a source of which no row is left to train on.
        GateError: rows are too long, and the recipe refuses such rows.
    """
    made = False

    def make(folder: Path | None) -> RenderedSources:
        nonlocal made
        made = True
        gathered = rows.gather()
        with progress.counting("rows rendered, tokenized and masked", gathered.num_rows) as advance:
            return render_sources(
                gathered,
                renderer,
                max_tokens=settings.max_tokens,
                too_long=settings.too_long,
                on_rows=advance,
                into=folder,
            )

    key = rows_key(rows.key, renderer, max_tokens=settings.max_tokens, too_long=settings.too_long)
    encoded = row_cache.get(key, make)
    if not made:
        console.show_line(f"rows rendered, tokenized and masked: loaded from cache ({shown_path(row_cache.folder)})")
    return encoded


def show_data(prepared: Prepared, renderer: Renderer, *, will_train: bool = True) -> None:
    """Everything that is known of the rows, in the terminal; where nothing is trained, examples held out alone."""
    data_view.show_counts(prepared.counts)
    data_view.show_findings(prepared.findings)
    data_view.show_template(renderer.template)
    data_view.show_samples(prepared.samples, will_train=will_train)
    data_view.show_lengths(prepared.lengths, will_train=will_train)
