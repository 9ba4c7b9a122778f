"""The factor of a step's loss where its products are float16, so that small gradients do not become 0.

A step whose gradients overflow is repeated with half the factor, and one that float16 cannot hold at any factor is
computed again in float32: no step is skipped, no row is lost. (torch's GradScaler skips them.)
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from seodang import distributed
from seodang.model.engine.float16 import FIRST_SCALE

GROW_AFTER = 200  # steps without an overflow, until twice the factor is tried


class LossScale(TrainerCallback, ExportableState):
    """Finds the factor from step to step; a checkpoint holds what it has counted.

    Args:
        on_note: takes a sentence for the user.
    """

    def __init__(self, on_note: Callable[[str], None]) -> None:
        self.scale = FIRST_SCALE  # a power of two: dividing by it changes no digit
        self.steps_without_overflow = 0
        self.repeated = 0  # backward passes of steps, because of an overflow
        self.in_float32 = 0  # steps
        self._on_note = on_note

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, so that a resumed run takes the same factors."""
        counted = ("scale", "steps_without_overflow", "repeated", "in_float32")
        return {"args": {}, "attributes": {name: getattr(self, name) for name in counted}}

    def run(
        self,
        backward: Callable[[float, bool], Tensor],
        weights: Iterable[Tensor],
        clear_gradients: Callable[[], None],
    ) -> Tensor:
        """A step's loss, with its gradients in `weights`: finite, and without the factor.

        Args:
            backward: (factor of the loss, whether all is float32) → the step's loss without the factor; adds the
                gradients of the loss times the factor.
        """
        weights, begun_with = list(weights), self.scale
        while True:
            loss = backward(self.scale, False)
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            has_loss, has_gradients = bool(loss.isfinite()), _are_finite(gradients)
            if not distributed.is_any(not (has_loss and has_gradients)):
                if gradients:
                    torch._foreach_mul_(gradients, 1.0 / self.scale)
                self._grow()
                return loss
            clear_gradients()
            self.steps_without_overflow = 0
            if distributed.is_any(not has_loss) or self.scale <= 1.0:  # no factor helps
                self.scale = begun_with
                return self._compute_in_float32(backward)
            self.scale /= 2.0
            self.repeated += 1

    def _grow(self) -> None:
        self.steps_without_overflow += 1
        if self.steps_without_overflow == GROW_AFTER:
            self.scale, self.steps_without_overflow = self.scale * 2.0, 0

    def _compute_in_float32(self, backward: Callable[[float, bool], Tensor]) -> Tensor:
        self.in_float32 += 1
        if self.in_float32 == 1:
            self._on_note("a step does not fit float16: it is computed again in float32, and so is any later one")
        return backward(1.0, True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report what the factor cost."""
        parts = (f"{self.repeated} repeated with a smaller loss factor", f"{self.in_float32} computed in float32")
        counts = zip(parts, (self.repeated, self.in_float32), strict=True)
        if found := [part for part, count in counts if count]:
            self._on_note(f"float16: of {state.global_step} steps, {' and '.join(found)}; none was skipped")
        return control


def _are_finite(gradients: list[Tensor]) -> bool:
    """Whether a rank's own part of the gradients holds neither NaN nor infinity."""
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    filled = [part for part in local if part.numel()]
    return not filled or bool(torch.stack(torch._foreach_norm(filled, float("inf"))).isfinite().all())
