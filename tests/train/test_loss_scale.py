"""Training with float16 products: no step is skipped, what overflows is repeated, and a resumed run is the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from seodang.recipe import Train
from seodang.run.events import Event, NoteEvent, TrainEvent
from seodang.train import loss_scale
from seodang.train.loss_scale import LossScale
from tiny import make_config, make_model
from tiny_training import same_weights, signal_at, train_tiny

SETTINGS = Train(epochs=2, examples_per_step=4, learning_rate=1e-3, keep_checkpoints=2)
HALF = torch.float16


def _trained(events: Sequence[Event]) -> list[TrainEvent]:
    return [event for event in events if isinstance(event, TrainEvent)]


def _notes(events: Sequence[Event]) -> list[str]:
    return [event.what for event in events if isinstance(event, NoteEvent)]


def test_losses_are_those_of_float32(tmp_path: Path) -> None:
    """Ten steps with float16 products take the losses of ten in float32; the factor of the loss is recorded."""
    exact = _trained(train_tiny(tmp_path / "exact", SETTINGS)[2])
    found = _trained(train_tiny(tmp_path / "half", SETTINGS, training_dtype=HALF)[2])
    assert [event.loss for event in found] == pytest.approx([event.loss for event in exact], rel=2e-3)
    norms = [event.grad_norm or 0.0 for event in exact]
    assert [event.grad_norm for event in found] == pytest.approx(norms, rel=2e-2)
    assert all(event.loss_scale for event in found)
    assert {(event.loss_scale, event.repeated, event.in_float32) for event in exact} == {(None, 0, 0)}


def test_a_step_whose_gradients_overflow_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a factor that is far too large: halved until the first step fits, each time counted; every step counts.

    Stopped and resumed, the run takes the factors of the unbroken one and ends with its weights, bit for bit.
    """
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**24)
    unbroken, result, events = train_tiny(tmp_path / "unbroken", SETTINGS, training_dtype=HALF)
    found = _trained(events)
    assert (result.steps, sum(event.steps for event in found)) == (10, 10)
    halvings = sum(event.repeated for event in found)
    assert 4 < halvings < 20
    assert found[0].repeated > 4
    assert found[-1].loss_scale == 2.0 ** (24 - halvings)
    assert f"float16: of 10 steps, {halvings} repeated with a smaller loss factor; none was skipped" in _notes(events)
    train_tiny(tmp_path / "stopped", SETTINGS, training_dtype=HALF, on_event=signal_at(5))
    resumed, _, later = train_tiny(tmp_path / "stopped", SETTINGS, training_dtype=HALF)
    assert same_weights(resumed, unbroken)
    rest = _trained(later)
    assert 0 < len(rest) < 10
    assert [event.loss_scale for event in rest] == [event.loss_scale for event in found[-len(rest) :]]
    assert not any(event.repeated for event in rest)
    assert f"{halvings} repeated" in _notes(later)[-1]


def test_steps_that_float16_does_not_hold_are_computed_in_float32(tmp_path: Path) -> None:
    """Products overflow in every step: the run is the float32 one, bit for bit, and counts the steps."""

    def large() -> object:
        model = make_model(make_config("gemma3"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "down_proj" in name:
                    weight.mul_(1e6)
        return model

    exact, *_ = train_tiny(tmp_path / "exact", SETTINGS, model=large())
    found, _, events = train_tiny(tmp_path / "half", SETTINGS, model=large(), training_dtype=HALF)
    assert same_weights(found, exact)
    assert [event.in_float32 for event in _trained(events)] == [1] * 10
    first, last = _notes(events)
    assert "computed again in float32" in first
    assert last == "float16: of 10 steps, 10 computed in float32; none was skipped"


def test_the_factor_grows_again() -> None:
    """After 200 steps without an overflow it doubles; gradients come out without it, whatever it is."""
    weight = torch.ones(3, requires_grad=True)
    scale = LossScale(on_note=lambda _: None)

    def backward(factor: float, exact: bool) -> torch.Tensor:
        loss = (2 * weight).sum()
        (loss * factor).backward()
        return loss.detach()

    for _ in range(200):
        weight.grad = None
        assert float(scale.run(backward, [weight], lambda: None)) == 6.0
        assert weight.grad is not None
        assert weight.grad.tolist() == [2.0, 2.0, 2.0]
    assert (scale.scale, scale.repeated) == (2.0**17, 0)


def test_gradients_that_no_factor_helps_are_computed_in_float32() -> None:
    """The loss fits, its gradients do not at any factor: float32, and the next step has the factor before."""
    weight = torch.ones(3, requires_grad=True)
    scale = LossScale(on_note=lambda _: None)

    def backward(factor: float, exact: bool) -> torch.Tensor:
        weight.grad = torch.full((3,), 5.0 if exact else float("nan"))
        return torch.tensor(1.0)

    def clear() -> None:
        weight.grad = None

    scale.run(backward, [weight], clear)
    assert weight.grad is not None
    assert weight.grad.tolist() == [5.0, 5.0, 5.0]
    assert (scale.scale, scale.repeated, scale.in_float32) == (2.0**16, 16, 1)
