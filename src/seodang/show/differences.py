"""In which settings several runs differ, and what stands in the way of comparing their figures. Knows no page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seodang.json_values import to_json
from seodang.proof.losses import proving
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.proof import Proof
from seodang.run.manifest import Manifest
from seodang.show.formatting import MISSING
from seodang.show.language import Texts

OF_EVERY_RUN = ("name", "report")  # sections of a recipe that have no effect on what is compared
SHA256 = re.compile(r"[0-9a-f]{64}")
FACTS = ("seodang", "versions", "hardware", "placement", "template", "base", "rows")  # of a manifest


def differing_settings(
    recipes: Mapping[str, Mapping[str, Any]], manifests: Mapping[str, Manifest | None]
) -> dict[str, dict[str, str]]:
    """Setting → run → its value, where they are not all the same: of the recipes, then of what the runs ran on.

    Args:
        recipes: run → its recipe with every default written out; empty where it has none.
        manifests: run → its manifest, if it has one.
    """
    of_recipe = {run: dict(_flat(_without(recipe, OF_EVERY_RUN))) for run, recipe in recipes.items()}
    of_manifest = {run: dict(_flat(_facts(one))) if one else {} for run, one in manifests.items()}
    return {**_differing(of_recipe), **_differing(of_manifest)}


def obstacles(proofs: Mapping[str, Proof | None], rows: Mapping[str, Sequence[MeasuredRow]], texts: Texts) -> list[str]:
    """Sentences on runs whose figures cannot be compared with those of the first run that is proven.

    Args:
        proofs: run → its proof, if it has one.
        rows: run → its measured rows.
    """
    found = [texts("several.no_proof", run=run) for run, proof in proofs.items() if proof is None]
    proven = {run: proof for run, proof in proofs.items() if proof}
    first = next(iter(proven), None)
    for run, proof in proven.items():
        if first and run != first:
            found += _otherwise(first, run, proven[first], proof, rows, texts)
        if proof.compared.is_quick:
            found.append(texts("several.quick", run=run))
    return found


def _otherwise(
    first: str, run: str, one: Proof, proof: Proof, rows: Mapping[str, Sequence[MeasuredRow]], texts: Texts
) -> Iterator[str]:
    """What was measured otherwise in `run` than in `first`."""
    names = {"run": run, "first": first}
    if one.compared.base != proof.compared.base:
        yield texts("several.other_base", base=proof.compared.base, first_base=one.compared.base, **names)
    both = [source for source in one.sources if source in proof.sources]
    other_rows = [source for source in both if _ids(rows[first], source) != _ids(rows[run], source)]
    other_tokens = [
        source
        for source in both
        if source not in other_rows and one.sources[source].tokens != proof.sources[source].tokens
    ]
    if other_rows:
        yield texts("several.other_rows", sources=texts.listing(other_rows), **names)
    if other_tokens:
        yield texts("several.other_tokens", sources=texts.listing(other_tokens), **names)
    if alone := [source for source in (*one.sources, *proof.sources) if source not in both]:
        yield texts("several.other_sources", sources=texts.listing(list(dict.fromkeys(alone))), **names)


def _ids(rows: Sequence[MeasuredRow], source: str) -> list[str]:
    return sorted(row.row_id for row in proving([row for row in rows if row.source == source]))


def _differing(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    shown = {key: {run: values.get(key, MISSING) for run, values in settings.items()} for key in keys}
    return {key: values for key, values in shown.items() if len(set(values.values())) > 1}


def _without(recipe: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in keys}


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in to_json(manifest).items() if key in FACTS}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """`train.steps` → `20`: dots lead into sections, and by name into lists of what has one."""
    if isinstance(value, list) and all(isinstance(item, dict) and ("name" in item or "path" in item) for item in value):
        value = {str(item.get("name") or item["path"]): _without(item, (_key(item),)) for item in value}
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, _text(value)


def _key(item: Mapping[str, Any]) -> str:
    return "name" if item.get("name") else "path"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, str) and SHA256.fullmatch(value):
        return f"{value[:16]}…"
    if isinstance(value, float):
        return f"{value:g}"
    return MISSING if value is None or value == {} else str(value)
