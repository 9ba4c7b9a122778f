#!/usr/bin/env python3
"""What smaller packs cost beside gradient checkpointing: the figures by which a run's memory plan chooses.

    python benchmarks/bench_packs.py --out packs.json           one GPU: Gemma 3 1B, about half a minute
    python benchmarks/bench_packs.py --models gemma-3-270m      a CPU: about 10 minutes of one core
    python benchmarks/bench_packs.py --tiny

Forward and backward passes of one optimizer step of the tutorial's lengths, by seodang's engine (on a GPU with CUDA
graphs, not compiled), model of random weights. `time` is relative to the largest packs without checkpointing, and
`pack_positions` in how many positions a pack costs that time beside its own: what `seodang.train.resources` calls
`PACK_POSITIONS`. CPU time on a CPU. The last line is JSON.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import PreTrainedModel

from random_models import CONFIGS, machine_name, make_model
from seodang.data.pack import pack
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.placement import choose_placement
from seodang.recipe import Model
from seodang.train.setup import CHECKPOINTED_LAYERS
from seodang.train.throughput import synchronize
from seodang.types import Checkpointing, Pack
from shapes import rows_of

CASES: dict[str, tuple[tuple[int, Checkpointing], ...]] = {
    "cpu": ((1024, "none"), (512, "none"), (256, "none"), (1024, "selective"), (1024, "full")),
    "cuda": (
        (8192, "none"), (4096, "none"), (2048, "none"), (1024, "none"), (8192, "selective"), (8192, "full"),
    ),
}  # fmt: skip
ROWS = {"cpu": 8, "cuda": 78}
PASSES = {"cpu": 2, "cuda": 5}  # over the step; graphs are recorded in the second, the fastest counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=["gemma-3-1b"])
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    placement = choose_placement(Model(path="random"))
    device, compute = placement.device, getattr(torch, placement.compute_dtype)
    found = {}
    for name in args.models:
        model = make_model(name, torch.float32, device, tiny=args.tiny).train()
        found[name] = measure(model, None if compute == torch.float32 else compute)
        del model
    result = {"date": date.today().isoformat(), "machine": machine_name(), "torch": torch.__version__, "models": found}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def measure(model: PreTrainedModel, compute: torch.dtype | None) -> list[dict[str, Any]]:
    """All cases on one model."""
    device = model.device.type
    stream = np.random.default_rng(0).integers(2, model.config.vocab_size, 500 * ROWS[device])
    rows = list(rows_of(stream, "tutorial", ROWS[device]))
    ids, labels = ([np.array(row[key], dtype=np.int32) for row in rows] for key in ("input_ids", "labels"))
    engine = choose_engine(model, ids[:3], compiled=False, compute_dtype=compute)
    found: list[dict[str, Any]] = []
    for budget, level in CASES[device]:
        packs = pack(ids, labels, budget=budget)
        seconds, peak = step_seconds(model, engine, packs, level)
        positions = sum(one.input_ids.size for one in packs)
        case: dict[str, Any] = {
            "pack_tokens": budget, "checkpointing": level, "packs": len(packs), "positions": positions,
            "tokens_per_second": round(positions / seconds, 1), "peak_gb": round(peak, 2),
        }  # fmt: skip
        first = found[0] if found else case
        case["time"] = round(first["tokens_per_second"] / case["tokens_per_second"], 3)
        more = len(packs) - first["packs"]
        if more and level == "none":
            ratio = case["time"]  # (positions + packs · x) / (positions + first packs · x) = ratio
            case["pack_positions"] = round(positions * (ratio - 1) / (len(packs) - ratio * first["packs"]))
        found.append(case)
        print(" ".join(f"{key} {value}" for key, value in case.items()), flush=True)
    return found


def step_seconds(
    model: PreTrainedModel, engine: Engine, packs: Sequence[Pack], level: Checkpointing
) -> tuple[float, float]:
    """(seconds of the fastest pass over the packs, gigabytes at the peak)."""
    device = model.device.type
    clock = time.process_time if device == "cpu" else time.perf_counter
    if level != "none":
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}, every_n_layers=CHECKPOINTED_LAYERS[level]
        )
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    taken = []
    with engine.installed(model, on_note=print):
        for _ in range(PASSES[device]):
            model.zero_grad(set_to_none=True)
            synchronize(device)
            begun = clock()
            for one in packs:
                model(pack=one, weight=1.0).backward()  # as training hands it in
            synchronize(device)
            taken.append(clock() - begun)
    model.zero_grad(set_to_none=True)
    if level != "none":
        model.activation_checkpointing_disable()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1e3 * _process_kilobytes()
    return min(taken), peak / 1e9


def _process_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
