"""What a short run does of its recipe's schedule, and what is remarked on."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from seodang.errors import RecipeError
from seodang.recipe import EarlyStopping, Train, load_recipe
from seodang.run.events import Event, TrainEvent
from seodang.train.setup import (
    checkpoint_every,
    choose_optimizer,
    save_interval,
    schedule_remarks,
    total_steps,
    warmup_steps,
)
from tiny_training import train_tiny


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [
        (0.03, 1, 0), (0.03, 2, 0), (0.03, 9, 0), (0.03, 10, 1), (0.03, 100, 3), (0.03, 101, 4),
        (0.1, 15, 0), (0.1, 20, 2), (0.2, 10, 2), (0.5, 1, 0), (0.5, 2, 1), (0, 10, 0), (5, 3, 5), (5, 50, 5),
    ],
)  # fmt: skip
def test_a_warmup_share_takes_no_more_than_it_should(warmup: float, steps: int, expected: int) -> None:
    """A small share that rounds up to more than a tenth of the run is left out; a number of steps stays."""
    settings = Train(warmup=warmup)
    assert warmup_steps(settings, steps) == expected
    remarks = " ".join(schedule_remarks(settings, steps, has_evaluation=True))
    assert ("no warmup" in remarks) == (0 < warmup < 1 and not expected)


def test_shares_round_up_as_they_are_written() -> None:
    """1.1 · 50 is 55.00000000000001 in binary, and 0.07 · 100 is 7.000000000000001."""
    assert total_steps(Train(epochs=1.1, examples_per_step=1), 50) == 55
    assert total_steps(Train(epochs=1.1, examples_per_step=1), 51) == 57
    assert warmup_steps(Train(warmup=0.07), 100) == 7
    assert warmup_steps(Train(warmup=0.07), 101) == 8


def _rates(events: Sequence[Event]) -> list[float]:
    return [event.learning_rate for event in events if isinstance(event, TrainEvent)]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_short_run_trains_every_step(tmp_path: Path, steps: int) -> None:
    """The first step has the full learning rate and moves the weights."""
    settings = Train(steps=steps, examples_per_step=4, learning_rate=1e-3)
    rates = _rates(train_tiny(tmp_path, settings)[2])
    assert rates[0] == 1e-3
    assert len(rates) == steps
    assert min(rates) > 0


@pytest.mark.parametrize(
    ("settings", "has_evaluation", "expected"),
    [
        (Train(warmup=100), True, "warmup: 100 steps in a run of 20: the learning rate never reaches 2e-05"),
        (Train(warmup=20), True, "never reaches"),
        (Train(early_stopping=EarlyStopping()), False, "early_stopping: has no effect without held-out rows"),
        (Train(eval_every=3), False, "eval_every: has no effect"),
        (Train(best_by="medical"), False, "medical has no held-out rows, so the last step is kept"),
        (Train(best_by="domain_within_tolerance"), False, "the domain has no held-out rows, so the last step is kept"),
        (Train(eval_every=10, early_stopping=EarlyStopping(patience=2)), True, "2 evaluations, patience 2"),
        (Train(early_stopping=EarlyStopping()), True, None),
        (Train(warmup=19), True, None),
        (Train(), False, None),
    ],
)
def test_a_schedule_that_cannot_do_what_it_should_is_remarked_on(
    settings: Train, has_evaluation: bool, expected: str | None
) -> None:
    """Settings that have no effect in a run of 20 steps are named with the reason."""
    remarks = list(schedule_remarks(settings, 20, has_evaluation=has_evaluation))
    assert (expected in " ".join(remarks)) if expected else not remarks


def test_the_cosine_falls_to_its_minimum(tmp_path: Path) -> None:
    """`min_learning_rate` is where the cosine ends; without it, the schedule is transformers' own."""
    settings = Train(steps=20, examples_per_step=4, learning_rate=1e-3, warmup=0)
    plain, ended = (
        _rates(train_tiny(tmp_path / str(rate), each)[2])
        for rate, each in ((rate, settings.model_copy(update={"min_learning_rate": rate})) for rate in (0.0, 2e-4))
    )
    assert plain[0] == ended[0] == 1e-3
    assert plain[-1] < 1e-5
    assert ended == pytest.approx([2e-4 + 0.8 * rate for rate in plain])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_schedule_begins_with_the_warmup(schedule: str, tmp_path: Path) -> None:
    """The rate rises step by step to the peak; a constant one stays there."""
    rates = _rates(
        train_tiny(tmp_path, Train(steps=6, examples_per_step=2, learning_rate=1e-3, warmup=3, schedule=schedule))[2]
    )
    assert rates[:4] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3])
    assert (rates[5] == 1e-3) == (schedule == "constant")


@pytest.mark.parametrize(
    ("every", "expected"),
    [(None, (None, None)), ("50", (50, None)), ("10min", (None, 600)), ("0.5 minutes", (None, 30))],
)
def test_checkpoints_by_steps_or_minutes(every: str | None, expected: tuple[int | None, float | None]) -> None:
    """A number is of steps, `min` of minutes."""
    assert save_interval(Train(save_every=every)) == expected


def test_steps_between_checkpoints() -> None:
    """Those that the recipe says, else those between evaluations; of minutes, none are known before."""
    assert checkpoint_every(Train(save_every="50"), 7) == 50
    assert checkpoint_every(Train(), 7) == 7
    assert checkpoint_every(Train(), None) is None
    assert checkpoint_every(Train(save_every="10min"), 7) is None


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"save_every": "0"}, "train.save_every: '0' is neither a number of steps (50) nor of minutes (10min)"),
        ({"save_every": "10s"}, "'10s' is neither"),
        ({"save_every": 1.5}, "'1.5' is neither"),
        (
            {"min_learning_rate": 1e-6, "schedule": "linear"},
            "train.min_learning_rate: expected at most learning_rate, with `schedule: cosine`; found 1e-06",
        ),
        ({"min_learning_rate": 1e-3}, "train.min_learning_rate: expected at most learning_rate"),
    ],
)
def test_intervals_and_rates_that_cannot_be_are_refused(train: dict[str, object], expected: str) -> None:
    """By key, with what would do."""
    source = {"name": "medical", "role": "domain", "path": "sample:ko_medical"}
    with pytest.raises(RecipeError) as caught:
        load_recipe({"name": "a", "model": "m", "sources": [source], "train": train})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("requested", "device", "rounds", "name", "told"),
    [
        ("adamw", "cpu", False, "adamw_torch_fused", None),
        ("adamw_bf16", "cuda", True, "adamw_bf16", None),
        ("adamw_bf16", "cuda", False, "adamw_torch_fused", "it needs a GPU that is fast at bf16"),
        ("paged_adamw_8bit", "cpu", False, "adamw_torch_fused", "it needs CUDA"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_replaced(
    requested: str, device: str, rounds: bool, name: str, told: str | None
) -> None:
    """By AdamW, with a sentence that gives the reason."""
    found = choose_optimizer(requested, device, rounds_stochastically=rounds)
    assert found.name == name
    assert (found.remark is None) == (told is None)
    assert told is None or told in str(found.remark)
