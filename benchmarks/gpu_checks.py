#!/usr/bin/env python3
"""All that only a GPU can show, in one command.

The most important first: the tests marked `gpu`, speed and memory against TRL, the losses of `adamw_bf16`, where
the time of a step goes, evaluation, answers, packs.

    python benchmarks/gpu_checks.py --out DIR --minutes 9                       one H100 or H200
    python benchmarks/loss_band.py --tokenize DATA --first F --then T           rows of the losses, on any machine
    python benchmarks/gpu_checks.py --out DIR --band F T --only tests losses    with them, and these alone

Each check is a process of its own, whose output lies in DIR/NAME.log and whose result in DIR/NAME.json. What fails does
not stop the others; what no longer fits into --minutes is left out, and said. The last line is one JSON object: of each
check its seconds and how it ended.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST = 20.0  # seconds; with fewer left, nothing more is begun
GPU_TESTS = ("tests/model", "tests/train")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A command, and how long it may take."""

    name: str
    command: tuple[str, ...]
    minutes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the logs and results")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all checks together")
    parser.add_argument("--peer", type=Path, help="TRL's arm; without it ours alone is timed")
    parser.add_argument("--band", type=Path, nargs=2, metavar=("FIRST", "THEN"), help="rows for loss_band.py")
    parser.add_argument("--only", nargs="*", help="names of the checks to run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    checks = checks_of(args.out.resolve(), peer=args.peer, band=args.band)
    if unknown := set(args.only or ()) - {check.name for check in checks}:
        parser.error(f"no such check: {', '.join(sorted(unknown))} (there are {', '.join(c.name for c in checks)})")
    chosen = [check for check in checks if not args.only or check.name in args.only]
    print(json.dumps(run_all(chosen, args.out, seconds=60 * args.minutes)))


def checks_of(out: Path, *, peer: Path | None, band: list[Path] | None) -> list[Check]:
    """All checks, the most important first."""

    def bench(name: str, script: str, *options: str, minutes: float) -> Check:
        command = (sys.executable, str(HERE / f"{script}.py"), *options, "--out", str(out / f"{name}.json"))
        return Check(name=name, command=command, minutes=minutes)

    tests = (sys.executable, "-m", "pytest", "-m", "gpu", "-rfE", "--durations=5", *GPU_TESTS)
    arms = ("ours", "ours-bf16", *(("liger", "varlen") if peer else ()))
    against = ("--arms", *arms, "--minutes", "4", *(("--peer", str(peer.resolve())) if peer else ()))
    files = ("--first", str(band[0].resolve()), "--then", str(band[1].resolve())) if band else ()
    return [
        Check(name="tests", command=tests, minutes=3.0),
        bench("speed", "bench_gpu", "--models", "gemma-3-1b", "gemma-3-270m", *against, minutes=4.5),
        *([bench("losses", "loss_band", *files, minutes=3.0)] if band else []),
        bench("profile", "profile_gpu", "--models", "gemma-3-1b", minutes=1.5),
        bench("profile-bf16", "profile_gpu", "--models", "gemma-3-1b", "--optimizer", "adamw_bf16", minutes=1.5),
        bench("evaluate", "bench_evaluate", minutes=1.5),
        bench("generate", "bench_generate", minutes=1.5),
        bench("packs", "bench_packs", minutes=1.5),
    ]


def run_all(checks: Iterable[Check], out: Path, *, seconds: float) -> dict[str, dict[str, float | str]]:
    """Name → its seconds and how it ended: "passed", "exit code N", or why it has none.

    Args:
        seconds: that all of them may take together.
    """
    until = time.monotonic() + seconds
    found: dict[str, dict[str, float | str]] = {}
    for check in checks:
        begun = time.monotonic()
        allowed = min(60 * check.minutes, until - begun)
        ended = _run(check, out / f"{check.name}.log", allowed) if allowed >= LEAST else "left out: no time left"
        found[check.name] = {"ended": ended, "seconds": round(time.monotonic() - begun, 1)}
        print(f"{check.name:14} {found[check.name]['seconds']:7} s  {ended}", flush=True)
    return found


def _run(check: Check, log: Path, seconds: float) -> str:
    """How it ended; all that it prints goes to the log as it comes. Nothing that it started is left on the GPU."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        started = subprocess.Popen(
            check.command, cwd=HERE.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = started.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    return f"exit code {code}" if code else "passed"


if __name__ == "__main__":
    main()
