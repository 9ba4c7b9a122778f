from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from seodang.data.pack import pack, split, within
from seodang.errors import ResourceError
from seodang.model.engine.engine import choose_engine
from seodang.recipe import Adapter, Train
from seodang.run.events import Event, NoteEvent, TrainEvent
from seodang.train.out_of_memory import is_out_of_memory
from seodang.train.setup import Setup
from seodang.train.trainer import train
from seodang.types import IGNORED
from tiny import make_config, make_model

RESUME = "seodang tune runs/mine/recipe.yaml --resume"
SETTINGS = Train(examples_per_step=6, learning_rate=1e-3, max_tokens=32, warmup=0, schedule="constant")


def _rows(count: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    ids = [rng.integers(20, 300, int(rng.integers(10, 30))).tolist() for _ in range(count)]
    return Dataset.from_dict({"input_ids": ids, "labels": [[IGNORED] * 4 + row[4:] for row in ids]})


@contextmanager
def _memory_for(model: PreTrainedModel, positions: int, *, during: str = "forward") -> Iterator[list[int]]:
    """A model that runs out of memory above so many positions a pack; yields the sizes that it was given."""
    given: list[int] = []

    def forward(_: Any, args: Any, kwargs: Any) -> None:
        if not torch.is_grad_enabled():
            return  # the engine's trial
        given.append(kwargs["input_ids"].shape[1])
        if during == "forward" and given[-1] > positions:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    def backward(grad: torch.Tensor) -> None:  # of the first layer: those of all later ones are there already
        if given[-1] > positions:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    layer = model.get_decoder().layers[0].self_attn.q_proj.weight
    hooks = [model.base_model.register_forward_pre_hook(forward, with_kwargs=True)]
    if during == "backward":
        hooks.append(layer.register_hook(backward))
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


def _train(
    folder: Path, model: PreTrainedModel, settings: Train = SETTINGS, *, pack_tokens: int = 1000, steps: int = 4
) -> list[dict[str, Any]]:
    rows = _rows()
    events: list[Event] = []
    setup = Setup(
        engine=choose_engine(model, [np.array(rows[0]["input_ids"], dtype=np.int32)]), pack_tokens=pack_tokens,
        optimizer="adamw_torch_fused", checkpoints=folder, resume_command=RESUME,
        resume_from=None, total_steps=steps, eval_every=100,
        checkpointing="none" if settings.checkpointing == "auto" else settings.checkpointing,
    )  # fmt: skip
    train(model, rows, settings, setup, measure=dict, chosen_loss=None, on_event=events.append)
    return events


@pytest.mark.parametrize("during", ["forward", "backward"])
@pytest.mark.parametrize("pack_tokens", [1000, 64])
def test_a_pack_that_does_not_fit_is_split_and_changes_no_loss(tmp_path: Path, during: str, pack_tokens: int) -> None:
    """Losses, gradient norms and weights are those of the unsplit run, also if a backward pass ran out."""
    whole, short = make_model(make_config("gemma3")), make_model(make_config("gemma3"))
    expected = _train(tmp_path / "a", whole, pack_tokens=pack_tokens)
    with _memory_for(short, max(50, pack_tokens // 10), during=during) as given:
        found = _train(tmp_path / "b", short, pack_tokens=pack_tokens)
    for key in ("loss", "grad_norm"):
        one, other = (
            [getattr(event, key) for event in events if isinstance(event, TrainEvent)] for events in (expected, found)
        )
        assert len(one) == 4
        np.testing.assert_allclose(one, other, rtol=2e-5)
    for a, b in zip(whole.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    notes = [event.what for event in found if isinstance(event, NoteEvent)]
    assert len(notes) == 1  # reported once
    assert "out of memory" in notes[0]
    assert sum(size > max(50, pack_tokens // 10) for size in given) == 1  # later steps are packed smaller at once


def test_a_second_time_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A model that has no memory for the halves either ends the run, and the message gives whole commands."""
    model = make_model(make_config("llama"))
    settings = SETTINGS.model_copy(update={"max_tokens": 29})
    with _memory_for(model, 35), pytest.raises(ResourceError, match=r"up to 66 positions") as caught:
        _train(tmp_path, model, settings)
    assert caught.value.hint == (
        f"resume from the last checkpoint with less memory: {RESUME} train.pack_tokens=33, "
        f"or {RESUME} train.checkpointing=full. "
        "An adapter (train.adapter={kind: lora}) or a smaller train.max_tokens needs a new run"
    )


def test_a_hint_is_only_what_can_still_help(tmp_path: Path) -> None:
    """No budget below one row, no checkpointing where it is on, no adapter where one is trained."""
    model = make_model(make_config("llama"))
    settings = SETTINGS.model_copy(update={"checkpointing": "full", "adapter": Adapter()})
    with _memory_for(model, 1), pytest.raises(ResourceError) as caught:
        _train(tmp_path, model, settings, pack_tokens=40)
    assert caught.value.hint == "a smaller train.max_tokens needs a new run"


def test_one_example_cannot_be_split(tmp_path: Path) -> None:
    """Where every pack holds one example, running out of memory is an error at once."""
    model = make_model(make_config("llama"))
    with _memory_for(model, 5) as given, pytest.raises(ResourceError):
        _train(tmp_path, model, pack_tokens=1)
    assert len(given) == 1


def test_other_errors_go_up(tmp_path: Path) -> None:
    """A RuntimeError that is not about memory is not caught."""
    model = make_model(make_config("llama"))

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    model.get_decoder().layers[1].self_attn.q_proj.weight.register_hook(fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        _train(tmp_path, model)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    """torch's own error, Python's, and the CPU allocator's RuntimeError."""
    assert is_out_of_memory(error) is expected


def test_halves_hold_the_same_examples() -> None:
    """Splitting keeps ids, targets, positions and members, and cuts between examples only."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, length).astype(np.int32) for length in (9, 4, 7, 5, 12)]
    (whole,) = pack(rows, rows, budget=100)
    for parts in (split(whole), within(whole, 12), within(whole, 1)):
        for key in ("input_ids", "targets", "position_ids"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, key) for part in parts]), getattr(whole, key))
        assert sum((part.members for part in parts), ()) == whole.members
        assert [int(n) for part in parts for n in np.diff(part.cu_seqlens)] == np.diff(whole.cu_seqlens).tolist()
        assert all(part.cu_seqlens[0] == 0 and part.cu_seqlens[-1] == part.input_ids.size for part in parts)
    assert len(split(whole)) == 2
    assert all(part.input_ids.size <= 12 for part in within(whole, 12))
    assert len(within(whole, 1)) == 5
    assert len(split(within(whole, 1)[0])) == 1
