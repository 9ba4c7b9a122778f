"""checkpoint_choice: the lowest domain loss within the tolerances, else the least bad."""

from collections.abc import Sequence
from typing import Literal

import pytest

from events import answers_event, eval_event
from seodang.json_values import from_json, to_json
from seodang.run.checkpoint_choice import COLLAPSED, OUTSIDE, Assessor, CheckpointChoice, Limit, choice_of
from seodang.run.events import RecordedEvent
from seodang.types import Answer

GENERAL = Limit(source="general", unit="nats per token", tolerance=0.05)
TEXT = Limit(source="wiki", unit="bits per byte", tolerance=0.03)
BASE = {"medical": 3.0, "general": 2.0, "wiki": 2.0}
BYTES = 2.0  # bits per byte at 2 nats per token, as `eval_event` is given it


def evaluation(step: int, medical: float, general: float = 0.0, wiki: float = 0.0) -> RecordedEvent:
    """An evaluation with a domain loss, and rises of the others, all in nats per token."""
    losses = {"medical": medical, "general": 2.0 + general, "wiki": 2.0 + wiki}
    return eval_event(step, losses, loss=medical, bits_per_byte={"wiki": (2.0 + wiki) * BYTES / 2.0})


def base_answer(kind: Literal["domain", "repeat"], *, stopped: bool) -> Answer:
    """An answer of the base, which ended by itself or was cut off."""
    return Answer(kind=kind, model="base", question="?", text="네", stopped=stopped, prompt_tokens=1, new_tokens=1)


def best(events: list[RecordedEvent], *limits: Limit, base: Sequence[Answer] = ()) -> tuple[int, float]:
    """(step, score) of the evaluation with the lowest score, as the trainer keeps it: the earlier of two equal ones."""
    assessor, found = Assessor(limits, base_answers=base), []
    for event in events:
        assessor.see(event)
        if event.event == "eval" and event.step:
            found.append((assessor.assess(event).score, event.step))
    score, step = min(found)
    return step, score


def test_the_lowest_domain_loss_within_the_tolerances_is_kept() -> None:
    """A lower one is passed over where general answers or plain text rose beyond theirs; a fall is always within."""
    events = [
        evaluation(0, 3.0), evaluation(1, 2.8, -0.5, 0.01), evaluation(2, 2.5, 0.05, 0.02),
        evaluation(3, 2.2, 0.06, 0.0), evaluation(4, 2.0, 0.0, 0.04),
    ]  # fmt: skip
    assert best(events, GENERAL, TEXT) == (2, 2.5)
    assert best(events, GENERAL) == (4, 2.0)
    assert best(events) == (4, 2.0)
    choice = choice_of(events, [GENERAL, TEXT], 2)
    assert choice
    assert (choice.evaluations, choice.within, choice.kept.is_within) == (4, 2, True)
    assert from_json(CheckpointChoice, to_json(choice), where="training.json") == choice


def test_the_least_bad_is_kept_where_none_is_within() -> None:
    """The smallest excess in multiples of its tolerance, whatever the domain's loss."""
    events = [evaluation(0, 3.0), evaluation(1, 2.8, 0.15), evaluation(2, 2.0, 0.3), evaluation(3, 2.9, 0.0, 0.06)]
    step, score = best(events, GENERAL, TEXT)
    assert (step, score) == (3, pytest.approx(OUTSIDE + 1.0))
    choice = choice_of(events, [GENERAL, TEXT], 3)
    assert choice
    assert (choice.within, choice.kept.is_within) == (0, False)
    assert choice.kept.rises["wiki"].value == pytest.approx(0.06)


def test_without_tolerance_the_rise_itself_counts() -> None:
    """A tolerance of 0 allows a fall, and ranks rises by their size."""
    none = Limit(source="general", unit="nats per token", tolerance=0.0)
    events = [evaluation(0, 3.0), evaluation(1, 2.0, 0.2), evaluation(2, 2.5, 0.1)]
    assert best(events, none)[0] == 2
    assert best([*events, evaluation(3, 2.9, -0.01)], none) == (3, 2.9)


def test_collapsed_text_comes_last() -> None:
    """Where fewer than half of the newest answers stop, a checkpoint is worse than any other that is outside."""
    events = [
        evaluation(0, 3.0), answers_event(1, stopped=[True, False]), evaluation(1, 2.9, 0.2),
        answers_event(2, stopped=[False, False, True]), evaluation(2, 2.0), evaluation(3, 1.9),
    ]  # fmt: skip
    assert best(events, GENERAL)[0] == 1
    assert best(events[3:], GENERAL)[1] > COLLAPSED - 2
    choice = choice_of(events, [GENERAL], 1)
    assert choice
    assert (choice.within, choice.kept.stopped) == (0, 0.5)


def test_the_base_answers_count_until_others_are_asked() -> None:
    """A step before the first answers is not preferred to later ones only because nothing was asked by then."""
    base = [
        base_answer("domain", stopped=False),
        base_answer("repeat", stopped=True),
    ]  # the repeated one does not count
    events = [
        evaluation(0, 3.0), evaluation(1, 2.9), answers_event(2, stopped=[False]),
        evaluation(2, 2.5), evaluation(3, 2.0, 0.2),
    ]  # fmt: skip
    choice = choice_of(events, [GENERAL], 1, base)
    assert choice
    assert (choice.within, choice.kept.stopped, choice.kept.is_base_asked) == (0, 0.0, True)
    assert best(events, GENERAL, base=base)[0] == 2  # all have collapsed: the lowest loss within the tolerance
    later = [*events, answers_event(4, stopped=[True]), evaluation(4, 2.8)]
    assert best(later, GENERAL, base=base)[0] == 4
    assert best(events, GENERAL, base=[base_answer("domain", stopped=True)])[0] == 1


def test_a_step_that_no_evaluation_chose_has_no_reason() -> None:
    """A run whose last step is kept because nothing was measured."""
    assert choice_of([evaluation(0, 3.0)], [GENERAL], 4) is None
    assert choice_of([evaluation(0, 3.0), evaluation(2, 2.0)], [GENERAL], None) is None
