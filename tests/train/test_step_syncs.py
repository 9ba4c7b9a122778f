"""No step waits for the device: nothing in it asks for a number that is still being computed."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import rank_jobs
from seodang.model.engine.cuda_graphs import CudaGraphs
from seodang.model.engine.engine import choose_engine

# operators whose result, or whose result's size, the host must wait for
WAITING = {
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "unique",
    "repeat_interleave",
}


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        by_mask = func.overloadpacket.__name__ == "index" and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1] if index is not None
        )
        if by_mask or func.overloadpacket.__name__ in WAITING:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class _WatchSteps(TrainerCallback):
    """Watches from a step's first pack to where its optimizer has moved the weights."""

    def __init__(self) -> None:
        self.watch = _Watch()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.watch.__enter__()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.watch.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "llama"])
def test_a_step_asks_the_device_for_nothing(kind: str, tmp_path: Path) -> None:
    """From the first pack to the optimizer's step no operator runs that would wait for a GPU."""
    steps = _WatchSteps()
    rank_jobs.run_training(tmp_path, kind=kind, callbacks=[steps])
    assert steps.watch.seen > 1000
    assert steps.watch.found == []


def test_the_watch_sees_what_waits() -> None:
    """Reading a number, choosing by a mask and counting what is not zero are found."""
    with _Watch() as watch:
        values = torch.arange(3.0)
        float(values[1])
        values[values > 1]
        values.nonzero()
    assert watch.found == ["aten._local_scalar_dense.default", "aten.index.Tensor", "aten.nonzero.default"]


class _CudaErrors(TrainerCallback):
    """Lets CUDA raise where the host waits for it."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_step_waits_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA no call between the first pack and the optimizer's step waits for the device, but to record a graph."""
    record = CudaGraphs._record

    def waiting(*args: Any) -> bool:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return record(*args)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(CudaGraphs, "_record", waiting)
    monkeypatch.setattr(
        rank_jobs, "choose_engine", partial(choose_engine, compiled=False, compute_dtype=torch.bfloat16)
    )
    try:
        rank_jobs.run_training(tmp_path, device="cuda", callbacks=[_CudaErrors()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
