"""Renders → ids and labels: one tokenization of each row, checked at every token boundary. Knows no data set."""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seodang.data.encode.mask import edges, supervise
from seodang.data.encode.word_cache import Tokens, words_of
from seodang.data.template.find import ChatTemplate
from seodang.types import IGNORED, Rendered

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

CACHED_TAILS = 4096
PIECE = 1 << 18  # characters of a long text that are tokenized at once, where it can be cut
MOST_AT_ONCE = 1 << 22  # where it cannot
FAULTY_BOUNDARY = "the answer's first token merges with the header"
FAULTY_END = "the turn end is not one token there"


class Encoded(NamedTuple):
    """One row as the model reads it."""

    input_ids: NDArray[np.int32]  # [tokens]
    labels: NDArray[np.int32]  # [tokens], IGNORED where unsupervised, not shifted
    fault: str | None = None  # why the row must not be trained on


class _Batch(NamedTuple):
    """Rows put end to end, so that all of them are labelled at once; positions count through all rows."""

    ids: NDArray[np.int32]  # [tokens]
    starts: NDArray[np.int64]  # [tokens], the character each begins at
    begins: NDArray[np.int64]  # [rows + 1], each row's first token
    bases: NDArray[np.int64]  # [rows + 1], each row's first character
    owners: NDArray[np.int64]  # [spans], the row of each supervised span
    spans: NDArray[np.int64]  # [spans, 2], in characters


class Encoder:
    """Tokenizes in batches and labels by where tokens begin.

    Args:
        tokenizer: the base's, after `apply_template`.
        template: from `find_template`.
        by_words: many rows are to come, so that getting ready to remember words pays.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate, *, by_words: bool = False) -> None:
        self._backend = _untrimmed(tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._markers = [name for name, _ in template.markers]
        self._words = words_of(self._backend, self._markers) if by_words else None
        names = dict(template.markers)
        self._ends = [(template.turn_end, template.turn_end_id)]
        if template.call_end:
            self._ends.append((template.call_end, names[template.call_end]))
        added = list(tokenizer.added_tokens_decoder)
        self._is_added = np.zeros(max(added, default=0) + 2, dtype=bool)  # the last entry: all ids beyond
        self._is_added[added] = True
        self._prompt_tails: dict[str, bytes] = {}

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

    def encode_long(self, text: str) -> Tokens | None:
        """The tokens of one text, in bounded memory; None where that is not provably the same as `encode`.

        Some 250 bytes are in use for each character that the tokenizer takes at once.
        """
        pieces = [text]
        if len(text) > PIECE:
            self._words = self._words or words_of(self._backend, self._markers)
            pieces = self._words.pieces(text, PIECE) if self._words else pieces
        if max(map(len, pieces)) > MOST_AT_ONCE:
            return None
        begins = accumulate(map(len, pieces), initial=0)
        ids, starts = zip(*[self._tokens([piece])[0] for piece in pieces], strict=True)
        moved = [part + np.int32(begin) for part, begin in zip(starts, begins, strict=False)]
        return np.concatenate(ids), np.concatenate(moved)

    def num_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._tokens([text])[0][0])

    def decode(self, ids: Sequence[NDArray[np.int32]]) -> list[str]:
        """The texts of rows, control tokens included."""
        return self._backend.decode_batch([row.tolist() for row in ids], skip_special_tokens=False)

    def label(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Ids and labels of rendered conversations."""
        if not rendered:
            return []
        batch = _concatenate(rendered, self._tokens([row.text for row in rendered]))
        supervised = edges(batch.starts, batch.spans)
        labels = supervise(batch.ids, supervised, batch.begins[:-1][np.diff(batch.begins) > 0])
        faults = self._faults(rendered, batch, supervised)
        return [
            Encoded(input_ids=batch.ids[begin:end], labels=labels[begin:end], fault=faults.get(number))
            for number, (begin, end) in enumerate(pairwise(batch.begins.tolist()))
        ]

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        by_words = self._words.encode(texts) if self._words else [None] * len(texts)
        whole = iter(self.encode([text for text, known in zip(texts, by_words, strict=True) if known is None]))
        return [known or ((found := next(whole))[0], found[1][:, 0]) for known in by_words]

    def _faults(self, rendered: Sequence[Rendered], batch: _Batch, supervised: NDArray[np.int64]) -> dict[int, str]:
        """Row → why it must not be trained on: what is asked of each span at its beginning and its end.

        Args:
            supervised: [spans, 2] of `edges`.
        """
        faults: dict[int, str] = {}
        begins = batch.begins[batch.owners]
        added = np.concatenate([[0], np.flatnonzero(self._is_added[np.minimum(batch.ids, len(self._is_added) - 1)])])
        before = added[np.searchsorted(added[1:], supervised[:, 0])]  # the last added token in front of each span
        since = np.maximum(before, begins)
        spans = [span for row in rendered for span in row.spans]
        for owner, (start, end), (first, after), opening, begin in zip(
            batch.owners.tolist(), spans, supervised.tolist(), since.tolist(), begins.tolist(), strict=True
        ):
            text = rendered[owner].text
            if first > begin:
                tail = text[batch.starts[opening] - batch.bases[owner] : start]
                if batch.ids[opening:first].tobytes() != self._ids_alone(tail):
                    faults.setdefault(owner, FAULTY_BOUNDARY)
            if any(text.endswith(name, start, end) and batch.ids[after - 1] != token for name, token in self._ends):
                faults.setdefault(owner, FAULTY_END)
        return faults

    def _ids_alone(self, tail: str) -> bytes:
        """The ids of a prompt's tail by itself, to be compared with those that it has in front of its answer.

        Added tokens are cut out before anything else, left to right, so only what follows the last of them can differ;
        that is a header such as "model\n", the same in most rows.
        """
        alone = self._prompt_tails.get(tail)
        if alone is None:
            alone = self.encode([tail])[0][0].tobytes()
            if len(self._prompt_tails) < CACHED_TAILS:
                self._prompt_tails[tail] = alone
        return alone


def _concatenate(rendered: Sequence[Rendered], tokens: Sequence[Tokens]) -> _Batch:
    begins = np.cumsum([0, *(len(ids) for ids, _ in tokens)])
    # one character lies between rows: a span may end where its text does
    bases = np.cumsum([0, *(len(row.text) + 1 for row in rendered)])
    owners = np.array([number for number, row in enumerate(rendered) for _ in row.spans], dtype=np.int64)
    spans = np.array([span for row in rendered for span in row.spans], dtype=np.int64).reshape(-1, 2)
    return _Batch(
        ids=np.concatenate([ids for ids, _ in tokens]),
        starts=np.concatenate([starts for _, starts in tokens]) + np.repeat(bases[:-1], np.diff(begins)),
        begins=begins,
        bases=bases,
        owners=owners,
        spans=spans + bases[owners, None],
    )


def supervised_spans(text: str, labels: Sequence[int], encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """The characters of a rendered conversation that its labels supervise, [start, end) each."""
    starts = [*encoder.encode([text])[0][1][:, 0].tolist(), len(text)]
    is_supervised = np.array([False, *(label != IGNORED for label in labels), False])
    edges_of_runs = np.flatnonzero(np.diff(is_supervised.astype(np.int8)))
    return tuple((starts[first], starts[after]) for first, after in edges_of_runs.reshape(-1, 2).tolist())


def windows(
    text: str,
    ids: NDArray[np.int32],
    starts: NDArray[np.int32],
    *,
    max_tokens: int,
    bos_id: int | None,
) -> list[tuple[str, NDArray[np.int32], NDArray[np.int32], int]]:
    """Cut a plain text into the fewest pieces of at most `max_tokens`, nearly equal, so that none is a mere token.

    Returns:
        (text, input_ids, labels, UTF-8 bytes that are supervised) of each: all but BOS, or the first token where there
        is no BOS. The texts add up to the whole: a character that is cut in two belongs to the later one.
    """
    opening = np.array([] if bos_id is None else [bos_id], dtype=np.int32)
    number = -(-len(ids) // (max_tokens - len(opening)))
    cuts = np.linspace(0, len(ids), number + 1).astype(int)
    begins = [0, *starts[cuts[1:-1]].tolist(), len(text)]
    pieces = []
    for first, last, begin, end in zip(cuts, cuts[1:], begins, begins[1:], strict=False):
        own = np.concatenate([opening, ids[first:last]])
        labels = np.where(np.arange(len(own)) > 0, own, np.int32(IGNORED))
        after_first = int(starts[first + 1]) if first + 1 < last else end
        num_bytes = len(text[begin if len(opening) else after_first : end].encode())
        pieces.append((text[begin:end], own, labels, num_bytes))
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
