"""Text of token ids as they come: each piece is sent once no later token can change it. Knows no model."""

import re
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a byte of a character that the vocabulary lacks
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def text_pieces(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> Iterator[str]:
    """Pieces of whole characters; together they are what the tokenizer decodes all of the ids to.

    A Hangul syllable may be spread over three tokens, and a run of byte tokens is text only as a whole: one stray byte
    turns every character of its run into replacement characters.
    """
    found = _Text(tokenizer)
    for token in ids:
        if piece := found.add(token):
            yield piece
    if rest := found.rest():
        yield rest


class _Text:
    """The ids so far, and how much of their text was sent."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._unwritten = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ids: list[int] = []  # of tokens that write something
        self._sent = ""

    def add(self, token: int) -> str:
        """What has become certain by one more token."""
        written = None if token in self._unwritten else self._tokenizer.convert_ids_to_tokens(token)
        if written is None:  # control tokens, and ids beyond the vocabulary
            return ""
        self._ids.append(token)
        if _BYTE.fullmatch(written):
            return ""
        text = self._decoded().rstrip(_INCOMPLETE)
        if self._tokenizer.clean_up_tokenization_spaces:  # which joins "do n ' t" to "don't"
            text = text[: max(text.rfind(" ", 0, max(text.rfind(" "), 0)), len(self._sent))]
        return self._new(text)

    def rest(self) -> str:
        """What is left when no token follows."""
        return self._new(self._decoded())

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _new(self, text: str) -> str:
        new = text[len(self._sent) :]
        self._sent += new
        return new
