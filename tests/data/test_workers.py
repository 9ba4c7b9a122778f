"""Work over several processes: results in order, faults told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seodang.data.workers import FEW, in_order
from seodang.errors import ResourceError, SourceError


def _square(number: int) -> int:
    if number == 13:
        raise ValueError("thirteen")
    return number * number


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("number", [1, 2, 3])
def test_results_come_in_the_order_of_the_blocks(number: int) -> None:
    """Whatever the number of processes."""
    assert list(in_order(_square, range(12), processes=number)) == [n * n for n in range(12)]


def test_work_may_be_anything_and_remembers_in_its_own_process() -> None:
    """It is forked, not sent: a closure over an open file will do."""
    with Path(__file__).open(encoding="utf-8") as file:
        assert set(in_order(lambda _: file.name, range(4), processes=2)) == {__file__}
    assert os.getpid() not in set(in_order(lambda _: os.getpid(), range(4), processes=2))


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_in_the_work_comes_out(number: int) -> None:
    """With its class, as it would come from a loop."""
    with pytest.raises(ValueError, match="thirteen"):
        list(in_order(_square, range(20), processes=number))


def test_a_killed_worker_is_told() -> None:
    """One clear error instead of waiting for ever."""
    with pytest.raises(ResourceError, match="was killed"):
        list(in_order(_die, range(9), processes=2))


def test_few_blocks_are_worked_on_here_and_many_elsewhere() -> None:
    """Starting processes takes longer than a little work."""
    here = os.getpid()
    assert set(in_order(lambda _: os.getpid(), range(FEW - 1))) == {here}
    elsewhere = here not in set(in_order(lambda _: os.getpid(), range(FEW)))
    assert elsewhere == (sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1)


@pytest.mark.parametrize("number", [1, 2])
def test_a_fault_among_the_blocks_comes_after_what_was_before_it(number: int) -> None:
    """Results of earlier blocks are not lost, and an earlier fault is told first."""

    def blocks() -> Iterator[int]:
        yield from (1, 2)
        raise SourceError("broken", where="a.jsonl:3", hint="mend it")

    done = in_order(_square, blocks(), processes=number)
    assert [next(done), next(done)] == [1, 4]
    with pytest.raises(SourceError, match=r"a\.jsonl:3: broken"):
        next(done)


def test_errors_of_ours_travel_whole() -> None:
    """Where, what and the mend are there on the other side."""

    def fail(_: int) -> None:
        raise SourceError("broken", where="a.jsonl:3", hint="mend it")

    with pytest.raises(SourceError) as caught:
        list(in_order(fail, range(3), processes=2))
    assert (caught.value.what, caught.value.where, caught.value.hint) == ("broken", "a.jsonl:3", "mend it")
    assert str(caught.value) == "a.jsonl:3: broken\n  → mend it"


ORPHANS = """
import os, sys, time
from seodang.data.workers import in_order

def work(block):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: print may write the line in two pieces
    return bytes(10_000_000)  # more than a pipe holds

for _ in in_order(work, range(8), processes=2):
    os.write(1, b"first\\n")
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="work is shared by forked processes on Linux alone")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_parent_that_was_killed(how: signal.Signals) -> None:
    """None is left behind, blocked in writing to a pipe that nobody reads."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers: set[int] = set()
    while (line := parent.stdout.readline().strip()) != "first" or len(workers) < 2:
        assert line, "the parent ended"
        workers |= {int(line)} if line.isdigit() else set()
    parent.send_signal(how)
    parent.wait()
    parent.stdout.read()  # ends once no worker holds the other end
    while any(_is_alive(worker) for worker in workers):  # ends: its files are closed already
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
