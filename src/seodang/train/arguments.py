"""Recipe and setup → transformers' training arguments. Everything that could be left to a default is set here."""

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, TrainingArguments

from seodang import distributed, recipe
from seodang.train.adapter import unwrapped
from seodang.train.setup import BF16_ADAMW, CHECKPOINTED_LAYERS, Setup, warmup_steps

if TYPE_CHECKING:
    from peft import PeftModel

# as transformers names them; its `constant` passes over the warmup
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    model: "PreTrainedModel | PeftModel", settings: recipe.Train, setup: Setup, *, has_evaluation: bool
) -> TrainingArguments:
    """Args:
    has_evaluation: whether the best evaluation's weights are kept.
    """
    checkpointing = setup.checkpointing
    arguments = TrainingArguments(
        output_dir=str(setup.checkpoints),
        max_steps=setup.total_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if settings.min_learning_rate else SCHEDULES[settings.schedule],
        lr_scheduler_kwargs={"min_lr": settings.min_learning_rate} if settings.min_learning_rate else None,
        warmup_steps=warmup_steps(settings, setup.total_steps),
        optim="adamw_torch_fused" if setup.optimizer == BF16_ADAMW else setup.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        activation_checkpointing=checkpointing != "none",
        activation_checkpointing_kwargs={
            "use_reentrant": False,
            "every_n_layers": CHECKPOINTED_LAYERS.get(checkpointing, 1),
        },
        use_cpu=model.device.type == "cpu",
        eval_strategy="steps" if has_evaluation else "no",
        eval_steps=setup.eval_every,
        save_strategy="steps",
        save_steps=setup.eval_every * (setup.total_steps + 1),  # never: `Schedule` says when
        load_best_model_at_end=has_evaluation,
        metric_for_best_model="eval_loss" if has_evaluation else None,
        greater_is_better=False,
        logging_steps=1 if model.device.type == "cpu" else 10,
        logging_nan_inf_filter=False,  # it hides a dead run behind a healthy curve
        train_sampling_strategy="sequential",  # the plan shuffles
        remove_unused_columns=False,
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=_may_idle(unwrapped(model)) if distributed.world() > 1 else None,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        seed=settings.seed,
    )
    if model.device.type == "cuda" and distributed.world() == 1:
        _stay_on(model.device, arguments)
    return arguments


def _stay_on(device: torch.device, arguments: TrainingArguments) -> None:
    """transformers would move the model to the first GPU, and train copies of it on all others (`DataParallel`)."""
    arguments._n_gpu = 1
    vars(arguments)["_setup_devices"] = device  # where `arguments.device` is kept
    torch.cuda.set_device(device)


def _may_idle(model: PreTrainedModel) -> bool:
    """Whether some weights may take no part in a pack: experts, or parts that read something else than text."""
    parts = (model.get_decoder(), model.get_output_embeddings())
    used = {parameter for part in parts if part is not None for parameter in part.parameters()}
    experts = any("expert" in key for key in model.config.get_text_config().to_dict())
    return experts or any(p.requires_grad and p not in used for p in model.parameters())
