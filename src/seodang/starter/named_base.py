"""The base model that the user names: what its name, folder and configuration show. Fetches and loads nothing."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seodang.errors import ModelError, SeodangError
from seodang.hub_access.contact import HUB_ID
from seodang.model.packaged import PREFIX, converted_folder, known_name
from seodang.recipe import load_recipe
from seodang.starter.families import known_model
from seodang.starter.recipe_yaml import as_value
from seodang.starter.settings import ProposedBase, packaged_base, rate_of, terms_to_accept
from seodang.user_paths import expanded, is_folder

TRAINING_BYTES = 16  # a parameter, in full tuning with float32 masters
WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """A model as far as it is known without a network."""

    names: tuple[str, ...]
    has_template: bool  # one of its own, or it is named as an instruct model
    template: str | None = None  # of the run that it comes from
    billions: float | None = None  # parameters
    is_gemma: bool = False


def named_base(model: str, *, has_tools: bool, memory_gb: float | None, gpu_gb: float | None) -> ProposedBase:
    """The base that a folder, a run, `package:NAME` or a hub id means.

    Args:
        has_tools: some rows call tools, hold thoughts or do not alternate.
        memory_gb: main memory; None: unknown.
        gpu_gb: memory of one GPU; None: there is none.

    Raises:
        ModelError: no such folder or package.
    """
    if model.startswith(PREFIX):
        return packaged_base(known_name(model), "the model that you named", has_tools)
    folder = _folder(model)
    facts = _of_folder(folder) if folder else _of_name(model)
    known = known_model(facts.names)
    why, remarks = "the model that you named", list(terms_to_accept(model))
    template = facts.template
    if known:
        why += f"; its licence: {known.licence}"
        remarks.append(f"{model}: read its terms on its model card: {known.licence}")
    if not facts.has_template and template is None:
        template, about = _template(facts, has_tools)
        remarks += [f"{model}: {remark}" for remark in about]
    base = ProposedBase(
        path=model,
        why=why,
        learning_rate=rate_of(facts.billions),
        template=template,
        remarks=tuple(remarks),
        billions=facts.billions,
    )
    return _with_memory(base, memory_gb if gpu_gb is None else gpu_gb, "memory" if gpu_gb is None else "GPU memory")


def tokenizer_file(model: str) -> Path | None:
    """The tokenizer.json of a model on this disk; None: it is elsewhere, was not converted yet, or has none.

    Raises:
        ModelError: no such folder or package.
    """
    if model.startswith(PREFIX):
        folder = converted_folder(model)
    elif folder := _folder(model):
        folder = folder / "model" if _is_run(folder) else folder
    file = folder / "tokenizer.json" if folder else None
    return file if file and file.is_file() else None


def model_names(model: str) -> tuple[str, ...]:
    """What a model is called: where it is from, its folder, the kind in its configuration.

    Raises:
        ModelError: no such folder.
    """
    if not model.startswith(PREFIX) and (folder := _folder(model)):
        return _of_folder(folder).names
    return (model,)


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file()


def _folder(model: str) -> Path | None:
    """The folder that is meant; None: a hub id.

    Raises:
        ModelError: no such folder, and it cannot be a hub id either.
    """
    path = expanded(model)
    if model.strip() and is_folder(path):
        return path
    if model.startswith("runs/") or not HUB_ID.fullmatch(model):
        what = "no such folder" if "/" in model else "neither a folder nor a hub id"
        raise ModelError(what, where=model[:200], hint="give a model's folder, a hub id or package:NAME")
    return None


def _of_name(model: str) -> _Facts:
    is_instruct = re.search(r"(?<![a-z])(it|instruct|chat|inst|think|thinking)(?![a-z])", model, re.IGNORECASE)
    known = known_model([model])
    return _Facts(
        names=(model,),
        has_template=bool(is_instruct or (known and (known.is_templated or known.sibling is None))),
        billions=_billions(model),
        is_gemma=model.startswith("google/gemma-"),
    )


def _of_folder(folder: Path) -> _Facts:
    """A model's folder, or a run's with the model in it."""
    is_run = _is_run(folder)
    weights = folder / "model" if is_run else folder
    config = _json(weights / "config.json")
    names = [folder.name, str(config.get("_name_or_path", "")), str(config.get("model_type", "")).replace("_", "-")]
    template = None
    if is_run:
        came_from, template = _of_run(folder)
        names.insert(1, came_from)
    has_template = (weights / "chat_template.jinja").is_file() or "chat_template" in _json(
        weights / "tokenizer_config.json"
    )
    return _Facts(
        names=tuple(filter(None, names)),
        has_template=has_template,
        template=None if has_template else template,
        billions=_stored_billions(weights, config) or next(filter(None, map(_billions, names)), None),
        is_gemma=str(config.get("model_type", "")).startswith("gemma"),
    )


def _of_run(folder: Path) -> tuple[str, str | None]:
    """The base of a run and the template that its recipe names, as this recipe takes it."""
    try:
        recipe = load_recipe(folder / "recipe.yaml")
    except SeodangError:
        return "", None
    named = recipe.template.model_dump(exclude_defaults=True)
    value = named["borrow"] if set(named) == {"borrow"} else named
    return recipe.model.path, as_value(value) if named else None


def _template(facts: _Facts, has_tools: bool) -> tuple[str | None, list[str]]:
    """The template to borrow, if one is known to fit, and what to check."""
    if facts.is_gemma:
        base = packaged_base("gemma-3-270m", "", has_tools)
        return base.template, list(base.remarks[-1:]) if has_tools else []
    known = known_model(facts.names)
    if known is None or known.template is None:
        return None, []
    if known.template == known.sibling:
        return known.template, [f"its template is borrowed from its instruct sibling {known.sibling}, on the hub"]
    remark = "its template follows published descriptions; `seodang inspect` shows whether its tokenizer fits"
    return known.template, [remark]


def _with_memory(base: ProposedBase, there_gb: float | None, what: str) -> ProposedBase:
    needed = TRAINING_BYTES * (base.billions or 0)
    if there_gb is None or needed <= there_gb:
        return base
    remark = (
        f"{base.path}: full tuning of about {base.billions:.3g} billion parameters takes over {needed:.0f} GB of "
        f"{what}; {there_gb:.0f} GB are available: train an adapter (train.adapter: {{kind: lora}}, as in lora-16gb)"
    )
    return replace(base, remarks=(*base.remarks, remark))


def _billions(name: str) -> float | None:
    """Parameters as a name gives them: 2.1b, 270m."""
    sizes = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name, re.IGNORECASE)
    found = [float(number) / (1000 if unit in "mM" else 1) for number, unit in sizes]
    return max(found, default=None)


def _stored_billions(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Parameters by the size of the weights."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return stored / WEIGHT_BYTES.get(dtype, 2) / 1e9 or None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it cannot be read, which `inspect` reports."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
