"""What a proof takes, before it is begun: what each model reads and writes, and how long that takes; training too."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from transformers import PreTrainedModel

from seodang.alpha.curve import ALPHAS
from seodang.data.arrow import read_columns
from seodang.proof.row_losses import HeldOutSource
from seodang.recipe import Train
from seodang.run.base_measurement import KnownBase
from seodang.run.folder import Run, checkpoint_step
from seodang.show.terminal import plan_view, progress
from seodang.show.terminal.time_left import CHECKPOINT, TrainingTime
from seodang.stages.measure import EvaluationSet
from seodang.stages.preflight import Base
from seodang.train.setup import checkpoint_every, eval_every, total_steps
from seodang.train.throughput import matrix_rate
from seodang.types import CurveCost, Lengths, ProofCost

T = TypeVar("T")
EVALUATION, ANSWERS = "evaluation", "answers"  # what interrupts the steps
READING_SHARE = {"cpu": 0.65, "cuda": 0.5}  # of the hardware limit, that forward passes over packs are taken to reach
WRITING_SHARE = {"cpu": 0.3, "cuda": 0.05}  # the same of generating, which waits for memory
PRODUCT_SIZES = {"cpu": (512,), "cuda": (4096,)}  # of the products by which the limit is measured


class _Reading(NamedTuple):
    """What one model reads."""

    tokens: int
    scored: int  # of them: a head multiplies these alone


class _Weights(NamedTuple):
    """Weights that are multiplied for a token; those of a mixture's experts all count."""

    body: int  # the embedding aside, which is looked up
    head: int


def proof_cost(held_out: EvaluationSet, base: Base, known: KnownBase | None = None) -> ProofCost:
    """What measuring base and tuned model takes, by the hardware's speed and the shares of it above.

    Args:
        known: of the base, which is not measured again; none: nothing.
    """
    device = base.placement.device
    has_losses, has_answers = (known.has_losses, known.has_answers) if known else (False, False)
    choose_form = not held_out.has_trained_template and not has_losses
    first, second = (_reading(held_out.sources, choose_form=form) for form in (choose_form, False))
    of_base = _states_reading(held_out.sources, known) if known and has_losses else first
    answer_tokens = sum(question.settings.max_new_tokens for question in held_out.questions)
    rate = _matrix_rate(base.placement.compute_dtype, device)
    seconds = reading_seconds = writing_seconds = None
    if weights := _weights(base.on_meta):
        compared = sum(source.kl_tokens for source in held_out.sources)  # through the base's head once more
        shares = [_of_device(each, device) for each in (READING_SHARE, WRITING_SHARE)]
        base_reading, reading_seconds = (
            2 * (weights.body * read.tokens + weights.head * (read.scored + more)) / shares[0] / rate
            for read, more in ((of_base, 0), (second, compared))
        )
        writing_seconds = 2 * (weights.body + weights.head) * answer_tokens / shares[1] / rate
        seconds = base_reading + reading_seconds + (1 if has_answers else 2) * writing_seconds
    return ProofCost(
        sequences=sum(source.num_sequences(choose_form=choose_form) for source in held_out.sources),
        tokens=first.tokens,
        answers=len(held_out.questions),
        answer_tokens=answer_tokens,
        seconds=seconds,
        gflops=rate / 1e9,
        reading_seconds=reading_seconds,
        writing_seconds=writing_seconds,
        of_base="nothing" if has_answers else "answers" if has_losses else "all",
    )


def base_bytes(model: PreTrainedModel, held_out: EvaluationSet, *, head_stays: bool) -> int:
    """What is kept of the base on disk until the proof is done: float32 hidden states, and its head.

    Args:
        head_stays: training does not change the head, which is not kept then.
    """
    if not held_out.has_divergence:
        return 0
    head = model.get_output_embeddings().weight
    tokens = sum(source.kl_tokens for source in held_out.sources)
    return tokens * int(head.shape[1]) * torch.float32.itemsize + (0 if head_stays else head.nbytes)


def training_time(
    base: Base, held_out: EvaluationSet, settings: Train, lengths: Lengths, *, done: int = 0
) -> TrainingTime:
    """How long training takes, estimated as the proof is: a step three times its forward passes, twice with an adapter.

    Args:
        lengths: of the rows that are trained on.
        done: steps that an earlier start has taken.
    """
    rows = list(lengths.train.values())
    examples = sum(one.tokens.count for one in rows)
    steps = total_steps(settings, examples)
    every = {EVALUATION: eval_every(settings, steps)} if held_out.chosen_loss else {}
    every |= {ANSWERS: settings.ask_every} if settings.ask_every else {}
    if saving := checkpoint_every(settings, every.get(EVALUATION)):
        every[CHECKPOINT] = saving
    weights = _weights(base.on_meta)
    if weights is None or not examples:
        return TrainingTime(steps, every=every, done=done)
    device = base.placement.device
    rate = _matrix_rate(base.placement.compute_dtype, device) * _of_device(READING_SHARE, device)

    def seconds(read: float, through_head: float) -> float:
        return 2 * (weights.body * read + weights.head * through_head) / rate

    mean = seconds(sum(one.tokens.total for one in rows), sum(one.supervised.total for one in rows)) / examples
    scored = sum(row.tokens for source in held_out.sources for row in source.rows if row.chooses)
    return TrainingTime(
        steps,
        step_seconds=(2 if settings.adapter else 3) * mean * settings.examples_per_step,
        every=every,
        interruption_seconds={EVALUATION: seconds(held_out.choosing_tokens, scored)},
        done=done,
    )


def show_run_cost(
    held_out: EvaluationSet,
    base: Base,
    settings: Train,
    lengths: Lengths,
    *,
    run: Run | None = None,
    known: KnownBase | None = None,
) -> tuple[ProofCost, TrainingTime]:
    """Show about how long training takes, unless it has ended, and what the proof takes.

    Args:
        run: what an earlier start has done of it is left out.
        known: of the base, which is not measured again.
    """
    reached = run.last_checkpoint() if run else None
    done = checkpoint_step(reached) if reached else 0
    cost, training = proof_cost(held_out, base, known), training_time(base, held_out, settings, lengths, done=done)
    if (left := training.left) and not (run and run.is_trained):
        plan_view.show_training_time(left.seconds)
    plan_view.show_cost(cost)
    return cost, training


@contextmanager
def expected_run(
    run: Run, held_out: EvaluationSet, base: Base, settings: Train, lengths: Lengths, known: KnownBase
) -> Iterator[None]:
    """Show what the run takes, and inside how long it still takes."""
    cost, training = show_run_cost(held_out, base, settings, lengths, run=run, known=known)
    examples, answers = "held-out examples and prompts", "answers"
    measured = {examples: cost.reading_seconds, answers: cost.writing_seconds}
    of_base = {"all": (examples, answers), "answers": (answers,), "nothing": ()}[cost.of_base]
    left = training.left
    seconds = {f"base: {what}": measured[what] for what in of_base}
    seconds |= {} if run.is_trained else {progress.TRAINING: left.seconds if left else None}
    seconds |= {f"tuned: {what}": took for what, took in measured.items()}
    alike = {f"base: {what}": f"tuned: {what}" for what in of_base}
    with progress.expecting(seconds, alike=alike, training=training):
        yield


def curve_cost(
    choosing: EvaluationSet, proving: EvaluationSet, base: Base, *, num_chosen: int = 0, num_proven: int = 0
) -> CurveCost:
    """What measuring the alpha curve takes: every alpha reads the rows that choose, three the rows that prove alone.

    Those are the base, the tuned model and the recommended alpha between them.

    Args:
        num_chosen, num_proven: alphas that were measured before on the rows that choose, and on those that prove.
    """
    costs = [proof_cost(held_out, base) for held_out in (choosing, proving)]
    seconds = [cost.seconds and cost.seconds / 2 for cost in costs]  # of one model
    first, second = seconds
    to_choose, to_prove = len(ALPHAS) - num_chosen, max(3 - num_proven, 0)
    model = base.on_meta
    return CurveCost(
        alphas=len(ALPHAS),
        known=num_chosen,
        sequences=costs[0].sequences,
        tokens=costs[0].tokens,
        proving_sequences=costs[1].sequences,
        proving_tokens=costs[1].tokens,
        seconds=None if first is None or second is None else to_choose * first + to_prove * second,
        weight_bytes=model and 2 * model.num_parameters() * getattr(torch, base.placement.dtype).itemsize,
    )


def _reading(sources: Sequence[HeldOutSource], *, choose_form: bool) -> _Reading:
    """All sequences that a model reads: the rows, and answers behind other prompts."""
    read = [source.reading(choose_form=choose_form) for source in sources]
    return _Reading(tokens=sum(tokens for tokens, _ in read), scored=sum(scored for _, scored in read))


def _states_reading(sources: Sequence[HeldOutSource], known: KnownBase) -> _Reading:
    """What a base reads whose losses are known: the rows of which its hidden states are not there."""
    if known.has_states:
        return _Reading(tokens=0, scored=0)
    lengths = [(read_columns(one.dataset, "num_tokens")["num_tokens"].to_numpy(), one.kl_rows) for one in sources]
    tokens = sum(int(counts[list(rows)].sum()) for counts, rows in lengths)
    return _Reading(tokens=tokens, scored=sum(source.kl_tokens for source in sources))


def _of_device(values: Mapping[str, T], device: str) -> T:
    """The value of a kind of device; of one that was not measured, the CPU's."""
    return values.get(device.split(":")[0], values["cpu"])


@cache
def _matrix_rate(dtype: str, device: str) -> float:
    return matrix_rate(getattr(torch, dtype), device, _of_device(PRODUCT_SIZES, device))


def _weights(model: PreTrainedModel | None) -> _Weights | None:
    if model is None:
        return None
    try:
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        own = 0 if head is embedding else head.numel()
        return _Weights(body=model.num_parameters() - embedding.numel() - own, head=head.numel())
    except Exception:  # an architecture without the usual parts, which may raise anything
        return None
