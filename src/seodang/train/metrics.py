"""Events of a run → metrics.jsonl and TensorBoard."""

import math
import time
from collections.abc import Mapping
from typing import Any, Self

from seodang.run.folder import METRICS, Run, checkpoint_step
from seodang.types import Metric

Event = dict[str, Any]


class MetricsLog:
    """Writes every event of training, evaluation and asking as it happens."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._last = run, time.perf_counter()
        last = run.last_checkpoint()
        purge = checkpoint_step(last) + 1 if last else None
        self._board = SummaryWriter(str(run.tensorboard), purge_step=purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def __call__(self, event: Event) -> Event:
        """Record one event and hand it on; a training event gets its seconds and tokens per second."""
        now = time.perf_counter()
        if event["event"] == "train":
            seconds = now - self._last
            event |= {"seconds": round(seconds, 4), "tokens_per_second": round(event["tokens"] / seconds, 1)}
            for key in ("loss", "probability", "learning_rate", "grad_norm", "tokens_per_second"):
                if event[key] is not None:
                    self._board.add_scalar(f"train/{key}", event[key], event["step"])
        elif event["event"] == "eval":
            for source, metric in event["sources"].items():
                for key in ("loss", "probability", "bits_per_byte"):
                    if metric[key] is not None:
                        self._board.add_scalar(f"eval/{source}/{key}", metric[key], event["step"])
        elif event["event"] == "answers":
            for number, answer in enumerate(event["answers"], 1):
                self._board.add_text(f"answers/{number} {answer['question'][:60]}", answer["text"], event["step"])
        if event["event"] in ("train", "eval", "answers", "speed"):
            self._run.append(METRICS, event)
        took = event["seconds"] if event["event"] in ("answers", "speed") else time.perf_counter() - self._last
        self._last += took  # what questions, evaluations, checkpoints and the floor take is no training time
        return event


def evaluation_event(metrics: Mapping[str, Metric], loss: float | None, *, step: int, epoch: float) -> Event:
    """A row of metrics.jsonl for one evaluation."""
    return {
        "event": "eval",
        "step": step,
        "epoch": round(epoch, 4),
        "loss": loss,
        "probability": None if loss is None else math.exp(-loss),
        "sources": {
            name: {
                "loss": metric.loss,
                "probability": math.exp(-metric.loss),
                "tokens": metric.tokens,
                "rows": metric.rows,
                "bits_per_byte": metric.bits_per_byte if metric.num_bytes else None,
            }
            for name, metric in metrics.items()
        },
    }
