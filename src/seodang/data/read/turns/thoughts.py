"""The thoughts of a turn, under the names and in the shapes in which models report them. Knows no template."""

from collections.abc import Mapping
from typing import Any

from seodang.data.read.clean import clean, is_blank
from seodang.data.read.serialized import opens_value, parse_text
from seodang.data.read.unusable import UnusableRowError

THOUGHT_KEYS = (
    "reasoning_content", "reasoning", "thinking", "reasoning_text", "thinking_content", "reasoning_details",
    "thought", "thoughts", "think", "thinking_blocks", "reasoning_summary", "cot", "complex_cot", "chain_of_thought",
)  # fmt: skip
_THOUGHT_KEYS = frozenset(THOUGHT_KEYS)
THOUGHT_BLOCKS = frozenset(
    {"thinking", "reasoning", "thought", "think", "reasoning_content", "reasoning.text", "reasoning.summary"}
    | {"summary_text", "reasoning_text"}
)
ENCRYPTED_BLOCKS = frozenset({"reasoning.encrypted", "redacted_thinking"})
ENCRYPTED = "encrypted thoughts left out"
SECOND = "thoughts under two keys: the second not used"
SHAPES = "thoughts in parts joined"
_TEXT_KEYS = (
    "text", "thinking", "reasoning", "reasoning_content", "thought", "think", "content", "summary", "value", "parts",
    "steps",
)  # fmt: skip
_BESIDE_TEXT = frozenset({"type", "id", "index", "format", "signature"})


def read_thoughts(turn: Mapping[str, Any], changes: set[str]) -> str | None:
    """The thoughts that a turn's own keys hold, as one text.

    Raises:
        UnusableRowError: thoughts of a shape that is not known.
    """
    if _THOUGHT_KEYS.isdisjoint(turn):
        return None
    texts: list[str] = []
    for key in THOUGHT_KEYS:
        if turn.get(key) and not isinstance(turn[key], bool):  # a flag: the model was asked to think
            text = thought_text(turn[key], changes)
            if not is_blank(text):
                texts.append(text)
    if not texts:
        return None
    if len({text.strip() for text in texts}) > 1:
        changes.add(SECOND)
    return clean(texts[0], changes)


def thought_text(value: Any, changes: set[str]) -> str:
    """A thought that is a text, an object with a text, or a list of these.

    Raises:
        UnusableRowError: any other shape.
    """
    if isinstance(value, str):
        blocks = _blocks_in(value) if opens_value(value) else None
        return value if blocks is None else thought_text(blocks, changes)
    if value is None:
        return ""
    if isinstance(value, list):
        if len(value) > 1:
            changes.add(SHAPES)
        texts = [thought_text(item, changes) for item in value]
        return "\n".join(text for text in texts if not is_blank(text))
    if isinstance(value, Mapping):
        if value.get("type") in ENCRYPTED_BLOCKS:
            changes.add(ENCRYPTED)
            return ""
        for key in _TEXT_KEYS:
            if value.get(key):
                return thought_text(value[key], changes)
        if not any(item for key, item in value.items() if key not in _BESIDE_TEXT):
            return ""
    raise UnusableRowError("thoughts that cannot be read", hint="write thoughts as a text: `reasoning_content`")


def _blocks_in(text: str) -> list[Any] | None:
    """The blocks that a text holds as JSON or in Python's notation, if it is nothing else."""
    try:
        blocks = parse_text(text)
    except ValueError:
        return None
    blocks = blocks if isinstance(blocks, list) else [blocks]
    return blocks if blocks and all(isinstance(block, dict) and "type" in block for block in blocks) else None
