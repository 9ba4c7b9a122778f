"""Which tokens are supervised: from character spans to labels. Pure; knows neither tokenizer nor template."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seodang.types import IGNORED


def supervise(
    starts: NDArray[np.int32], spans: Sequence[tuple[int, int]], input_ids: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Labels of one row: the id where a token begins inside a span, else IGNORED.

    ::

        text        <user> 아파요? <end> <model> 쉬세 요. <end> ⏎
        starts      0     6      10    15      22  24  26   31     start of each token
        span                                  [22 ............31)
        labels      ·     ·      ·     ·      쉬세 요. <end>  ·

    A token belongs where it begins: a turn end that swallows the white space after it is still supervised, and
    the byte tokens of one character stay together. The first token of a row follows nothing and is never a target.

    Args:
        starts: [tokens], where each token begins, in characters, ascending.
        spans: [start, end) in characters.
        input_ids: [tokens].

    Returns:
        [tokens] int32.
    """
    labels = np.full(len(input_ids), IGNORED, dtype=np.int32)
    for first, after in edges(starts, spans):
        labels[first:after] = input_ids[first:after]
    labels[:1] = IGNORED
    return labels


def edges(starts: NDArray[np.int32], spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """[first token, token after the last] of each span."""
    found: list[list[int]] = np.searchsorted(starts, np.array(spans, dtype=np.int32).reshape(-1, 2)).tolist()
    return found
