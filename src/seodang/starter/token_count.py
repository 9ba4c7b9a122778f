"""Tokens of a text: counted by the model's own tokenizer where that is on this disk, else estimated from its bytes."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

How = Literal["counted", "estimated", "overestimated"]
ASCII_BYTE, OTHER_BYTE = 0.25, 0.31  # Gemma and Qwen: 0.20 to 0.28 of an English, 0.25 to 0.32 of a Korean UTF-8 byte
# a vocabulary without Hangul falls back to bytes: SmolLM2 makes 0.94 tokens of a Korean one
MOST_ASCII_BYTE, MOST_OTHER_BYTE = 0.3, 1.0
COUNTED_BYTES = 3_000_000  # of one file, a second or two; later texts have as many tokens a byte as those before them
KOREAN_VOCABULARIES = re.compile(r"gemma|qwen|kanana|hyperclova|exaone|(^|/)a\.x-|midm-2|solar[-_]open", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """How the tokens of texts are counted for a model; those that a template writes around a text are not."""

    how: How = "estimated"
    tokenizer: Tokenizer | None = None

    def of_file(self) -> Callable[[str], int]:
        """What counts the tokens of one file's texts, one after the other."""
        if self.tokenizer:
            return _Counted(self.tokenizer)
        return _estimate if self.how == "estimated" else _overestimate


ESTIMATED = TokenCount()


def token_count(names: Iterable[str], tokenizer_file: Path | None) -> TokenCount:
    """How tokens are counted for a model.

    Args:
        names: of the model: a hub id, a folder's name, the kind in its configuration.
        tokenizer_file: its tokenizer.json, if that is on this disk.
    """
    if tokenizer_file and (tokenizer := _read(tokenizer_file)):
        return TokenCount(how="counted", tokenizer=tokenizer)
    return TokenCount(how="estimated" if any(map(KOREAN_VOCABULARIES.search, names)) else "overestimated")


class _Counted:
    """A tokenizer's count of the first texts; a share of the bytes of later ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens = self._bytes = 0

    def __call__(self, text: str) -> int:
        data = text.encode("utf-8", errors="replace")
        if self._bytes >= COUNTED_BYTES:
            return int(len(data) * self._tokens / self._bytes) + 1
        found = len(self._tokenizer.encode(data.decode(), add_special_tokens=False))
        self._tokens, self._bytes = self._tokens + found, self._bytes + len(data)
        return found


def _estimate(text: str, ascii_byte: float = ASCII_BYTE, other_byte: float = OTHER_BYTE) -> int:
    num_bytes = len(text.encode("utf-8", errors="replace"))
    ascii_bytes = num_bytes if text.isascii() else sum(map(str.isascii, text))
    return int(ascii_byte * ascii_bytes + other_byte * (num_bytes - ascii_bytes)) + 1


def _overestimate(text: str) -> int:
    """Of a model whose vocabulary may lack the text's script."""
    return _estimate(text, MOST_ASCII_BYTE, MOST_OTHER_BYTE)


def _read(file: Path) -> Tokenizer | None:
    """None: it cannot be read, which `inspect` reports."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # tokenizers raises nothing narrower
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
