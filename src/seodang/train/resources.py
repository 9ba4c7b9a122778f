"""Gradient checkpointing and token budget that fit into the memory that is there, by the estimate of a step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import torch
from datasets import Dataset

from seodang import distributed, recipe
from seodang.data.columns import read_columns
from seodang.data.pack import Plan, pack_step
from seodang.train.choice import pack_tokens
from seodang.train.memory_estimate import Rehearsal, Taken
from seodang.types import Checkpointing, Finding, Step

ROOM = 0.9  # of the available memory: an estimate is off by some percent, and allocators leave gaps
LEAST_TOKENS = 512  # a smaller budget costs speed and saves little
LATER_BYTES = 350 * 10**6  # that a process on a CPU takes besides once it trains: 290 to 450 MB were measured
BF16_BYTES = 400 * 10**6  # of bf16 products, compiled on a CPU for each new length: 300 to 800 MB were measured
GAPS = 0.5  # of the activations, on a CPU: free blocks, after a dozen steps, into which those of a pack do not fit
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What training takes of memory with the settings chosen for it, in bytes."""

    taken: Taken
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
    rehearsal: Rehearsal,
    settings: recipe.Train,
    device: str,
    step: Callable[[int], Step],
    *,
    available: int,
    process: int,
) -> Fit:
    """The least gradient checkpointing and then the largest token budget that fit; the last one tried if none does.

    Args:
        step: budget → the largest optimizer step of the run, packed by it.
        available, process: bytes, as `available_memory` and `process_memory` tell them.
    """
    for budget in _budgets(settings, device):
        packs = step(budget).packs
        for checkpointing in _levels(settings, rehearsal):
            taken = rehearsal.step(packs, checkpointing)
            found = Fit(
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


def _levels(settings: recipe.Train, rehearsal: Rehearsal) -> Sequence[Checkpointing]:
    if settings.checkpointing != "auto":
        return (settings.checkpointing,)
    every: tuple[Checkpointing, ...] = get_args(Checkpointing)
    return every if rehearsal.can_checkpoint else ("none",)


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


def shortage_finding(found: Fit, settings: recipe.Train, device: str) -> Finding | None:
    """A warning if training is not likely to fit, with what is left to be done."""
    if found.peak <= found.available:
        return None
    mends = []
    if settings.adapter is None:
        mends.append("train an adapter (train.adapter={kind: lora})")
    if found.checkpointing != "full":
        mends.append("set train.checkpointing=full")
    if found.pack_tokens // 2 >= settings.max_tokens:
        mends.append(f"set train.pack_tokens={found.pack_tokens // 2}")
    if device.startswith("cuda") and settings.adapter is None and settings.optimizer == "adamw":
        mends.append("set train.optimizer=paged_adamw_8bit")
    return Finding(
        check="memory",
        severity="warn",
        where="train",
        what=f"training takes about {found.peak / 1e9:.1f} GB of memory, {found.available / 1e9:.1f} GB are there",
        mend=", or ".join([*mends, "take a smaller model"]),
    )
