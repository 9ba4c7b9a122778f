"""Ids word by word: each word of a text is tokenized once and cached, where that provably changes nothing.

A tokenizer cuts a text at its added tokens, then by its own rule, and merges inside the pieces. Where no piece and no
merge can reach across, the ids on both sides do not depend on each other. Three such places are used::

    <start_of_turn>|user\\n|두통이| 있어요.|<end_of_turn>|\\n
                   a      b      c                     a

    a  around a control token of the template: added tokens are cut out before anything else
    b  behind the line breaks before another character  } SentencePiece style (Gemma): no entry of the vocabulary goes
    c  before the blanks behind another character       } across; Qwen and Llama 3: their rule begins a new piece there

Any other tokenizer is left alone (`words_of` returns None), and so is a text with characters the proof does not cover.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAFE = re.compile(r"(?<=\n)(?=[^\s▁])|(?<=[^\s▁])(?= )")  # such a place, whatever white space stands elsewhere
CACHED_WORDS = 1 << 18  # words; some 60 MB, and as many that were in use before
MAX_CROSSING = 16  # entries of a vocabulary that go across; texts that hold one are tokenized whole
_ACROSS = re.compile(r"[^ \n] |\n[^ \n]")  # such a place inside
_RULES = tuple(  # of pre-tokenization: blanks behind a character always begin a piece, line breaks end one
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
)
_UNUSUAL = ("  ", " \n", "\n ", "\n\n\n", "\0")  # white space that takes a closer look
_BLANK = "▁"  # what SentencePiece writes for a blank
_ANY = re.compile("")

Tokens = tuple[NDArray[np.int32], NDArray[np.int32]]  # ids [tokens], where each begins [tokens], in characters


class WordCache:
    """Tokenizes texts by their words.

    Args:
        backend: reports offsets in full, and adds no special tokens when asked to.
        markers: control tokens that stand between words.
        odd: a text in which this is found, or one of `crossing`, is none of its business.
        pieced: any word but one in which this is found goes to the model as it is, with ▁ for blanks.
    """

    def __init__(
        self,
        backend: "Tokenizer",
        markers: Sequence[str],
        odd: re.Pattern[str],
        crossing: Sequence[str] = (),
        pieced: re.Pattern[str] = _ANY,
    ) -> None:
        self._odd, self._crossing = odd, crossing
        self._markers, self._word = markers, _pattern(markers)
        self._known = _Known(backend, pieced)

    def encode(self, texts: Sequence[str]) -> list[Tokens | None]:
        """The tokens of each text; None: it has to be tokenized whole."""
        if len(self._known) > CACHED_WORDS:
            self._known.forget()
        odd = self._odd_ones(texts)
        return _unpacked([None if number in odd else self._packed(text) for number, text in enumerate(texts)])

    def pieces(self, text: str, size: int) -> list[str]:
        """The text cut at places b and c, into pieces of `size` characters and what is left of a word."""
        pieces, begin = [], 0
        reach = max(map(len, self._crossing), default=0)
        while len(text) - begin > size:
            places = (found.start() for found in _SAFE.finditer(text, begin + size))
            sound = (at for at in places if not any(some in text[at - reach : at + reach] for some in self._crossing))
            end = next(sound, len(text))
            pieces.append(text[begin:end])
            begin = end
        return [*pieces, text[begin:]] if begin < len(text) else pieces

    def _packed(self, text: str) -> bytes | None:
        try:
            return b"".join(map(self._known.__getitem__, self._cut(text)))
        except _UnsoundError:
            return None

    def _odd_ones(self, texts: Sequence[str]) -> set[int]:
        """The texts that the proof does not cover. Nearly always none: so all are searched at once."""
        if not self._is_odd("\0".join(texts)):
            return set()
        return {number for number, text in enumerate(texts) if self._is_odd(text)}

    def _is_odd(self, text: str) -> bool:
        return self._odd.search(text) is not None or any(across in text for across in self._crossing)

    def _cut(self, text: str) -> list[str]:
        """The words of a text; the usual ones are cut without the pattern, which takes three times as long."""
        if any(unusual in text for unusual in _UNUSUAL):
            return self._word.findall(text)
        text = text.replace(" ", "\0 ").replace("\n", "\n\0").replace("\n\0\n", "\n\n")
        for marker in self._markers:
            text = text.replace(marker, f"\0{marker}\0")
        return text.split("\0")


class _UnsoundError(Exception):
    """A word whose tokens do not lie end to end from its first character."""


class _Known(dict[str, bytes]):
    """Word → (id, characters) of each of its tokens, int32. One that is not known is tokenized when it is asked for."""

    def __init__(self, backend: "Tokenizer", pieced: re.Pattern[str]) -> None:
        super().__init__({"": b""})
        self._backend, self._model, self._pieced = backend, backend.model, pieced
        self._before: dict[str, bytes] = {}

    def forget(self) -> None:
        """Forget the words that were not asked for since the last time."""
        self._before = dict(self)
        self.clear()
        self[""] = b""

    def __missing__(self, word: str) -> bytes:
        found = self[word] = self._before.get(word) or self._learn(word)
        return found

    def _learn(self, word: str) -> bytes:
        pairs = [] if self._pieced.search(word) else self._merged(word)
        if sum(pairs[1::2]) != len(word):
            pairs = self._encoded(word)
            if sum(pairs[1::2]) != len(word) or min(pairs) < 0:
                raise _UnsoundError
        return struct.pack(f"{len(pairs)}i", *pairs)

    def _merged(self, word: str) -> list[int]:
        """By the model alone, which takes half the time; wrong lengths where characters are merged from bytes."""
        merged = self._model.tokenize(word.replace(" ", _BLANK))
        return [part for token in merged for part in (token.id, len(token.value))]

    def _encoded(self, word: str) -> list[int]:
        found = self._backend.encode(word, add_special_tokens=False)
        starts = [start for start, _ in found.offsets]
        ends = [*starts[1:], len(word)]
        return [part for id, start, end in zip(found.ids, starts, ends, strict=True) for part in (id, end - start)]


def _unpacked(packed: Sequence[bytes | None]) -> list[Tokens | None]:
    """Ids and places of the tokens of each text, cut from those of all texts."""
    whole = [part for part in packed if part is not None]
    pairs = np.frombuffer(b"".join(whole), dtype=np.int32).reshape(-1, 2)
    sizes = np.array([len(part) // 8 for part in whole], dtype=np.int64)
    ends = np.cumsum(sizes)
    ids, lengths = pairs[:, 0].copy(), pairs[:, 1]
    places = np.cumsum(lengths, dtype=np.int64) - lengths  # in characters of all texts, one after the other
    first = np.concatenate([places, [0]])[ends - sizes]
    starts = (places - np.repeat(first, sizes)).astype(np.int32)
    rows = iter([(ids[begin:end], starts[begin:end]) for begin, end in pairwise([0, *ends.tolist()])])
    return [None if part is None else next(rows) for part in packed]


def words_of(backend: "Tokenizer", markers: Sequence[str]) -> WordCache | None:
    """The same tokenizer word by word, if it is of a kind of which that is known to be exact.

    Args:
        markers: control tokens of the template, each an added token of the tokenizer.
    """
    added = list(backend.get_added_tokens_decoder().values())
    names = [str(token.content) for token in added]
    whole = [name for name in markers if name in names and not re.search(r"\s", name)]
    cut_first = [name for name in whole if not any(_covers(other, name) for other in names)]
    if any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added):
        return None
    if any(_ACROSS.search(name) for name in names):
        return None
    if _is_sentencepiece(backend):
        crossing = _crossing(backend.get_vocab(with_added_tokens=False))
        if len(crossing) > MAX_CROSSING:
            return None
        begins_added = re.compile("|".join(sorted({re.escape(name[0]) for name in names})) or "(?!)")
        return WordCache(backend, cut_first, re.compile(_BLANK), crossing, begins_added)
    return WordCache(backend, cut_first, re.compile(r"[^\S \n]")) if _is_byte_level(backend) else None


def _pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """One word, or one marker; where a line break is followed by blanks, nothing is cut."""
    inside = r"[^ \n]+"
    alternatives = ""
    if markers:
        any_marker = "|".join(map(re.escape, sorted(markers, key=len, reverse=True)))
        firsts = re.escape("".join(sorted({name[0] for name in markers})))
        inside = rf"(?:[^ \n{firsts}]+|(?!{any_marker})[{firsts}])+"
        alternatives = f"{any_marker}|"
    return re.compile(rf"{alternatives}[ \n]*{inside}(?:\n+ [ \n]*(?:{inside})?)*(?:\n+(?![ \n]))?|[ \n]+")


def _covers(other: str, marker: str) -> bool:
    """Whether another added token can take characters of a marker away: it begins before it, or lasts longer."""
    if other == marker:
        return False
    return marker in other or any(other.endswith(marker[:size]) for size in range(1, min(len(other), len(marker) + 1)))


def _is_sentencepiece(backend: "Tokenizer") -> bool:
    """BPE over whole texts with ▁ for blanks, and a byte for whatever is unknown."""
    from tokenizers import models

    model = backend.model
    return (
        isinstance(model, models.BPE)
        and not (model.dropout or model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix)
        and model.byte_fallback
        and None not in map(model.token_to_id, (_BLANK, "\n", *(f"<0x{byte:02X}>" for byte in range(256))))
        and _state(backend.normalizer) == {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
        # cuts at blanks, of which none is left
        and _state(backend.pre_tokenizer).get("pattern", {"String": " "}) == {"String": " "}
        and _state(backend.pre_tokenizer).get("type", "Split") == "Split"
    )


def _is_byte_level(backend: "Tokenizer") -> bool:
    """BPE over bytes inside the pieces of a known rule."""
    from tokenizers import models

    steps = _state(backend.pre_tokenizer).get("pretokenizers", [])
    if not isinstance(backend.model, models.BPE) or backend.model.dropout or len(steps) != 2:
        return False
    split, level = steps
    return (
        _state(backend.normalizer) in ({}, {"type": "NFC"})
        and (split.get("type"), split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)
        and split.get("pattern", {}).get("Regex") in _RULES
        and (level.get("type"), level.get("add_prefix_space"), level.get("use_regex")) == ("ByteLevel", False, False)
    )


def _crossing(vocabulary: Mapping[str, int]) -> list[str]:
    """What of a vocabulary goes across a place where texts are cut, as it stands in a text."""
    suspects = [entry for entry in vocabulary if _BLANK in entry or "\n" in entry]
    return [text for entry in suspects if _ACROSS.search(text := entry.replace(_BLANK, " "))]


def _state(part: Any) -> dict[str, Any]:
    """The settings of a tokenizer's part."""
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state
