"""Events of a run → metrics.jsonl, TensorBoard and trackers."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from seodang.run.events import (
    AnswersEvent,
    EvalEvent,
    Event,
    NoteEvent,
    SavedEvent,
    SaveEvent,
    SourceEvaluation,
    SpeedEvent,
    TrainEvent,
)
from seodang.run.evidence import read_events, read_manifest
from seodang.run.folder import Run, checkpoint_step
from seodang.run.record import record_event, record_seconds
from seodang.train.trackers import Trackers
from seodang.types import Metric


class MetricsLog:
    """Writes every event of training, evaluation and asking as it happens."""

    def __init__(self, run: Run, trackers: Trackers) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._trackers, self._begun = run, trackers, time.perf_counter()
        self._last = self._begun
        manifest = read_manifest(run)
        self._earlier = manifest.seconds.get("train", 0.0) if manifest else 0.0
        last = run.last_checkpoint()
        self._board = SummaryWriter(str(run.tensorboard), purge_step=checkpoint_step(last) + 1 if last else 0)
        if not last:
            for event in read_events(run):  # the base's evaluation
                self._draw(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def __call__(self, event: Event) -> Event:
        """Record one event and hand it on; a training event gets its seconds and tokens per second."""
        now = time.perf_counter()
        if isinstance(event, TrainEvent):
            seconds = now - self._last
            speed = round(event.tokens / seconds, 1)
            event = replace(event, seconds=round(seconds, 4), tokens_per_second=speed)
        self._draw(event)
        if isinstance(event, SaveEvent | SavedEvent):  # a kill may come at any time
            record_seconds(self._run, {"train": round(self._earlier + now - self._begun, 2)})
        elif not isinstance(event, NoteEvent):
            record_event(self._run, event)
        took = event.seconds if isinstance(event, AnswersEvent | SpeedEvent) else time.perf_counter() - self._last
        self._last += took  # what questions, evaluations, checkpoints and the measured limit take is no training time
        return event

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """What happens inside is no training time."""
        started = time.perf_counter()
        yield
        self._last += time.perf_counter() - started

    def _draw(self, event: Event) -> None:
        """What TensorBoard shows of an event, and the numbers for trackers."""
        if isinstance(event, AnswersEvent):
            for number, answer in enumerate(event.answers, 1):
                self._board.add_text(f"answers/{number} {answer.question[:60]}", answer.text, event.step)
        elif isinstance(event, TrainEvent | EvalEvent):
            found = scalars(event)
            for name, value in found.items():
                self._board.add_scalar(name, value, event.step)
            self._trackers.log(found, event.step)


def scalars(event: TrainEvent | EvalEvent) -> dict[str, float]:
    """The curves that an event adds to: name → value."""
    if isinstance(event, TrainEvent):
        keys = ("loss", "probability", "learning_rate", "grad_norm", "tokens_per_second", "loss_scale")
        found = {f"train/{key}": getattr(event, key) for key in keys}
    else:
        found = {
            f"eval/{source}/{key}": getattr(measured, key)
            for source, measured in event.sources.items()
            for key in ("loss", "probability", "bits_per_byte")
        }
    return {name: value for name, value in found.items() if value is not None}


def evaluation_event(metrics: Mapping[str, Metric], loss: float | None, *, step: int, epoch: float) -> EvalEvent:
    """A row of metrics.jsonl for one evaluation."""
    return EvalEvent(
        step=step,
        epoch=round(epoch, 4),
        loss=loss,
        probability=None if loss is None else math.exp(-loss),
        sources={
            name: SourceEvaluation(
                loss=metric.loss,
                probability=math.exp(-metric.loss),
                tokens=metric.tokens,
                rows=metric.rows,
                bits_per_byte=metric.bits_per_byte if metric.num_bytes else None,
            )
            for name, metric in metrics.items()
        },
    )
