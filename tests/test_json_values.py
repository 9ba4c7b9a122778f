"""json_values.py: frozen values to JSON and back."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from seodang.errors import SeodangError
from seodang.json_values import from_json, json_text, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    loss: float
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    SCHEMA_VERSION: ClassVar[int] = 3
    kind: Literal["domain", "general"]
    sources: Mapping[str, Inner]
    counts: tuple[int, ...]


VALUE = Outer(kind="domain", sources={"의학": Inner(loss=1.0, note="🙂"), "b": Inner(loss=2.5)}, counts=(1, 2))


def test_a_value_comes_back_equal() -> None:
    """Nested dataclasses, mappings and tuples survive json.dumps; a whole number fits a float field."""
    text = json.dumps(to_json(VALUE), ensure_ascii=False)
    assert from_json(Outer, json.loads(text), where="outer.json") == VALUE
    assert from_json(Inner, {"loss": 2}, where="inner.json") == Inner(loss=2.0)


def test_the_version_stands_in_the_file_of_a_versioned_value_alone() -> None:
    """SCHEMA_VERSION is written first; a class without one writes none and asks for none."""
    assert next(iter(to_json(VALUE))) == "schema_version"
    assert to_json(VALUE)["schema_version"] == 3
    assert to_json(Inner(loss=1.0)) == {"loss": 1.0, "note": None}


@pytest.mark.parametrize("found", [None, 2, 4, "3"])
def test_another_version_ends_in_one_message(found: Any) -> None:
    """The message names file, expected and found version, whatever else the file holds."""
    data = {"schema_version": found, "other": 1} if found else {"other": 1}
    with pytest.raises(
        SeodangError, match=f"outer.json: schema version 3 expected, found {found!r}".replace("None", "none")
    ):
        from_json(Outer, data, where="outer.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "field"}, "kind: input should be 'domain' or 'general'"),
        ({"counts": [1, "2"]}, "counts.1: input should be a valid integer"),
        ({"sources": {"b": {"note": None}}}, "sources.b.loss: missing"),
        ({"more": 1}, "more: unknown field"),
    ],
)
def test_a_damaged_value_names_its_field(change: dict[str, Any], message: str) -> None:
    """A field of another type, a missing and an unknown one are reported by their place."""
    with pytest.raises(SeodangError, match=re.escape(f"outer.json:7: {message}")):
        from_json(Outer, {**to_json(VALUE), **change}, where="outer.json:7")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    """A list, a text or null in place of the object ends in one message."""
    with pytest.raises(SeodangError, match=r"outer.json: expected a JSON object, found \w+"):
        from_json(Outer, data, where="outer.json")


def test_json_text_is_strict() -> None:
    """NaN and infinity are no JSON: the first is named by its keys, and nothing is written."""
    assert json_text({"가": [1.5, None]}, where="a.json") == '{"가": [1.5, null]}'
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(SeodangError, match=rf"proof.json: losses.wiki.1 is {number}, which JSON cannot hold"):
            json_text({"name": "x", "losses": {"wiki": (1.0, number)}}, where="proof.json")
    with pytest.raises(SeodangError, match="it is nan"):
        json_text(math.nan, where="a.json")
