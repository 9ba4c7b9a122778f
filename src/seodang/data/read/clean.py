"""Text as the model reads it, and the hashes that identify it. Knows strings only."""

import json
import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

NFC = "text composed to NFC"
LINE_ENDS = "CRLF line ends turned into LF"
NULS = "U+0000 removed"
SURROGATES = "halves of characters (lone surrogates) removed"

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_HTML = re.compile(
    r"</?(?:p|br|div|span|b|i|u|a|li|ul|ol|table|tr|td|th|h[1-6]|img|strong|em|font|sup|sub)\b[^<>]*>"
    r"|&(?:nbsp|amp|lt|gt|quot|#\d+);",
    re.IGNORECASE,
)


def clean(text: str, changes: set[str]) -> str:
    """The text in NFC, with LF line ends, without U+0000; what that changed is added to `changes`.

    Decomposed Korean costs about three times the tokens and is unknown to most models.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        changes.add(LINE_ENDS)
    if "\0" in text:
        text = text.replace("\0", "")
        changes.add(NULS)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = _LONE_SURROGATES.sub("", text)
            changes.add(SURROGATES)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
            changes.add(NFC)
    return text


def has_html(text: str) -> bool:
    """Whether the text holds HTML tags or entities."""
    return ("<" in text or "&" in text) and _HTML.search(text) is not None


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values.

    Raises:
        ValueError: a number that JSON does not have (infinity).
    """
    return _CANONICAL.encode(value)


def text_hash(text: str) -> str:
    """16 hexadecimal digits that identify a text; lone surrogates, which only dropped rows hold, become `?`."""
    return blake2b(text.encode("utf-8", errors="replace"), digest_size=8).hexdigest()


def row_hash(turns: Sequence[str], tools: str | None) -> str:
    """A conversation's identity: the canonical JSON of its turns, given one by one, and of its tools; nothing else."""
    listed = f"[{','.join(turns)}]"
    return text_hash(listed if tools is None else f"[{listed},{canonical_json(tools)}]")


def question_hash(question: str) -> str:
    """The same for the same question, whatever its case, white space and Unicode composition."""
    return text_hash(" ".join(unicodedata.normalize("NFC", question.casefold()).split()))
