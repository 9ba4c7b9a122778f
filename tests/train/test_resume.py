"""A run that was stopped or killed and resumed is the unbroken run, bit for bit."""

import pickle
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from seodang.recipe import Adapter, EarlyStopping, Train
from seodang.run.checkpoints import IntactCheckpoint, newest_intact, seal
from seodang.run.events import Event
from seodang.run.folder import CHECKPOINT_FILES, Run, checkpoint_step
from seodang.train.random_state import unchanged_random_state
from seodang.train.trainer import TrainingResult
from tiny import make_config, make_model
from tiny_training import same_weights, signal_at, steps_of, train_tiny

SETTINGS = Train(epochs=2, examples_per_step=4, learning_rate=1e-3, keep_checkpoints=2)
HIGH_RATE = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 0.05, "schedule": "constant"})


def _stopping(patience: int) -> Train:
    return HIGH_RATE.model_copy(update={"early_stopping": EarlyStopping(patience=patience)})


class _KilledAtTheEnd(TrainerCallback):
    """The process ends after the last checkpoint, before the model is saved."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("patience", "stops"), [(4, (3, 10, 11)), (2, (4, 5, 6, 7))])
def test_early_stopping_remembers_what_it_counted(tmp_path: Path, patience: int, stops: tuple[int, ...]) -> None:
    """Stopped at any step and resumed, the run ends at the unbroken one's step with its weights."""
    unbroken, expected, _ = train_tiny(tmp_path / "unbroken", _stopping(patience))
    assert expected.steps < 30
    for step in (stop for stop in stops if stop < expected.steps - 1):
        _, stopped, _ = train_tiny(tmp_path / str(step), _stopping(patience), on_event=signal_at(step))
        assert stopped.stopped
        resumed, found, _ = train_tiny(tmp_path / str(step), _stopping(patience))
        assert (found.steps, found.best_step, found.stopped) == (expected.steps, expected.best_step, False)
        assert same_weights(resumed, unbroken)


class _StopsAt(TrainerCallback, ExportableState):
    """A callback of the user that ends training by its own count."""

    def __init__(self, count: int) -> None:
        self.count, self.seen = count, 0

    def state(self) -> dict[str, Any]:
        return {"args": {"count": self.count}, "attributes": {"seen": self.seen}}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.seen += 1
        control.should_training_stop = self.seen >= self.count
        return control


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (SETTINGS.model_copy(update={"steps": 6, "schedule": "constant"}), None),
        (SETTINGS.model_copy(update={"steps": 6, "schedule": "constant", "keep_checkpoints": 1}), None),
        (_stopping(1), None),
        (SETTINGS, 7),
    ],
    ids=["last step", "one checkpoint", "early stopping", "own callback"],
)
def test_a_run_that_had_ended_does_not_train(tmp_path: Path, settings: Train, own: int | None) -> None:
    """Killed twice between its last checkpoint and the saved model, it takes no step more and keeps the same model.

    Only checkpoints that training may resume from hold the optimizer's states.
    """

    def callbacks() -> list[TrainerCallback]:
        return [_StopsAt(own)] if own else []

    unbroken, expected, _ = train_tiny(tmp_path / "unbroken", settings, callbacks=callbacks())
    *before, last = Run(folder=tmp_path / "unbroken").all_checkpoints()
    assert [(one / "optimizer.pt").is_file() for one in (*before, last)] == [*[True] * len(before), False]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "killed", settings, callbacks=[*callbacks(), _KilledAtTheEnd()])
    resumed, found, events = train_tiny(tmp_path / "killed", settings, callbacks=callbacks())
    assert events == []
    assert (found.steps, found.best_step, found.best_loss) == (expected.steps, expected.best_step, expected.best_loss)
    assert not found.stopped
    assert same_weights(resumed, unbroken)


def test_a_forged_checkpoint_is_named_and_training_resumes_from_the_one_before(tmp_path: Path) -> None:
    """A pickle as the optimizer's states, sealed again: nothing of it runs, and training goes back one checkpoint."""
    unbroken = train_tiny(tmp_path / "unbroken", SETTINGS)[0]
    assert train_tiny(tmp_path / "forged", SETTINGS, on_event=signal_at(5))[1].stopped
    run = Run(folder=tmp_path / "forged")
    *_, before, newest = run.all_checkpoints()
    assert newest_intact(run) == IntactCheckpoint(folder=newest)
    (newest / "optimizer.pt").write_bytes(pickle.dumps({"state": {}}))
    (newest / CHECKPOINT_FILES).unlink()
    seal(newest)
    resumed, _, events = train_tiny(tmp_path / "forged", SETTINGS)
    assert steps_of(events)[0] == checkpoint_step(before) + 1
    assert same_weights(resumed, unbroken)


def test_a_callback_of_the_user_goes_on_where_it_was(tmp_path: Path) -> None:
    """What transformers lets a callback export is given back to it, so that it ends training at the same step."""
    train_tiny(tmp_path, SETTINGS, callbacks=[_StopsAt(7)], on_event=signal_at(3))
    own = _StopsAt(7)
    assert train_tiny(tmp_path, SETTINGS, callbacks=[own])[1].steps == 7
    assert own.seen == 7


def _gpt2() -> PreTrainedModel:
    config = AutoConfig.for_model(
        "gpt2", vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=128, bos_token_id=2, eos_token_id=1
    )
    assert config.resid_pdrop > 0
    return make_model(config)


def _draw(_: Event) -> None:
    """A measurement that draws from every generator."""
    torch.randn(3)
    np.random.rand()
    random.random()


@pytest.mark.parametrize(
    ("dropout", "number"), [("adapter", signal.SIGINT), ("gpt2", signal.SIGTERM), ("adapter", signal.SIGHUP)]
)
def test_a_run_with_dropout_resumes_to_the_same_weights(tmp_path: Path, dropout: str, number: int) -> None:
    """Whatever is drawn while a step is logged or evaluated, dropout masks are those of a run that measures nothing."""
    adapter = Adapter(rank=4, dropout=0.3) if dropout == "adapter" else None
    settings = SETTINGS.model_copy(update={"adapter": adapter})

    def model() -> PreTrainedModel:
        return make_model(make_config("gemma3")) if adapter else _gpt2()

    unbroken = train_tiny(tmp_path / "unbroken", settings, model=model())[0]
    send = signal_at(4, number)

    def disturb(event: Event) -> None:
        _draw(event)
        send(event)

    _, stopped, _ = train_tiny(tmp_path / "broken", settings, model=model(), on_event=disturb)
    assert stopped.stopped
    resumed = train_tiny(tmp_path / "broken", settings, model=model(), on_event=_draw)[0]
    assert same_weights(resumed, unbroken)


def test_random_state_is_unchanged_by_what_is_drawn_inside() -> None:
    """Python, NumPy and torch continue as if nothing had been drawn."""

    def drawn() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with unchanged_random_state():
        drawn()
    assert drawn() == expected


@pytest.fixture(scope="module")
def thirty_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, TrainingResult]:
    """A training at a high rate that nothing interrupts."""
    return train_tiny(tmp_path_factory.mktemp("thirty"), HIGH_RATE)[:2]


@pytest.mark.parametrize("event", ["eval", "train", "save"])
def test_ctrl_c_at_the_end_reports_the_step_whose_weights_are_kept(
    tmp_path: Path, thirty_steps: tuple[PreTrainedModel, TrainingResult], event: str
) -> None:
    """In the last evaluation, step or checkpoint a signal stops nothing more: the best step's weights are there."""
    unbroken, expected = thirty_steps
    assert expected.best_step < expected.steps == 30
    kept, found, _ = train_tiny(tmp_path / "interrupted", HIGH_RATE, on_event=signal_at(30, event=event))
    assert (found.best_step, found.best_loss, found.stopped) == (expected.best_step, expected.best_loss, False)
    assert found.interrupted
    assert same_weights(kept, unbroken)


def test_a_signal_during_an_evaluation_takes_no_step_more(tmp_path: Path) -> None:
    """What the evaluation measured is saved with the step that it measured."""
    _, stopped, events = train_tiny(tmp_path, SETTINGS, on_event=signal_at(4, signal.SIGTERM, event="eval"))
    assert (stopped.stopped, stopped.steps) == (True, 4)
    assert steps_of(events, "save")[-1] == 4


def test_an_ignored_signal_stays_ignored_and_handlers_come_back(tmp_path: Path) -> None:
    """Under nohup a hangup ends nothing; after training each signal has the handler that it had."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        _, result, _ = train_tiny(tmp_path, SETTINGS, on_event=signal_at(4, signal.SIGHUP))
        assert (result.stopped, result.steps) == (False, 10)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_checkpoints_apart_from_evaluations(tmp_path: Path) -> None:
    """`save_every` saves by steps, besides the evaluations that are the best so far and the last step."""
    settings = HIGH_RATE.model_copy(update={"epochs": 2, "eval_every": 4, "keep_checkpoints": 9})
    unbroken, expected, events = train_tiny(tmp_path / "a", settings)
    assert steps_of(events, "save") == [4, 8, 10]
    model, found, events = train_tiny(tmp_path / "b", settings.model_copy(update={"save_every": "3"}))
    assert {3, 6, 9, 10, expected.best_step} <= set(steps_of(events, "save")) <= {3, 4, 6, 8, 9, 10}
    assert steps_of(events, "eval") == [4, 8, 10]
    assert (found.best_step, same_weights(model, unbroken)) == (expected.best_step, True)
    by_time = settings.model_copy(update={"save_every": "0.000001 min"})
    assert steps_of(train_tiny(tmp_path / "c", by_time)[2], "save") == list(range(1, 11))
    assert Run(folder=tmp_path / "c").last_checkpoint() == tmp_path / "c" / "checkpoints" / "checkpoint-10"
