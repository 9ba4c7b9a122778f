"""Gradient checkpointing and token budget that fit into the memory that is there, by the estimate of a step."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import torch
from datasets import Dataset

from seodang import distributed, recipe
from seodang.data.arrow import read_columns
from seodang.data.pack import Plan, pack_step
from seodang.errors import ResourceError
from seodang.run.folder import Run
from seodang.train.memory_estimate import STATE_BYTES, MemoryEstimator, MemoryUsage
from seodang.train.setup import choose_optimizer, pack_tokens
from seodang.types import Checkpointing, Finding, Step

ROOM = 0.9  # of the available memory: an estimate is off by some percent, and allocators leave gaps
LEAST_TOKENS = 512  # a smaller budget costs speed and saves little
LATER_BYTES = 350 * 10**6  # that a process on a CPU takes besides once it trains: 290 to 450 MB were measured
BF16_BYTES = 400 * 10**6  # of bf16 products, compiled on a CPU for each new length: 300 to 800 MB were measured
GAPS = 0.5  # of the activations, on a CPU: free blocks, after a dozen steps, into which those of a pack do not fit
CGROUP = Path("/sys/fs/cgroup")


ADAPTER_BYTES = 4  # of a parameter: peft holds adapters in float32


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What training takes of memory with the settings chosen for it, in bytes."""

    taken: MemoryUsage
    process: int  # of Python, its libraries and its allocator, where they share the memory
    available: int
    checkpointing: Checkpointing
    pack_tokens: int
    positions: int  # of the largest pack that was rehearsed

    @property
    def peak(self) -> int:
        return self.taken.peak + self.process

    @property
    def fits(self) -> bool:
        return self.peak <= ROOM * self.available

    @property
    def line(self) -> str:
        """For people, in one sentence."""
        taken = self.taken
        parts = {
            "weights": taken.weights, "gradients": taken.gradients, "optimizer": taken.states,
            "activations": taken.activations, "logits": taken.logits, "process": self.process,
        }  # fmt: skip
        told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size >= 5e7)
        return (
            f"memory: about {self.peak / 1e9:.1f} GB of {self.available / 1e9:.1f} GB: {told}; "
            f"{self.pack_tokens:,} tokens a pack, checkpointing {self.checkpointing}"
        )


def fit(
    estimator: MemoryEstimator,
    settings: recipe.Train,
    device: str,
    step: Callable[[int], Step],
    *,
    available: int,
    process: int,
) -> MemoryPlan:
    """The least gradient checkpointing and then the largest token budget that fit; the last one tried if none does.

    Args:
        step: budget → the largest optimizer step of the run, packed by it.
        available, process: bytes, as `available_memory` and `process_memory` tell them.
    """
    for budget in _budgets(settings, device):
        packs = step(budget).packs
        for checkpointing in _levels(settings, estimator):
            taken = estimator.step(packs, checkpointing)
            found = MemoryPlan(
                taken=taken,
                process=process + (int(GAPS * taken.activations) if device == "cpu" else 0),
                available=available,
                checkpointing=checkpointing,
                pack_tokens=budget,
                positions=max(pack.input_ids.size for pack in packs),
            )
            if found.fits:
                return found
    return found


def _budgets(settings: recipe.Train, device: str) -> Iterator[int]:
    budget = pack_tokens(settings, device)
    yield budget
    while settings.pack_tokens is None and (budget := budget // 2) >= max(LEAST_TOKENS, settings.max_tokens):
        yield budget


def _levels(settings: recipe.Train, estimator: MemoryEstimator) -> Sequence[Checkpointing]:
    if settings.checkpointing != "auto":
        return (settings.checkpointing,)
    every: tuple[Checkpointing, ...] = get_args(Checkpointing)
    return every if estimator.can_checkpoint else ("none",)


def largest_step(rows: Dataset, plan: Plan, budget: int, *, steps: int) -> Step:
    """The step with the most tokens of a run's first epoch, packed.

    Args:
        steps: of the whole run.
    """
    tokens = read_columns(rows, "num_tokens")["num_tokens"].to_numpy()
    starts = np.arange(0, plan.num_rows, plan.examples_per_step)[:steps]
    ends = np.minimum(starts + plan.examples_per_step, plan.num_rows)
    total = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
    indices = plan.rows(0, int(np.argmax(total[ends] - total[starts])))
    part = rows.select_columns(["input_ids", "labels"])[indices]
    ids, labels = ([np.asarray(row, dtype=np.int32) for row in part[key]] for key in ("input_ids", "labels"))
    return pack_step(indices.tolist(), ids, labels, budget=budget)


def available_memory(device: str) -> int:
    """Bytes of the device's memory that training may take; on a CPU what this process has already is among them."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    own = psutil.Process().memory_info().rss
    limits = [psutil.virtual_memory().available // distributed.local_world() + own]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:  # a container's, version 2 or 1
            limits.append(int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text()) + own)
        except (OSError, ValueError):
            continue  # there is none, or it is "max"
    return max(0, min(limits))


def process_memory(device: str, compute_dtype: str) -> int:
    """Bytes that Python and its libraries take of the device's memory, once training runs."""
    if device.startswith("cuda"):
        return 0
    compiled = BF16_BYTES if (device, compute_dtype) == ("cpu", "bfloat16") else 0
    return int(psutil.Process().memory_info().rss) + LATER_BYTES + compiled


def memory_finding(found: MemoryPlan, settings: recipe.Train, device: str) -> Finding | None:
    """A warning if training is not likely to fit, with what is left to be done."""
    if found.peak <= found.available:
        return None
    hints = []
    if settings.adapter is None:
        hints.append("train an adapter (train.adapter={kind: lora})")
    if found.checkpointing != "full":
        hints.append("set train.checkpointing=full")
    if found.pack_tokens // 2 >= settings.max_tokens:
        hints.append(f"set train.pack_tokens={found.pack_tokens // 2}")
    if device.startswith("cuda") and settings.adapter is None and settings.optimizer == "adamw":
        hints.append("set train.optimizer=paged_adamw_8bit")
    return Finding(
        check="memory",
        severity="warn",
        where="train",
        what=f"training takes about {found.peak / 1e9:.1f} GB of memory, {found.available / 1e9:.1f} GB are there",
        hint=", or ".join([*hints, "take a smaller model"]),
    )


def disk_bytes(
    *, parameters: int, weight_bytes: int, optimizer: str, keep_checkpoints: int, adapter_parameters: int | None = None
) -> int:
    """Bytes that a run's checkpoints and its final model take at most.

    One checkpoint more than are kept lies on disk while a new one is written; the best one may stand besides. With an
    adapter, a checkpoint holds the adapter alone.
    """
    trained, trained_bytes = (
        (parameters, weight_bytes) if adapter_parameters is None else (adapter_parameters, ADAPTER_BYTES)
    )
    checkpoint = trained * (trained_bytes + STATE_BYTES[optimizer])
    kept = parameters * weight_bytes + (adapter_parameters or 0) * ADAPTER_BYTES
    return (keep_checkpoints + 2) * checkpoint + kept


def check_disk(
    folder: Path,
    settings: recipe.Train,
    *,
    parameters: int,
    weight_bytes: int,
    device: str,
    adapter_parameters: int | None = None,
) -> None:
    """Raise while nothing is lost yet if the disk of a run's folder is too small for what training writes.

    Args:
        parameters: of the model.
        weight_bytes: of one parameter.
        device: that trains; it decides which optimizer is to be had.
        adapter_parameters: what is trained; none: all of the model's.

    Raises:
        ResourceError: says how much is there and what can be done.
    """
    _, remark = choose_optimizer(settings.optimizer, device)
    needed = disk_bytes(
        parameters=parameters,
        weight_bytes=weight_bytes,
        optimizer=settings.optimizer if remark is None else "adamw",
        keep_checkpoints=settings.keep_checkpoints,
        adapter_parameters=adapter_parameters,
    ) - sum(file.stat().st_size for file in Run(folder=folder).checkpoints.rglob("*") if file.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"the run's checkpoints and model take up to {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free",
            where=str(folder),
            hint="free some space, give another disk by --out, or keep fewer checkpoints (train.keep_checkpoints=1)",
        )
