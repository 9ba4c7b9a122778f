"""What each held-out row costs a model: its tokens, its answer behind other prompts, and how far it is from the base.

Every sequence goes through a model once: the losses of a row's own tokens serve the axes and the contrast, and its
hidden states the divergence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.arrow import read_columns
from seodang.data.template.renderer import Renderer
from seodang.model.engine.engine import Engine
from seodang.model.engine.linear_cross_entropy import OnTile
from seodang.proof.contrast import Asked, Contrast, Ids, SourceContrasts, plan_contrasts
from seodang.proof.divergence import Comparison, Head, HiddenReader, HiddenWriter
from seodang.proof.evaluate import BLOCK, Example, OnRows, blocks, measuring, token_losses
from seodang.proof.held_out import HeldOutRow, drawn_tokens, held_out_rows
from seodang.proof.measured_rows import MeasuredRow, RowContrast
from seodang.run.base_measurement import AnswerLosses, Form, ModelRow, PromptLosses, RowLoss
from seodang.types import IGNORED, Metric, SourceRole


@dataclass(frozen=True, kw_only=True)
class SampleSizes:
    """How much of each source is measured beside its losses."""

    contrast_rows: int = 64
    kl_tokens: int = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutSource:
    """One source's holdout, and what is measured on it: the same for every model."""

    name: str
    dataset: Dataset
    rows: Sequence[HeldOutRow]  # in the order of `dataset`
    ends: frozenset[int]  # ids of the tokens that end a turn
    contrasts: SourceContrasts
    kl_rows: Sequence[int]  # numbers of rows, ascending

    @property
    def choosing(self) -> Dataset:
        """The rows by which a checkpoint is chosen."""
        return self._half([row.chooses for row in self.rows])

    @property
    def proving(self) -> Dataset:
        """The rows that the proof's figures are from."""
        return self._half([row.proves for row in self.rows])

    @property
    def kl_tokens(self) -> int:
        """Scored tokens of `kl_rows`."""
        return sum(self.rows[number].tokens for number in self.kl_rows)

    def is_in_bytes(self, role: SourceRole) -> bool:
        """Whether losses are compared in bits per byte, as those of plain text."""
        is_text = role == "retention" or not any(row.end_tokens for row in self.rows)
        return is_text and all(row.num_bytes for row in self.rows)

    def num_sequences(self, *, choose_form: bool) -> int:
        """How many sequences a model reads."""
        foreign = sum(len(row.prompts) for row in self.contrasts.rows)
        return len(self.rows) + foreign + (len(self.contrasts.asked) if choose_form else 0)

    def reading(self, *, choose_form: bool) -> tuple[int, int]:
        """(tokens that a model reads in all sequences, those of them that are scored)."""
        tokens = int(read_columns(self.dataset, "num_tokens")["num_tokens"].to_numpy().sum())
        behind = [(prompt, row.asked.answer) for row in self.contrasts.rows for prompt in row.template]
        if choose_form:
            behind += [(one.plain, one.answer) for one in self.contrasts.asked.values()]
        tokens += sum(len(prompt) + len(answer) for prompt, answer in behind)
        return tokens, sum(row.tokens for row in self.rows) + sum(len(answer) for _, answer in behind)

    def _half(self, is_in: Sequence[bool]) -> Dataset:
        return self.dataset if all(is_in) else self.dataset.select(np.flatnonzero(is_in))


def held_out_source(
    name: str,
    rows: Dataset,
    renderer: Renderer,
    *,
    sizes: SampleSizes,
    max_tokens: int,
    seed: int,
    has_context: bool = False,
) -> HeldOutSource:
    """Plan what is measured on one source's holdout.

    Args:
        max_tokens: of one sequence.
        seed: of the split.
        has_context: the source's questions hold a passage that they are about.
    """
    template = renderer.template
    ends = {template.turn_end_id: template.turn_end}
    if template.call_end:
        ends[dict(template.markers)[template.call_end]] = template.call_end
    held_out = held_out_rows(rows, ends, seed=seed)
    contrasts = plan_contrasts(
        rows, held_out, renderer,
        most=sizes.contrast_rows, max_tokens=max_tokens, seed=seed, has_context=has_context,
    )  # fmt: skip
    return HeldOutSource(
        name=name,
        dataset=rows,
        rows=held_out,
        ends=frozenset(ends),
        contrasts=contrasts,
        kl_rows=drawn_tokens(held_out, sizes.kl_tokens, seed=seed),
    )


def scored_hash(sources: Sequence[HeldOutSource], *, has_trained_template: bool) -> str:
    """Names everything that is scored: ids and labels of all rows, and the prompts that answers are put behind."""
    digest = sha256(f"{has_trained_template}".encode())
    for source in sources:
        digest.update(f"{source.name} {sorted(source.ends)}".encode())
        for _, examples in blocks(source.dataset):
            for example in examples:
                digest.update(example.input_ids.tobytes() + example.labels.tobytes())
        for contrast in source.contrasts.rows:
            digest.update(b"".join(ids.tobytes() for ids in (*contrast.template, *contrast.plain)))
        asked = ([row.asked for row in source.contrasts.rows], source.contrasts.choosing)
        digest.update(repr([[one.number for one in some] for some in asked]).encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseStates:
    """What a model is compared with on one source."""

    hidden: HiddenReader
    head: Head


def measure_source(
    model: PreTrainedModel,
    engine: Engine,
    source: HeldOutSource,
    *,
    pack_tokens: int,
    choose_form: bool,
    on_rows: OnRows | None = None,
    writer: HiddenWriter | None = None,
    base: BaseStates | None = None,
) -> tuple[list[ModelRow], dict[int, float]]:
    """One model's losses on every row of a source; several ranks share the work, and all get the same values.

    Args:
        choose_form: ask in the chat template or the plain form, whichever the model finds likelier; else the former.
        writer: takes the hidden states of `source.kl_rows`.
        base: to compare with.

    Returns:
        The rows in their order; and, where a base is given, Σ KL(base‖model) over the scored tokens of
        `source.kl_rows`.
    """
    observer = _Observer(writer, base)
    chosen = set(source.kl_rows)
    others = [number for number in range(len(source.rows)) if number not in chosen]
    with measuring(model, engine):
        budget = engine.budget(pack_tokens)
        losses: dict[int, NDArray[np.float32]] = {}
        for numbers, seen in ((source.kl_rows, observer), (others, None)):  # packs are alike for every model
            losses |= _token_losses(model, source, numbers, budget, on_rows, seen)
        tokens = [losses[number] for number in range(len(source.rows))]
        answers = _Answers(model, source, tokens, budget, on_rows).measure(choose_form=choose_form)
    rows: list[ModelRow] = []
    for first, examples in blocks(source.dataset):
        for number, example in enumerate(examples, first):
            loss = _row_loss(example, tokens[number], source.ends)
            rows.append(ModelRow(loss=loss, answer=answers.get(number)))
    shares = distributed.exchange(observer.divergences)
    return rows, {row: kl for share in shares for row, kl in share.items()}


def keep_hidden_states(
    model: PreTrainedModel, engine: Engine, source: HeldOutSource, writer: HiddenWriter, *, pack_tokens: int
) -> None:
    """Write the hidden states of `source.kl_rows`, where the model's losses are known already."""
    with measuring(model, engine):
        observer = _Observer(writer, None)
        _token_losses(model, source, source.kl_rows, engine.budget(pack_tokens), None, observer)


def _token_losses(
    model: PreTrainedModel,
    source: HeldOutSource,
    numbers: Sequence[int],
    budget: int,
    on_rows: OnRows | None,
    observer: "_Observer | None",
) -> dict[int, NDArray[np.float32]]:
    """Losses of the scored tokens of some rows."""
    found: dict[int, NDArray[np.float32]] = {}
    for first, examples in blocks(source.dataset.select(numbers)):
        names = numbers[first : first + len(examples)]
        if observer:
            observer.numbers = names
        losses = token_losses(model, examples, budget=budget, on_rows=on_rows, observer=observer)
        found |= dict(zip(names, losses, strict=True))
    return found


def measured_rows(
    source: HeldOutSource, base: Sequence[ModelRow], tuned: Sequence[ModelRow], divergences: Mapping[int, float]
) -> list[MeasuredRow]:
    """Both models' losses on one source, row by row."""
    prompts = {contrast.asked.number: contrast for contrast in source.contrasts.rows}
    return [
        replace(
            measured_row(source, row, base[number].loss, tuned[number].loss),
            kl=divergences.get(number),
            kl_tokens=row.tokens if number in divergences else 0,
            contrast=_row_contrast(prompts[number], source.ends, base[number].answer, tuned[number].answer)
            if number in prompts
            else None,
            no_contrast=source.contrasts.reasons.get(number, ""),
        )
        for number, row in enumerate(source.rows)
    ]


def measured_row(source: HeldOutSource, row: HeldOutRow, base: RowLoss, tuned: RowLoss) -> MeasuredRow:
    """Both models' losses on one row, with neither divergence nor contrast."""
    return MeasuredRow(
        row_id=row.row_id,
        source=source.name,
        where=row.where,
        cluster=row.cluster,
        half=row.half,
        content_tokens=row.content_tokens,
        end_tokens=row.end_tokens,
        num_bytes=row.num_bytes,
        base=base,
        tuned=tuned,
    )


def metric_of(source: HeldOutSource, rows: Sequence[ModelRow], *, choosing: bool) -> Metric:
    """The loss on the rows that choose, or on those that prove, as evaluations are recorded."""
    pairs = [
        (row, losses.loss)
        for row, losses in zip(source.rows, rows, strict=True)
        if (row.chooses if choosing else row.proves)
    ]
    return Metric(
        source=source.name,
        loss_sum=sum(loss.total for _, loss in pairs),
        tokens=sum(row.tokens for row, _ in pairs),
        rows=len(pairs),
        num_bytes=sum(row.num_bytes for row, _ in pairs),
    )


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """An answer behind a prompt."""

    prompt: Ids
    answer: Ids

    @property
    def example(self) -> Example:
        labels = np.concatenate([np.full(len(self.prompt), IGNORED, dtype=np.int32), self.answer])
        return Example(np.concatenate([self.prompt, self.answer]), labels)


class _Answers:
    """One model's losses on the last answers of a source's rows, behind different prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        source: HeldOutSource,
        tokens: Sequence[NDArray[np.float32]],
        budget: int,
        on_rows: OnRows | None,
    ) -> None:
        self.model, self.source, self.budget, self.on_rows = model, source, budget, on_rows
        self.tokens = tokens  # of the rows themselves, whose prompts are their own

    def measure(self, *, choose_form: bool) -> dict[int, AnswerLosses]:
        """Row → its losses."""
        rows, choosing = self.source.contrasts.rows, self.source.contrasts.choosing
        asked = self.source.contrasts.asked
        own = {number: self._own(one) for number, one in asked.items()}
        plain: dict[int, float] = {}
        form: Form = "template"
        if choose_form and rows:
            behind = self._losses([_Sequence(prompt=one.plain, answer=one.answer) for one in asked.values()])
            plain = {number: content for number, (content, _) in zip(asked, behind, strict=True)}
            difference = sum(plain[one.number] - own[one.number][0] for one in choosing)
            form = "plain" if difference < 0 else "template"
        sequences = [
            _Sequence(prompt=prompt, answer=row.asked.answer)
            for row in rows
            for prompt in (row.plain if form == "plain" else row.template)
        ]
        foreign = iter(self._losses(sequences))
        found: dict[int, AnswerLosses] = {}
        for row in rows:
            number = row.asked.number
            content, ending = own[number]
            found[number] = AnswerLosses(
                form=form,
                template=content,
                plain=plain.get(number),
                ending=ending,
                losses=PromptLosses(
                    own=plain[number] if form == "plain" else content,
                    foreign=tuple(next(foreign)[0] for _ in row.prompts),
                ),
            )
        return found

    def _own(self, asked: Asked) -> tuple[float, float]:
        """(content, ending) of a row's last answer, which are among the row's own tokens."""
        losses = self.tokens[asked.number][asked.scored_before :][: len(asked.answer)]
        return _split(losses, asked.answer, self.source.ends)

    def _losses(self, sequences: Sequence[_Sequence]) -> list[tuple[float, float]]:
        """(content, ending) of each answer."""
        found: list[tuple[float, float]] = []
        for first in range(0, len(sequences), BLOCK):
            some = sequences[first : first + BLOCK]
            examples = [one.example for one in some]
            losses = token_losses(self.model, examples, budget=self.budget, on_rows=self.on_rows)
            found += [_split(of, one.answer, self.source.ends) for of, one in zip(losses, some, strict=True)]
        return found


class _Observer:
    """Writes the hidden states of rows as they come, or measures how far a model is from the base that wrote them."""

    def __init__(self, writer: HiddenWriter | None, base: BaseStates | None) -> None:
        self.numbers: Sequence[int] = ()  # of the rows, in their holdout, that are packed now
        self.divergences: dict[int, float] = {}  # row → Σ KL
        self._writer, self._base = writer, base
        self._comparison: Comparison | None = None

    def begin(self, members: Sequence[int]) -> OnTile | None:
        if self._base:
            hidden_SD = torch.cat([self._base.hidden.get(self.numbers[member]) for member in members])
            self._comparison = Comparison(self._base.head, hidden_SD)
        return self._comparison

    def end(self, members: Sequence[int], counts: Sequence[int], hidden_SD: Tensor | None) -> None:
        rows = [self.numbers[member] for member in members]
        if self._writer and hidden_SD is not None:
            for row, hidden_ND in zip(rows, torch.split(hidden_SD, list(counts)), strict=True):
                self._writer.put(row, hidden_ND)
        if self._comparison:
            for row, kl in zip(rows, torch.split(self._comparison.kl_S, list(counts)), strict=True):
                self.divergences[row] = float(kl.sum())


def _row_loss(example: Example, losses: NDArray[np.float32], ends: frozenset[int]) -> RowLoss:
    ids = example.labels[1:][example.labels[1:] != IGNORED]
    content, ending = _split(losses, ids, ends)
    return RowLoss(content=content, ending=ending)


def _split(losses: NDArray[np.float32], ids: NDArray[np.int32], ends: frozenset[int]) -> tuple[float, float]:
    """(content, ending): sums over tokens that do not end a turn, and over those that do."""
    assert len(losses) == len(ids), f"{len(losses)} losses of {len(ids)} tokens"
    is_end = np.isin(ids, list(ends))
    return float(losses[~is_end].sum(dtype=np.float64)), float(losses[is_end].sum(dtype=np.float64))


def _row_contrast(
    contrast: Contrast, ends: frozenset[int], base: AnswerLosses | None, tuned: AnswerLosses | None
) -> RowContrast:
    assert base is not None, f"row {contrast.asked.number} was not measured on the base"
    assert tuned is not None, f"row {contrast.asked.number} was not measured on the tuned model"
    return RowContrast(
        content_tokens=int((~np.isin(contrast.asked.answer, list(ends))).sum()),
        prompts=contrast.prompts,
        form=base.form,
        base_template=base.template,
        base_plain=base.plain,
        base=base.losses,
        tuned=tuned.losses,
        base_ending=base.ending,
        tuned_ending=tuned.ending,
    )
