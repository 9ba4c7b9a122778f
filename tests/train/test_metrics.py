"""What metrics.jsonl says of time."""

import time
from pathlib import Path

from events import eval_event, train_event
from seodang.recipe import Train
from seodang.run.events import Event, SavedEvent, SaveEvent, TrainEvent
from seodang.run.folder import Run
from seodang.train.metrics import MetricsLog
from seodang.train.trackers import Trackers
from tiny_training import train_tiny


def test_what_interrupts_the_steps_is_no_training_time(tmp_path: Path) -> None:
    """Neither an evaluation nor the writing of a checkpoint slows the step after it down."""
    run = Run(folder=tmp_path)
    with MetricsLog(run, Trackers((), run, on_note=print)) as log:
        log(train_event(1, 2.0))
        time.sleep(0.3)
        log(eval_event(1, {"medical": 2.0}))
        log(SaveEvent(step=1, path="checkpoint-1"))
        time.sleep(0.3)
        log(SavedEvent(step=1))
        event = log(train_event(2, 2.0))
    assert isinstance(event, TrainEvent)
    assert event.seconds < 0.3


def test_a_checkpoint_is_whole_when_it_is_said_to_be_written(tmp_path: Path) -> None:
    """Each is announced, and then reported."""
    seen: list[Event] = []

    def see(event: Event) -> None:
        if isinstance(event, SavedEvent):
            assert Run(folder=tmp_path).last_checkpoint() == tmp_path / "checkpoints" / f"checkpoint-{event.step}"
        if isinstance(event, SaveEvent | SavedEvent):
            seen.append(event)

    train_tiny(tmp_path, Train(steps=4, examples_per_step=2), on_event=see)
    assert [(type(event), event.step) for event in seen] == [
        (kind, step) for step in (2, 4) for kind in (SaveEvent, SavedEvent)
    ]
