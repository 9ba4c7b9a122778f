"""Training step by step as TRL trains: the same rows in the same steps give the same losses and gradients.

TRL's SFTTrainer is set as for a fair comparison: float32, no checkpointing, rows in order, padded micro-batches, the
loss a mean over the supervised tokens of the whole step. Ours packs the rows of a step instead.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BloomConfig, PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from seodang.data.pack import Plan
from seodang.model.engine.engine import Engine, choose_engine
from seodang.recipe import Train
from seodang.run.events import Event, TrainEvent
from seodang.run.folder import Run
from seodang.train.setup import Optimizer, make_setup
from seodang.train.trainer import train
from seodang.types import IGNORED
from tiny import make_config, make_model

KINDS = ["gemma3", "llama", "qwen3", "gemma2"]  # sliding windows; plain; normed queries and keys; soft-caps
STEPS, EXAMPLES = 20, 4
SETTINGS = Train(
    steps=STEPS, examples_per_step=EXAMPLES, learning_rate=1e-3, schedule="constant", warmup=0, weight_decay=0.0,
    clip=1.0, eval_every=10 * STEPS,
)  # fmt: skip


class FirstGradients(TrainerCallback):
    """The gradients of the first step, as the optimizer gets them."""

    def __init__(self) -> None:
        self.gradients = torch.empty(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            self.gradients = torch.cat([p.grad.flatten().double() for p in model.parameters()])


def _rows(layout: str, count: int = 48) -> Dataset:
    """Rows of 12 to 60 tokens (windows are 8): one answer at the end, or several between questions."""
    draw = np.random.default_rng(7)
    ids, labels = [], []
    for length in draw.integers(12, 60, count):
        row = draw.integers(20, 500, length)
        label = np.full(length, IGNORED)
        ends = [length] if layout == "single turn" else [length // 3, 2 * length // 3, length - draw.integers(0, 3)]
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            start = first + (end - first) // 2
            label[start:end] = row[start:end]
        ids.append(row.tolist())
        labels.append(label.tolist())
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _engine(model: PreTrainedModel, rows: Dataset) -> Engine:
    return choose_engine(model, [np.asarray(ids, dtype=np.int32) for ids in rows[:3]["input_ids"]])


def _ours(model: PreTrainedModel, rows: Dataset, folder: Path, *, engine: Engine) -> tuple[list[float], torch.Tensor]:
    folder.mkdir()
    setup = make_setup(
        Run(folder=folder), SETTINGS, model, engine,
        num_rows=len(rows), optimizer=Optimizer(name="adamw_torch_fused"), pack_tokens=100,
    )  # fmt: skip
    events: list[Event] = []
    first = FirstGradients()
    train(model, rows, SETTINGS, setup, measure=dict, chosen_loss=None, on_event=events.append, callbacks=[first])
    return [event.loss for event in events if isinstance(event, TrainEvent)], first.gradients


def _trl(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> tuple[list[float], torch.Tensor]:
    from trl import SFTConfig, SFTTrainer

    plan = Plan(num_rows=len(rows), examples_per_step=EXAMPLES, seed=SETTINGS.seed)
    epochs = range(-(-STEPS // plan.steps_per_epoch))
    order = np.concatenate([plan.order(epoch) for epoch in epochs])[: STEPS * EXAMPLES]
    first = FirstGradients()
    config = SFTConfig(
        output_dir=str(folder), report_to="none", save_strategy="no", logging_steps=1, max_steps=STEPS,
        per_device_train_batch_size=2, gradient_accumulation_steps=EXAMPLES // 2,
        learning_rate=SETTINGS.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch_fused", use_cpu=True, bf16=False, gradient_checkpointing=False,
        train_sampling_strategy="sequential", dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=rows.select(order), processing_class=tokenizer, callbacks=[first]
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], first.gradients


@pytest.mark.parametrize("layout", ["single turn", "multi-turn"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_trl(
    kind: str, layout: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Twenty steps over two epochs: losses within 1e-5 of TRL's, first gradients of one direction and size."""
    rows = _rows(layout)
    model = make_model(make_config(kind))
    engine = _engine(model, rows)
    assert engine.packed
    assert engine.linear_cross_entropy
    ours, gradients = _ours(model, rows, tmp_path / "ours", engine=engine)
    eager = {"attn_implementation": "eager"} if kind == "gemma2" else {}  # no other attention of its own has soft-caps
    theirs, expected = _trl(make_model(make_config(kind, **eager)), rows, tiny_tokenizer, tmp_path / "trl")
    assert len(ours) == len(theirs) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert torch.cosine_similarity(gradients, expected, dim=0) > 0.99999
    torch.testing.assert_close(gradients.norm(), expected.norm(), rtol=1e-5, atol=0)


def test_an_architecture_that_leaks_trains_as_under_trl_too(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """One row at a time its losses are TRL's; packed against the engine's advice they would be off by far."""
    rows = _rows("single turn")
    model = make_model(BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4))
    copies = [copy.deepcopy(model) for _ in range(2)]
    engine = _engine(model, rows)
    assert not engine.packed
    ours, _ = _ours(model, rows, tmp_path / "ours", engine=engine)
    forced, _ = _ours(copies[0], rows, tmp_path / "forced", engine=replace(engine, packed=True))
    theirs, _ = _trl(copies[1], rows, tiny_tokenizer, tmp_path / "trl")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.abs(np.divide(forced, theirs) - 1).max() > 1e-3
