"""The GPU benchmark runs from end to end on tiny shapes, and tells what it left out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"

# takes and gives what a peer's script does, without training
PEER = """
import argparse, json
parser = argparse.ArgumentParser()
for name in ("model", "data", "arm", "steps", "examples-per-step", "micro-batch", "max-tokens"):
    parser.add_argument(f"--{name}", required=True)
args = parser.parse_args()
if args.arm == "free":
    raise SystemExit("out of memory")
tokens = sum(len(json.loads(line)["input_ids"]) for line in open(args.data))
seconds = [9.0, 9.0, 9.0] + [2.0] * (int(args.steps) - 3)
found = {"losses": [6.0], "step_seconds": seconds, "tokens": tokens, "peak_rss_gb": 1.5, "peak_cuda_gb": None}
print(json.dumps(found))
"""


def _bench(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_gpu.py"), "--tiny", "--models", "gemma-3-270m",
         "--minutes", "60", *options],
        capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.shared
def test_all_arms_train_on_the_same_rows(shared: Path) -> None:
    """Ours and the peer's begin at the same loss on the rows of one step, so that their speeds can be compared."""
    result = _bench("--peer", str(shared / "bench" / "peer_trl.py"))
    model = result["models"]["gemma-3-270m"]
    assert model["tokens_per_second"].keys() >= {"ours", "packed", "free"}
    losses = model["first_loss"]
    assert losses["free"] == pytest.approx(losses["ours"], rel=1e-4)
    assert losses["packed"] == pytest.approx(losses["ours"], rel=1e-2)  # its weights are bf16


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_tiny_shapes(tmp_path: Path) -> None:
    """Our arm trains, each arm is measured on the same rows without its warm-up, and failed arms are named."""
    peer = tmp_path / "peer.py"
    peer.write_text(PEER, encoding="utf-8")
    result = _bench("--peer", str(peer), "--out", str(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == result
    model = result["models"]["gemma-3-270m"]
    assert set(model["tokens_per_second"]) == {"ours", "packed"}
    assert model["tokens_per_second"]["packed"] == round(model["tokens_per_step"] / 2)
    assert 0 < model["limit_share"]["ours"] < 1
    assert model["best_arm"] == "packed"
    assert model["speed_vs_best"] == pytest.approx(
        2 * model["tokens_per_second"]["ours"] / model["tokens_per_step"], rel=0.05
    )
    assert "out of memory" in result["left_out"]["gemma-3-270m free"]
    assert "needs CUDA" in result["left_out"]["gemma-3-270m varlen"]
    assert "gemma-3-270m liger" in result["left_out"]


def test_arms_without_time_are_left_out_and_named() -> None:
    """A budget that is spent leaves every arm out, and says so."""
    result = _bench("--minutes", "0")
    assert result["models"] == {}
    assert set(result["left_out"]) == {f"gemma-3-270m {arm}" for arm in ("ours", "varlen", "liger", "packed", "free")}


def test_broken_inputs_end_well() -> None:
    """A few seeds of each kind: success or one error, the same input from the same seed."""
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / "broken_inputs.py"), "--count", "12"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert found[0]["fault_seeds"] == [], done.stdout
    assert found[0]["by_kind"] == found[1]["by_kind"]
