"""What holds for a recipe as a whole, before and beside its models. Takes keys of any shape, of which it knows some.

Short forms are written out, contradictions between sections found, and texts refused that no recipe may hold.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer
from pydantic_core import InitErrorDetails, PydanticCustomError

from seodang.errors import RecipeError
from seodang.recipe_file import dotted_key, nearest_or_all, override
from seodang.secrets import leaks

COPIED = "which would be copied into the run and its report"
MAX_NAME_BYTES = 200  # of a name that files and folders are called by: file systems take 255 bytes, endings included
SAVE_EVERY = r"(?P<steps>\d+)|(?P<minutes>\d+(\.\d+)?) ?min(utes?)?"  # between checkpoints
JOIN = " + "  # between the names of columns that are joined
BY_TOLERANCE = "domain_within_tolerance"  # of train.best_by: the lowest domain loss with nothing lost beyond tolerance
SHORT_FORMS = {"model": "path", "template": "borrow"}  # `model: PATH` stands for `model: {path: PATH}`


def _as_written(amount: float) -> int | float:
    return int(amount) if float(amount).is_integer() else amount


Amount = Annotated[float, PlainSerializer(_as_written)]  # a share or a count: 24 rows are written as 24, not as 24.0


def one_or_many(value: Any) -> Any:
    """`a` stands for `[a]`."""
    return [value] if isinstance(value, str) else value


def joined_names(value: Any) -> Any:
    """`[answer.intro, answer.body]` means one column, `answer.intro + answer.body`."""
    is_list = isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value)
    return JOIN.join(value) if is_list else value


def number_as_text(value: Any) -> Any:
    """YAML reads `50` as a number where a text is expected."""
    return str(value) if isinstance(value, int | float) else value


def is_trained(source: Mapping[str, Any]) -> bool:
    """Whether a source is trained on: by default all but retention."""
    train = source.get("train")
    return source.get("role") != "retention" if train is None else bool(train)


def with_shares(mix: Mapping[str, Any]) -> dict[str, Any]:
    """`{seed: 1, medical: 0.7}` stands for `{seed: 1, shares: {medical: 0.7}}`."""
    if "shares" in mix:
        return dict(mix)
    shares = {key: value for key, value in mix.items() if key != "seed"}
    return {**{key: value for key, value in mix.items() if key == "seed"}, "shares": shares or None}


def long_form(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's keys with short forms written out; `train: {adapter: lora}` is one as well."""
    written = {
        key: {SHORT_FORMS[key]: value} if key in SHORT_FORMS and isinstance(value, str) else value
        for key, value in recipe.items()
    }
    train = written.get("train")
    if isinstance(train, Mapping) and isinstance(kind := train.get("adapter"), str):
        written["train"] = {**train, "adapter": {"kind": kind}}
    return written


def overridden(data: Mapping[str, Any], pairs: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe's keys with `KEY=VALUE` pairs put in, and faults of the pairs.

    Short forms are written out before each pair, so that `model.dtype=…` finds a section.
    """
    changed, faults = long_form(data), []
    for pair in pairs:
        if fault := override(changed, pair):
            faults.append(fault)
        changed = long_form(changed)
    return changed, faults


def disagreements(recipe: Any) -> Iterator[InitErrorDetails]:
    """Where sections contradict each other. `recipe` may be of any shape: what cannot be read is passed over."""
    train, ask = (_section(_section(recipe).get(key)) for key in ("train", "ask"))
    if train.get("ask_every") and not (ask.get("domain") or ask.get("general")):
        yield _fault("there is nothing to ask: give ask.domain or ask.general", "train", "ask_every")
    template = _section(_section(recipe).get("template"))
    if template.get("borrow") and template.get("headers"):
        yield _fault("borrow and headers are two templates: keep one of them", "template")
    listed = _section(recipe).get("sources")
    sources = [_section(item) for item in listed] if isinstance(listed, list | tuple) else []
    names = [source["name"] for source in sources if isinstance(source.get("name"), str)]
    if not sources or len(names) < len(sources):
        return
    trained = [name for name, source in zip(names, sources, strict=True) if is_trained(source)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield _fault(f"duplicate name {', '.join(twice)}", "sources")
    if not trained:
        yield _fault("no source is trained on (role domain or general, or train: true)", "sources")
    shares = _section(with_shares(_section(_section(recipe).get("mix"))).get("shares"))
    for name in shares:
        if name not in trained:
            meant = nearest_or_all(str(name), [*trained, "seed"])
            yield _fault(f"no trained source has this name{meant}", "mix", str(name))
    if shares and (missing := [name for name in trained if name not in shares]):
        yield _fault(f"shares are given, but none for {', '.join(missing)}", "mix")
    best_by = train.get("best_by", "all")
    known = ["all", BY_TOLERANCE, *names]
    if isinstance(best_by, str) and best_by not in known:
        yield _fault(f"no source is named {best_by!r}{nearest_or_all(best_by, known)}", "train", "best_by")
    if best_by == BY_TOLERANCE and not any(source.get("role") == "domain" for source in sources):
        yield _fault("no source has the role domain, whose loss would choose", "train", "best_by")


def _section(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping | BaseModel) else {}


def _fault(what: str, *key: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("sections", "{fault}", {"fault": what}), loc=key, input=None)


def file_name(name: str) -> str:
    """The name, if files and folders can be called by it; for pydantic, a ValueError if not."""
    if name in (".", ".."):
        raise ValueError(f"{name!r} means a folder that exists: give a name")
    if (num_bytes := len(name.encode())) > MAX_NAME_BYTES:
        raise ValueError(f"files are named after it: at most {MAX_NAME_BYTES} bytes in UTF-8, found {num_bytes}")
    return name


def refuse_texts(data: Mapping[str, Any], overrides: Sequence[str], where: str) -> None:
    """Before anything is reported of other faults: a message that quotes a value would hold the secret as well.

    Raises:
        RecipeError: a text holds a secret, or a character that no file can hold.
    """
    pairs = dict(pair.partition("=")[::2] for pair in overrides)
    keys = dict.fromkeys(part for key in pairs for part in key.split("."))  # a text behind a dot looks like an address
    if found := [f"{key}: {what}" for part in (data, pairs, keys) for key, what in _text_faults(part)]:
        revoke = "; a secret that was written to a file should be revoked. The hub is logged in to by `hf auth login`"
        has_secret = any(COPIED in fault for fault in found)
        raise RecipeError(found, where=where, hint=f"remove these texts{revoke if has_secret else ''}")


def _text_faults(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, fault) of texts that a recipe must not hold: secrets, masked, and characters that no file can hold."""
    seen: set[int] = set()  # a YAML alias is the same object again, and may hold itself
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while waiting:
        location, value = waiting.pop()
        if isinstance(value, str) and (fault := _text_fault(str(location[-1]), value)):
            yield dotted_key(location, data), fault
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                if isinstance(name, str) and (fault := _text_fault("", name)):
                    yield f"{dotted_key(location, data)}: one of its keys" if location else "a key", fault
                else:
                    waiting.append(((*location, name), item))


def _text_fault(name: str, text: str) -> str | None:
    try:
        found = leaks("", f"{name}: {text}".encode(), {}, paths=False)
    except UnicodeEncodeError:
        return "holds half of a character (a lone surrogate), which no file can hold: remove it"
    if found:
        return f"holds {found[0].what} ({found[0].masked}), {COPIED}"
    return "holds the character U+0000: remove it" if "\0" in text else None


def steps_or_minutes(every: str | None) -> str | None:
    """The interval between checkpoints, checked.

    Raises:
        ValueError: for pydantic.
    """
    if every is not None and not (re.fullmatch(SAVE_EVERY, every) and re.search("[1-9]", every)):
        raise ValueError(f"{every!r} is neither a number of steps (50) nor of minutes (10min)")
    return every


def shard_fraction_or_rows(take: str | None) -> str | None:
    """What is taken of a source, checked.

    Raises:
        ValueError: for pydantic.
    """
    if take is None:
        return None
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*|0?\.\d*[1-9]\d*|[1-9]\d*", take):
        raise ValueError(f"expected a shard (1/3), a fraction (0.25) or a number of rows (500), found {take!r}")
    shard, _, shards = take.partition("/")
    if shards and int(shard) > int(shards):
        raise ValueError(f"{take!r} asks for shard {shard} of {shards}")
    return take


def share_or_rows(holdout: float) -> float:
    """What is held out of a source, checked: a share below 1, or a whole number of rows.

    Raises:
        ValueError: for pydantic.
    """
    if holdout < 1:
        return holdout
    if not float(holdout).is_integer():
        raise ValueError(f"{holdout} is neither a share below 1 nor a whole number of rows")
    return int(holdout)
