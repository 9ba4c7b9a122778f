#!/usr/bin/env python3
"""Training speed on one GPU against TRL and the GPU's own ceilings, in minutes; the last line is one JSON object.

    python benchmarks/bench_gpu.py --out gpu.json        under 9 minutes on an H100
    python benchmarks/bench_gpu.py --tiny                the same on tiny shapes, also without a GPU

Models of the public configurations with random weights, no hub. Every arm trains on the same rows, all of them once a
step: ours as seodang trains on CUDA (float32 weights, bf16 products, packed) and with bf16 weights and states
(`ours-bf16`), TRL's `packed` (bf16 weights) as it
comes, with torch's kernel for packed rows (`varlen`) and with that and Liger's kernels (`liger`, where liger_kernel is
installed), and TRL's `free`. Speeds are medians of the steps after the warm-up. What fails or no longer fits into
--minutes is named under `left_out`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from arms import ArmError, run
from random_models import CONFIGS, config_of, make_model, make_tokenizer
from seodang.train.throughput import matrix_rate, memory_rate, optimizer_bytes, step_flops
from shapes import step_of, write_rows

HERE = Path(__file__).resolve().parent
PEERS = {  # the peer's arm, and what it is set to besides
    "varlen": ("packed", "varlen"),
    "liger": ("packed", "varlen,use_liger_kernel"),
    "packed": ("packed", None),
    "free": ("free", None),
}
OURS = {"ours": "adamw", "ours-bf16": "adamw_bf16"}  # arm → its optimizer
ARMS = (*OURS, *PEERS)  # for all models in this order: what matters most comes first
SIZES = {"cpu": (256,), "cuda": (4096, 8192, 16384)}  # of the square products that make the ceiling
PACK_TOKENS = 16_384  # of all arms: the whole step
WARM_UP = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; so it is without a GPU")
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=15, help=f"of each arm; the first {WARM_UP} are not counted")
    parser.add_argument("--examples-per-step", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--peer", type=Path, default=HERE.parents[1] / "shared" / "bench" / "peer_trl.py")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.tiny or device == "cpu":
        args.tiny, args.steps, args.examples_per_step = True, WARM_UP + 2, 4
    ceilings = measure_ceilings(device)
    found: dict[str, dict[str, Any]] = {name: {} for name in args.models}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arm in args.arms:
            for name in args.models:
                try:
                    found[name][arm] = run_arm(arm, args, Path(folder) / name, until)
                except ArmError as error:
                    left_out[f"{name} {arm}"] = str(error)
                print(f"{name:13} {arm:7} {_line(found[name].get(arm))}", flush=True)
        rows = {name: _rows(Path(folder) / name) for name in args.models if found[name]}
    again = measure_ceilings(device)
    ceilings = {key: max(ceilings[key], again[key]) for key in ceilings}
    result = {
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "tiny": args.tiny,
        "examples_per_step": args.examples_per_step,
        "ceilings": ceilings,
        "models": {name: summary(name, args, found[name], rows[name], ceilings) for name in rows},
        "left_out": left_out,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def measure_ceilings(device: str) -> dict[str, float]:
    """Operations a second of the best large square product, bf16 on a GPU, and bytes a second that memory moves."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    found = {
        "matrix_tflops": matrix_rate(dtype, device, SIZES[device]) / 1e12,
        "memory_gb_per_second": memory_rate(device, None if device == "cuda" else 2**24) / 1e9,
    }
    if device == "cuda":
        torch.cuda.empty_cache()  # the arms, in processes of their own, want it
    return found


def make_folder(folder: Path, args: argparse.Namespace) -> None:
    """A model with random weights, a tokenizer of bytes, which the peer wants to see, and the rows of one step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(folder.name, torch.bfloat16, device, tiny=args.tiny)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    stream = np.random.default_rng(0).integers(2, model.config.vocab_size, 500 * args.examples_per_step)
    write_rows(folder / "rows.jsonl", stream, "tutorial", args.examples_per_step)


def run_arm(arm: str, args: argparse.Namespace, folder: Path, until: float) -> dict[str, Any]:
    """One arm on one model.

    The file holds the rows of one step, so that an epoch is a step, for the peer's packed rows too.

    Raises:
        ArmError: no time is left for it, it failed, or what it needs is not there.
    """
    if arm in ("varlen", "liger") and not torch.cuda.is_available():
        raise ArmError("torch's kernel for packed rows needs CUDA")
    if arm == "liger" and find_spec("liger_kernel") is None:
        raise ArmError("liger_kernel is not installed")
    if time.monotonic() > until - (5 if args.tiny else 40):
        raise ArmError(f"no time left of {args.minutes} minutes")
    if not folder.exists():
        make_folder(folder, args)
    command = ["--model", str(folder), "--data", str(folder / "rows.jsonl"), "--steps", str(args.steps)]
    command += ["--examples-per-step", str(args.examples_per_step)]
    if arm in OURS:
        command = [str(HERE / "arm_ours.py"), *command, "--pack-tokens", str(PACK_TOKENS)]
        command += ["--optimizer", OURS[arm]]
    else:
        its_arm, switches = PEERS[arm]
        command = [str(args.peer), *command, "--arm", its_arm, "--micro-batch", "1", "--max-tokens", str(PACK_TOKENS)]
        command = [str(HERE / "arm_set.py"), switches, *command] if switches else command
    torch.cuda.empty_cache()
    return run([sys.executable, *command], seconds=until - time.monotonic())


def _rows(folder: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def _line(found: dict[str, Any] | None) -> str:
    return "left out" if found is None else f"{found['tokens'] / _seconds(found):10,.0f} tok/s"


def _seconds(found: dict[str, Any]) -> float:
    """Of a step."""
    seconds: list[float] = found["step_seconds"][WARM_UP:]
    return statistics.median(seconds)


def summary(
    name: str,
    args: argparse.Namespace,
    found: dict[str, dict[str, Any]],
    rows: list[dict[str, list[int]]],
    ceilings: dict[str, float],
) -> dict[str, Any]:
    """What each arm did of one model, beside the hardware limit of its step."""
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config_of(name, tiny=args.tiny), dtype=torch.float32)
    moved = optimizer_bytes(shapes, torch.bfloat16)
    limit = step_flops(shapes, step_of(rows)) / (ceilings["matrix_tflops"] * 1e12)
    limit += moved / (ceilings["memory_gb_per_second"] * 1e9)
    tokens = sum(len(row["input_ids"]) for row in rows)
    seconds = {arm: _seconds(result) for arm, result in found.items()}
    best = min((arm for arm in seconds if arm in PEERS and arm != "liger"), key=lambda arm: seconds[arm], default=None)

    peak = {arm: result["peak_cuda_gb"] or result["peak_rss_gb"] for arm, result in found.items()}

    def ratio(arm: str | None) -> float | None:
        return round(seconds[arm] / seconds["ours"], 2) if arm in seconds and "ours" in seconds else None

    return {
        "tokens_per_step": tokens,
        "limit_tokens_per_second": round(tokens / limit),
        "tokens_per_second": {arm: round(tokens / value) for arm, value in seconds.items()},
        "limit_share": {arm: round(limit / value, 3) for arm, value in seconds.items()},
        "peak_gb": peak,
        "first_loss": {arm: result["losses"][0] for arm, result in found.items()},
        "best_arm": best,
        "speed_vs_best": ratio(best),
        "speed_vs_liger": ratio("liger"),
        "memory_vs_liger": {
            arm: round(peak[arm] / peak["liger"], 2) for arm in OURS if arm in peak and "liger" in peak
        },
    }


if __name__ == "__main__":
    main()
