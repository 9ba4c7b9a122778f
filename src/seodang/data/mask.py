"""Which tokens are supervised: from character spans to labels. Pure; knows neither tokenizer nor template."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seodang.types import IGNORED


def supervise(
    offsets: NDArray[np.int32], spans: Sequence[tuple[int, int]], input_ids: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Labels of one row: the id where a token begins inside a span, else IGNORED.

    ::

        text        <user> 아파요? <end> <model> 쉬세 요. <end> ⏎
        offsets     0     6      10    15      22  24  26   31     start of each token
        span                                  [22 ............31)
        labels      ·     ·      ·     ·      쉬세 요. <end>  ·

    A token belongs where it begins: a turn end that swallows the white space after it is still supervised, and
    the byte tokens of one character stay together. The first token of a row follows nothing and is never a target.

    Args:
        offsets: [tokens, 2], start and end of each token in characters.
        spans: [start, end) in characters.
        input_ids: [tokens].

    Returns:
        [tokens] int32.
    """
    starts = offsets[:, 0]
    chosen = np.zeros(len(input_ids), dtype=bool)
    for start, end in spans:
        chosen |= (starts >= start) & (starts < end)
    chosen[:1] = False
    return np.where(chosen, input_ids, np.int32(IGNORED))
