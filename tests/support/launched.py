"""Runs Python in processes of their own: one, or several side by side as torchrun does; none outlives its time.

They are forks of a process that has torch imported, of another one for each rank: what differs from process to process,
such as the order of a set of strings, differs from rank to rank too.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paths import ROOT

SUPPORT = ROOT / "tests" / "support"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one process ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Running:
    """A process at work."""

    pid: int
    code: Callable[[float], int]  # waits for its end, kills it at that time (of `time.monotonic`): its exit code


def launch(
    *arguments: object, ranks: int = 2, cwd: Path, seconds: float = 300, forked: bool = True, **env: str
) -> list[Ended]:
    """Run `python ARGUMENTS` on every rank; a rank that hangs is killed and has the exit code -9.

    Args:
        forked: else each is a Python started anew: where it matters how it ends.
    """
    begin = start if forked else _fresh
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(ranks):
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        own = {key: str(value) for key, value in named.items()}
        running.append(begin(*arguments, cwd=cwd, rank=rank, **own | env))
    until = time.monotonic() + seconds
    codes = [process.code(until) for process in running]
    return [_ended(code, cwd, rank) for rank, code in enumerate(codes)]


def run_alone(*arguments: object, cwd: Path, seconds: float = 300) -> Ended:
    """Run `python ARGUMENTS` without a rank."""
    return _ended(start(*arguments, cwd=cwd).code(time.monotonic() + seconds), cwd, 0)


def start(*arguments: object, cwd: Path, rank: int = 0, **env: str) -> Running:
    """Start `python ARGUMENTS`; what it prints goes to `out.RANK` and `err.RANK` in the folder, which may be pipes."""
    forks = _forks(rank)
    assert forks.stdin
    assert forks.stdout
    program = {
        "arguments": [*map(str, arguments)],
        "cwd": str(cwd),
        "env": _environment() | env,
        "out": str(cwd / f"out.{rank}"),
        "err": str(cwd / f"err.{rank}"),
    }
    print(json.dumps(program), file=forks.stdin, flush=True)
    pid, answers = int(forks.stdout.readline()), forks.stdout

    def code(until: float) -> int:
        if not select.select([answers], [], [], max(until - time.monotonic(), 0))[0]:
            os.kill(pid, signal.SIGKILL)
        return int(answers.readline())

    return Running(pid=pid, code=code)


def _fresh(*arguments: object, cwd: Path, rank: int, **env: str) -> Running:
    with (cwd / f"out.{rank}").open("wb") as out, (cwd / f"err.{rank}").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=cwd, env=_environment() | env, stdout=out, stderr=err
        )

    def code(until: float) -> int:
        try:
            return process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    return Running(pid=process.pid, code=code)


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(SUPPORT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    own = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return {**os.environ, **own}


@cache
def _forks(rank: int) -> "subprocess.Popen[str]":
    """The process whose forks are this rank's; it ends with this one."""
    command = [sys.executable, str(SUPPORT / "forked.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), text=True)
    atexit.register(process.communicate)  # it ends when its stdin closes
    return process


def _ended(code: int, cwd: Path, rank: int) -> Ended:
    out, err = ((cwd / f"{name}.{rank}").read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return Ended(code=code, out=out, err=err)
