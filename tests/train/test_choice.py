"""best_by: domain_within_tolerance in training: what is kept, also by a run that was stopped in between."""

from pathlib import Path

from transformers import PreTrainedModel

from events import eval_event
from seodang.recipe import Train
from seodang.run.checkpoint_choice import Assessor, Limit
from seodang.run.events import EvalEvent, Event, TrainEvent
from seodang.types import Metric
from tiny_training import same_weights, signal_at, train_tiny

SETTINGS = Train(steps=8, examples_per_step=4, learning_rate=1e-3, eval_every=2, keep_checkpoints=1)
LIMITS = [Limit(source="general", unit="nats per token", tolerance=0.05)]


class Planted:
    """Losses by step: the domain falls, general answers rise by 0.01 nats per token a step; and what was recorded."""

    def __init__(self) -> None:
        self.step = 0
        self.recorded: list[EvalEvent] = [eval_event(0, {"medical": 3.0, "general": 2.0}, loss=3.0)]

    def measure(self, _: PreTrainedModel) -> dict[str, Metric]:
        losses = {"medical": 3.0 - 0.1 * self.step, "general": 2.0 + 0.01 * self.step}
        return {name: Metric(source=name, loss_sum=100 * loss, tokens=100, rows=4) for name, loss in losses.items()}

    def take(self, event: Event) -> None:
        if isinstance(event, TrainEvent):
            self.step = event.step
        elif isinstance(event, EvalEvent):
            self.recorded.append(event)


def test_a_resumed_run_keeps_the_same_checkpoint(tmp_path: Path) -> None:
    """Step 4 is the last within 0.05, before and after an interruption; the domain's loss alone would keep step 8."""
    planted = Planted()
    assessor = Assessor(LIMITS, planted.recorded)
    unbroken, expected, _ = train_tiny(
        tmp_path / "unbroken", SETTINGS, measure=planted.measure, on_event=planted.take,
        score=lambda event: assessor.assess(event).score,
    )  # fmt: skip
    assert expected.best_step == 4
    planted, stop = Planted(), signal_at(5)

    def take(event: Event) -> None:
        planted.take(event)
        stop(event)

    for on_event in (take, planted.take):
        again = Assessor(LIMITS, planted.recorded)  # as the run has recorded it
        resumed, found, _ = train_tiny(
            tmp_path / "stopped", SETTINGS, measure=planted.measure, on_event=on_event,
            score=lambda event, again=again: again.assess(event).score,
        )  # fmt: skip
    assert (found.best_step, found.best_loss) == (4, expected.best_loss)
    assert same_weights(resumed, unbroken)
