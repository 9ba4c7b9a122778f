"""Text as the model reads it, and the hashes that identify it. Knows strings only."""

import json
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from seodang.data.read.raw_rows import as_text
from seodang.data.read.serialized import to_json

NFC = "text composed to NFC"
LINE_ENDS = "CRLF line ends turned into LF"
NULS = "U+0000 removed"
SURROGATES = "halves of characters (lone surrogates) removed"

COMPARED_CHARS = 200  # of an answer
MAX_DIGITS = 40  # a number that would need more stays in scientific notation
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d*)?(?:e[+-]?\d{1,4})?", re.ASCII)
_MIDNIGHT = re.compile(r"(?<=^\d{4}-\d\d-\d\d)[t ]00:00(?::00(?:\.0+)?)?$")
_IGNORABLE = (  # Default_Ignorable_Code_Point (Unicode 15.1)
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_FOLDED = re.compile(f"[{_IGNORABLE}\uff01-\uffee]")  # and halfwidth and fullwidth forms
_COPIED = re.compile("[\u00ad\u200b\u2060\ufeff]")  # not the joiners, which emoji and some scripts need
_INVISIBLE = re.compile(rf"[\s{_IGNORABLE}\u2800\uffa0\ufff9-\ufffb]*")  # and white space, blank Braille, fillers
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
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


def is_blank(text: str | None) -> bool:
    """Whether nothing of a text can be seen."""
    return not text or _INVISIBLE.fullmatch(text) is not None


def has_invisible(text: str) -> bool:
    """Whether the text holds characters that nobody sees and copying brings: zero-width spaces, soft hyphens."""
    return not text.isascii() and _COPIED.search(text) is not None


def has_html(text: str) -> bool:
    """Whether the text holds HTML tags or entities."""
    return ("<" in text or "&" in text) and _HTML.search(text) is not None


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values.

    Raises:
        ValueError: a number that JSON does not have (infinity).
    """
    return to_json(value, sort_keys=True, separators=(",", ":"))


def text_hash(text: str) -> str:
    """16 hexadecimal digits that identify a text; lone surrogates, which only dropped rows hold, become `?`."""
    return blake2b(text.encode("utf-8", errors="replace"), digest_size=8).hexdigest()


def row_hash(turns: Sequence[str], tools: str | None) -> str:
    """A conversation's identity: the canonical JSON of its turns, given one by one, and of its tools; nothing else."""
    listed = f"[{','.join(turns)}]"
    return text_hash(listed if tools is None else f"[{listed},{canonical_json(tools)}]")


def question_hash(question: str) -> str:
    """The same for the same question, as `normal_form` sees it."""
    return text_hash(normal_form(question))


def exchange_hash(question: str, answer: str) -> str:
    """The same for the same question with the same answer, of which the beginning counts.

    Args:
        question: its `question_hash`.
    """
    return text_hash(f"{question} {normal_form(answer[:COMPARED_CHARS])}")


def normal_form(text: str) -> str:
    """The text for comparison: without case, differences of white space, composition and width, invisible characters.

    Invisible are the characters that Unicode lets renderers ignore: zero-width spaces and joiners, direction and byte
    order marks, soft hyphens, Hangul fillers, variation selectors.
    """
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFC", _FOLDED.sub(_folded, text))
    return " ".join(text.split())


def group_key(value: Any) -> str:
    """The normal form of a column's value, nested or not: the same whichever file kind it came from.

    A number is the same however it is written (3, 3.0, "3", "3.00"), a day is the same with and without midnight; "007"
    is no number, but a name.
    """
    found = _grouped(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _grouped(value: Any) -> Any:
    """Lists of lists and texts; written as JSON once, since texts of texts would double their escapes at each level."""
    if isinstance(value, dict):
        pairs = [[_grouped(name), _grouped(item)] for name, item in value.items()]
        return sorted(pairs, key=lambda pair: json.dumps(pair, ensure_ascii=False))
    if isinstance(value, list | tuple):
        return [_grouped(item) for item in value]
    text = as_text(value)
    if text is None:
        return "null"
    text = _MIDNIGHT.sub("", normal_form(text if text.isascii() else _LONE_SURROGATES.sub("\ufffd", text)))
    return _plain_number(text) if _NUMBER.fullmatch(text) else text


def _folded(match: re.Match[str]) -> str:
    """Nothing for an invisible character, the usual width for one of another width."""
    return unicodedata.normalize("NFKC", match[0]) if "\uff01" <= match[0] <= "\uffee" and match[0] != "\uffa0" else ""


def _plain_number(text: str) -> str:
    number = Decimal(text)
    plain = f"{number:f}" if abs(number.adjusted()) <= MAX_DIGITS else str(number.normalize())
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain == "-0" else plain
