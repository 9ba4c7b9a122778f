"""How fast training is, once it runs: tokens a second, and the share of what the machine could do at best."""

import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedModel

from seodang.model.load import is_quantised
from seodang.train.metrics import Event
from seodang.train.throughput import copy_rate, floor_seconds, matrix_rate

FIRST, LAST = 2, 4  # events that are measured: the first step warms up


class Pace:
    """Looks at training events, and tells the speed once after a few steps."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, *, steps: int) -> None:
        self._model, self._dtype, self._last = model, compute_dtype, min(LAST, steps)
        self._seen: list[Event] = []
        self._count = 0

    def __call__(self, event: Event) -> Event | None:
        """The speed, after the event that completes the measured ones: {"event": "speed", …}."""
        if event["event"] != "train":
            return None
        self._count += 1
        if self._count >= min(FIRST, self._last):
            self._seen.append(event)
        return self._speed(event["step"]) if self._count == self._last else None

    def _speed(self, step: int) -> Event:
        begun = time.perf_counter()
        found: dict[str, Any] = {
            "event": "speed",
            "step": step,
            "tokens_per_second": round(statistics.median(event["tokens_per_second"] for event in self._seen), 1),
        }
        if not is_quantised(self._model):  # whose weights are packed: how many a layer has is not told by its shape
            device = str(self._model.device)
            rate = matrix_rate(self._dtype, device)
            copied = copy_rate(device) if device.startswith("cuda") else None
            trained = sum(weight.numel() for weight in self._model.parameters() if weight.requires_grad)
            shares = [
                floor_seconds(event["flops"], matrix_rate=rate, trained=trained * event["steps"], copy_rate=copied)
                / event["seconds"]
                for event in self._seen
            ]
            found |= {"floor_share": round(statistics.median(shares), 3), "matrix_gflops": round(rate / 1e9, 1)}
        return {**found, "seconds": round(time.perf_counter() - begun, 4)}
