#!/usr/bin/env python3
"""Training speed and memory against TRL, on the same rows and steps; the last line is one JSON object.

    python benchmarks/bench_train.py --quick          270M model, tutorial shape, 4 examples a step (under 15 minutes)
    python benchmarks/bench_train.py --model package:smollm2-135m-instruct --shape prompt-heavy --repeats 3

Arms: ours; TRL as the tutorial sets it; TRL at its best on this device; TRL's `parity` for losses step by step. The
peer's script is given by --peer. Arms are run in turn, each in its own process, `--repeats` times; medians are told.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from arms import ArmError, run
from seodang.model.floor import copy_rate, floor_seconds, matrix_rate, step_flops
from seodang.model.load import resolve_model
from shapes import step_of, text_stream, write_rows

HERE = Path(__file__).resolve().parent
SIZES = {"cpu": (2048, 3072, 4096), "cuda": (4096, 8192, 16384)}  # of the square products that make the floor
BEST = {"cpu": ("grouped", "free"), "cuda": ("packed", "free")}  # TRL at its best is the faster of these


def run_arm(arm: str, args: argparse.Namespace, model: str, rows: Path) -> dict[str, Any]:
    """One arm in a process of its own; its last line is its result."""
    common = ["--model", model, "--data", str(rows), "--steps", str(args.steps)]
    common += ["--examples-per-step", str(args.examples_per_step)]
    if arm.startswith("ours"):
        command = [sys.executable, str(HERE / "arm_ours.py"), *common]
        if arm == "ours-bf16":
            command += ["--compute", "bfloat16"]
    else:
        micro = str(min(4, args.examples_per_step))
        command = [
            sys.executable,
            str(args.peer),
            *common,
            "--arm",
            arm,
            "--micro-batch",
            micro,
            "--max-tokens",
            "4096",
        ]
    try:
        result = run(command)
    except ArmError as error:
        raise SystemExit(f"{arm} failed:\n{error}") from None
    print(f"{arm:9} {result['tokens_per_second']:8.1f} tok/s  {result['peak_rss_gb']:.1f} GB", flush=True)
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
    arms = args.arms or ["ours", "tutorial", *BEST[device], "parity"]
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        stream = text_stream(AutoTokenizer.from_pretrained(model))
        write_rows(data, stream, args.shape, args.steps * args.examples_per_step)
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        rate = matrix_rate(dtype, device, SIZES[device])
        for _ in range(args.repeats):
            for arm in arms:
                results[arm].append(run_arm(arm, args, model, data))
        rate = max(rate, matrix_rate(dtype, device, SIZES[device]))
    print(json.dumps(summary(args, results, rows, AutoConfig.from_pretrained(model), rate, device)))


def summary(
    args: argparse.Namespace,
    results: dict[str, list[dict[str, Any]]],
    rows: list[dict[str, list[int]]],
    config: Any,
    rate: float,
    device: str,
) -> dict[str, Any]:
    """Medians of the repeats and their ratios."""
    speed = {arm: statistics.median(run["tokens_per_second"] for run in runs) for arm, runs in results.items()}
    memory = {arm: statistics.median(run["peak_rss_gb"] for run in runs) for arm, runs in results.items()}
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}",
        "model": args.model,
        "shape": args.shape,
        "steps": args.steps,
        "examples_per_step": args.examples_per_step,
        "repeats": args.repeats,
        "tokens_per_second": {arm: round(value, 1) for arm, value in speed.items()},
        "peak_gb": {arm: round(value, 2) for arm, value in memory.items()},
        "matrix_gflops": round(rate / 1e9, 1),
    }
    if "ours" in results:
        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(config)
        seconds = floor_seconds(
            step_flops(shapes, step_of(rows)),
            matrix_rate=rate,
            trained=args.steps * sum(weight.numel() for weight in shapes.parameters()),
            copy_rate=None if device == "cpu" else copy_rate(device),
        )
        floor = sum(len(row["input_ids"]) for row in rows) / seconds
        found["floor_share"] = round(speed["ours"] / floor, 3)
        best = max((arm for arm in BEST[device] if arm in speed), key=lambda arm: speed[arm], default=None)
        if "tutorial" in speed:
            found["speed_vs_tutorial"] = round(speed["ours"] / speed["tutorial"], 2)
        if best:
            found |= {
                "best_arm": best,
                "speed_vs_best": round(speed["ours"] / speed[best], 2),
                "memory_vs_best": round(memory["ours"] / memory[best], 2),
            }
        if "parity" in results:
            pairs = zip(results["ours"][0]["losses"], results["parity"][0]["losses"], strict=True)
            found["max_loss_difference"] = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    if args.out:
        args.out.write_text(json.dumps({**found, "runs": results}, indent=1), encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
