"""Memory and disk: what is available, what a run needs, and the settings with which it fits.

Token budget and gradient checkpointing are chosen by estimates of a step's memory (`memory_estimate`) and time.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import psutil
import torch
from datasets import Dataset

from seodang import distributed, recipe
from seodang.data.arrow import read_columns
from seodang.data.pack import Plan, pack_step
from seodang.errors import ResourceError
from seodang.run.folder import Run
from seodang.train.adapter import unwrapped
from seodang.train.memory_estimate import STATE_BYTES, MemoryEstimator, MemoryUsage
from seodang.types import Checkpointing, Finding, Pack, Step

MEMORY_MARGIN = 0.1  # of the available memory: an estimate is off by some percent, and allocators leave gaps
MIN_PACK_TOKENS = 512  # a smaller budget costs speed and saves little
PackCost = Literal["cpu", "mps", "graphs", "cuda", "several"]  # CUDA graphs; without them; several ranks of CUDA
# What a pack takes whatever its size, in positions that take as long. On a CPU products of few rows (measured); on a
# GPU weights are cast and gradients summed, 16 bytes a parameter (5 ms of 1B on an H200, at 12 µs a position). Without
# CUDA graphs it waits for the host (80 ms of 1B), and shards gather their weights. All but the first are estimates.
PACK_POSITIONS: dict[PackCost, int] = {"cpu": 60, "mps": 400, "graphs": 400, "cuda": 1000, "several": 4000}
# Relative to none: measured on a CPU; elsewhere a sixth and a third more operations, and the loss of CUDA graphs.
CHECKPOINTING_TIME: dict[PackCost, dict[Checkpointing, float]] = {
    "cpu": {"none": 1.0, "selective": 1.11, "full": 1.24},
    "mps": {"none": 1.0, "selective": 1.17, "full": 1.33},
    "graphs": {"none": 1.0, "selective": 1.25, "full": 1.4},
    "cuda": {"none": 1.0, "selective": 1.17, "full": 1.33},
    "several": {"none": 1.0, "selective": 1.17, "full": 1.33},
}
TRAINING_BYTES = 350 * 10**6  # that a process on a CPU takes besides once it trains: 290 to 450 MB were measured
BF16_BYTES = 400 * 10**6  # of bf16 products, compiled on a CPU for each new length: 300 to 800 MB were measured
FRAGMENTATION = (
    0.5  # of the activations, on a CPU: free blocks, after a dozen steps, that the next pack does not fit into
)
ADAPTER_BYTES = 4  # of a parameter: peft holds adapters in float32
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory that training uses with the settings chosen for it, in bytes."""

    usage: MemoryUsage
    process: int  # of Python, its libraries and its allocator, where they share the memory
    available: int
    checkpointing: Checkpointing
    pack_tokens: int
    positions: int  # of the largest pack of the estimate

    @property
    def peak(self) -> int:
        return self.usage.peak + self.process

    @property
    def fits(self) -> bool:
        return self.peak <= (1 - MEMORY_MARGIN) * self.available

    @property
    def summary(self) -> str:
        """For people, in one sentence."""
        usage = self.usage
        parts = {
            "weights": usage.weights, "gradients": usage.gradients, "optimizer": usage.states,
            "activations": usage.activations, "logits": usage.logits, "process": self.process,
        }  # fmt: skip
        listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size >= 5e7)
        return (
            f"memory: about {self.peak / 1e9:.1f} GB of {self.available / 1e9:.1f} GB: {listed}; "
            f"{self.pack_tokens:,} tokens a pack, checkpointing {self.checkpointing}"
        )


def plan_memory(
    estimator: MemoryEstimator,
    settings: recipe.Train,
    device: str,
    step: Callable[[int], Step],
    *,
    pack_tokens: int,
    available: int,
    process: int,
) -> MemoryPlan:
    """The fastest token budget and gradient checkpointing that fit; those that take the least memory if none does.

    Args:
        step: budget → the largest optimizer step of the run, packed by it.
        pack_tokens: the largest budget, in positions.
        available, process: bytes, from `available_memory` and `process_memory`.
    """
    levels = _checkpointing_levels(settings, estimator)
    tried = candidates(_budgets(settings, pack_tokens), levels, _pack_cost(estimator, device), step)

    @cache  # an estimate takes seconds
    def plan(number: int) -> MemoryPlan:
        budget, packs, checkpointing = tried[number]
        usage = estimator.estimate(packs, checkpointing)
        return MemoryPlan(
            usage=usage,
            process=process + (int(FRAGMENTATION * usage.activations) if device == "cpu" else 0),
            available=available,
            checkpointing=checkpointing,
            pack_tokens=budget,
            positions=max(pack.input_ids.size for pack in packs),
        )

    if plan(0).fits:
        return plan(0)
    least = [number for number, candidate in enumerate(tried) if candidate[-1] == levels[-1]]
    if not any(plan(number).fits for number in reversed(least)):
        return min(map(plan, least), key=lambda one: one.peak)
    return next(one for one in map(plan, range(len(tried))) if one.fits)


def candidates(
    budgets: Iterable[int], levels: Sequence[Checkpointing], cost: PackCost, step: Callable[[int], Step]
) -> list[tuple[int, tuple[Pack, ...], Checkpointing]]:
    """(token budget, the step's packs, checkpointing), the fastest first; of budgets with the same packs the largest.

    A step's time is estimated as (positions + packs · `PACK_POSITIONS`) · `CHECKPOINTING_TIME`.
    """
    by_sizes: dict[tuple[int, ...], tuple[int, tuple[Pack, ...]]] = {}
    for budget in budgets:
        packs = step(budget).packs
        by_sizes.setdefault(tuple(pack.input_ids.size for pack in packs), (budget, packs))
    found = [(*packed, level) for packed in by_sizes.values() for level in levels]

    def seconds(candidate: tuple[int, tuple[Pack, ...], Checkpointing]) -> float:
        _, packs, level = candidate
        positions = sum(pack.input_ids.size for pack in packs)
        return (positions + PACK_POSITIONS[cost] * len(packs)) * CHECKPOINTING_TIME[cost][level]

    return sorted(found, key=seconds)


def _pack_cost(estimator: MemoryEstimator, device: str) -> PackCost:
    if not device.startswith("cuda"):
        return "mps" if device == "mps" else "cpu"
    if distributed.world() > 1:
        return "several"
    products = estimator.engine.compute_dtype or unwrapped(estimator.model).dtype
    return "graphs" if products.itemsize == 2 and not estimator.quantization_savings else "cuda"


def _budgets(settings: recipe.Train, budget: int) -> Iterator[int]:
    yield budget
    while settings.pack_tokens is None and (budget := budget // 2) >= max(MIN_PACK_TOKENS, settings.max_tokens):
        yield budget


def _checkpointing_levels(settings: recipe.Train, estimator: MemoryEstimator) -> Sequence[Checkpointing]:
    if settings.checkpointing != "auto":
        return (settings.checkpointing,)
    levels: tuple[Checkpointing, ...] = get_args(Checkpointing)
    return levels if estimator.can_checkpoint else ("none",)


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
    for limit, used, counts in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:  # a container's, version 2 or 1
            free = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
            limits.append(free + _reclaimable(CGROUP / counts) + own)
        except (OSError, ValueError):
            continue  # there is none, or it is "max"
    return max(0, min(limits))


def _reclaimable(counts: Path) -> int:
    """Bytes of a container's memory that hold parts of files, such as weights that were read: they give way."""
    try:
        found = dict(line.split() for line in counts.read_text().splitlines())
    except (OSError, ValueError):  # not known: all that is used counts
        return 0
    prefix = "total_" if "total_inactive_file" in found else ""  # with groups below it, in version 1
    return sum(int(found.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def process_memory(device: str, compute_dtype: str) -> int:
    """Bytes that Python and its libraries take of the device's memory, once training runs."""
    if device.startswith("cuda"):
        return 0
    compiled = BF16_BYTES if (device, compute_dtype) == ("cpu", "bfloat16") else 0
    return int(psutil.Process().memory_info().rss) + TRAINING_BYTES + compiled


def memory_finding(plan: MemoryPlan, settings: recipe.Train, device: str) -> Finding | None:
    """A warning if training is not likely to fit, with what is left to be done."""
    if plan.peak <= plan.available:
        return None
    hints = []
    if settings.adapter is None:
        hints.append("train an adapter (train.adapter={kind: lora})")
    if plan.checkpointing != "full":
        hints.append("set train.checkpointing=full")
    if plan.pack_tokens // 2 >= settings.max_tokens:
        hints.append(f"set train.pack_tokens={plan.pack_tokens // 2}")
    if device.startswith("cuda") and settings.adapter is None and settings.optimizer == "adamw":
        hints.append("set train.optimizer=paged_adamw_8bit")
    return Finding(
        check="memory",
        severity="warn",
        where="train",
        what=f"training needs about {plan.peak / 1e9:.1f} GB of memory; {plan.available / 1e9:.1f} GB are available",
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
    optimizer: str,
    adapter_parameters: int | None = None,
    proof_bytes: int = 0,
) -> None:
    """Raise while nothing is lost yet if the disk of a run's folder is too small for what training writes.

    Args:
        parameters: of the model.
        weight_bytes: of one parameter.
        optimizer: as transformers knows it.
        adapter_parameters: what is trained; none: all of the model's.
        proof_bytes: what is kept of the base until the proof is done.

    Raises:
        ResourceError: says how much is there and what can be done.
    """
    needed = disk_bytes(
        parameters=parameters,
        weight_bytes=weight_bytes,
        optimizer=optimizer,
        keep_checkpoints=settings.keep_checkpoints,
        adapter_parameters=adapter_parameters,
    )
    needed += proof_bytes - sum(
        file.stat().st_size for file in Run(folder=folder).checkpoints.rglob("*") if file.is_file()
    )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"the run's checkpoints and model take up to {needed / 1e9:.3g} GB; {free / 1e9:.3g} GB are free",
            where=str(folder),
            hint="free some space, give another disk by --out, or keep fewer checkpoints (train.keep_checkpoints=1)",
        )
