"""Runs an engine so that it never outlives seodang: a small process between the two.

``python -m seodang.serve.guard COMMAND…`` starts the command in a process group of its own and waits for it. When its
stdin closes, because seodang ended or was killed, or when it gets SIGTERM, the whole group is ended.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

GRACE_SECONDS = 5.0  # for an engine to end by itself, before it is killed


def run(command: Sequence[str]) -> int:
    """Run the command until it ends or stdin closes; its exit code, 128 + N where signal N ended it.

    Raises:
        OSError: there is no such program.
    """
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    closing = threading.Event()

    def close(_: int = 0, __: FrameType | None = None) -> None:
        if not closing.is_set():
            closing.set()
            threading.Thread(target=_end, args=(engine,), daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, close)

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock a reading thread would hold at exit
            pass
        close()

    threading.Thread(target=watch, daemon=True).start()
    code = engine.wait()
    _signal_group(engine.pid, signal.SIGKILL)  # workers that it left behind
    return 128 - code if code < 0 else code


def _end(engine: "subprocess.Popen[bytes]") -> None:
    _signal_group(engine.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        if engine.poll() is not None:
            return
        time.sleep(0.05)
    _signal_group(engine.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
