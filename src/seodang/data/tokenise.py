"""Renders → ids and labels: one tokenisation of each row, checked at every seam. Knows no data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seodang.data.mask import edges, supervise
from seodang.data.template import ChatTemplate
from seodang.data.words import Tokens, words_of
from seodang.types import IGNORED, Rendered

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

CACHED_SEAMS = 4096
FAULTY_SEAM = "the answer's first token merges with the header"
FAULTY_END = "the turn end is not one token there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One row as the model reads it."""

    input_ids: NDArray[np.int32]  # [tokens]
    labels: NDArray[np.int32]  # [tokens], IGNORED where unsupervised, not shifted
    fault: str | None = None  # why the row must not be trained on


class Encoder:
    """Tokenises in batches and labels by where tokens begin.

    Args:
        tokenizer: the base's, after `apply_template`.
        template: from `find_template`.
        by_words: many rows are to come, so that getting ready to remember words pays.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate, *, by_words: bool = False) -> None:
        self._backend = _untrimmed(tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._words = words_of(self._backend, [name for name, _ in template.markers]) if by_words else None
        self._turn_end, self._turn_end_id = template.turn_end, template.turn_end_id
        added = list(tokenizer.added_tokens_decoder)
        self._is_added = np.zeros(max([len(tokenizer), *(token + 1 for token in added)]), dtype=bool)
        self._is_added[added] = True
        self._seams: dict[str, bytes] = {}

    def encode(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """(input_ids [tokens], offsets [tokens, 2] in characters) of each text, no special tokens added."""
        rows = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (
                np.array(row.ids, dtype=np.int32),
                np.fromiter(chain.from_iterable(row.offsets), np.int32, 2 * len(row)).reshape(-1, 2),
            )
            for row in rows
        ]

    def label(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Ids and labels of rendered conversations."""
        rows = zip(rendered, self._tokens([row.text for row in rendered]), strict=True)
        return [
            Encoded(input_ids=ids, labels=supervise(starts, row.spans, ids), fault=self._fault(row, ids, starts))
            for row, (ids, starts) in rows
        ]

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        by_words = self._words.encode(texts) if self._words else [None] * len(texts)
        whole = iter(self.encode([text for text, known in zip(texts, by_words, strict=True) if known is None]))
        return [known or ((found := next(whole))[0], found[1][:, 0]) for known in by_words]

    def _fault(self, row: Rendered, ids: NDArray[np.int32], starts: NDArray[np.int32]) -> str | None:
        added = np.flatnonzero(self._is_added[ids])
        found = edges(starts, row.spans)
        before = np.searchsorted(added, [first for first, _ in found]).tolist()  # added tokens in front of each span
        for (start, end), (first, after), number in zip(row.spans, found, before, strict=True):
            since = added[number - 1] if number else 0
            if first and ids[since:first].tobytes() != self._alone(row.text[starts[since] : start]):
                return FAULTY_SEAM
            if row.text.endswith(self._turn_end, start, end) and ids[after - 1] != self._turn_end_id:
                return FAULTY_END
        return None

    def _alone(self, tail: str) -> bytes:
        """The ids of a prompt's tail by itself, to be compared with those that it has in front of its answer.

        Added tokens are cut out before anything else, left to right, so only what follows the last of them can differ;
        that is a header such as "model\n", the same in most rows.
        """
        alone = self._seams.get(tail)
        if alone is None:
            alone = self.encode([tail])[0][0].tobytes()
            if len(self._seams) < CACHED_SEAMS:
                self._seams[tail] = alone
        return alone


def windows(
    text: str,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int32],
    *,
    max_tokens: int,
    bos_id: int | None,
) -> list[tuple[str, NDArray[np.int32], NDArray[np.int32]]]:
    """Cut a plain text into the fewest pieces of at most `max_tokens`, nearly equal, so that none is a mere token.

    Returns:
        (text, input_ids, labels) of each: all supervised but BOS, or the first token where there is no BOS. The texts
        add up to the whole: a character that is cut in two belongs to the later one.
    """
    opening = np.array([] if bos_id is None else [bos_id], dtype=np.int32)
    number = -(-len(ids) // (max_tokens - len(opening)))
    cuts = np.linspace(0, len(ids), number + 1).astype(int)
    begins = [0, *(int(offsets[cut, 0]) for cut in cuts[1:-1]), len(text)]
    pieces = []
    for first, last, begin, end in zip(cuts, cuts[1:], begins, begins[1:], strict=False):
        own = np.concatenate([opening, ids[first:last]])
        pieces.append((text[begin:end], own, np.where(np.arange(len(own)) > 0, own, np.int32(IGNORED))))
    return pieces


def _untrimmed(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """The fast tokenizer; where it reports offsets without leading blanks, a copy that reports them in full.

    A post-processor only trims offsets and adds special tokens, and none are added here.
    """
    from tokenizers import Tokenizer, processors

    backend: Tokenizer = tokenizer.backend_tokenizer
    if "trim_offsets=True" not in str(backend.post_processor):
        return backend
    copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = processors.ByteLevel(trim_offsets=False)
    return copy
