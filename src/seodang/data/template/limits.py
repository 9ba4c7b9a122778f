"""Bounds for what a chat template may take: it is foreign code, and can loop or grow without end. Knows no template."""

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

from seodang.data.workers import can_fork, quiet_tokenizers
from seodang.errors import TemplateError

CPU_SECONDS = 8
WALL_SECONDS = 120  # for a machine that others use, too
MOST_BYTES = 1_000_000_000  # beside what the process has

Result = TypeVar("Result")


def limited(work: Callable[[], Result], *, where: str) -> Result:
    """What `work` gives, done in a process of its own that may take so much time and memory and no more.

    Where processes cannot be forked safely it is done here, without limits.

    Args:
        work: anything whose result can be pickled.
        where: the template's name for people.

    Raises:
        TemplateError: of `work`, or it takes too much.
    """
    if not can_fork():
        return work()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(work, sender), daemon=True)
    with quiet_tokenizers():
        process.start()
    sender.close()
    try:
        fault, result = receiver.recv() if receiver.poll(WALL_SECONDS) else (_too_much(where), None)
    except EOFError:  # killed by a limit
        fault, result = _too_much(where), None
    finally:
        process.kill()
        process.join()
    if fault is not None:
        raise fault
    return cast(Result, result)


def _too_much(where: str) -> TemplateError:
    return TemplateError(
        f"the template takes more than {CPU_SECONDS} seconds or {MOST_BYTES / 1e9:.0f} GB for a small conversation",
        where=where,
        hint="does it loop or repeat text without end? Fix it, or choose another template",
    )


def _do(work: Callable[[], Any], sender: Connection) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    taken = pages * os.sysconf("SC_PAGE_SIZE")
    most, (_, allowed) = taken + MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:  # by `ulimit -v`, as on machines of many users: it cannot be raised
        most = min(most, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, allowed))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fault, result = None, None
    try:
        result = work()
    except TemplateError as error:
        fault = error
    except MemoryError:
        os._exit(1)
    sender.send((fault, result))
