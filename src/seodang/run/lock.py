"""One process at a time works on a run folder; the lock names it.

The kernel's lock on the file is what counts: it ends with its process, however that ends. What the file holds is for
the message, and decides where the file system has no locks.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from seodang.errors import RunError, SeodangError, Stopped
from seodang.json_values import read_value, to_json
from seodang.run import disk
from seodang.run.folder import LOCK, Run

_held: dict[Path, tuple[int, int]] = {}  # lock file → its descriptor, the thread that took it


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that works on a run."""

    pid: int
    host: str
    started: float  # seconds since 1970: a pid is given to another process in time


def acquire(run: Run) -> None:
    """Take the run's folder, which exists; a lock that a process left behind as it died counts for nothing.

    Raises:
        RunError: another process works there.
    """
    path = run.folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        owner = _read_owner(path)
        if not _lock(descriptor, owner):
            os.close(descriptor)
            raise _refusal(run, owner)
        if _is_still_there(path, descriptor):  # its owner may have released it meanwhile
            break
        os.close(descriptor)
    me = Owner(pid=os.getpid(), host=socket.gethostname(), started=psutil.Process().create_time())
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(to_json(me)).encode(), 0)
    _held[path.absolute()] = descriptor, threading.get_ident()


@contextmanager
def guarded(*, is_tuning: bool = False) -> Iterator[None]:
    """Inside, a run is opened and worked on: at the end its folder is given back, and a failing disk is one error.

    Args:
        is_tuning: whether `tune --resume` resumes what is interrupted here.

    Raises:
        ResourceError: the disk is full, or a file may not be read or written.
        Stopped: a run that can be resumed was interrupted.
    """
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        if is_tuning and (mine := _taken_here()) and (run := Run(folder=mine[0].parent)).exists:
            raise Stopped(f"interrupted; what is done so far is kept; to resume:\n  {run.resume_command}") from None
        raise
    except Exception as error:  # torch and safetensors raise their own where the disk is full
        if (mine := _taken_here()) and (explained := disk.explain(error, Run(folder=mine[0].parent))):
            raise explained from None
        raise
    finally:
        for path in _taken_here():
            descriptor, _ = _held.pop(path)
            with suppress(OSError):  # the folder may be gone
                path.unlink()
            os.close(descriptor)


def _taken_here() -> list[Path]:
    return [path for path, (_, thread) in _held.items() if thread == threading.get_ident()]


def _lock(descriptor: int, owner: Owner | None) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return owner is None or not _may_be_alive(owner)
    return True


def _may_be_alive(owner: Owner) -> bool:
    if owner.host != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(owner.pid).create_time() - owner.started) < 1
    except psutil.NoSuchProcess:
        return False


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_owner(path: Path) -> Owner | None:
    try:
        return read_value(Owner, path)
    except (OSError, ValueError, SeodangError):  # just created, or cut short
        return None


def _refusal(run: Run, owner: Owner | None) -> RunError:
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return RunError(
        f"{who} is working on this run",
        where=str(run.folder),
        hint=f"wait until it ends, or end it; if it is gone, remove {run.folder / LOCK}",
    )


def _forget_after_fork() -> None:
    """A worker that outlives its parent must not keep the parent's lock."""
    for descriptor, _ in _held.values():
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
