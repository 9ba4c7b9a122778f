"""What training needs besides the recipe: decided once, before it begins. Knows no Trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from seodang import distributed, recipe
from seodang.model.engine.engine import Engine
from seodang.run.folder import Run
from seodang.train.choice import choose_optimizer, choose_sharding, learning_rate_remark, total_steps
from seodang.types import Checkpointing

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What training needs besides the recipe."""

    engine: Engine
    pack_tokens: int
    optimizer: str  # a name that transformers knows
    checkpoints: Path
    resume_from: Path | None
    total_steps: int
    eval_every: int
    checkpointing: Checkpointing = "none"  # what `auto` comes to
    remarks: tuple[str, ...] = ()


def make_setup(
    run: Run,
    settings: recipe.Train,
    model: "PreTrainedModel | PeftModel",
    engine: Engine,
    *,
    num_rows: int,
    pack_tokens: int,
    checkpointing: Checkpointing = "none",
) -> Setup:
    """Decide what the recipe leaves open, and find the checkpoint to go on from."""
    optimizer, remark = choose_optimizer(settings.optimizer, model.device.type)
    sharding = choose_sharding(settings, model.device.type, distributed.wants_sharding() and distributed.world() > 1)
    remarks = (remark, sharding, learning_rate_remark(settings))
    checkpoint = run.last_checkpoint()
    with distributed.agreed():
        if distributed.is_main():
            run.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    steps = total_steps(settings, num_rows)
    return Setup(
        engine=engine,
        pack_tokens=pack_tokens,
        optimizer=optimizer,
        checkpoints=run.checkpoints,
        resume_from=checkpoint,
        total_steps=steps,
        eval_every=settings.eval_every or max(1, steps // 10),
        checkpointing=checkpointing,
        remarks=tuple(remark for remark in remarks if remark),
    )
