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
from accelerate.utils import TorchDynamoPlugin
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState, PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from seodang import distributed, recipe
from seodang.data.pack import Plan, pack_step
from seodang.errors import RunError, plural
from seodang.model.malloc import keep_freed_memory, return_freed_memory
from seodang.model.quiet import quiet
from seodang.run.checkpoints import seal
from seodang.run.events import EvalEvent, Event, NoteEvent, SavedEvent, SaveEvent, TrainEvent
from seodang.run.folder import CHECKPOINT, TRAINER_STATE, UNFINISHED_CHECKPOINT
from seodang.train.adapter import unwrapped
from seodang.train.arguments import training_arguments
from seodang.train.bf16_adamw import Bf16AdamW
from seodang.train.callbacks import Interrupt, Schedule
from seodang.train.loss_scale import LossScale
from seodang.train.metrics import evaluation_event
from seodang.train.out_of_memory import OutOfMemoryRetry, explaining_out_of_memory
from seodang.train.random_state import unchanged_random_state
from seodang.train.setup import BF16_ADAMW, ChosenLoss, Setup, save_interval
from seodang.train.throughput import step_flops
from seodang.types import Metric, Step

if TYPE_CHECKING:
    from peft import PeftModel

NAMED_ROWS = 5  # of a step, in an error


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How training ended."""

    steps: int
    best_step: int | None
    best_loss: float | None  # or the score, where one ranks evaluations
    stopped: bool  # by Ctrl-C, SIGTERM or SIGHUP before its end: to be resumed
    interrupted: bool = False  # a signal came, before the end or with it


def train(
    model: "PreTrainedModel | PeftModel",
    rows: Dataset,
    settings: recipe.Train,
    setup: Setup,
    *,
    measure: Callable[[], Mapping[str, Metric]],
    chosen_loss: ChosenLoss | None,
    on_event: Callable[[Event], None],
    score: Callable[[EvalEvent], float] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train `model` in place; at the end it holds the weights of the best evaluation (under FSDP2, each rank its part).

    Args:
        model: all of it is trained, or what an adapter (peft's) added to it; checkpoints hold what is trained.
        rows: prepared rows (`input_ids`, `labels`), in the order in which the first epoch takes them.
        measure: evaluates the model as it is, source → metric; the same on all ranks.
        chosen_loss: the one loss that picks the best checkpoint; none: the last step is the best.
        on_event: takes every event as it happens, on all ranks.
        score: ranks evaluations in place of their chosen loss, the lowest first; the same on all ranks.
        callbacks: transformers' own, from the Python API.

    Raises:
        RunError: losses or weights became NaN or infinite; or the run resumes with sharded weights and was begun
            without, or the other way round.
        ResourceError: out of memory.
    """
    on_event, measure = unchanged_random_state()(on_event), unchanged_random_state()(measure)

    def note(what: str) -> None:
        on_event(NoteEvent(what=what))

    trainer = _make_trainer(model, rows, settings, setup, chosen_loss, callbacks)
    _refuse_other_sharding(setup.resume_from, trainer.is_fsdp_enabled)
    trainer.score = score
    trainer.measure, trainer.on_event, trainer.retry = measure, on_event, OutOfMemoryRetry(on_note=note)
    trainer.interrupt = interrupt = Interrupt()
    trainer.add_callback(interrupt)
    if setup.engine.training_dtype == torch.float16:
        trainer.loss_scale = LossScale(note)
        trainer.add_callback(trainer.loss_scale)
    save_steps, save_seconds = save_interval(settings)
    trainer.add_callback(Schedule(save_steps=save_steps, save_seconds=save_seconds))  # after all others
    out_of_memory = explaining_out_of_memory(settings, setup, trainer.retry)
    with quiet(), setup.engine.installed(unwrapped(model), note), interrupt.handling_signals(), out_of_memory:
        try:
            trainer.train(resume_from_checkpoint=str(setup.resume_from) if setup.resume_from else None)
        finally:
            trainer.free_memory()
            model.eval()  # as it was loaded: an adapter's dropout must not reach what is measured
    state, stopped = trainer.state, not trainer.has_ended
    has_best = state.best_global_step and not stopped
    return TrainingResult(
        steps=state.global_step,
        best_step=state.best_global_step if has_best else state.global_step,
        best_loss=state.best_metric if has_best else None,
        stopped=stopped,
        interrupted=distributed.is_any(interrupt.requested),  # it may have reached one rank since they last asked
    )


def _make_trainer(
    model: "PreTrainedModel | PeftModel",
    rows: Dataset,
    settings: recipe.Train,
    setup: Setup,
    chosen_loss: ChosenLoss | None,
    callbacks: Sequence[TrainerCallback],
) -> "_StepTrainer":
    plan = Plan(num_rows=len(rows), examples_per_step=settings.examples_per_step, seed=settings.seed)
    trainer = _StepTrainer(
        model=model,
        args=training_arguments(model, settings, setup, has_evaluation=chosen_loss is not None),
        train_dataset=Steps(rows, plan, setup.engine.budget(setup.pack_tokens)),
        eval_dataset=(),  # Trainer asks for one; `measure` has its own
        data_collator=only_item,
        callbacks=list(callbacks),
        optimizer_cls_and_kwargs=_own_optimizer(settings, setup),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.chosen_loss, trainer.keep_checkpoints = chosen_loss, settings.keep_checkpoints
    trainer.rows_of_step = lambda step: _row_names(rows, step)
    if settings.early_stopping and chosen_loss:
        stopping = settings.early_stopping
        trainer.add_callback(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    return trainer


def _own_optimizer(settings: recipe.Train, setup: Setup) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """(class, arguments) of an optimizer that transformers does not have; Trainer knows which weights decay."""
    return (Bf16AdamW, {"lr": settings.learning_rate}) if setup.optimizer == BF16_ADAMW else None


def _refuse_other_sharding(checkpoint: Path | None, is_sharded: bool) -> None:
    if checkpoint is None:
        return
    was_sharded = not any(checkpoint.glob("*.safetensors"))  # FSDP2 writes its weights in another form
    if was_sharded != is_sharded:
        raise RunError(
            f"this run was begun {'with' if was_sharded else 'without'} FSDP2",
            where=str(checkpoint),
            hint=f"resume it {'with' if was_sharded else 'without'} FSDP2, on any number of processes",
        )


def _row_names(rows: Dataset, step: Step | None) -> str:
    """A few of the step's rows, for people."""
    if step is None or "file" not in rows.column_names:
        return ""
    part = rows.select_columns(["file", "row"])[list(step.rows[:NAMED_ROWS])]
    names = [f"{file}:{row}" for file, row in zip(part["file"], part["row"], strict=True)]
    return ", ".join([*names, plural(more, "more row")] if (more := len(step.rows) - NAMED_ROWS) > 0 else names)


class _StepTrainer(Trainer):
    """Trainer whose batch is a whole optimizer step."""

    measure: Callable[[], Mapping[str, Metric]]
    chosen_loss: ChosenLoss | None
    score: Callable[[EvalEvent], float] | None = None
    on_event: Callable[[Event], None]
    rows_of_step: Callable[[Step | None], str]
    retry: OutOfMemoryRetry
    interrupt: Interrupt
    loss_scale: LossScale | None = None  # where the products of training are float16
    keep_checkpoints: int
    had_ended: bool = False  # before this start
    _step: Step | None = None
    _unlogged_steps: tuple[Step, ...] = ()  # steps since the last training event
    _logged_overflows: tuple[int, int] = (0, 0)  # passes repeated, steps in float32, up to the last training event

    @property
    def has_ended(self) -> bool:
        """Whether training has reached its end: its last step, or what stops it early, but no signal of the user."""
        by_callback = self.control.should_training_stop and not self.interrupt.has_stopped
        return by_callback or self.state.global_step >= self.state.max_steps or self._is_out_of_patience

    @property
    def _is_out_of_patience(self) -> bool:
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )

    def training_step(self, model: Any, inputs: Step, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the step's packs; where memory runs out, again in smaller ones."""
        model.train()
        self._step = inputs
        self._unlogged_steps = (*self._unlogged_steps, inputs)
        clear_gradients = partial(model.zero_grad, set_to_none=True)

        def backward(scale: float = 1.0, exact: bool = False) -> torch.Tensor:
            once = partial(self._backward, model, scale=scale, exact=exact)
            if self.accelerator.num_processes > 1:
                return once(inputs)
            loss: torch.Tensor = self.retry.run(inputs, once, clear_gradients)
            return loss

        return self.loss_scale.run(backward, model.parameters(), clear_gradients) if self.loss_scale else backward()

    def _backward(self, model: Any, inputs: Step, *, scale: float, exact: bool) -> torch.Tensor:
        """Forward and backward pack by pack; the gradients are those of the loss times `scale`.

        Gradients are exchanged with the last one; under FSDP2 with each, so that no rank ever holds them whole.
        """
        if self.args.device.type == "cpu":
            keep_freed_memory()  # until the next evaluation or checkpoint
        world = self.accelerator.num_processes
        total = torch.zeros((), device=self.args.device)
        for number, pack in enumerate(inputs.packs, 1):
            exchanged = number == len(inputs.packs) or self.accelerator.is_fsdp2
            with nullcontext() if exchanged else self.accelerator.no_sync(model):
                loss = model(pack=pack, exact=exact, weight=scale * world / inputs.supervised)
                self.accelerator.backward(loss)
            total += loss.detach() / scale
            del loss  # and with it what remembers the pass: none may be alive while a graph is recorded
        return total

    def get_batch_samples(
        self, epoch_iterator: Iterator[Step], num_batches: int, device: Any
    ) -> tuple[list[Step], None]:
        """One step; its tokens are counted already."""
        return [next(epoch_iterator)], None

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Gradients live in the buckets that DDP exchanges, not beside them.

        `accelerate launch` may ask for products of another dtype, or to compile the model: that is the engine's part.
        """
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        arguments |= {"mixed_precision": "no", "dynamo_plugin": TorchDynamoPlugin(backend="no")}
        for handler in arguments["kwargs_handlers"]:
            handler.gradient_as_bucket_view = True
        return arguments

    def floating_point_ops(self, inputs: Step) -> int:
        return int(step_flops(unwrapped(self.model), inputs.packs))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss of every source, token-weighted, in Trainer's names."""
        return_freed_memory()
        metrics = self.measure()
        if self.chosen_loss is None:
            raise AssertionError("evaluation without a loss to choose by")
        loss = self.chosen_loss(metrics)
        for name, metric in metrics.items():
            self._check_finite(f"loss on {name}", metric.loss, where=name)
        event = evaluation_event(metrics, loss, step=self.state.global_step, epoch=self.state.epoch or 0.0)
        self.on_event(event)
        logs = {
            "eval_loss": self.score(event) if self.score else loss,
            **{f"eval_{name}_loss": metric.loss for name, metric in metrics.items()},
        }
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        self._check_finite("training loss", logs["loss"])
        self._check_finite("gradient norm", logs.get("grad_norm", 0.0))
        scale = self.loss_scale
        overflows = (scale.repeated, scale.in_float32) if scale else (0, 0)
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
                loss_scale=scale.scale if scale else None,
                repeated=overflows[0] - self._logged_overflows[0],
                in_float32=overflows[1] - self._logged_overflows[1],
            )
        )
        self._unlogged_steps, self._logged_overflows = (), overflows

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best: bool = super()._determine_best_metric(metrics=metrics, trial=trial)
        if is_best:  # it may be loaded at the end
            self.control.should_save = True
        return is_best

    def _check_finite(self, name: str, value: float, where: str = "") -> None:
        """Stop before what is NaN or infinite replaces anything; all ranks hold the same value."""
        if not math.isfinite(value):
            error = RunError(
                f"the {name} is {value} at step {self.state.global_step}",
                where=where or self.rows_of_step(self._step),
                hint="look at these rows, lower train.learning_rate, or set model.dtype=float32",
            )
            distributed.exchange(None, error)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write aside, then rename: a folder that bears a checkpoint's name is complete."""
        return_freed_memory()
        for name, value in filter(None, distributed.exchange(broken_weight(self.model))):
            self._check_finite(f"weight {name}", value)
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
        if self.is_fsdp_enabled or not self.has_ended:  # no step comes after the last; else two thirds of the bytes
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
                save_total_limit=self.keep_checkpoints,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()
        self.on_event(SavedEvent(step=self.state.global_step))

    def _load_best_model(self) -> None:
        if not self.has_ended:  # it will be resumed from its newest checkpoint
            return
        self.free_memory()  # as large as two copies of the weights that are read now
        if self.state.best_global_step != self.state.global_step:  # else the best ones are in memory
            super()._load_best_model()

    def free_memory(self) -> None:
        """Of the optimizer's states, once no step is to come: Python may collect a trainer late."""
        if self.optimizer is not None:
            self.optimizer.state.clear()
        return_freed_memory()

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, num_epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """Where a checkpoint left off, with what its callbacks had counted."""
        progress: tuple[int, int] = super()._init_training_state(
            max_steps, steps_per_epoch, num_epochs, checkpoint, trial
        )
        if best := self.state.best_global_step:  # the run folder may have been moved since
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / f"{CHECKPOINT}{best}")
        if checkpoint:
            self._restore_callbacks()
        return progress

    def _restore_callbacks(self) -> None:
        """Give the callbacks their counts back, and find out whether training had ended there."""
        stored = self.state.stateful_callbacks
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState) and type(callback).__name__ in stored:
                for name, value in stored[type(callback).__name__]["attributes"].items():
                    setattr(callback, name, value)
        if self.loss_scale:
            self._logged_overflows = self.loss_scale.repeated, self.loss_scale.in_float32
        had_stop = "Interrupt" in stored and stored["TrainerControl"]["args"]["should_training_stop"]
        by_callback = had_stop and not self.interrupt.has_stopped
        self.had_ended = by_callback or self.state.global_step >= self.state.max_steps or self._is_out_of_patience
        self.interrupt.has_stopped = False

    def _run_epoch(self, **kwargs: Any) -> None:
        """Train, unless training had ended before it was resumed: then only the best weights are loaded."""
        if self.had_ended:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)


def broken_weight(model: torch.nn.Module) -> tuple[str, float] | None:
    """(name, value) of the first trained weight that holds NaN or infinity; under FSDP2, of this rank's part."""
    for name, parameter in model.named_parameters():
        local = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()
        if parameter.requires_grad and local.numel():
            for extreme in map(float, torch.aminmax(local)):
                if not math.isfinite(extreme):
                    return name, extreme
    return None


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
