"""What the sections of a recipe must agree on, and its short forms. Takes keys of any shape; knows no model of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import InitErrorDetails, PydanticCustomError

from seodang.recipe_file import nearest

SHORT_FORMS = {"model": "path", "template": "borrow"}  # `model: PATH` stands for `model: {path: PATH}`


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
    """The recipe's keys with short forms written out."""
    return {
        key: {SHORT_FORMS[key]: value} if key in SHORT_FORMS and isinstance(value, str) else value
        for key, value in recipe.items()
    }


def disagreements(recipe: Any) -> Iterator[InitErrorDetails]:
    """Where sections contradict each other. `recipe` may be of any shape: what cannot be read is passed over."""
    train, ask = (_section(_section(recipe).get(key)) for key in ("train", "ask"))
    if train.get("ask_every") and not (ask.get("domain") or ask.get("general")):
        yield _fault("there is nothing to ask: give ask.domain or ask.general", "train", "ask_every")
    listed = _section(recipe).get("sources")
    sources = [_section(item) for item in listed] if isinstance(listed, list | tuple) else []
    names = [source["name"] for source in sources if isinstance(source.get("name"), str)]
    if not sources or len(names) < len(sources):
        return
    trained = [name for name, source in zip(names, sources, strict=True) if is_trained(source)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield _fault(f"two have the name {', '.join(twice)}", "sources")
    if not trained:
        yield _fault("none is trained on (role domain or general, or train: true)", "sources")
    shares = _section(with_shares(_section(_section(recipe).get("mix"))).get("shares"))
    for name in shares:
        if name not in trained:
            yield _fault(f"no trained source has this name{nearest(str(name), [*trained, 'seed'])}", "mix", str(name))
    if shares and (missing := [name for name in trained if name not in shares]):
        yield _fault(f"shares are given, but none for {', '.join(missing)}", "mix")
    best_by = train.get("best_by", "all")
    if isinstance(best_by, str) and best_by not in ("all", *names):
        yield _fault(f"no source is named {best_by!r}{nearest(best_by, ['all', *names])}", "train", "best_by")


def _section(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping | BaseModel) else {}


def _fault(what: str, *key: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("sections", "{fault}", {"fault": what}), loc=key, input=None)
