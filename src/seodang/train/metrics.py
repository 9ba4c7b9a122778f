"""Events of a run → metrics.jsonl and TensorBoard."""

import time
from typing import Any, Self

from seodang.train.run import Run


class MetricsLog:
    """Writes every training and evaluation event as it happens."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._last = run, time.perf_counter()
        last = run.last_checkpoint()
        purge = int(last.name.rpartition("-")[2]) + 1 if last else None
        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
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
        if event["event"] in ("train", "eval"):
            self._run.append("metrics.jsonl", event)
        self._last = time.perf_counter()  # what evaluations and checkpoints take is no training time
        return event


def evaluations(run: Run) -> list[tuple[int, float]]:
    """(step, chosen loss) of every evaluation after the base's."""
    return [
        (row["step"], row["loss"])
        for row in run.read_lines("metrics.jsonl")
        if row["event"] == "eval" and row["step"] and row["loss"] is not None
    ]
