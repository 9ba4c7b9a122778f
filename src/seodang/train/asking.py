"""Asks the model amid training, so that one can see its answers change. It knows no tokenizer and no question."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Asking(TrainerCallback):
    """Every so many steps, the answers as an event: {"event": "answers", "step", "answers": […], "seconds"}."""

    def __init__(
        self,
        every: int,
        ask: Callable[[], Sequence[Mapping[str, Any]]],
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self.every, self.ask, self.on_event = every, ask, on_event

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step % self.every == 0:  # on all ranks: they share the questions
            begun = time.perf_counter()
            answers = [dict(answer) for answer in self.ask()]
            seconds = time.perf_counter() - begun
            self.on_event({"event": "answers", "step": state.global_step, "answers": answers, "seconds": seconds})
        return control
