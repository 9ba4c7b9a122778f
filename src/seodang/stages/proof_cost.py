"""What a proof takes, before it is begun: what each model reads and writes, and about how long that is."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from seodang.alpha.curve import ALPHAS
from seodang.data.arrow import read_columns
from seodang.proof.row_losses import HeldOutSource
from seodang.stages.measure import EvaluationSet
from seodang.stages.preflight import Base
from seodang.train.throughput import matrix_rate
from seodang.types import CurveCost, ProofCost

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


def proof_cost(held_out: EvaluationSet, base: Base) -> ProofCost:
    """What measuring base and tuned model takes, by the hardware's speed and the shares of it above."""
    device = base.placement.device.split(":")[0]
    choose_form = not held_out.has_trained_template
    first, second = (_reading(held_out.sources, choose_form=form) for form in (choose_form, False))
    answer_tokens = sum(question.settings.max_new_tokens for question in held_out.questions)
    rate = _matrix_rate(base.placement.compute_dtype, base.placement.device)
    seconds = None
    if weights := _weights(base.on_meta):
        compared = sum(source.kl_tokens for source in held_out.sources)  # through the base's head once more
        reading = weights.body * (first.tokens + second.tokens)
        reading += weights.head * (first.scored + second.scored + compared)
        writing = 2 * (weights.body + weights.head) * answer_tokens
        shares = [each.get(device, each["cpu"]) for each in (READING_SHARE, WRITING_SHARE)]
        seconds = 2 * (reading / shares[0] + writing / shares[1]) / rate
    return ProofCost(
        sequences=sum(source.num_sequences(choose_form=choose_form) for source in held_out.sources),
        tokens=first.tokens,
        answers=len(held_out.questions),
        answer_tokens=answer_tokens,
        seconds=seconds,
        gflops=rate / 1e9,
    )


def curve_cost(choosing: EvaluationSet, proving: EvaluationSet, base: Base) -> CurveCost:
    """What measuring the alpha curve takes: every alpha reads the rows that choose, three the rows that prove alone.

    Those are the base, the tuned model and the recommended alpha between them.
    """
    costs = [proof_cost(held_out, base) for held_out in (choosing, proving)]
    seconds = [cost.seconds and cost.seconds / 2 for cost in costs]  # of one model
    first, second = seconds
    model = base.on_meta
    return CurveCost(
        alphas=len(ALPHAS),
        sequences=costs[0].sequences,
        tokens=costs[0].tokens,
        proving_sequences=costs[1].sequences,
        proving_tokens=costs[1].tokens,
        seconds=None if first is None or second is None else len(ALPHAS) * first + 3 * second,
        weight_bytes=model and 2 * model.num_parameters() * getattr(torch, base.placement.dtype).itemsize,
    )


def _reading(sources: Sequence[HeldOutSource], *, choose_form: bool) -> _Reading:
    """All sequences that a model reads: the rows, and answers behind other prompts."""
    tokens = scored = 0
    for source in sources:
        tokens += int(read_columns(source.dataset, "num_tokens")["num_tokens"].to_numpy().sum())
        scored += sum(row.tokens for row in source.rows)
        behind = [(prompt, row.asked.answer) for row in source.contrasts.rows for prompt in row.template]
        if choose_form:
            behind += [(one.plain, one.answer) for one in source.contrasts.asked.values()]
        tokens += sum(len(prompt) + len(answer) for prompt, answer in behind)
        scored += sum(len(answer) for _, answer in behind)
    return _Reading(tokens=tokens, scored=scored)


@cache
def _matrix_rate(dtype: str, device: str) -> float:
    return matrix_rate(getattr(torch, dtype), device, PRODUCT_SIZES.get(device.split(":")[0], PRODUCT_SIZES["cpu"]))


def _weights(model: PreTrainedModel | None) -> _Weights | None:
    if model is None:
        return None
    try:
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        own = 0 if head is embedding else head.numel()
        return _Weights(body=model.num_parameters() - embedding.numel() - own, head=head.numel())
    except Exception:  # an architecture without the usual parts, which may raise anything
        return None
