#!/usr/bin/env python3
"""Training speed and memory against TRL, on the same rows and steps; the last line is one JSON object.

    python benchmarks/bench_train.py --quick          270M model, tutorial shape, 4 examples a step (under 15 minutes)
    python benchmarks/bench_train.py --model package:smollm2-135m-instruct --shape prompt-heavy --repeats 3

Arms: ours, as `seodang tune` runs here; ours in float32, where that is something else; TRL as the tutorial sets it; TRL
at its best on this device; TRL's `parity` for losses step by step; where `ours` multiplies in bf16 on a CPU, TRL with
its own switch for that (`free+bf16`), which its script leaves off. The peer's script is given by --peer. Arms are run
in turn, each in its own process, `--repeats` times; medians are reported, of all steps but the first.

`max_loss_difference` is that of ours in float32 against `parity`, relative. `limit_share` is that of ours in float32,
by the hardware limit of `seodang.train.throughput`: a step's operations at the rate of the best large float32 product
of this run, and the optimizer's bytes at its memory rate. `own_limit_share` is that of `ours`, by the products it uses.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from arms import ArmError, run, speed, steady
from seodang.model.load import resolve_model
from seodang.model.placement import choose_placement
from seodang.recipe import Model
from seodang.train.throughput import matrix_rate, memory_rate, optimizer_bytes, step_flops
from shapes import step_of, text_stream, write_rows

HERE = Path(__file__).resolve().parent
SIZES = {"cpu": (2048, 3072, 4096), "cuda": (4096, 8192, 16384)}  # of the square products that are timed
BEST = {"cpu": ("grouped", "free"), "cuda": ("free",)}  # TRL at its best is the faster; packed: see bench_gpu.py


def run_arm(
    arm: str, args: argparse.Namespace, model: str, data: Path, rows: list[dict[str, list[int]]]
) -> dict[str, Any]:
    """One arm in a process of its own; its last line is its result."""
    common = ["--model", model, "--data", str(data), "--steps", str(args.steps)]
    common += ["--examples-per-step", str(args.examples_per_step)]
    if arm.startswith("ours"):
        command = [sys.executable, str(HERE / "arm_ours.py"), *common]
        if arm == "ours-float32":
            command += ["--compute", "float32"]
    else:
        peer_arm, _, switch = arm.partition("+")
        peer = [str(HERE / "arm_set.py"), switch, str(args.peer)] if switch else [str(args.peer)]
        micro = str(min(4, args.examples_per_step))
        command = [sys.executable, *peer, *common, "--arm", peer_arm, "--micro-batch", micro, "--max-tokens", "4096"]
    try:
        result = run(command)
    except ArmError as error:
        raise SystemExit(f"{arm} failed:\n{error}") from None
    if not arm.startswith("grouped"):  # which takes the rows in another order, and has its own mean
        result["tokens_per_second"] = speed(result["step_seconds"], rows, args.examples_per_step)
    print(f"{arm:12} {result['tokens_per_second']:8.1f} tok/s  {result['peak_rss_gb']:.1f} GB", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="package:gemma-3-270m")
    parser.add_argument("--shape", choices=["tutorial", "prompt-heavy", "mixed"], default="tutorial")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--examples-per-step", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=None)
    parser.add_argument("--peer", type=Path, default=HERE.parents[1] / "shared" / "bench" / "peer_trl.py")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.steps, args.repeats = 3, 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = resolve_model(args.model)
    compute = choose_placement(Model(path=model)).compute_dtype
    exact, alike = (["ours-float32"], ["free+bf16"]) if device == "cpu" and compute != "float32" else ([], [])
    arms = args.arms or ["ours", *exact, "tutorial", *BEST[device], *alike, "parity"]
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        stream = text_stream(AutoTokenizer.from_pretrained(model))
        write_rows(data, stream, args.shape, args.steps * args.examples_per_step)
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        dtypes = {compute, "float32"} if device == "cpu" else {compute}
        before = {dtype: matrix_rate(getattr(torch, dtype), device, SIZES[device]) for dtype in dtypes}
        moved = memory_rate(device)
        for _ in range(args.repeats):
            for arm in arms:
                results[arm].append(run_arm(arm, args, model, data, rows))
        rates = {d: max(r, matrix_rate(getattr(torch, d), device, SIZES[device])) for d, r in before.items()}
        moved = max(moved, memory_rate(device))
    found = {**conditions(args, device), **summary(results, BEST[device])}
    found["matrix_gflops"] = {dtype: round(rate / 1e9, 1) for dtype, rate in rates.items()}
    found["memory_gb_per_second"] = round(moved / 1e9, 1)
    ours = {
        run["engine"]["compute_dtype"]: arm for arm, runs in results.items() if arm.startswith("ours") for run in runs
    }
    timed = steady(rows, args.examples_per_step)
    shares = {dtype: share(results[arm], timed, model, dtype, rates[dtype], moved) for dtype, arm in ours.items()}
    found["limit_share"] = shares.get("float32", shares.get(compute))
    if compute in shares:
        found["own_limit_share"] = shares[compute]
    if args.out:
        args.out.write_text(json.dumps({**found, "runs": results}, indent=1), encoding="utf-8")
    print(json.dumps(found))


def conditions(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}",
        "model": args.model,
        "shape": args.shape,
        "steps": args.steps,
        "examples_per_step": args.examples_per_step,
        "repeats": args.repeats,
    }


def summary(results: dict[str, list[dict[str, Any]]], contenders: Sequence[str]) -> dict[str, Any]:
    """Medians of the repeats and their ratios."""
    speed = {arm: statistics.median(run["tokens_per_second"] for run in runs) for arm, runs in results.items()}
    memory = {arm: statistics.median(run["peak_rss_gb"] for run in runs) for arm, runs in results.items()}
    found: dict[str, Any] = {
        "tokens_per_second": {arm: round(value, 1) for arm, value in speed.items()},
        "peak_gb": {arm: round(value, 2) for arm, value in memory.items()},
    }
    best = max((arm for arm in contenders if arm in speed), key=lambda arm: speed[arm], default=None)
    if "ours" in speed and "tutorial" in speed:
        found["speed_vs_tutorial"] = round(speed["ours"] / speed["tutorial"], 2)
    if "ours" in speed and best:
        found["best_arm"] = best
        found["speed_vs_best"] = round(speed["ours"] / speed[best], 2)
        found["memory_vs_best"] = round(memory["ours"] / memory[best], 2)
    if "ours" in speed and "free+bf16" in speed:
        found["bf16_vs_bf16"] = round(speed["ours"] / speed["free+bf16"], 2)
    if "ours-float32" in speed and "tutorial" in speed and best:
        found["float32_vs_tutorial"] = round(speed["ours-float32"] / speed["tutorial"], 2)
        found["float32_vs_best"] = round(speed["ours-float32"] / speed[best], 2)
    exact = results.get("ours-float32", results.get("ours"))
    if exact and "parity" in results:
        pairs = zip(exact[0]["losses"], results["parity"][0]["losses"], strict=True)
        found["max_loss_difference"] = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    return found


def share(
    runs: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, list[int]]],
    model: str,
    dtype: str,
    rate: float,
    moved: float,
) -> float:
    """Measured speed over the hardware limit's, at `rate` operations and `moved` bytes a second.

    Args:
        rows: of the steps that were timed.
    """
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    steps = len(steady(runs[0]["step_seconds"], 1))
    seconds = step_flops(shapes, step_of(rows)) / rate + steps * optimizer_bytes(shapes, getattr(torch, dtype)) / moved
    measured: float = statistics.median(run["tokens_per_second"] for run in runs)
    return round(measured * seconds / sum(len(row["input_ids"]) for row in rows), 3)


if __name__ == "__main__":
    main()
