"""Packs → checkpoints, by transformers' Trainer. The only module that imports it.

A batch is one optimizer step of one rank. The loss of a step is the mean over all its supervised tokens, however they
are packed and shared out over the ranks.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState, PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from seodang import distributed, recipe
from seodang.data.pack import Plan, pack_step
from seodang.errors import RunError
from seodang.model.malloc import keep_freed_memory, return_freed_memory
from seodang.model.quiet import quiet
from seodang.run.checkpoints import seal
from seodang.run.events import Event, NoteEvent, SaveEvent, TrainEvent
from seodang.run.folder import CHECKPOINT, OPTIMIZER, TRAINER_STATE, UNFINISHED_CHECKPOINT
from seodang.train.adapter import unwrapped
from seodang.train.callbacks import Interrupt, LastStep
from seodang.train.metrics import evaluation_event
from seodang.train.out_of_memory import OutOfMemoryRetry, explaining_out_of_memory
from seodang.train.setup import CHECKPOINTED_LAYERS, Setup
from seodang.train.throughput import step_flops
from seodang.types import Metric, Step

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How training ended."""

    steps: int
    best_step: int | None
    best_loss: float | None
    best_metrics: Mapping[str, Metric] | None  # of the weights at the end, if they were measured since the last start
    stopped: bool  # by Ctrl-C: to be resumed


def train(
    model: "PreTrainedModel | PeftModel",
    rows: Dataset,
    settings: recipe.Train,
    setup: Setup,
    *,
    measure: Callable[[], Mapping[str, Metric]],
    chosen_loss: Callable[[Mapping[str, Metric]], float] | None,
    on_event: Callable[[Event], None],
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train `model` in place; at the end it holds the weights of the best evaluation (under FSDP2, each rank its part).

    Args:
        model: all of it is trained, or what an adapter (peft's) added to it; checkpoints hold what is trained.
        rows: prepared rows (`input_ids`, `labels`), in the order in which the first epoch takes them.
        measure: evaluates the model as it is, source → metric; the same on all ranks.
        chosen_loss: the one loss that picks the best checkpoint; none: the last step is the best.
        on_event: takes every event as it happens, on all ranks.
        callbacks: transformers' own, from the Python API.

    Raises:
        RunError: the loss became NaN or infinite; or the run resumes with sharded weights and was begun without, or
            the other way round.
        ResourceError: out of memory.
    """

    def note(what: str) -> None:
        on_event(NoteEvent(what=what))

    trainer = _make_trainer(model, rows, settings, setup, chosen_loss, callbacks)
    if setup.resume_from:
        _refuse_other_sharding(setup.resume_from, trainer.is_fsdp_enabled)
    trainer.measure, trainer.on_event, trainer.retry = measure, on_event, OutOfMemoryRetry(on_note=note)
    interrupt = Interrupt()
    trainer.add_callback(LastStep())
    trainer.add_callback(interrupt)
    out_of_memory = explaining_out_of_memory(settings, setup.pack_tokens, setup.checkpointing, trainer.retry)
    with quiet(), setup.engine.installed(unwrapped(model), note), interrupt.handling_signals(), out_of_memory:
        try:
            trainer.train(resume_from_checkpoint=str(setup.resume_from) if setup.resume_from else None)
        finally:
            return_freed_memory()
    state = trainer.state
    has_best = state.best_global_step and not interrupt.requested
    return TrainingResult(
        steps=state.global_step,
        best_step=state.best_global_step if has_best else state.global_step,
        best_loss=state.best_metric if has_best else None,
        best_metrics=trainer.measured.get(state.best_global_step) if has_best else None,
        stopped=interrupt.requested and state.global_step < setup.total_steps,
    )


def _make_trainer(
    model: "PreTrainedModel | PeftModel",
    rows: Dataset,
    settings: recipe.Train,
    setup: Setup,
    chosen_loss: Callable[[Mapping[str, Metric]], float] | None,
    callbacks: Sequence[TrainerCallback],
) -> "_StepTrainer":
    plan = Plan(num_rows=len(rows), examples_per_step=settings.examples_per_step, seed=settings.seed)
    trainer = _StepTrainer(
        model=model,
        args=_arguments(model, settings, setup, has_evaluation=chosen_loss is not None),
        train_dataset=Steps(rows, plan, setup.engine.budget(setup.pack_tokens)),
        eval_dataset=(),  # Trainer asks for one; `measure` has its own
        data_collator=only_item,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.chosen_loss, trainer.measured = chosen_loss, {}
    trainer.rows_of_step = lambda step: _row_names(rows, step)
    if settings.early_stopping and chosen_loss:
        stopping = settings.early_stopping
        trainer.add_callback(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    return trainer


def _arguments(
    model: "PreTrainedModel | PeftModel", settings: recipe.Train, setup: Setup, *, has_evaluation: bool
) -> TrainingArguments:
    checkpointing = setup.checkpointing
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * setup.total_steps
    return TrainingArguments(
        output_dir=str(setup.checkpoints),
        max_steps=setup.total_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(warmup),
        optim=setup.optimizer,
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
        save_steps=setup.eval_every,
        save_total_limit=settings.keep_checkpoints,
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


def _refuse_other_sharding(checkpoint: Path, is_sharded: bool) -> None:
    was_sharded = not (checkpoint / OPTIMIZER).is_file()  # FSDP2 writes its states in another form
    if was_sharded != is_sharded:
        raise RunError(
            f"this run was begun {'with' if was_sharded else 'without'} FSDP2",
            where=str(checkpoint),
            hint=f"resume it {'with' if was_sharded else 'without'} FSDP2, on any number of processes",
        )


def _may_idle(model: PreTrainedModel) -> bool:
    """Whether some weights may take no part in a pack: experts, or parts that read something else than text."""
    parts = (model.get_decoder(), model.get_output_embeddings())
    used = {parameter for part in parts if part is not None for parameter in part.parameters()}
    experts = any("expert" in key for key in model.config.get_text_config().to_dict())
    return experts or any(p.requires_grad and p not in used for p in model.parameters())


def _row_names(rows: Dataset, step: Step | None) -> str:
    if step is None or "file" not in rows.column_names:
        return ""
    part = rows.select_columns(["file", "row"])[list(step.rows)]
    return ", ".join(f"{file}:{row}" for file, row in zip(part["file"], part["row"], strict=True))


class _StepTrainer(Trainer):
    """Trainer whose batch is a whole optimizer step."""

    measure: Callable[[], Mapping[str, Metric]]
    chosen_loss: Callable[[Mapping[str, Metric]], float] | None
    on_event: Callable[[Event], None]
    rows_of_step: Callable[[Step | None], str]
    retry: OutOfMemoryRetry
    measured: dict[int, Mapping[str, Metric]]  # step → its evaluation
    _step: Step | None = None
    _unlogged_steps: tuple[Step, ...] = ()  # steps since the last training event

    def training_step(self, model: Any, inputs: Step, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the step's packs; where memory runs out, again in smaller ones."""
        model.train()
        self._step = inputs
        self._unlogged_steps = (*self._unlogged_steps, inputs)
        if self.accelerator.num_processes > 1:
            return self._backward(model, inputs)
        clear_gradients = partial(model.zero_grad, set_to_none=True)
        loss: torch.Tensor = self.retry.run(inputs, partial(self._backward, model), clear_gradients)
        return loss

    def _backward(self, model: Any, inputs: Step) -> torch.Tensor:
        """Forward and backward pack by pack.

        Gradients are exchanged with the last one; under FSDP2 with each, so that no rank ever holds them whole.
        """
        if self.args.device.type == "cpu":
            keep_freed_memory()  # until the next evaluation or checkpoint
        world = self.accelerator.num_processes
        total = torch.zeros((), device=self.args.device)
        for number, pack in enumerate(inputs.packs, 1):
            exchanged = number == len(inputs.packs) or self.accelerator.is_fsdp2
            with nullcontext() if exchanged else self.accelerator.no_sync(model):
                loss = model(pack=pack) * (world / inputs.supervised)
                self.accelerator.backward(loss)
            total += loss.detach()
            del loss  # and with it what remembers the pass: none may be alive while a graph is recorded
        return total

    def get_batch_samples(
        self, epoch_iterator: Iterator[Step], num_batches: int, device: Any
    ) -> tuple[list[Step], None]:
        """One step; its tokens are counted already."""
        return [next(epoch_iterator)], None

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Gradients live in the buckets that DDP exchanges, not beside them."""
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            handler.gradient_as_bucket_view = True
        return arguments

    def floating_point_ops(self, inputs: Step) -> int:
        return int(step_flops(unwrapped(self.model), inputs.packs))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss of every source, token-weighted, in Trainer's names."""
        return_freed_memory()
        self.measured[self.state.global_step] = metrics = self.measure()
        if self.chosen_loss is None:
            raise AssertionError("evaluation without a loss to choose by")
        loss = self.chosen_loss(metrics)
        self.on_event(evaluation_event(metrics, loss, step=self.state.global_step, epoch=self.state.epoch or 0.0))
        logs = {"eval_loss": loss, **{f"eval_{name}_loss": metric.loss for name, metric in metrics.items()}}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            error = RunError(
                f"the training loss is {logs['loss']} at step {self.state.global_step}",
                where=self.rows_of_step(self._step),
                hint="look at these rows, lower train.learning_rate, or set model.dtype=float32",
            )
            distributed.exchange(None, error)  # all ranks see the same loss
        self.on_event(
            TrainEvent(
                step=self.state.global_step,
                epoch=round(self.state.epoch or 0.0, 4),
                loss=logs["loss"],
                probability=math.exp(-logs["loss"]),
                learning_rate=logs["learning_rate"],
                grad_norm=logs.get("grad_norm"),
                steps=len(self._unlogged_steps),
                tokens=sum(step.tokens for step in self._unlogged_steps),
                supervised_tokens=sum(step.supervised for step in self._unlogged_steps),
                flops=sum(map(self.floating_point_ops, self._unlogged_steps)),
            )
        )
        self._unlogged_steps = ()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write aside, then rename: a folder that bears a checkpoint's name is complete."""
        return_freed_memory()
        folder = Path(self.args.output_dir)
        kinds = (UNFINISHED_CHECKPOINT, CHECKPOINT)
        aside, final = (folder / f"{kind}{self.state.global_step}" for kind in kinds)
        self.on_event(SaveEvent(step=self.state.global_step, path=str(final)))
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # each rank saves its random state there
        if best := self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / f"{CHECKPOINT}{best}")
        self.store_flos()
        if not self.is_fsdp_enabled:  # there the weights are saved with the optimizer's states
            self.save_model(str(aside), _internal_call=True)
        self._save_optimizer_and_scheduler(str(aside))
        self._save_scaler(str(aside))
        self._save_rng_state(str(aside))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.save_to_json(str(aside / TRAINER_STATE))
            seal(aside)
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _load_best_model(self) -> None:
        return_freed_memory()
        self.optimizer.state.clear()  # no longer needed, and as large as two copies of the weights that are read now
        super()._load_best_model()

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        progress: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        if best := self.state.best_global_step:  # the run folder may have been moved since
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / f"{CHECKPOINT}{best}")
        return progress


class Steps(torch.utils.data.Dataset[Step]):
    """The optimizer steps of the current epoch.

    Item i is step i // ranks of rank i % ranks: so accelerate shares them out.
    """

    def __init__(self, rows: Dataset, plan: Plan, budget: int) -> None:
        self.rows, self.plan, self.budget, self.epoch = rows.select_columns(["input_ids", "labels"]), plan, budget, 0
        self.ranks = distributed.world()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.steps_per_epoch * self.ranks

    def __getitem__(self, item: int) -> Step:
        step, rank = divmod(item, self.ranks)
        indices = self.plan.rows(self.epoch, step)
        part = self.rows[indices]
        ids, labels = ([np.asarray(row, dtype=np.int32) for row in part[key]] for key in ("input_ids", "labels"))
        return pack_step(indices.tolist(), ids, labels, budget=self.budget, share=(rank, self.ranks))


def only_item(items: list[Step]) -> Step:
    """A batch is one step."""
    (step,) = items
    return step
