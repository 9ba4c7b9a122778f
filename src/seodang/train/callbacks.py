"""What happens beside the steps: the last evaluation and checkpoint, an interruption, questions during training."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seodang import distributed
from seodang.run.events import AnswersEvent, GivenAnswer


class LastStep(TrainerCallback):
    """Evaluates and saves after the last step too, wherever it falls."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = True
        return control


class Interrupt(TrainerCallback):
    """Ctrl-C: finish the step, save, stop, on all ranks if one is asked. A second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.requested = distributed.is_any(self.requested)
        if self.requested:
            control.should_training_stop = control.should_save = True
        return control

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Inside, the first SIGINT only sets `requested`."""

        def request(*_: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        try:
            before = signal.signal(signal.SIGINT, request)
        except ValueError:  # not the main thread: a notebook's worker keeps its own handling
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class AskCallback(TrainerCallback):
    """Every so many steps, the answers as an event."""

    def __init__(
        self, every: int, ask: Callable[[], Sequence[GivenAnswer]], on_event: Callable[[AnswersEvent], None]
    ) -> None:
        self.every, self.ask, self.on_event = every, ask, on_event

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step % self.every == 0:  # on all ranks: they share the questions
            begun = time.perf_counter()
            answers = tuple(self.ask())
            seconds = time.perf_counter() - begun
            self.on_event(AnswersEvent(step=state.global_step, answers=answers, seconds=seconds))
        return control
