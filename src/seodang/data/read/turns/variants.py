"""Turns in the shapes of other libraries and tables → turns with `role` and `content`. Knows shapes, no content."""

from collections.abc import Mapping, Sequence
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.column_names import ROLES, column_key

TAKEN_APART = "turns of a question with its answer taken apart"
TOOL_BLOCKS = "tool blocks of a turn read as calls and results"
TEXT_KEYS = ("text", "message", "utterance", "발화", "발화문", "발화내용", "대사", "내용", "parts")
ROLE_KEYS = ("speaker", "author", "화자", "발화자", "역할", "sender", "participantID", "speaker_id", "speakerID")
MESSAGE_TYPES = frozenset({"human", "ai", "system", "tool", "function", "humanmessage", "aimessage", "systemmessage"})
TEXTS = frozenset({"content", "value", "data", *TEXT_KEYS})


def plain_turns(turns: Sequence[Any], roles: Mapping[str, str], changes: set[str]) -> list[Any]:
    """Turns as `read_turns` knows them; those that are so already stay the same objects.

    Args:
        roles: of the recipe, names in lower case: name in the data → role.
    """
    plain: list[Any] = []
    for turn in turns:
        if (
            turn.__class__ is dict
            and not roles
            and (
                (turn.get("content").__class__ is str and _is_known(turn.get("role")))
                or (turn.get("value").__class__ is str and _is_known(turn.get("from")))
            )
        ):
            plain.append(turn)
        elif isinstance(turn, dict):
            plain += _read(turn, roles, changes)
        else:
            plain.append(turn)
    return plain


def _is_known(role: Any) -> bool:
    return role.__class__ is str and role in ROLES  # an object or a list is in no set


def is_variant(value: Any) -> bool:
    """Whether a value is a turn in any of the shapes that `plain_turns` reads, beside those with `role` or `from`."""
    if not isinstance(value, dict):
        return False
    return has_role(value) or _pair(value) is not None


def has_role(value: Any) -> bool:
    """Whether a value is a turn that names its role, in any of the shapes that `plain_turns` reads."""
    if not isinstance(value, dict):
        return False
    return not TEXTS.isdisjoint(value) if _role_key(value) is not None else _single(value) is not None


def transposed(value: Mapping[str, Any]) -> list[Any] | None:
    """The turns of an object of lists, as Arrow stores a list of objects: {"role": […], "content": […]}."""
    lists = list(value.values())
    if len(lists) < 2 or not all(isinstance(item, list) and len(item) == len(lists[0]) for item in lists):
        return None
    turns = [dict(zip(value, items, strict=True)) for items in zip(*lists, strict=True)]
    return turns if "role" in value or "from" in value or (turns and is_variant(turns[0])) else None


def _read(turn: Mapping[str, Any], roles: Mapping[str, str], changes: set[str]) -> list[Any]:
    key = _role_key(turn)
    if key is None:
        if (pair := _pair(turn)) is not None:
            changes.add(TAKEN_APART)
            asked, answered = pair
            return [{"role": "user", "content": turn[asked]}, {"role": "assistant", "content": turn[answered]}]
        if (single := _single(turn)) is not None:
            return [{"role": _mapped(single, roles, changes), "content": turn[single]}]
        return [turn]
    written = turn[key]
    role = _mapped(written, roles, changes)
    text = next((name for name in ("content", "value") if turn.get(name) is not None), None)
    if text is None:
        text = next((name for name in TEXT_KEYS if turn.get(name) is not None), None)
    if key in ("role", "from") and role == written and text in ("content", "value", None):
        return _without_tool_blocks(turn, changes)
    if text is None and isinstance(turn.get("data"), dict):  # LangChain's messages_to_dict
        inner = turn["data"]
        return _without_tool_blocks({**inner, "role": role, "content": inner.get("content")}, changes)
    others = {name: value for name, value in turn.items() if name not in (key, text)}
    content = turn[text] if text is not None else None
    if text == "parts" and isinstance(content, list):  # Gemini's: texts, or objects that hold one
        content = "\n".join(
            part if isinstance(part, str) else str(part.get("text", ""))
            for part in content
            if isinstance(part, str | dict)
        )
    return _without_tool_blocks({**others, "role": role, "content": content}, changes)


def _mapped(written: str, roles: Mapping[str, str], changes: set[str]) -> str:
    role = roles.get(written.strip().casefold())
    if role is None:
        return written
    if role != written:
        changes.add(f"role {written} read as {role}")
    return role


def _role_key(turn: Mapping[str, Any]) -> str | None:
    for key in ("role", "from", *ROLE_KEYS):
        if isinstance(turn.get(key), str):
            return key
    kind = turn.get("type")
    return "type" if isinstance(kind, str) and kind.casefold() in MESSAGE_TYPES else None


def _pair(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of a question and its answer."""
    keys = {column_key(name): name for name in turn if isinstance(turn[name], str)}
    asked = [keys[key] for key in keys if key in column_names.QUESTION or key == column_names.SHORT_QUESTION]
    answered = [keys[key] for key in keys if key in column_names.ANSWER or key == column_names.SHORT_ANSWER]
    return (asked[0], answered[0]) if len(asked) == 1 and len(answered) == 1 else None


def _single(turn: Mapping[str, Any]) -> str | None:
    """The one key of {"user": "…"}, which is its role."""
    if len(turn) != 1:
        return None
    [(name, value)] = turn.items()
    return name if name.strip().casefold() in ROLES and isinstance(value, str) else None


def _without_tool_blocks(turn: Mapping[str, Any], changes: set[str]) -> list[Any]:
    """A turn whose calls and results are blocks of its content, as Anthropic's, as turns that have keys for them."""
    content = turn.get("content")
    if not isinstance(content, list):
        return [turn]
    kinds = [block.get("type") if isinstance(block, dict) else None for block in content]
    if "tool_use" not in kinds and "tool_result" not in kinds:
        return [turn]
    changes.add(TOOL_BLOCKS)
    calls = [
        {key: block[key] for key in ("id", "name", "input") if key in block}
        for block, kind in zip(content, kinds, strict=True)
        if kind == "tool_use"
    ]
    results = [
        {"role": "tool", "content": _result(block), "tool_call_id": block.get("tool_use_id")}
        for block, kind in zip(content, kinds, strict=True)
        if kind == "tool_result"
    ]
    rest = [block for block, kind in zip(content, kinds, strict=True) if kind not in ("tool_use", "tool_result")]
    spoken = {**turn, "content": rest or None, **({"tool_calls": calls} if calls else {})}
    return [*results, spoken] if rest or calls else results


def _result(block: Mapping[str, Any]) -> Any:
    content = block.get("content")
    return "" if content is None else content
