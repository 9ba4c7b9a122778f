"""time_left: what is left of work, training and a run, by a clock that the test sets."""

import pytest

from seodang.show.terminal.time_left import Remaining, TrainingTime, WholeRun, Work


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_work_takes_as_long_as_before(clock: Clock) -> None:
    """Before anything is done an estimate counts down; then time goes by work, not by count."""
    work = Work(100, estimate=50.0, clock=clock)
    clock.now += 10
    assert work.left == Remaining(seconds=40.0, is_estimate=True)
    work.advance(20)
    assert work.left == Remaining(seconds=40.0)
    clock.now += 5
    assert work.left == Remaining(seconds=35.0)
    assert work.share == 0.2


def test_a_piece_that_takes_long_adds_to_what_is_left(clock: Clock) -> None:
    """The time left never sits at zero because one piece takes longer than those before."""
    work = Work(4, clock=clock)
    assert work.left is None
    clock.now += 1
    work.advance(1)
    clock.now += 9
    assert work.left == Remaining(seconds=10.0)  # 10 s for two pieces, two more to come
    work.advance(1)
    work.advance(2)
    assert work.share == 1.0


def test_an_estimate_that_was_too_low_is_withdrawn(clock: Clock) -> None:
    """Nothing is shown rather than zero."""
    work = Work(4, estimate=5.0, clock=clock)
    clock.now += 6
    assert work.left is None


def test_training_counts_steps_and_what_interrupts_them(clock: Clock) -> None:
    """Estimated before the first step; then by the steps' own time, with evaluations still to come."""
    every = {"evaluation": 2}
    training = TrainingTime(4, step_seconds=5.0, every=every, interruption_seconds={"evaluation": 7.0}, clock=clock)
    assert training.left == Remaining(seconds=4 * 5.0 + 2 * 7.0, is_estimate=True)
    clock.now += 3
    training.stepped(1, steps=1, seconds=3.0)
    assert training.left == Remaining(seconds=3 * 3.0 + 2 * 7.0)
    clock.now += 2
    training.stepped(2, steps=1, seconds=2.0)  # the first step warmed up
    training.interrupted("evaluation")
    clock.now += 4
    assert training.left == Remaining(seconds=2 * 2.0 + 2 * 7.0 - 4)
    clock.now += 6
    training.continued(2)
    assert training.left == Remaining(seconds=2 * 2.0 + 10.0)
    assert 0 < training.share < 1
    training.stepped(4, steps=2, seconds=4.0)
    training.interrupted("evaluation")
    assert training.share < 1.0  # steps are done, an evaluation is not
    training.continued(4)
    assert training.left == Remaining(seconds=0.0)


def test_a_resumed_training_leaves_out_what_is_done(clock: Clock) -> None:
    """Evaluations before the first step of this start do not count."""
    training = TrainingTime(10, every={"evaluation": 2}, interruption_seconds={"evaluation": 1.0}, clock=clock)
    training.stepped(7, steps=1, seconds=1.0)
    assert training.left == Remaining(seconds=3 * 1.0 + 2 * 1.0)
    every, each = {"evaluation": 2}, {"evaluation": 7.0}
    again = TrainingTime(10, step_seconds=5.0, every=every, interruption_seconds=each, done=6, clock=clock)
    assert again.left == Remaining(seconds=4 * 5.0 + 2 * 7.0, is_estimate=True)


def test_a_run_adds_what_comes_later(clock: Clock) -> None:
    """The tuned model takes as long as the base took; of the last stage nothing more is said."""
    run = WholeRun({"base": 10.0, "training": 20.0, "tuned": 10.0}, alike={"base": "tuned"}, clock=clock)
    now = Remaining(seconds=5.0)
    assert run.left("base", now) == Remaining(seconds=35.0, is_estimate=True)
    run.ended("base", 60.0)
    assert run.left("training", now) == Remaining(seconds=65.0, is_estimate=True)
    assert run.left("tuned", now) is None
    assert run.left("base", now) is None
    run.ended("training", 1.0)
    run.ended("something else", 1.0)
    assert run.left("tuned", now) is None
    assert WholeRun({"a": None, "b": None}, clock=clock).left("a", now) is None
