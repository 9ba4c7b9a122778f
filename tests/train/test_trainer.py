import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from seodang.errors import RunError
from seodang.model.engine.engine import Engine, choose_engine
from seodang.proof.evaluate import evaluate
from seodang.recipe import EarlyStopping, Train
from seodang.run.events import EvalEvent, Event, SaveEvent, TrainEvent
from seodang.run.folder import Run
from seodang.train.setup import Setup, total_steps
from seodang.train.trainer import TrainingResult, train
from seodang.types import IGNORED
from tiny import make_config, make_model
from tiny_rows import tiny_rows


def _run(
    folder: Path,
    settings: Train,
    *,
    resume: bool = False,
    model: PreTrainedModel | None = None,
    on_event: Any = None,
) -> tuple[PreTrainedModel, TrainingResult, list[dict[str, Any]]]:
    model = model or make_model(make_config("gemma3"))
    rows, tests = tiny_rows(20, 0), {"medical": tiny_rows(6, 1)}
    engine = choose_engine(model, [np.array(row, dtype=np.int32) for row in rows[:2]["input_ids"]])
    run = Run(folder=folder)
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(event)

    setup = Setup(
        engine=engine, pack_tokens=64, optimizer="adamw_torch_fused",
        checkpoints=run.checkpoints, resume_command="", resume_from=run.last_checkpoint() if resume else None,
        total_steps=total_steps(settings, len(rows)), eval_every=settings.eval_every or 2,
    )  # fmt: skip
    trained = train(
        model, rows, settings, setup,
        measure=lambda: evaluate(model, engine, tests, pack_tokens=64),
        chosen_loss=lambda metrics: metrics["medical"].loss,
        on_event=record,
    )  # fmt: skip
    return model, trained, events


class _Keep(TrainerCallback):
    """Holds the optimizer, as a trainer does that Python has not collected yet."""

    def on_train_end(self, args: Any, state: Any, control: Any, *, optimizer: Any, **_: Any) -> None:
        assert optimizer.state
        self.optimizer = optimizer


def test_the_states_of_the_optimizer_are_freed_at_the_end(tmp_path: Path) -> None:
    """Without an evaluation too, where no best weights are read: the proof needs their memory."""
    model, keep = make_model(make_config("llama")), _Keep()
    setup = Setup(
        engine=Engine(packed=True, linear_cross_entropy=True), pack_tokens=64, optimizer="adamw_torch_fused",
        checkpoints=tmp_path, resume_command="", resume_from=None, total_steps=1, eval_every=1,
    )  # fmt: skip
    train(
        model, tiny_rows(4, 0), Train(steps=1, examples_per_step=2), setup,
        measure=dict, chosen_loss=None, on_event=lambda _: None, callbacks=[keep],
    )  # fmt: skip
    assert not keep.optimizer.state


SETTINGS = Train(epochs=2, examples_per_step=4, learning_rate=1e-3, eval_every=2, keep_checkpoints=2)


def _same(a: PreTrainedModel, b: PreTrainedModel) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_training_learns_and_reports_each_step_and_evaluation(tmp_path: Path) -> None:
    """Steps, learning rates and evaluations come as events; the loss on seen rows falls."""
    _, trained, events = _run(tmp_path, SETTINGS.model_copy(update={"epochs": 6}))
    steps = [event for event in events if isinstance(event, TrainEvent)]
    assert [event.step for event in steps] == list(range(1, 31))
    assert np.mean([e.loss for e in steps[-5:]]) < np.mean([e.loss for e in steps[:5]])
    assert all(e.probability == pytest.approx(math.exp(-e.loss)) for e in steps)
    evaluations = [event for event in events if isinstance(event, EvalEvent)]
    assert [event.step for event in evaluations] == list(range(2, 31, 2))
    assert trained.best_loss == min(event.loss for event in evaluations)
    assert not trained.stopped


def test_the_best_checkpoint_is_what_remains(tmp_path: Path) -> None:
    """The model holds the weights of the best evaluation, and at most k checkpoints stay on disk."""
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 0.02})
    model, trained, events = _run(tmp_path, settings)
    best = min((event for event in events if isinstance(event, EvalEvent)), key=lambda event: event.loss)
    assert trained.best_step == best.step < 30
    engine = choose_engine(model, [np.arange(20, 40, dtype=np.int32)])
    again = evaluate(model, engine, {"medical": tiny_rows(6, 1)}, pack_tokens=64)
    assert again["medical"].loss == best.loss
    assert len(list((tmp_path / "checkpoints").glob("checkpoint-*"))) <= 3


def test_the_same_recipe_gives_the_same_weights(tmp_path: Path) -> None:
    """Two runs of one recipe end in bit-equal weights."""
    first, _, _ = _run(tmp_path / "a", SETTINGS)
    second, _, _ = _run(tmp_path / "b", SETTINGS)
    assert _same(first, second)


def test_packing_choices_change_nothing_beyond_rounding(tmp_path: Path) -> None:
    """Losses step by step are the same for one row a pack and for all rows in one."""
    losses = []
    for budget in (0, 10_000):
        model = make_model(make_config("gemma3"))
        rows = tiny_rows(20, 0)
        engine = choose_engine(model, [np.array(row, dtype=np.int32) for row in rows[:2]["input_ids"]])
        setup = Setup(
            engine=engine, pack_tokens=budget, optimizer="adamw_torch_fused",
            checkpoints=tmp_path / str(budget), resume_command="", resume_from=None, total_steps=10, eval_every=100,
        )  # fmt: skip
        events: list[Event] = []
        train(model, rows, SETTINGS, setup, measure=dict, chosen_loss=None, on_event=events.append)
        losses.append([event.loss for event in events if isinstance(event, TrainEvent)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_ctrl_c_saves_at_the_step_end_and_resuming_equals_the_unbroken_run(tmp_path: Path) -> None:
    """An interrupted run stops at a step end with a checkpoint; resumed, it ends in the unbroken run's weights."""

    def interrupt(event: Event) -> None:
        if isinstance(event, TrainEvent) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    unbroken, _, _ = _run(tmp_path / "unbroken", SETTINGS)
    _, stopped, _ = _run(tmp_path / "broken", SETTINGS, on_event=interrupt)
    assert stopped.stopped
    assert stopped.steps in (4, 5)
    resumed, trained, events = _run(tmp_path / "broken", SETTINGS, resume=True)
    assert not trained.stopped
    assert [e.step for e in events if isinstance(e, TrainEvent)] == list(range(stopped.steps + 1, 11))
    assert _same(unbroken, resumed)


def _killed_while_saving(folder: Path) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, SaveEvent) and event.step == 6:
            (folder / "checkpoints" / "saving-6").mkdir()
            (folder / "checkpoints" / "saving-6" / "model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    _run(folder, SETTINGS, on_event=kill)


def test_a_run_killed_while_it_wrote_a_checkpoint_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """After kill -9 the newest complete checkpoint is taken, and the final weights are bit-equal."""
    process = multiprocessing.get_context("spawn").Process(target=_killed_while_saving, args=(tmp_path / "killed",))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    run = Run(folder=tmp_path / "killed")
    assert (run.last_checkpoint() or Path()).name == "checkpoint-4"
    run.rewind(4)
    assert not list(run.checkpoints.glob("saving-*"))
    resumed, _, _ = _run(tmp_path / "killed", SETTINGS, resume=True)
    unbroken, _, _ = _run(tmp_path / "unbroken", SETTINGS)
    assert _same(unbroken, resumed)


def test_a_moved_run_folder_resumes_and_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    """Checkpoints are found by step, so a run folder may be moved between stop and resume."""

    def interrupt(event: Event) -> None:
        if isinstance(event, TrainEvent) and event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    unbroken, _, _ = _run(tmp_path / "unbroken", SETTINGS)
    _run(tmp_path / "before", SETTINGS, on_event=interrupt)
    (tmp_path / "before").rename(tmp_path / "after")
    resumed, _, _ = _run(tmp_path / "after", SETTINGS, resume=True)
    assert _same(unbroken, resumed)


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    """With a patience of 1 evaluation a diverging run ends before its last step."""
    settings = SETTINGS.model_copy(
        update={"epochs": 20, "learning_rate": 0.05, "early_stopping": EarlyStopping(patience=1)}
    )
    _, trained, _ = _run(tmp_path, settings)
    assert trained.steps < 100


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_rows(tmp_path: Path) -> None:
    """The first NaN ends training with the rows of its step."""
    model = make_model(make_config("llama"))

    def poison(event: Event) -> None:
        if isinstance(event, TrainEvent) and event.step == 2:
            next(model.parameters()).data.fill_(float("nan"))

    with pytest.raises(RunError, match=r"a\.jsonl:9.*nan at step 3"):
        _run(tmp_path, SETTINGS.model_copy(update={"eval_every": 50}), model=model, on_event=poison)


def test_evaluation_does_not_depend_on_batches() -> None:
    """The same rows give the same loss one at a time and packed, and a base against itself differs by exactly 0."""
    model = make_model(make_config("gemma3"))
    tests = {"medical": tiny_rows(9, 3)}
    engine = choose_engine(model, [np.arange(20, 40, dtype=np.int32)])
    alone, packed, again = (evaluate(model, engine, tests, pack_tokens=budget)["medical"] for budget in (0, 100, 100))
    assert alone.loss == pytest.approx(packed.loss, rel=1e-6)
    assert packed == again
    assert packed.tokens == sum(label != IGNORED for row in tests["medical"]["labels"] for label in row)
