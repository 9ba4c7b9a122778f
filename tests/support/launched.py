"""Starts several processes side by side, as torchrun does, each with its rank; none outlives its time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

SUPPORT = ROOT / "tests" / "support"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one process ended."""

    code: int
    out: str
    err: str


def launch(*arguments: object, ranks: int = 2, cwd: Path, seconds: float = 300, **env: str) -> list[Ended]:
    """Run `python ARGUMENTS` on every rank; a rank that hangs is killed and has the exit code -9."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        processes.append(_start(arguments, cwd, rank, {key: str(value) for key, value in named.items()} | env))
    until = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.wait()
    return [_ended(process.returncode, cwd, rank) for rank, process in enumerate(processes)]


def _start(arguments: Sequence[object], cwd: Path, rank: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SUPPORT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    own = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    with (cwd / f"out.{rank}").open("wb") as out, (cwd / f"err.{rank}").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=cwd, env={**os.environ, **own, **env}, stdout=out, stderr=err
        )


def _ended(code: int, cwd: Path, rank: int) -> Ended:
    out, err = ((cwd / f"{name}.{rank}").read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return Ended(code=code, out=out, err=err)
