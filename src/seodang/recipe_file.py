"""A recipe as text: found, parsed, overridden, its faults reported. Knows no section of it."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from seodang.errors import RecipeError, nearest, os_reason
from seodang.other_names import key_for, no_key_for, value_for
from seodang.user_paths import expanded, is_there

MAX_BYTES = 500_000  # of a recipe file: parsing more takes long, and it is most likely a data file
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".zip", ".gz", ".txt", ".arrow")  # JSON may be YAML
# pydantic's messages name tuples and dictionaries; whoever writes YAML does not know them
PLAIN_WORDS = {
    "tuple_type": "expected a list",
    "dict_type": "expected keys with values",
    "mapping_type": "expected keys with values",
    "model_type": "expected keys with values",
    "string_type": "expected text",
    "too_short": "expected at least one",
}


def shipped_recipes() -> list[str]:
    """Names of the recipes that ship."""
    folder = files("seodang").joinpath("recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def is_shipped_template(name: str) -> bool:
    """Whether `name` is a built-in chat template: such a name is no path, whatever lies in the folder."""
    return "/" not in name and name in shipped_templates()


def shipped_templates() -> list[str]:
    """Names of the built-in chat templates."""
    folder = files("seodang").joinpath("templates")
    return sorted(item.name.removesuffix(".jinja") for item in folder.iterdir() if item.name.endswith(".jinja"))


def read_recipe(recipe: str | Path) -> tuple[str, dict[str, Any], Path]:
    """A recipe file, or one that ships, as (where it is from, its keys, folder that its relative paths start from).

    Raises:
        RecipeError: no such file, not UTF-8, or no YAML mapping.
    """
    name, path = str(recipe), expanded(str(recipe))
    try:
        if path.is_file():
            _refuse_data(path, name)
            _refuse_large(path.stat().st_size, name)
            return name, parse(path.read_text(encoding="utf-8-sig"), name), path.resolve().parent
    except UnicodeDecodeError as error:
        hint = "save the recipe as UTF-8"
        raise RecipeError([f"not UTF-8 text: {error}"], where=name, hint=hint, is_read=False) from None
    except OSError as error:
        hint = "check its name and permissions"
        raise RecipeError([f"cannot be read: {os_reason(error)}"], where=name, hint=hint, is_read=False) from None
    if name in shipped_recipes():
        text = files("seodang").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
        return f"recipe {name}", parse(text, f"recipe {name}"), Path.cwd()
    if (path / "recipe.yaml").is_file():
        hint = f"give the recipe in it: {name.rstrip('/')}/recipe.yaml; --resume takes a run's folder, too"
        raise RecipeError(["is a folder"], where=name, hint=hint, is_read=False)
    what = "is a folder" if path.is_dir() else "no such file, and no recipe that ships has this name"
    hint = f"give a YAML file or one of: {', '.join(shipped_recipes())}"
    raise RecipeError([what + nearest(name, shipped_recipes())], where=name, hint=hint, is_read=False)


def _refuse_data(path: Path, name: str) -> None:
    if path.suffix.lower() in DATA_SUFFIXES:
        hint = f"let `seodang init {name}` write a recipe for it"
        raise RecipeError(["is a data file, not a recipe"], where=name, hint=hint, is_read=False)


def _refuse_large(num_bytes: int, name: str) -> None:
    if num_bytes > MAX_BYTES:
        raise RecipeError(
            [f"is {num_bytes / 1e6:,.1f} MB large; a recipe has a few thousand bytes"],
            where=name,
            hint="is it a data file? Name it under `sources:` of a recipe, or let `seodang init` write one",
            is_read=False,
        )


class _Loader(yaml.SafeLoader):
    """YAML that refuses a duplicate key (PyYAML keeps the last one silently), and names every fault by its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:  # PyYAML's own, of `!!bool x`
            tag = node.tag.rpartition(":")[2]
            what = (
                f"{_short(node.value)} is not a valid {tag}" if isinstance(node, yaml.ScalarNode) else f"no valid {tag}"
            )
            if tag == "timestamp" and isinstance(error, ValueError):  # month must be in 1..12
                what += f": {error}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue  # PyYAML itself refuses a list or mapping as a key
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str, where: str) -> dict[str, Any]:
    """The keys of a YAML text.

    Raises:
        RecipeError: no YAML, a duplicate key, or no mapping.
    """
    try:
        data = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError([what], where=place, hint="fix the YAML") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise RecipeError(
            [f"expected keys such as `model:` and `sources:`, found {found}"],
            where=where,
            hint="write at least the keys `name:`, `model:` and `sources:`",
        )
    return data


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def override(data: dict[str, Any], pair: str) -> str | None:
    """Put `a.b=VALUE` into `data`; a fault if it leads nowhere. Items are named: `sources.medical.take=9`."""
    key, equals, value = pair.partition("=")
    if not equals or not key:
        return f"expected KEY=VALUE, got {_short(pair)}"
    try:
        parsed = _load(value)
    except yaml.YAMLError:
        return f"{key}: {_short(value)} cannot be read as YAML"
    *parents, last = key.split(".")
    node: Any = data
    for done, part in enumerate(parents):
        if isinstance(node, list):
            found = next((item for item in node if isinstance(item, dict) and item.get("name") == part), None)
            if found is None:
                names = [str(item["name"]) for item in node if isinstance(item, dict) and "name" in item]
                return f"{key}: none of {'.'.join(parents[:done])} is named {part!r}{nearest_or_all(part, names)}"
            node = found
            continue
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            return f"{key}: {part} holds a value, not keys"
    if isinstance(node, list):
        return f"{key}: name the item, as in {'.'.join(parents)}.NAME.{last}"
    node[last] = parsed
    return None


def fault_lines(error: ValidationError, data: Mapping[str, Any], model: type[BaseModel]) -> Iterator[str]:
    """One line for each fault: its key, what was found, and the key or value that was meant.

    The keys of a section are listed once, however many of its keys are unknown.
    """
    listed: set[type[BaseModel]] = set()
    for fault in error.errors():
        location, kind = fault["loc"], fault["type"]
        if kind == "too_short" and fault["input"]:
            continue  # pydantic counts the items without fault; those at fault are reported anyway
        key = dotted_key(location, data)
        if kind == "extra_forbidden":
            what = f"unknown key{_meant_key(location, model, listed)}"
        elif kind == "missing":
            what = "missing"
        elif "ctx" in fault and ("fault" in fault["ctx"] or "error" in fault["ctx"]):  # our own words
            what = str(fault["ctx"].get("fault") or fault["ctx"]["error"])
        else:
            message = PLAIN_WORDS.get(kind, fault["msg"][:1].lower() + fault["msg"][1:])
            what = f"{message}, found {_short(fault['input'])}{_meant_value(fault)}"
        yield f"{key}: {what}" if key else what


def _meant_key(location: Sequence[str | int], model: type[BaseModel], listed: set[type[BaseModel]]) -> str:
    """A phrase that points from an unknown key to the one that was meant, or lists those of its section."""
    name, section, known = str(location[-1]), _section(location[:-1], model), dict(known_keys(model))
    if (other := key_for(name)) and other[0] in known:
        key, remark = other
        return f"; here it is {key}" + (f" ({remark})" if remark else "")
    if elsewhere := [key for key, last in known.items() if last == name]:
        return f"; did you mean {' or '.join(elsewhere)}?"
    if why := no_key_for(name):
        return f"; {why}"
    fields = list(section.model_fields)
    found = nearest_or_all(name, fields)
    if found.startswith(" (") and section in listed:
        return ""
    listed.add(section)
    return found


def _meant_value(fault: ErrorDetails) -> str:
    """A phrase with the value that another tool calls by what was found, or that is near it; empty if there is none."""
    choices = re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))
    if fault["type"] != "literal_error":
        return ""
    if here := value_for(fault["input"], choices):
        return f"; here it is {here!r}"
    return nearest(str(fault["input"])[:100], choices)


def nearest_or_all(word: str, known: Sequence[str]) -> str:
    """A phrase that points from a wrong name to the nearest one there is, or lists them."""
    return nearest(word, known) or (f" (there are: {', '.join(known)})" if known else "")


def _short(value: Any) -> str:
    """The beginning of a value, which may be a YAML alias of aliases that would fill the memory."""
    short = reprlib.Repr()
    short.maxlevel = 3
    text = short.repr(value) if isinstance(value, list | dict | set) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def dotted_key(location: Sequence[str | int], data: Mapping[str, Any]) -> str:
    """`sources.medical.take` rather than `sources.1.take`."""
    names: list[str] = []
    node: Any = data
    for part in location:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):  # the fault is that it is not there
            node = None
        name = node.get("name") if isinstance(node, Mapping) and isinstance(part, int) else None
        names.append(name if isinstance(name, str) and name else str(part))
    return ".".join(names)


def _section(location: Sequence[str | int], model: type[BaseModel]) -> type[BaseModel]:
    """The model of the section at `location`."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return model


def known_keys(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(dotted key, its last name) of all that a recipe may hold; an item of a list is called NAME."""
    for name, field in model.model_fields.items():
        yield name, name
        item = f"{name}.NAME" if get_origin(field.annotation) is tuple else name
        for section in _models(field.annotation):
            yield from ((f"{item}.{key}", last) for key, last in known_keys(section))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models named in a type such as `tuple[Source, ...]` or `Repeat | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def absolute(path: str, folder: Path, *, if_there: bool = False) -> str:
    """A local path that means the same from every folder; `package:` and `sample:` names stay as they are.

    Args:
        path: as the recipe has it.
        folder: what a relative path starts from.
        if_there: the path may be a hub id instead, unless it exists or begins with `.`, `~` or `/`.
    """
    if re.match(r"(package|sample):", path):
        return path
    resolved = folder / expanded(path)
    if if_there and not path.startswith((".", "~", "/")) and not is_there(resolved):
        return path
    return str(resolved)
