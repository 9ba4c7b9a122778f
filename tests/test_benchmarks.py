"""The benchmarks for a GPU run from end to end on tiny shapes, and report what they left out."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launched import run_alone
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


GPU = ("bench_gpu", "--tiny", "--models", "gemma-3-270m")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """A benchmark's result, run in this process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(name: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        importlib.import_module(name).main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return result

    return run


def test_evaluation_is_compared_with_transformers(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """All arms measure the same rows, with the losses that plain transformers finds."""
    result = bench("bench_evaluate", "--tiny", "--models", "gemma-3-270m", "--rows", "8", "--out", str(tmp_path / "e"))
    assert json.loads((tmp_path / "e").read_text(encoding="utf-8")) == result
    model = result["models"]["gemma-3-270m"]
    assert [arm["rows"] for arm in model["arms"].values()] == [8] * 5
    assert all(0 < arm["limit_share"] < 1 for arm in model["arms"].values())
    assert model["largest_row_difference"] < (1e-4 if result["compute"] == "float32" else 0.05)


def test_generation_is_compared_with_transformers(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Batched answers are those of transformers with the same weights, and of each prompt alone."""
    options = ("--prompts", "4", "--new-tokens", "4", "--threads", str(torch.get_num_threads()))
    result = bench("bench_generate", "--tiny", *options, "--out", str(tmp_path / "g"))
    assert json.loads((tmp_path / "g").read_text(encoding="utf-8")) == result
    arms = result["models"]["gemma-3-1b"]
    assert (arms["alone"]["same_answers"], arms["transformers-float32"]["same_answers"]) == (2, 4)
    assert arms["batched"]["tokens"] == arms["transformers"]["tokens"] == 16


def test_packs_are_compared_with_checkpointing(bench: Callable[..., dict[str, Any]]) -> None:
    """The same step in fewer or more packs, and with layers computed twice."""
    cases = bench("bench_packs", "--tiny")["models"]["gemma-3-1b"]
    assert [case["packs"] for case in cases] == [2, 4, 8, 2, 2]
    assert len({case["positions"] for case in cases}) == 1
    assert cases[0]["time"] == 1


def test_gpu_checks_go_on_after_one_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each check says how it ended; one that takes too long ends with all that it started, and none begins too late."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    checks = importlib.import_module("gpu_checks")
    monkeypatch.setattr(checks, "LEAST", 0.0)
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"

    def check(name: str, code: str, seconds: float) -> Any:
        return checks.Check(name=name, command=(sys.executable, "-c", code), minutes=seconds / 60)

    begun = [check("fails", "raise SystemExit(3)", 60), check("slow", child, 0.5), check("fine", "print('서당')", 60)]
    found = checks.run_all(begun, tmp_path, seconds=120)
    assert [one["ended"] for one in found.values()] == ["exit code 3", "stopped after 0 s", "passed"]
    assert (tmp_path / "fine.log").read_text(encoding="utf-8") == "서당\n"
    assert checks.run_all(begun[2:], tmp_path, seconds=-1)["fine"]["ended"] == "left out: no time left"


def test_gpu_checks_name_commands_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each script and folder of tests is there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    checks = importlib.import_module("gpu_checks")
    found = checks.checks_of(tmp_path, peer=tmp_path, band=[tmp_path, tmp_path])
    assert len({one.name for one in found}) == len(found) == 8
    for one in found:
        paths = [ROOT / word for word in one.command[1:] if word.endswith(".py") or word.startswith("tests/")]
        assert paths, one
        assert all(path.exists() for path in paths), one


def test_speed_counts_the_steps_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and seconds of the first step, which is slower and may be longer than the others, are left out of both."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    arms = importlib.import_module("arms")
    rows = [{"input_ids": [0] * length} for length in (90, 90, 10, 20, 30, 40)]
    assert arms.speed([9.0, 3.0, 1.0], rows, 2) == (10 + 20 + 30 + 40) / (3.0 + 1.0)
    assert arms.speed([9.0], rows[:2], 2) == 180 / 9.0


@pytest.mark.slow
@pytest.mark.shared
def test_all_arms_train_on_the_same_rows(bench: Callable[..., dict[str, Any]], shared: Path) -> None:
    """Ours and the peer's begin at the same loss on the rows of one step, so that their speeds can be compared."""
    peer = str(shared / "bench" / "peer_trl.py")
    result = bench(*GPU, "--minutes", "60", "--peer", peer, "--arms", "ours", "packed", "free")
    model = result["models"]["gemma-3-270m"]
    assert model["tokens_per_second"].keys() >= {"ours", "packed", "free"}
    losses = model["first_loss"]
    assert losses["free"] == pytest.approx(losses["ours"], rel=1e-4)
    assert losses["packed"] == pytest.approx(losses["ours"], rel=1e-2)  # its weights are bf16


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_tiny_shapes(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Our arm trains, each arm is measured on the same rows without its warm-up, and failed arms are named."""
    peer = tmp_path / "peer.py"
    peer.write_text(PEER, encoding="utf-8")
    result = bench(*GPU, "--minutes", "60", "--peer", str(peer), "--out", str(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == result
    model = result["models"]["gemma-3-270m"]
    assert set(model["tokens_per_second"]) == {"ours", "ours-bf16", "packed"}
    assert model["tokens_per_second"]["packed"] == round(model["tokens_per_step"] / 2)
    assert 0 < model["limit_share"]["ours"] < 1
    assert model["best_arm"] == "packed"
    assert model["speed_vs_best"] == pytest.approx(
        2 * model["tokens_per_second"]["ours"] / model["tokens_per_step"], rel=0.05
    )
    assert "out of memory" in result["left_out"]["gemma-3-270m free"]
    assert "needs CUDA" in result["left_out"]["gemma-3-270m varlen"]
    assert "gemma-3-270m liger" in result["left_out"]


def test_optimizers_learn_alike_on_tiny_shapes(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """From one start, in the same order of the rows: bf16 AdamW lies within a few thousandths of AdamW."""
    rows = [{"input_ids": list(range(3, 23)), "labels": list(range(3, 23))}] * 12
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = ("--steps", "3", "--examples-per-step", "2", "--held-out", "4", "--orders", "2", "--learning-rate", "1e-3")
    result = bench("loss_band", "--first", str(file), "--then", str(file), *sizes, "--out", str(tmp_path / "band"))
    losses = json.loads((tmp_path / "band").read_text(encoding="utf-8"))["losses"]
    assert [len(losses[kind]) for kind in ("float32", "adamw_bf16", "bf16 to nearest")] == [2, 2, 1]
    assert result["learned"] > 0.01
    assert result["largest_difference"]["float32"] == 0
    assert 0 < result["largest_difference"]["adamw_bf16"] < 0.01


def test_a_step_is_profiled_on_tiny_shapes(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Every operation is listed with its time; losses fall over the steps that warm up."""
    options = ("--models", "qwen3-0.6b", "--examples-per-step", "2", "--steps", "1", "--kernels", "0")
    found = bench("profile_gpu", *options, "--out", str(tmp_path / "p"))["qwen3-0.6b"]
    listed = json.loads((tmp_path / "p").read_text(encoding="utf-8"))["qwen3-0.6b"]["kernels"]
    assert sum(one["ms"] for one in listed) == pytest.approx(sum(found["kinds_ms"].values()), rel=0.01)
    assert found["losses"] == sorted(found["losses"], reverse=True)


def test_arms_without_time_are_left_out_and_named(bench: Callable[..., dict[str, Any]]) -> None:
    """A budget that is spent leaves every arm out, and the result names them."""
    result = bench(*GPU, "--minutes", "0")
    assert result["models"] == {}
    arms = ("ours", "ours-bf16", "varlen", "liger", "packed", "free")
    assert set(result["left_out"]) == {f"gemma-3-270m {arm}" for arm in arms}


def test_broken_inputs_end_well(tmp_path: Path) -> None:
    """A few seeds of each kind: success or one error, the same input from the same seed."""
    found = []
    for _ in range(2):
        done = run_alone(BENCHMARKS / "broken_inputs.py", "--count", "12", cwd=tmp_path)
        assert done.code == 0, done.err
        found.append(json.loads(done.out.strip().splitlines()[-1]))
    assert found[0]["fault_seeds"] == [], done.out
    assert found[0]["by_kind"] == found[1]["by_kind"]
