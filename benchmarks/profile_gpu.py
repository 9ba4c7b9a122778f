#!/usr/bin/env python3
"""Where the time of one optimizer step goes on a GPU, kernel by kernel; the last line is one JSON object.

    python benchmarks/profile_gpu.py --models gemma-3-1b --out profile.json      about a minute for each model

Models of the public configurations with random weights, no hub; rows, packs and engine are those of `bench_gpu.py`'s
arm `ours`, without Trainer. `idle` is the time in which no kernel ran, between the step's first kernel and its last.
"""

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from random_models import CONFIGS, make_model
from seodang.model.engine.engine import Engine
from seodang.train.bf16_adamw import Bf16AdamW
from seodang.types import IGNORED
from shapes import rows_of, step_of

KINDS = {  # part of a kernel's name → what it does; the first that fits
    "flash": "attention",
    "multi_tensor_apply": "optimizer",
    "triton_": "compiled",
    "nvjet": "products",
    "gemm": "products",
    "cutlass": "products",
    "xmma": "products",
    "cublas": "products",
    "emset": "copies",
    "emcpy": "copies",
    "elementwise": "as written",
    "reduce": "as written",
}
PARTS = ("forward", "backward", "clip", "optimizer")
WARM_UP = 4  # steps: as written, recorded, replayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--examples-per-step", type=int, default=64)
    parser.add_argument("--as-written", action="store_true", help="without compiling")
    parser.add_argument("--optimizer", choices=["adamw", "adamw_bf16"], default="adamw")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--kernels", type=int, default=40, help="that are listed")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    found = {name: profiled(name, args) for name in args.models}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps({name: {key: one[key] for key in one if key != "kernels"} for name, one in found.items()}))


def profiled(name: str, args: argparse.Namespace) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    weights = torch.float32 if args.optimizer == "adamw" else torch.bfloat16
    model = make_model(name, weights, device, tiny=not cuda).train()
    count, vocabulary = args.examples_per_step, model.config.vocab_size
    stream = np.random.default_rng(0).integers(2, vocabulary, 500 * count)  # as `bench_gpu.py` draws it
    (packed,) = step_of(list(rows_of(stream, "tutorial", count)))
    engine = Engine(
        packed=True,
        linear_cross_entropy=True,
        compiled=cuda and not args.as_written,
        cuda_graphs=cuda,
        recompute=weights == torch.bfloat16,
        compute_dtype=torch.bfloat16 if weights == torch.float32 else None,
    )
    optimizer: torch.optim.Optimizer
    if weights == torch.bfloat16:
        optimizer = Bf16AdamW(model.parameters(), lr=2e-5)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0, fused=True)
    supervised = int((packed.targets != IGNORED).sum())
    marks: list[torch.cuda.Event] = []

    def mark() -> None:
        if cuda:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()

    def step() -> Tensor:
        mark()
        loss: Tensor = model(pack=packed, weight=1 / supervised)
        mark()
        loss.backward()
        mark()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        mark()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mark()
        return loss.detach()

    begun = time.perf_counter()
    notes: list[str] = []
    with engine.installed(model, notes.append):
        losses = []
        for _ in range(WARM_UP):
            losses.append(float(step()))
        warm = time.perf_counter() - begun
        marks.clear()
        seconds = []
        for _ in range(args.steps):
            start = time.perf_counter()
            step()
            wait(device)
            seconds.append(time.perf_counter() - start)
        parts = [[a.elapsed_time(b) for a, b in zip(marks[n : n + 5], marks[n + 1 : n + 5], strict=False)]
                 for n in range(0, len(marks), 5)]  # fmt: skip
        activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
        with profile(activities=activities) as trace:
            step()
            wait(device)
    kernels = [event for event in trace.events() if event.device_type.name == "CUDA" or not cuda]
    spans = sorted((event.time_range.start, event.time_range.end, event.name) for event in kernels)
    busy, end = 0.0, spans[0][0]
    for first, last, _ in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    sums: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for first, last, kernel in spans:
        sums[kind_of(kernel)] += (last - first) / 1000
        by_name[kernel] += (last - first) / 1000
        counts[kernel] += 1
    listed = [
        {"kernel": kernel, "count": counts[kernel], "ms": round(ms, 3)}
        for kernel, ms in sorted(by_name.items(), key=lambda item: -item[1])
    ]
    milliseconds, tokens = 1000 * statistics.median(seconds), packed.input_ids.size
    print(f"\n{name}: {milliseconds:.1f} ms a step, {tokens:,} tokens, {supervised:,} supervised")
    for one in listed[: args.kernels]:
        print(f"{one['ms']:8.3f} ms {one['count']:5} × {kind_of(str(one['kernel'])):11} {str(one['kernel'])[:150]}")
    return {
        "tokens": tokens,
        "supervised": supervised,
        "losses": losses,
        "notes": notes,
        "warm_up_seconds": round(warm, 1),
        "step_ms": [round(1000 * value, 2) for value in seconds],
        "parts_ms": dict(zip(PARTS, np.median(parts, 0).round(2).tolist(), strict=True)) if parts else {},
        "busy_ms": round(busy / 1000, 2),
        "idle_ms": round((end - spans[0][0] - busy) / 1000, 2),
        "kinds_ms": {kind: round(ms, 2) for kind, ms in sorted(sums.items(), key=lambda item: -item[1])},
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
        "kernels": listed,
    }  # fmt: skip


def kind_of(kernel: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in kernel), "other")


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
