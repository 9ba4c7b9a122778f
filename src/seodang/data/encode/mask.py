"""Which tokens are supervised: from character spans to labels. Pure; knows neither tokenizer nor template.

Rows are put end to end, so that many are labelled as fast as one: positions count through all of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seodang.types import IGNORED


def edges(starts: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tokens that begin inside each span.

    ::

        text        <user> 아파요? <end> <model> 쉬세 요. <end> ⏎
        starts      0     6      10    15      22  24  26   31     start of each token
        span                                  [22 ............31)
        edges                                 [4 .............7)

    A token belongs where it begins: a turn end that swallows the white space after it is still supervised, and
    the byte tokens of one character stay together.

    Args:
        starts: [tokens], where each token begins, in characters, ascending.
        spans: [spans, 2], start and end in characters.

    Returns:
        [spans, 2], the first token and the one after the last.
    """
    return np.searchsorted(starts, spans).astype(np.int64)


def supervise(
    input_ids: NDArray[np.int32], supervised: NDArray[np.int64], begins: Sequence[int] | NDArray[np.int64] = (0,)
) -> NDArray[np.int32]:
    """Labels: the id between two edges, else IGNORED. A row's first token follows nothing and is never a target.

    Args:
        input_ids: [tokens] of all rows.
        supervised: [spans, 2] of `edges`.
        begins: the first token of each row that has any.

    Returns:
        [tokens] int32.
    """
    labels = np.full(len(input_ids), IGNORED, dtype=np.int32)
    for first, after in supervised.tolist():
        labels[first:after] = input_ids[first:after]
    if len(input_ids):
        labels[np.asarray(begins)] = IGNORED
    return labels
