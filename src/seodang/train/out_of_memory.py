"""Out of memory during training: the step is run again in smaller packs, once; then an error says what can be done."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from seodang import recipe
from seodang.data.pack import within
from seodang.errors import ResourceError
from seodang.train.setup import Setup
from seodang.types import Step


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch raises a RuntimeError where the device has no error of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error).lower()


@dataclass(kw_only=True)
class OutOfMemoryRetry:
    """Splits the packs of a step that did not fit, and of all later ones.

    The gradients of what had run are dropped and the whole step runs again, so that none counts twice. Once: a second
    time the error goes up. With several processes it goes up at once: the others wait inside the step that failed.
    """

    on_note: Callable[[str], None]
    budget: int | None = None  # positions of a pack, once memory ran out

    def run(self, step: Step, backward: Callable[[Step], Any], clear_gradients: Callable[[], None]) -> Any:
        """`backward(step)`; when memory runs out, `clear_gradients()` and the same step in smaller packs."""
        if self.budget is not None:
            return backward(self._split(step))
        try:
            return backward(step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or all(len(pack.members) == 1 for pack in step.packs):
                raise
        # outside of the handler, whose traceback keeps the tensors of the failed pass
        clear_gradients()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(pack.input_ids.size for pack in step.packs if len(pack.members) > 1)
        self.budget = (largest + 1) // 2
        self.on_note(f"out of memory in packs of up to {largest:,} positions: from here on up to {self.budget:,}")
        return backward(self._split(step))

    def _split(self, step: Step) -> Step:
        return replace(step, packs=tuple(small for pack in step.packs for small in within(pack, self.budget or 0)))


@contextmanager
def explaining_out_of_memory(settings: recipe.Train, setup: Setup, retry: OutOfMemoryRetry) -> Iterator[None]:
    """Inside, running out of memory becomes one error with a hint that has not been tried yet.

    Raises:
        ResourceError: out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tried = retry.budget or setup.pack_tokens
        raise ResourceError(
            f"out of memory in a forward or backward pass of up to {tried:,} positions",
            where="train",
            hint=_hint(settings, setup, tried),
        ) from error


def _hint(settings: recipe.Train, setup: Setup, pack_tokens: int) -> str:
    """What can still help: a budget below one row would not, nor would what is set already."""
    on_resume = []
    if pack_tokens // 2 >= settings.max_tokens:
        on_resume.append(f"train.pack_tokens={pack_tokens // 2}")
    if setup.checkpointing != "full":
        on_resume.append("train.checkpointing=full")
    in_new_run = ["a smaller train.max_tokens"]
    if settings.adapter is None:
        in_new_run.insert(0, "an adapter (train.adapter={kind: lora})")
    new_run = f"{' or '.join(in_new_run)} needs a new run"
    if not on_resume:
        return new_run
    commands = ", or ".join(f"{setup.resume_command} {change}" for change in on_resume)
    return f"resume from the last checkpoint with less memory: {commands}. {new_run[0].upper()}{new_run[1:]}"
