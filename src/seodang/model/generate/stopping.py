"""What ends a batch of answers besides its turn ends, and the text that a stop string cuts off. Knows no model."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

_SPARE_TOKENS = 8  # before the longest stop string: control tokens write nothing, a first blank may vanish


class StopStrings(StoppingCriteria):
    """Ends the rows of a batch whose newest text holds a stop string, and remembers how long they were."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], prompt_width: int) -> None:
        self.tokenizer, self.strings, self.prompt_width = tokenizer, strings, prompt_width
        # a token writes a byte or more
        self.window = max(len(string.encode()) for string in strings) + _SPARE_TOKENS
        self.lengths: dict[int, int] = {}  # row → new tokens, of those that ended here

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Token ids [rows, positions] → which rows are done, bool [rows]."""
        begin = max(self.prompt_width, input_ids.shape[1] - self.window)
        for row, text in enumerate(self.tokenizer.batch_decode(input_ids[:, begin:], skip_special_tokens=True)):
            if row not in self.lengths and cut(text, self.strings)[1]:
                self.lengths[row] = input_ids.shape[1] - self.prompt_width
        return torch.tensor([row in self.lengths for row in range(len(input_ids))], device=input_ids.device)


class HalfStopped(StoppingCriteria):
    """Ends a batch once half of its rows have stopped, so that the others go on without them.

    Args:
        until: the last position at which that is worth while: the others' texts are read anew.
    """

    def __init__(self, stops: Sequence[int], *, until: int) -> None:
        self.stops, self.until = torch.tensor(stops), until
        self.stopped = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        now = torch.isin(input_ids[:, -1], self.stops)
        self.stopped = self.stopped | now if len(self.stopped) else now
        is_over = input_ids.shape[1] <= self.until and 2 * int(self.stopped.sum()) >= len(self.stopped)
        return torch.full_like(now, is_over)


class Written(StoppingCriteria):
    """Ends nothing: reports each token that every row of a batch got."""

    def __init__(self, on_tokens: Callable[[int], None] | None) -> None:
        self.on_tokens, self.reported = on_tokens, 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self._report(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def finish(self, tokens: int) -> None:
        """The batch is over, and counts as so many tokens."""
        self._report(tokens - self.reported)

    def _report(self, tokens: int) -> None:
        self.reported += tokens
        if self.on_tokens:
            self.on_tokens(tokens)


class Left(StoppingCriteria):
    """Stops generation when nobody listens any more."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


def cut(text: str, strings: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string in it, and whether there was one."""
    found = [place for string in strings if string and (place := text.find(string)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def hold(pieces: Iterator[str], strings: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first stop string: what may be the beginning of one is held back until that is clear.

    The pieces after it are taken, and dropped.
    """
    waiting, is_over = "", False
    for piece in pieces:
        if is_over:
            continue
        text, is_over = cut(waiting + piece, strings)
        held = 0 if is_over else max((len(_begun(text, string)) for string in strings), default=0)
        clear, waiting = text[: len(text) - held], text[len(text) - held :]
        if clear:
            yield clear
    if waiting and not is_over:
        yield waiting


def _begun(text: str, string: str) -> str:
    """The longest beginning of a stop string that the text ends in."""
    return next((string[:n] for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), "")
