"""The same work on many blocks, over several processes, results in the blocks' order. Knows neither work nor blocks."""

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from threading import Thread
from typing import Any, TypeVar

from seodang.errors import ResourceError

FEW = 5  # blocks: fewer are worked on here, since processes take time to start
GARBAGE = 100_000  # objects between collections: rows make many, and hardly any of them in circles
MOST = 16  # processes: one more would wait for the disk
PARALLELISM = "TOKENIZERS_PARALLELISM"
WAITING = 2  # blocks a process that are done or in work at a time

Block = TypeVar("Block")
Result = TypeVar("Result")
_work: Callable[[Any], Any] | None = None  # in a worker: what it does


def can_fork() -> bool:
    """Whether a process can be forked safely from this one."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


@contextmanager
def quiet_tokenizers() -> Iterator[None]:
    """Inside, a process may be forked: a forked tokenizer must not use its parent's threads, and warns if it could."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def _processes() -> int:
    """How many processes can work here: the cores that may be used."""
    return min(len(os.sched_getaffinity(0)), MOST) if can_fork() else 1


def in_order(
    work: Callable[[Block], Result], blocks: Iterable[Block], *, processes: int | None = None
) -> Iterator[Result]:
    """`work` of each block, in the order of the blocks: the same whatever the number of processes.

    Workers are forked, so `work` may be anything (it is not sent, and what it remembers stays in its process); blocks
    and results are pickled. One process is this one.

    Args:
        processes: none: as many as can work here, if there are so many blocks that it pays.

    Raises:
        ResourceError: a worker was killed.
    """
    waiting = iter(blocks)
    if processes is None:
        first = list(islice(waiting, FEW))
        waiting = chain(first, waiting)
        processes = _processes() if len(first) == FEW else 1
    if processes == 1:
        yield from map(work, waiting)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(work,)) as pool:
        try:
            yield from _results(pool, waiting, WAITING * processes)
        except BrokenProcessPool:
            raise ResourceError(
                "a process that prepares rows was killed, probably for want of memory",
                where="preparation",
                hint="free some memory, or let it use fewer cores (taskset)",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _results(pool: ProcessPoolExecutor, blocks: Iterator[Any], ahead: int) -> Iterator[Any]:
    done: deque[Future[Any]] = deque()
    fault: Exception | None = None
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            break
        except Exception as error:  # raised when its turn has come: an earlier block may be at fault, too
            fault = error
            break
        with quiet_tokenizers():  # the first one forks
            done.append(pool.submit(_do, block))
        if len(done) >= ahead:
            yield done.popleft().result()
    while done:
        yield done.popleft().result()
    if fault is not None:
        raise fault


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent's, which ends its workers
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what was there before the fork is not looked at, and so not copied
    gc.set_threshold(GARBAGE)


def _end_with_parent() -> None:
    """A parent that was killed takes no results: writing them to its pipe would block for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _do(block: Any) -> Any:
    assert _work is not None
    return _work(block)
