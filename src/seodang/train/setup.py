"""What training needs besides the recipe: optimizer, token budget, number of steps, checkpoint to resume from.

Each is resolved once, before training begins. Knows no Trainer.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from seodang import distributed, recipe
from seodang.errors import ResourceError, plural
from seodang.model.engine.engine import Engine
from seodang.optional_packages import is_installed
from seodang.proof.row_losses import HeldOutSource
from seodang.recipe import Source, Tolerance, Train
from seodang.recipe_rules import BY_TOLERANCE, SAVE_EVERY
from seodang.run.checkpoint_choice import Limit
from seodang.run.checkpoints import IntactCheckpoint, newest_intact
from seodang.run.folder import Run, checkpoint_step
from seodang.types import Checkpointing, Metric

if TYPE_CHECKING:
    from peft import PeftModel

PACK_TOKENS = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # positions of one forward pass
BF16_ADAMW = "adamw_bf16"  # `train.bf16_adamw`; the others are transformers' own
CHECKPOINTED_LAYERS = {"selective": 2, "full": 1}  # every n-th layer keeps only its input for the backward pass
COMPILED_POSITIONS = 3_000_000  # of a run: compiling takes 20 s of an H200, and saves 9 to 12 µs a position
MIN_ADAPTER_RATE, MAX_WEIGHTS_RATE = 5e-5, 2e-4  # usual learning rates lie inside
ChosenLoss = Callable[[Mapping[str, Metric]], float]  # evaluation, source → metric → the loss that picks a checkpoint


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer that trains."""

    name: str  # as transformers knows it, or `BF16_ADAMW`
    remark: str | None = None  # a sentence if it is not the one that the recipe names


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What training needs besides the recipe."""

    engine: Engine
    pack_tokens: int  # positions of one forward pass
    optimizer: str  # as transformers knows it, or `BF16_ADAMW`
    checkpoints: Path
    resume_command: str  # what to type to resume the run
    resume_from: Path | None
    total_steps: int
    eval_every: int
    checkpointing: Checkpointing = "none"
    remarks: tuple[str, ...] = ()  # sentences for people


def make_setup(
    run: Run,
    settings: recipe.Train,
    model: "PreTrainedModel | PeftModel",
    engine: Engine,
    *,
    num_rows: int,
    optimizer: Optimizer,
    pack_tokens: int,
    checkpointing: Checkpointing | None = None,
    has_evaluation: bool = True,
) -> Setup:
    """Decide what the recipe leaves open, and find the checkpoint to resume from.

    Args:
        num_rows: of the training set.
        optimizer, pack_tokens: as they were resolved before.
        checkpointing: the memory plan's; none where there is no plan.
        has_evaluation: whether `best_loss` has rows to be measured on.
    """
    sharding = sharding_remark(settings, model.device.type, distributed.wants_sharding() and distributed.world() > 1)
    found = distributed.exchange(newest_intact(run) if distributed.is_main() else IntactCheckpoint())[0]
    checkpoint = found.folder
    with distributed.agreed():
        if distributed.is_main():
            run.rewind(checkpoint_step(checkpoint) if checkpoint else 0)
    steps = total_steps(settings, num_rows)
    schedule = schedule_remarks(settings, steps, has_evaluation=has_evaluation)
    remarks = (optimizer.remark, sharding, learning_rate_remark(settings), *schedule)
    return Setup(
        engine=engine,
        pack_tokens=pack_tokens,
        optimizer=optimizer.name,
        checkpoints=run.checkpoints,
        resume_command=run.resume_command,
        resume_from=checkpoint,
        total_steps=steps,
        eval_every=eval_every(settings, steps),
        checkpointing=checkpointing or ("none" if settings.checkpointing == "auto" else settings.checkpointing),
        remarks=tuple(remark for remark in (*remarks, *found.remarks) if remark),
    )


def best_loss(best_by: str, sources: Sequence[Source], measured: Collection[str]) -> ChosenLoss | None:
    """The loss that picks the best checkpoint, or None if no holdout measures it.

    Args:
        best_by: all: the token-weighted mean over the sources that are trained; domain_within_tolerance: that over the
            domain's sources; a source's name: that source's own.
        measured: names of the sources that have a holdout.
    """
    if best_by == BY_TOLERANCE:
        names = [source.name for source in sources if source.role == "domain"]
    else:
        names = [source.name for source in sources if source.is_trained] if best_by == "all" else [best_by]
    names = [name for name in names if name in measured]
    if not names:
        return None

    def loss(metrics: Mapping[str, Metric]) -> float:
        chosen = [metrics[name] for name in names]
        return sum(metric.loss_sum for metric in chosen) / sum(metric.tokens for metric in chosen)

    return loss


def choice_limits(
    best_by: str, sources: Sequence[Source], held_out: Sequence[HeldOutSource], tolerance: Tolerance
) -> tuple[Limit, ...] | None:
    """How much a chosen checkpoint's losses may rise: on general answers, and on text that is never trained on.

    Each in the unit that the proof has for the source. None: the recipe chooses by a loss alone.
    """
    if best_by != BY_TOLERANCE:
        return None
    limited = {
        one.name: one.role
        for one in sources
        if one.role == "general" or (one.role == "retention" and not one.is_trained)
    }
    found = [(one.name, one.is_in_bytes(limited[one.name])) for one in held_out if one.name in limited and one.rows]
    return tuple(
        Limit(source=name, unit="bits per byte", tolerance=tolerance.retention)
        if in_bytes
        else Limit(source=name, unit="nats per token", tolerance=tolerance.general)
        for name, in_bytes in found
    )


def choose_optimizer(requested: str, device: str, *, rounds_stochastically: bool = False) -> Optimizer:
    """The recipe's optimizer, or fused AdamW where this device does not have it.

    Args:
        rounds_stochastically: as the placement resolved it.
    """
    if requested == "adamw":
        return Optimizer(name="adamw_torch_fused")
    if requested == BF16_ADAMW:
        if rounds_stochastically:
            return Optimizer(name=requested)
        why = "it needs a GPU that is fast at bf16, model.dtype auto or bfloat16, and neither an adapter nor FSDP2"
        return Optimizer(name="adamw_torch_fused", remark=f"optimizer: fused AdamW instead of {requested}: {why}")
    if device.startswith("cuda") and is_installed("bitsandbytes"):
        return Optimizer(name=requested)
    missing = "bitsandbytes is not installed" if device.startswith("cuda") else f"it needs CUDA, this runs on {device}"
    return Optimizer(name="adamw_torch_fused", remark=f"optimizer: fused AdamW instead of {requested}: {missing}")


def sharding_remark(settings: Train, device: str, requested: bool) -> str | None:
    """A sentence if the weights are not spread over the ranks although accelerate was asked to.

    Raises:
        ResourceError: an adapter is not trained on weights that are spread.
    """
    if not requested:
        return None
    if not device.startswith("cuda"):
        return f"sharding: each rank holds all weights (DDP): accelerate has FSDP2 for GPUs only, this runs on {device}"
    if settings.adapter:
        what = "an adapter is not trained on weights that FSDP2 spread over the GPUs"
        raise ResourceError(what, where="train.adapter", hint="launch without FSDP2; qlora takes the least memory")
    return None


def learning_rate_remark(settings: Train) -> str | None:
    """A sentence if the learning rate is one of the other kind of training: adapters want ten times as much."""
    rate = settings.learning_rate
    if settings.adapter and rate < MIN_ADAPTER_RATE:
        return f"learning rate: {rate:g} is low for an adapter, which hardly moves below 5e-5; usual are 1e-4 to 3e-4"
    if not settings.adapter and rate > MAX_WEIGHTS_RATE:
        return f"learning rate: {rate:g} is high where all weights are trained; usual are 1e-5 to 5e-5"
    return None


def schedule_remarks(settings: Train, steps: int, *, has_evaluation: bool) -> Iterator[str]:
    """A sentence for each part of the schedule that cannot do what the recipe wants in a run of so many steps."""
    warmup = settings.warmup
    if warmup and not warmup_steps(settings, steps):
        rounded = plural(_share_of(warmup, steps), "step")
        yield f"no warmup: {warmup:g} of {plural(steps, 'step')} rounds up to {rounded}, too much of so short a run"
    elif (num := warmup_steps(settings, steps)) >= steps:
        rate = f"{settings.learning_rate:g}"
        yield f"warmup: {plural(num, 'step')} in a run of {steps}: the learning rate never reaches {rate}"
    if not has_evaluation:
        source = {"all": "a trained source", BY_TOLERANCE: "the domain"}.get(settings.best_by, settings.best_by)
        wanted = {"early_stopping": settings.early_stopping, "eval_every": settings.eval_every}
        for name in (name for name, value in wanted.items() if value):
            yield f"{name}: has no effect without held-out rows of {source}"
        if settings.best_by != "all":
            yield f"best_by: {source} has no held-out rows, so the last step is kept"
    elif (
        settings.early_stopping
        and (num := -(-steps // eval_every(settings, steps))) <= settings.early_stopping.patience
    ):
        patience = settings.early_stopping.patience
        yield f"early_stopping: cannot happen with {plural(num, 'evaluation')}, patience {patience}"


def warmup_steps(settings: Train, steps: int) -> int:
    """Steps over which the learning rate rises; a small share of a short run that would take much of it is left out."""
    if settings.warmup >= 1:
        return math.ceil(settings.warmup)
    warmup = _share_of(settings.warmup, steps)
    limit = steps / 10 if settings.warmup <= 0.1 else steps - 1
    return warmup if warmup <= limit else 0


def eval_every(settings: Train, steps: int) -> int:
    """Steps between evaluations."""
    return settings.eval_every or max(1, steps // 10)


def save_interval(settings: Train) -> tuple[int | None, float | None]:
    """(steps, seconds) between checkpoints; neither: one with each evaluation."""
    match = re.fullmatch(SAVE_EVERY, settings.save_every or "")
    if not match:
        return None, None
    return (int(match["steps"]), None) if match["steps"] else (None, 60 * float(match["minutes"]))


def checkpoint_every(settings: Train, evaluated_every: int | None) -> int | None:
    """Steps between checkpoints; none: they go by minutes, or only the last step has one."""
    steps, seconds = save_interval(settings)
    return steps if steps or seconds else evaluated_every


def pack_tokens(settings: Train, device: str) -> int:
    """Positions of one forward pass: at least one whole row."""
    return max(settings.max_tokens, settings.pack_tokens or PACK_TOKENS[device.split(":")[0]])


def is_worth_compiling(settings: Train, num_tokens: NDArray[np.integer]) -> bool:
    """Whether a run has so many positions that compiling the model's layers takes less time than it saves.

    Args:
        num_tokens: of each row.
    """
    num_examples = total_steps(settings, num_tokens.size) * settings.examples_per_step
    return bool(num_tokens.size and num_examples * num_tokens.mean() >= COMPILED_POSITIONS)


def total_steps(settings: Train, num_rows: int) -> int:
    """Optimizer steps of the whole run."""
    per_epoch = -(-num_rows // settings.examples_per_step)
    return settings.steps or max(1, _share_of(settings.epochs, per_epoch))


def _share_of(share: float, number: int) -> int:
    """Rounded up, as it is written in decimals: 1.1 of 50 is 55, and not 56."""
    return math.ceil(Decimal(str(share)) * number)
