"""Base and tuned model, measured alike: losses on every row of every holdout, and answers to every question."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from datasets import Dataset
from transformers import PreTrainedModel

from seodang import distributed
from seodang.data.arrow import read_columns
from seodang.data.prepare import Prepared
from seodang.data.template.renderer import Renderer
from seodang.errors import SeodangError
from seodang.model.engine.engine import Engine
from seodang.model.save import weights_hash
from seodang.proof.divergence import Head, HiddenStates
from seodang.proof.evaluate import OnRows, check_finite
from seodang.proof.losses import effective_shares
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.questions import Question
from seodang.proof.row_losses import (
    BaseStates,
    HeldOutSource,
    SampleSizes,
    held_out_source,
    keep_hidden_states,
    measure_source,
    measured_row,
    measured_rows,
    metric_of,
    scored_hash,
)
from seodang.recipe import Ask, Recipe, Source
from seodang.run import base_cache, evidence, record
from seodang.run.base_measurement import (
    BaseMeasurement,
    KnownBase,
    MeasurementSettings,
    ModelRow,
    measurement_settings,
)  # fmt: skip
from seodang.run.checkpoint_choice import Limit
from seodang.run.folder import Run
from seodang.show.terminal import console, progress
from seodang.stages.answering import answers_of, questions_of
from seodang.stages.preflight import Inputs
from seodang.train.metrics import evaluation_event
from seodang.train.setup import ChosenLoss, best_loss, choice_limits
from seodang.types import Answer, Counts, Metric, ModelName, Placement

CONTEXT = re.compile(r"read as \w+ \([^)]*\bcontext: ")  # of what conversion says about the columns it has found
LOSSES_ALONE = SampleSizes(contrast_rows=0, kl_tokens=0)
QUICK_SIZES, QUICK_ROWS, QUICK_QUESTIONS = SampleSizes(contrast_rows=24, kl_tokens=4_000), 200, 8  # a source


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What every model is measured on."""

    sources: Sequence[HeldOutSource]
    questions: Sequence[Question]
    renderer: Renderer
    pack_tokens: int  # positions of one forward pass
    chosen_loss: ChosenLoss | None  # picks the best checkpoint; none: no holdout measures it
    has_trained_template: bool  # whether the base knows the template: else it is asked in a plain form, too
    limits: Sequence[Limit] | None = None  # on rises that a chosen checkpoint keeps to; none: its loss alone counts
    effective_shares: Mapping[str, float] = field(default_factory=dict)  # source → of its rows, by all their lengths
    is_quick: bool = False  # fewer rows and questions than by default
    losses_alone: bool = False  # neither answers behind other prompts nor KL(base‖tuned): other tokens mean other sums

    @property
    def has_divergence(self) -> bool:
        """Whether KL(base‖tuned) is measured on any row."""
        return any(source.kl_rows for source in self.sources)

    @cached_property
    def choosing(self) -> Mapping[str, Dataset]:
        """Source → the rows that are evaluated during training."""
        return {source.name: source.choosing for source in self.sources}

    @cached_property
    def choosing_tokens(self) -> int:
        """Tokens of all of these rows."""
        counts = [read_columns(rows, "num_tokens")["num_tokens"].to_numpy() for rows in self.choosing.values()]
        return sum(int(one.sum()) for one in counts)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model, measured."""

    rows: Mapping[str, tuple[ModelRow, ...]]  # source → its holdout, in its order
    answers: Sequence[Answer]
    divergences: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # source → row → Σ KL(base‖model)
    no_divergences: str = ""  # why they are not measured


def make_evaluation_set(
    recipe: Recipe,
    inputs: Inputs,
    pack_tokens: int,
    *,
    has_trained_template: bool | None = None,
    is_quick: bool = False,
    losses_alone: bool = False,
) -> EvaluationSet:
    """The holdouts of all sources, and all questions, rendered as they are served.

    Args:
        has_trained_template: none: the base has it if it came with it.
        is_quick: a part of the rows and questions, as `prove.quick` of the recipe.
        losses_alone: the two models read other tokens.
    """
    by_name = {source.name: source for source in recipe.sources}
    renderer, prepared = inputs.renderer, inputs.prepared
    sizes, ask, holdouts = SampleSizes(), recipe.ask, prepared.holdouts
    is_quick = is_quick or recipe.prove.quick
    if is_quick:
        sizes, ask = QUICK_SIZES, ask.model_copy(update={"holdout": min(ask.holdout, QUICK_QUESTIONS)})
        holdouts = {name: rows.select(range(min(len(rows), QUICK_ROWS))) for name, rows in holdouts.items()}
    found = [
        held_out_source(
            name,
            rows,
            renderer,
            sizes=LOSSES_ALONE if losses_alone else sizes,
            max_tokens=recipe.train.max_tokens,
            seed=recipe.split.seed,
            has_context=has_context(by_name[name], prepared.counts),
        )
        for name, rows in holdouts.items()
    ]
    asked = {source.name: source.proving for source in found if by_name[source.name].role != "retention"}
    return EvaluationSet(
        sources=found,
        questions=questions_of(ask, asked, renderer),
        renderer=renderer,
        pack_tokens=pack_tokens,
        chosen_loss=best_loss(recipe.train.best_by, recipe.sources, holdouts),
        limits=choice_limits(recipe.train.best_by, recipe.sources, found, recipe.prove.tolerance),
        effective_shares=effective_shares(prepared.lengths),
        has_trained_template=not renderer.template.is_new if has_trained_template is None else has_trained_template,
        is_quick=is_quick,
        losses_alone=losses_alone,
    )


def has_context(source: Source, counts: Sequence[Counts]) -> bool:
    """Whether a source's questions begin with a passage from a column of its own."""
    remarks = (remark for one in counts if one.source == source.name for remark in one.remarks)
    return source.context is not None or any(CONTEXT.match(remark) for remark in remarks)


def all_questions(ask: Ask, sources: Sequence[Source], prepared: Prepared, renderer: Renderer) -> list[Question]:
    """The recipe's questions, and the first holdout rows of every source but retention."""
    asked = {
        source.name: prepared.holdouts[source.name]
        for source in sources
        if source.role != "retention" and source.name in prepared.holdouts
    }
    return questions_of(ask, asked, renderer)


def known_base(
    run: Run,
    model: PreTrainedModel,
    held_out: EvaluationSet,
    placement: Placement,
    *,
    four_bit: bool = False,
    use_cache: bool = True,
) -> KnownBase:
    """What an earlier start or another run has measured of the base.

    Args:
        four_bit: whether the model's weights are held in 4 bits.
        use_cache: look for what other runs have measured.
    """
    settings = _settings(weights_hash(model), held_out, placement, four_bit=four_bit)
    known = KnownBase(settings=settings)
    if distributed.is_main():
        known = _known_base(run, settings, use_cache=use_cache)
    return distributed.exchange(known)[0]


def known_without_weights(run: Run, held_out: EvaluationSet, placement: Placement) -> KnownBase | None:
    """The same before any weights are loaded, if they are those that the run's base had; None: it measured none."""
    try:
        before = evidence.read_base(run)
    except SeodangError:  # damaged: it will be measured again
        before = None
    if before is None:
        return None
    settings = _settings(before.settings.weights, held_out, placement, four_bit=False)
    return _known_base(run, settings, use_cache=True)


def measure_base(
    run: Run,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    known: KnownBase,
    *,
    head_stays: bool = False,
    will_train: bool = True,
    use_cache: bool = True,
) -> Measured:
    """Measure of the base what is not known; its hidden states are kept in the run's folder until the proof is done.

    Args:
        head_stays: training leaves the output head as it is, so that it need not be kept.
        will_train: record it as the evaluation of step 0.
        use_cache: keep it for other runs.
    """
    settings, before = known.settings, known.measured
    if before and known.has_losses:
        _keep_hidden_states(run, model, engine, held_out, settings, head_stays=head_stays)
        found = Measured(rows=before.rows, answers=before.answers)
        if not known.has_answers:  # the questions alone are others
            found = _with_answers(model, held_out, "base", before.rows, {})
    else:
        found = _measure_base(run, model, engine, held_out, settings, head_stays=head_stays)
    with distributed.agreed():
        if distributed.is_main() and not known.is_recorded:
            measured = BaseMeasurement(settings=settings, rows=found.rows, answers=tuple(found.answers))
            _record_base(run, measured, held_out, will_train=will_train)
            if use_cache:
                base_cache.keep(measured, console.show_note)
    return found


def measure_tuned(run: Run, model: PreTrainedModel, engine: Engine, held_out: EvaluationSet) -> Measured:
    """Measure a model on what its base was measured on, and how far it is from the base.

    Raises:
        RunError: a loss is NaN or infinite.
    """
    rows: dict[str, list[ModelRow]] = {}
    divergences: dict[str, Mapping[int, float]] = {}
    base, why_not = _base_states(run, model, engine, held_out)
    with _counting("tuned", held_out, choose_form=False) as advance:
        for source in held_out.sources:
            rows[source.name], divergences[source.name] = measure_source(
                model, engine, source,
                pack_tokens=held_out.pack_tokens, choose_form=False, on_rows=advance, base=base.get(source.name),
            )  # fmt: skip
    measured = _with_answers(model, held_out, "tuned", rows, divergences)
    return replace(measured, no_divergences=why_not)


def rows_of(held_out: EvaluationSet, base: Measured, tuned: Measured) -> list[MeasuredRow]:
    """What every held-out row cost both models."""
    return [
        row
        for source in held_out.sources
        for row in measured_rows(
            source, base.rows[source.name], tuned.rows[source.name], tuned.divergences.get(source.name, {})
        )
    ]


def rows_in_common(
    held_out: EvaluationSet, tuned: Measured, of_base: EvaluationSet, base: Measured
) -> list[MeasuredRow]:
    """Rows that two models read with tokenizers of their own: losses over the same bytes, nothing token by token."""
    rows = []
    other = {source.name: source for source in of_base.sources}
    for source in held_out.sources:
        theirs = zip(other[source.name].rows, base.rows[source.name], strict=True) if source.name in other else ()
        losses = {row.row_id: measured.loss for row, measured in theirs}
        rows += [
            replace(
                measured_row(source, row, losses[row.row_id], measured.loss),
                no_contrast="different tokenizers",
            )
            for row, measured in zip(source.rows, tuned.rows[source.name], strict=True)
            if row.row_id in losses
        ]
    return rows


def _measure_base(
    run: Run,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    settings: MeasurementSettings,
    *,
    head_stays: bool,
) -> Measured:
    """Losses, with the hidden states that go into the head, and answers."""
    keeps_states = engine.linear_cross_entropy and held_out.has_divergence
    hidden = _new_hidden_states(run, settings)
    choose_form = not held_out.has_trained_template
    rows: dict[str, list[ModelRow]] = {}
    with _counting("base", held_out, choose_form=choose_form) as advance:
        for source in held_out.sources:
            writer = hidden.writer(source.name, source.kl_tokens) if keeps_states else None
            rows[source.name], _ = measure_source(
                model, engine, source,
                pack_tokens=held_out.pack_tokens, choose_form=choose_form, on_rows=advance, writer=writer,
            )  # fmt: skip
            if writer:
                writer.close()
    if keeps_states:
        _keep_head(hidden, model, stays=head_stays)
    return _with_answers(model, held_out, "base", rows, {})


def _with_answers(
    model: PreTrainedModel,
    held_out: EvaluationSet,
    name: ModelName,
    rows: Mapping[str, Sequence[ModelRow]],
    divergences: Mapping[str, Mapping[int, float]],
) -> Measured:
    with distributed.agreed():
        for choosing in (False, True):
            check_finite(_metrics(held_out, rows, choosing=choosing), name)
    asked, tokens = len(held_out.questions), sum(one.settings.max_new_tokens for one in held_out.questions)
    with progress.counting(f"{name}: answers", asked, work=tokens) as advance:
        answers = answers_of(model, held_out.renderer, name, held_out.questions, on_progress=advance)
    return Measured(rows={source: tuple(own) for source, own in rows.items()}, answers=answers, divergences=divergences)


def _metrics(held_out: EvaluationSet, rows: Mapping[str, Sequence[ModelRow]], *, choosing: bool) -> dict[str, Metric]:
    """Source → the loss on its rows that choose, or on those that prove."""
    return {source.name: metric_of(source, rows[source.name], choosing=choosing) for source in held_out.sources}


def _settings(weights: str, held_out: EvaluationSet, placement: Placement, *, four_bit: bool) -> MeasurementSettings:
    return measurement_settings(
        placement,
        [
            (one.prompt, one.settings.model_dump_json(), one.kind, one.text, one.reference, one.row_id, one.source)
            for one in held_out.questions
        ],
        four_bit=four_bit,
        weights=weights,
        rows=scored_hash(held_out.sources, has_trained_template=held_out.has_trained_template),
    )


def _record_base(run: Run, measured: BaseMeasurement, held_out: EvaluationSet, *, will_train: bool) -> None:
    """Record the base's measures; where it is to be trained, also as the evaluation of step 0."""
    event = None
    if will_train:
        metrics = _metrics(held_out, measured.rows, choosing=True)
        loss = held_out.chosen_loss(metrics) if held_out.chosen_loss else None
        event = evaluation_event(metrics, loss, step=0, epoch=0.0)
    record.record_base(run, measured, event)


def _known_base(run: Run, settings: MeasurementSettings, *, use_cache: bool) -> KnownBase:
    """What was measured under these settings; or what this run measured under others."""
    has_states = HiddenStates(folder=run.hidden_states).is_of(settings.key)
    known = partial(KnownBase, settings=settings, has_states=has_states)
    try:
        stored = evidence.read_base(run)
    except SeodangError as error:  # it can be measured again
        console.show_note(f"{error.where} {error.what}: the base is measured again")
        stored = None
    if stored and stored.settings == settings:
        return known(measured=stored, is_recorded=True)
    if use_cache and (kept := base_cache.find(settings)):
        console.show_note("the base was measured in an earlier run under the same settings")
        return known(measured=kept)
    if stored:
        console.show_note("the base was measured under other settings: what differs is measured again")
    return known(measured=stored)


def _new_hidden_states(run: Run, settings: MeasurementSettings) -> HiddenStates:
    """An empty place for the hidden states of the base that was measured under these settings."""
    hidden = HiddenStates(folder=run.hidden_states)
    with distributed.agreed():
        if distributed.is_main():
            hidden.begin(settings.key)
    return hidden


def _keep_hidden_states(
    run: Run,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    settings: MeasurementSettings,
    *,
    head_stays: bool,
) -> None:
    """Write the base's hidden states where its losses are known, and they are not there as they were written."""
    if not (engine.linear_cross_entropy and held_out.has_divergence):
        return
    hidden = HiddenStates(folder=run.hidden_states)
    is_there = hidden.is_of(settings.key) and hidden.is_intact and hidden.has_head(stays=head_stays)
    is_there = is_there and all(hidden.reader(source.name).has(source.kl_rows) for source in held_out.sources)
    if distributed.exchange(is_there)[0]:
        return
    hidden = _new_hidden_states(run, settings)
    for source in held_out.sources:
        writer = hidden.writer(source.name, source.kl_tokens)
        keep_hidden_states(model, engine, source, writer, pack_tokens=held_out.pack_tokens)
        writer.close()
    _keep_head(hidden, model, stays=head_stays)


def _keep_head(hidden: HiddenStates, model: PreTrainedModel, *, stays: bool) -> None:
    """Write the head, which is the last of the files, and seal them all."""
    with distributed.agreed():
        if distributed.is_main():
            hidden.keep_head(model, stays=stays)
    with distributed.agreed():  # by now every rank has written its own
        if distributed.is_main():
            hidden.seal()


def _base_states(
    run: Run, model: PreTrainedModel, engine: Engine, held_out: EvaluationSet
) -> tuple[dict[str, BaseStates], str]:
    """Source → the base that the model is compared with; nothing where it cannot be, and the reason."""
    hidden, why = HiddenStates(folder=run.hidden_states), "a custom output head"
    if held_out.losses_alone:
        why = "different tokenizers"
    elif not held_out.has_divergence:
        return {}, ""
    elif engine.linear_cross_entropy:
        tuned = Head.of(model)
        head = hidden.head(tuned)
        if head and head.weight_VD.shape == tuned.weight_VD.shape:
            return {
                source.name: BaseStates(hidden=hidden.reader(source.name), head=head) for source in held_out.sources
            }, ""
        why = "heads of different sizes" if head else "the base's head was not kept"
    console.show_note(f"KL(base‖tuned) is not measured: {why}")
    return {}, why


@contextmanager
def _counting(name: ModelName, held_out: EvaluationSet, *, choose_form: bool) -> Iterator[OnRows]:
    count = sum(source.num_sequences(choose_form=choose_form) for source in held_out.sources)
    tokens = sum(source.reading(choose_form=choose_form)[0] for source in held_out.sources)
    with progress.counting(f"{name}: held-out examples and prompts", count, work=tokens) as advance:
        yield advance
