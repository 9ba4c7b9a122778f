"""Tool calls and tool definitions, in the shapes that providers and data sets give them. Knows no turn."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from seodang.data.read.clean import clean
from seodang.data.read.serialized import DuplicateKeyError, parse_json, parse_text, to_json
from seodang.data.read.unusable import UnusableRowError

ARGUMENTS = "tool call arguments read as JSON"
DEFINITIONS = "tool definitions read from a text that is not a JSON list"
SCHEMAS = "tool definitions with an input_schema written as functions"
MAX_DEPTH = 64  # levels of nesting in a call or definition
NO_TOOLS = frozenset({"", "none", "null", "nan", "n/a", "[]", "{}"})
ARGUMENT_KEYS = (
    "arguments", "parameters", "args", "input", "inputs", "params", "kwargs", "tool_input", "action_input",
    "arguments_json", "function_args",
)  # fmt: skip
NAME_KEYS = ("name", "function", "tool_name", "function_name", "tool", "action")
_CALL_METADATA = frozenset({"id", "call_id", "tool_call_id", "type", "index", "status", "cache_control"})
_CALL_KEYS = frozenset({*ARGUMENT_KEYS, *NAME_KEYS, *_CALL_METADATA})
_CALL_TAG = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
CALL_HINT = 'write a call as {"name": "…", "arguments": {…}}'
TOOLS_HINT = "write tool definitions as a JSON list of objects, each with a name"


def read_calls(value: Any, changes: set[str]) -> tuple[Mapping[str, Any], ...]:
    """Tool calls, OpenAI style, from one or several calls given as JSON values or as text.

    Raises:
        UnusableRowError: what cannot be read, or holds more than a name and arguments.
    """
    if isinstance(value, str):
        value = _calls_in(value)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise UnusableRowError("a tool call that cannot be read", hint=CALL_HINT)
    return tuple(_read_call(call, changes) for call in calls)


def read_tools(places: Iterable[Any], changes: set[str]) -> str | None:
    """A row's tool definitions as JSON text of a list; None if it has none.

    Args:
        places: where they may stand: columns, turns. Two places may hold the same.

    Raises:
        UnusableRowError: definitions that cannot be read, or different ones in two places.
    """
    found = dict.fromkeys(clean(_checked_json(tools), changes) for place in places if (tools := _tools(place, changes)))
    if len(found) > 1:
        raise UnusableRowError("different tool definitions in two places", hint="keep them in one place")
    return next(iter(found), None)


def _calls_in(text: str) -> Any:
    tagged = _CALL_TAG.findall(text)
    try:
        if tagged and not _CALL_TAG.sub("", text).strip():
            return [parse_text(call) for call in tagged]
        return parse_text(text)
    except ValueError as error:
        raise _unreadable("a tool call", error) from None


def _read_call(call: Any, changes: set[str]) -> Mapping[str, Any]:
    if isinstance(call, str):
        call = _calls_in(call)
    if not isinstance(call, dict):
        raise UnusableRowError("a tool call that cannot be read", hint=CALL_HINT)
    inner = call["function"] if isinstance(call.get("function"), dict) else {}
    given = {key: value for key, value in call.items() if value is not inner} | inner
    name = next((given[key] for key in NAME_KEYS if isinstance(given.get(key), str) and given[key].strip()), None)
    if name is None:
        raise UnusableRowError("a tool call without a name", hint=CALL_HINT)
    if any(_has_content(value) for key, value in given.items() if key not in _CALL_KEYS):
        raise UnusableRowError("a tool call with keys that are not known", hint=CALL_HINT)
    read: dict[str, Any] = {"id": given["id"]} if given.get("id") else {}
    read |= {"type": "function", "function": {"name": name, "arguments": _arguments(given, changes)}}
    try:
        cleaned: Mapping[str, Any] = parse_json(clean(_checked_json(read), changes))
    except DuplicateKeyError as error:  # equal but for Unicode composition
        raise _unreadable("a tool call", error) from None
    return cleaned


def _arguments(call: Mapping[str, Any], changes: set[str]) -> dict[str, Any]:
    keys = [key for key in ARGUMENT_KEYS if _has_content(call.get(key))]
    if not keys:
        return {}
    value = call[keys[0]]
    if any(call[key] != value for key in keys[1:]):
        raise UnusableRowError("tool call arguments under two keys", hint=CALL_HINT)
    if keys[0] not in ARGUMENT_KEYS[:2]:
        changes.add(f"tool call arguments read from the key {keys[0]}")
    for _ in range(3):  # JSON inside of JSON text
        if not isinstance(value, str):
            break
        try:
            value = parse_text(value)
        except ValueError as error:
            raise _unreadable("tool call arguments", error) from None
        changes.add(ARGUMENTS)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnusableRowError("tool call arguments that are not an object", hint='write arguments as {"name": value}')
    return value


def _has_content(value: Any) -> bool:
    return value is not None and value not in ("", [], {}) and not (isinstance(value, str) and not value.strip())


def _tools(value: Any, changes: set[str]) -> list[Any]:
    """The definitions in one place; none: an empty list."""
    if isinstance(value, str):
        if value.strip().casefold() in NO_TOOLS:
            return []
        value = _definitions_in(value, changes)
    if isinstance(value, dict):
        inner = next((value[key] for key in ("tools", "functions") if isinstance(value.get(key), list)), None)
        value = [value] if inner is None else inner
    if not value:
        return []
    if not isinstance(value, list):
        raise UnusableRowError("tools are not a list of definitions", hint=TOOLS_HINT)
    tools = [_definitions_in(tool, changes) if isinstance(tool, str) else tool for tool in value]
    if not all(isinstance(tool, dict) for tool in tools):
        raise UnusableRowError("tools are not a list of definitions", hint=TOOLS_HINT)
    if not all(map(_is_definition, tools)):
        raise UnusableRowError("a tool definition without a name", hint=TOOLS_HINT)
    return [_as_function(tool, changes) for tool in tools]


def _as_function(tool: dict[str, Any], changes: set[str]) -> dict[str, Any]:
    """A definition as OpenAI writes it, which is what templates read; Anthropic's has its schema under another key."""
    if not isinstance(tool.get("input_schema"), dict) or tool.get("type", "custom") != "custom":
        return tool
    changes.add(SCHEMAS)
    described = {key: tool[key] for key in ("name", "description") if key in tool}
    return {"type": "function", "function": {**described, "parameters": tool["input_schema"]}}


def _definitions_in(text: str, changes: set[str]) -> Any:
    try:
        return parse_json(text.strip())
    except DuplicateKeyError as error:
        raise _unreadable("tool definitions", error) from None
    except (ValueError, RecursionError):
        changes.add(DEFINITIONS)
    try:
        return parse_text(text)
    except ValueError as error:
        raise _unreadable("tool definitions", error) from None


def _is_definition(tool: Mapping[str, Any]) -> bool:
    """A function with a name, or a tool of the provider's own, of which a type is enough."""
    function = tool["function"] if isinstance(tool.get("function"), dict) else tool
    own = tool.get("type")
    return isinstance(function.get("name"), str) or (isinstance(own, str) and own != "function")


def _unreadable(what: str, error: Exception) -> UnusableRowError:
    if isinstance(error, DuplicateKeyError):
        return UnusableRowError(f"{what} with a duplicate key", hint="keep one of the keys")
    hint = TOOLS_HINT if what == "tool definitions" else CALL_HINT
    return UnusableRowError(f"{what} that cannot be read", hint=hint)


def _checked_json(value: Any) -> str:
    """JSON text, keys in their order.

    Raises:
        UnusableRowError: what JSON, or its readers, cannot hold: infinity, whole numbers beyond 64 bits, deep nesting.
    """
    _check_depth_and_numbers(value, MAX_DEPTH)
    try:
        return to_json(value)
    except (ValueError, TypeError):
        raise UnusableRowError("a value in a tool call that JSON does not have", hint=CALL_HINT) from None


def _check_depth_and_numbers(value: Any, levels: int) -> None:
    if levels == 0:
        raise UnusableRowError(f"tools nested more than {MAX_DEPTH} levels deep", hint="flatten such rows")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth_and_numbers(item, levels - 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UnusableRowError("a whole number beyond 64 bits in a tool call", hint="write such a number as text")
