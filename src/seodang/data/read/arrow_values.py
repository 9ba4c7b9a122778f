"""Values of Arrow columns (Parquet files, `datasets`) as JSON has them. Knows types, not what columns mean.

Arrow gives every object of a column the same keys: where one row calls `weather(city)` and another `drug(name)`, both
come with a `city` and a `name`, one of them null. Such nulls are no data, and are removed. A null in JSON text stays.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from seodang.data.read.raw_rows import Number, RawRow, as_text, raw_row
from seodang.data.read.serialized import parse_json
from seodang.errors import SourceError

NULLS = "nulls that Arrow fills into objects removed"
CLASS_NAMES = "numbers of classes read as their names"
TURN_KEYS = frozenset({"role", "from"})  # objects with these keep their nulls: a turn may have no content

Convert = Callable[[Any, set[str]], Any]  # (value, changes) → value


class ArrowRows:
    """Turns batches of one schema into rows.

    Args:
        where: the file or data set, for messages.
        schema: of the batches, with the metadata that `datasets` writes.
    """

    def __init__(self, where: str, schema: pa.Schema) -> None:
        self.where = where
        features = _features(schema)
        self._converters = {
            field.name: converter
            for field in schema
            if (converter := _converter(field.type, features.get(field.name))) is not None
        }

    def read(self, batch: pa.RecordBatch | pa.Table, first_row: int) -> Iterator[RawRow]:
        """The rows of a batch, numbered from `first_row`.

        Raises:
            SourceError: text of a JSON column that is no JSON.
        """
        for row, record in enumerate(batch.to_pylist(), first_row):
            changes: set[str] = set()
            for name, convert in self._converters.items():
                if record[name] is not None:
                    record[name] = self._converted(convert, record[name], changes, f"{self.where}:{row}", name)
            yield raw_row(self.where, row, record, tuple(changes))

    def _converted(self, convert: Convert, value: Any, changes: set[str], where: str, column: str) -> Any:
        try:
            return convert(value, changes)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"the column {column!r} is declared as JSON but does not hold it: {error}",
                where=where,
                hint="write the data set again with `datasets`",
            ) from None


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Column → its feature as `datasets` describes it in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _converter(kind: pa.DataType, feature: Any) -> Convert | None:
    """What makes JSON values of a type's values; None if they are that already."""
    types = pa.types
    if isinstance(kind, pa.JsonType) or (isinstance(feature, dict) and feature.get("_type") == "Json"):
        return _from_json
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return _class_label(feature["names"])
    if isinstance(kind, pa.BaseExtensionType):
        return _converter(kind.storage_type, feature)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _converter(kind.value_type, feature)
    if types.is_float16(kind) or types.is_float32(kind):
        return _shortest_float(np.float16 if types.is_float16(kind) else np.float32)
    if types.is_decimal(kind):
        return lambda value, _: Number(str(value))
    if (
        types.is_temporal(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return lambda value, _: as_text(value)
    if types.is_map(kind):
        return _map_converter(kind)
    if types.is_struct(kind):
        return _struct_converter(kind, feature)
    if hasattr(kind, "value_type"):  # lists of all kinds
        return _list_converter(_converter(kind.value_type, _element_feature(feature)))
    return None


def _element_feature(feature: Any) -> Any:
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature") if isinstance(feature, dict) else None


def _from_json(value: Any, changes: set[str]) -> Any:
    return parse_json(value) if isinstance(value, str) else value


def _class_label(names: list[str]) -> Convert:
    """The name of a class, which the file holds as a number; a number without a name (-1) is no value."""

    def convert(value: Any, changes: set[str]) -> Any:
        changes.add(CLASS_NAMES)
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None

    return convert


def _shortest_float(precision: type[np.floating[Any]]) -> Convert:
    """The number as it was written before it was stored in fewer bits: 2.8, not 2.799999952316284."""
    return lambda value, _: float(str(precision(value)))


def _list_converter(element: Convert | None) -> Convert | None:
    if element is None:
        return None

    def convert(values: Any, changes: set[str]) -> Any:
        return [None if value is None else element(value, changes) for value in values]

    return convert


def _map_converter(kind: pa.MapType) -> Convert:
    item = _converter(kind.item_type, None)

    def convert(pairs: Any, changes: set[str]) -> Any:
        return {
            str(as_text(key)): value if item is None or value is None else item(value, changes) for key, value in pairs
        }

    return convert


def _struct_converter(kind: pa.StructType, feature: Any) -> Convert:
    names = [field.name for field in kind]
    described = feature if isinstance(feature, dict) else {}
    converters = {field.name: _converter(field.type, described.get(field.name)) for field in kind}
    is_turn = not TURN_KEYS.isdisjoint(names)

    def convert(value: Any, changes: set[str]) -> Any:
        converted: dict[str, Any] = {}
        for name, inner in value.items():
            if inner is not None:
                converter = converters[name]
                converted[name] = inner if converter is None else converter(inner, changes)
            elif is_turn:
                converted[name] = None
            else:
                changes.add(NULLS)
        return converted

    return convert
