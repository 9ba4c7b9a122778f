"""What happens beside the steps: checkpoints, the end of training, an interruption, questions during training."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from seodang import distributed
from seodang.run.events import AnswersEvent, GivenAnswer
from seodang.train.random_state import unchanged_random_state

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = b"\nstopping as soon as this step or evaluation is done; Ctrl-C again stops at once\n"
SAME_REQUEST_SECONDS = 1.0  # torchrun forwards the signal that a terminal sends to all processes


class Schedule(TrainerCallback):
    """When a checkpoint is written and a step logged: whatever ends training, its last step is both."""

    def __init__(self, *, save_steps: int | None = None, save_seconds: float | None = None) -> None:
        """Args:
        save_steps, save_seconds: between checkpoints; neither: one with each evaluation.
        """
        self._save_steps, self._save_seconds = save_steps, save_seconds
        self._with_evaluations = save_steps is None and save_seconds is None
        self._saved_at = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._saved_at = time.monotonic()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if control.should_training_stop or self._is_due(state.global_step):
            control.should_save = True
        if control.should_save or control.should_evaluate:  # what is kept was looked at
            control.should_log = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if control.should_training_stop or self._with_evaluations:
            control.should_save = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._saved_at = time.monotonic()
        return control

    def _is_due(self, step: int) -> bool:
        if self._save_steps:
            return step % self._save_steps == 0
        if self._save_seconds:  # the ranks' clocks differ
            return distributed.is_any(time.monotonic() - self._saved_at >= self._save_seconds)
        return False


class Interrupt(TrainerCallback, ExportableState):
    """Ctrl-C, SIGTERM, SIGHUP: finish the step, save, stop, on all ranks if one gets it. A second stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.has_stopped = False  # training, before its end
        self._requested_at = 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: whether training was stopped there or has ended."""
        return {"args": {}, "attributes": {"has_stopped": self.has_stopped}}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.requested = distributed.is_any(self.requested)
        if self.requested and not control.should_training_stop:
            self.has_stopped = control.should_training_stop = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """An evaluation may take long: none of its requests waits for one more step."""
        return self.on_step_end(args, state, control)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Inside, the first signal only sets `requested`; a signal that is ignored (nohup) stays ignored."""
        before: dict[signal.Signals, Any] = {}

        def request(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if not self.requested:
                self.requested, self._requested_at = True, now
                if distributed.is_main():
                    os.write(2, STOPPING)  # nothing that a signal may interrupt, such as a bar that is being drawn
            elif now - self._requested_at > SAME_REQUEST_SECONDS:
                raise KeyboardInterrupt

        try:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, request)
        except ValueError:  # not the main thread: a notebook's worker keeps its own handling
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class AskCallback(TrainerCallback):
    """Every so many steps, the answers as an event."""

    def __init__(
        self, every: int, ask: Callable[[int], Sequence[GivenAnswer]], on_event: Callable[[AnswersEvent], None]
    ) -> None:
        self.every, self.ask, self.on_event = every, ask, on_event

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step % self.every == 0:  # on all ranks: they share the questions
            begun = time.perf_counter()
            with unchanged_random_state():
                answers = tuple(self.ask(state.global_step))
                seconds = time.perf_counter() - begun
                self.on_event(AnswersEvent(step=state.global_step, answers=answers, seconds=seconds))
        return control
