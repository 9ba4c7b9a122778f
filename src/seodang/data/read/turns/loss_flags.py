"""Flags of a turn or a row that take it out of the loss, as trainers and providers write them. Knows no role."""

from collections.abc import Iterable, Mapping
from typing import Any

from seodang.data.read.unusable import UnusableRowError

LOSS_FLAGS = frozenset(  # true or 1: with loss
    {"train", "training", "trainable", "is_trainable", "supervised", "loss", "compute_loss", "loss_mask"}
    | {"loss_weight", "loss_scale", "weight", "trained", "is_train", "should_train", "train_on", "train_on_turn"}
    | {"with_loss", "use_loss", "include_in_loss"}
)
MASK_FLAGS = frozenset(  # true: without loss
    {"mask", "masked", "is_masked", "loss_masked", "no_loss", "ignore_loss", "no_train", "exclude_from_loss"}
)
DETAILED_FLAGS = frozenset({"train_detail", "training_detail"})  # of characters of a turn
ROW_FLAGS = LOSS_FLAGS | MASK_FLAGS
FLAGS = LOSS_FLAGS | MASK_FLAGS | DETAILED_FLAGS
NO_LOSS, NO_LOSS_HINT = "no answer with a loss", "leave such rows out, or take the flags out"
_WORDS = {"true": 1.0, "yes": 1.0, "on": 1.0, "false": 0.0, "no": 0.0, "off": 0.0}


def has_loss(turn: Mapping[str, Any]) -> bool | None:
    """Whether a turn's flags ask for its loss; None if it has no flag.

    Raises:
        UnusableRowError: a weight that is neither 0 nor 1, or a flag that cannot be read.
    """
    if FLAGS.isdisjoint(turn):
        return None
    if any(turn.get(name) for name in DETAILED_FLAGS):
        raise UnusableRowError("loss flags for parts of a turn", hint="flag whole turns: `train: false`")
    asked = [value for name in LOSS_FLAGS & turn.keys() if (value := _flag(turn[name])) is not None]
    asked += [1 - value for name in MASK_FLAGS & turn.keys() if (value := _flag(turn[name])) is not None]
    if any(value not in (0, 1) for value in asked):
        raise UnusableRowError(
            "a loss weight other than 0 and 1", hint="give each turn the weight 0 or 1; repeat a row to weigh it more"
        )
    return all(asked) if asked else None


def are_flags(values: Iterable[Any]) -> bool:
    """Whether nothing but flags is among the values: a patient has a weight, too."""
    try:
        return all(_flag(value) in (None, 0, 1) for value in values)
    except UnusableRowError:
        return False


def _flag(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        word = value.strip().casefold()
        try:
            return _WORDS[word] if word in _WORDS else float(word)
        except ValueError:
            pass
    raise UnusableRowError("a loss flag that cannot be read", hint="write true or false, or the weight 0 or 1")
