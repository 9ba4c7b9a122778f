"""Work over several processes: results in order, faults told."""

import os
import signal

import pytest

from seodang.data.workers import in_order, processes
from seodang.errors import ResourceError


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
    with open(__file__, encoding="utf-8") as file:
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


def test_processes_are_at_least_one() -> None:
    """On any machine."""
    assert 1 <= processes() <= 16
