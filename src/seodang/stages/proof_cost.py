"""What a proof takes, before it is begun: what each model reads and writes, and about how long that is."""

from functools import cache

import torch
from transformers import PreTrainedConfig

from seodang.data.arrow import read_columns
from seodang.model.checkpoint import auto_class
from seodang.model.quiet import quiet
from seodang.proof.row_losses import HeldOutSource
from seodang.stages.measure import EvaluationSet
from seodang.stages.preflight import Base
from seodang.train.throughput import matrix_rate
from seodang.types import ProofCost

READING_SHARE = 0.5  # of the hardware limit, that forward passes over packs are taken to reach
WRITING_SHARE = {"cpu": 0.15, "cuda": 0.02}  # the same of generating, which waits for memory
PRODUCT_SIZES = {"cpu": (512,), "cuda": (4096,)}  # of the products by which the limit is measured


def proof_cost(held_out: EvaluationSet, base: Base) -> ProofCost:
    """What measuring base and tuned model takes, by the hardware's speed and the shares of it above."""
    device = base.placement.device.split(":")[0]
    choose_form = not held_out.has_trained_template
    sequences = sum(source.num_sequences(choose_form=choose_form) for source in held_out.sources)
    tokens = sum(_read_tokens(source, choose_form=choose_form) for source in held_out.sources)
    answer_tokens = sum(question.settings.max_new_tokens for question in held_out.questions)
    rate = _matrix_rate(base.placement.compute_dtype, base.placement.device)
    seconds = None
    if parameters := _parameters(base.config, trust_remote_code=base.spec.trust_remote_code):
        reading = tokens / READING_SHARE
        writing = answer_tokens / WRITING_SHARE.get(device, WRITING_SHARE["cpu"])
        seconds = 2 * 2 * parameters * (reading + writing) / rate
    return ProofCost(
        sequences=sequences,
        tokens=tokens,
        answers=len(held_out.questions),
        answer_tokens=answer_tokens,
        seconds=seconds,
        gflops=rate / 1e9,
    )


def _read_tokens(source: HeldOutSource, *, choose_form: bool) -> int:
    """Tokens of all sequences that a model reads: the rows, and answers behind other prompts."""
    own = int(read_columns(source.dataset, "num_tokens")["num_tokens"].to_numpy().sum())
    behind = sum(len(prompt) + len(row.asked.answer) for row in source.contrasts.rows for prompt in row.template)
    plain = sum(len(one.plain) + len(one.answer) for one in source.contrasts.asked.values()) if choose_form else 0
    return own + behind + plain


@cache
def _matrix_rate(dtype: str, device: str) -> float:
    return matrix_rate(getattr(torch, dtype), device, PRODUCT_SIZES.get(device.split(":")[0], PRODUCT_SIZES["cpu"]))


def _parameters(config: PreTrainedConfig, *, trust_remote_code: bool) -> int | None:
    """Weights that a token passes, the embedding aside, which is looked up; those of a mixture's experts all count."""
    try:
        with torch.device("meta"), quiet():
            model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
        return int(model.num_parameters() - model.get_input_embeddings().weight.numel()) or None
    except Exception:  # an architecture that cannot be made without its weights; torch and transformers raise anything
        return None
