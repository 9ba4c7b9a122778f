"""What a model was made from and under which terms, as far as the run knows. Guesses no licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from seodang.hub_access.contact import HUB_ID
from seodang.model.packaged import PACKAGED, PREFIX
from seodang.run.folder import Run

GEMMA_NOTICE = PACKAGED["gemma-3-270m"].terms + "."
# package → (where its weights come from on the hub, licence as the hub names it)
ORIGINS = MappingProxyType(
    {
        "gemma-3-270m": ("google/gemma-3-270m", "gemma"),
        "smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    }
)
GEMMA = re.compile(r"Gemma[23]?n?For")  # the generations that the Gemma Terms of Use bind, whatever was made of them
LICENSE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTerms:
    """The model that was tuned."""

    name: str  # hub id, package or the folder's name: no path
    hub: str | None  # hub id that the card may link to
    license: Mapping[str, str] = field(default_factory=dict)  # the card's own keys; empty: not known
    remark: str = ""  # a sentence for readers of the card

    @property
    def is_gemma(self) -> bool:
        """Whether the Gemma Terms of Use go with every copy."""
        return self.license.get("license") == "gemma"


def find_base(path: str, architecture: str) -> BaseTerms:
    """The base that a recipe names.

    Args:
        path: model.path of a resolved recipe.
        architecture: of its config.json, such as Gemma3ForCausalLM.
    """
    terms = {"license": "gemma"} if GEMMA.match(architecture) else {}
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        hub, license_id = ORIGINS[name]
        package = PACKAGED[name].packages
        return BaseTerms(
            name=hub,
            hub=hub,
            license={"license": license_id},
            remark=f"Its weights were taken from the Python package {package}, which holds them rounded to about four "
            "bits: they are close to, but not the same as, the weights published there.",
        )
    if not is_local(path):
        return BaseTerms(name=path, hub=path if HUB_ID.fullmatch(path) else None, license=terms)
    if (run := _run_of(Path(path))) is not None:
        before = find_base(run.recipe().model.path, architecture)
        made = f"[{before.hub}](https://huggingface.co/{before.hub})" if before.hub else f"`{before.name}`"
        remark = f"It is the model of an earlier run, made from {made}."
        return BaseTerms(name=file_name(str(run.folder)), hub=None, license=before.license, remark=remark)
    card = _card(Path(path) / "README.md")
    own = {key: str(card[key]) for key in LICENSE_KEYS if isinstance(card.get(key), str)}
    above = card.get("base_model")
    above = above if isinstance(above, str) and "/" in above and HUB_ID.fullmatch(above) else None
    return BaseTerms(
        name=file_name(path),
        hub=above,
        license=terms or own,
        remark="It is a model of the author's own"
        + (f", made from [{above}](https://huggingface.co/{above})." if above else ", not named on the hub."),
    )


def _run_of(folder: Path) -> Run | None:
    """The run whose folder this is, or whose model lies in it.

    A recipe of the user's own may lie beside a folder `model` as well; a run has a manifest besides.
    """
    found = (Run(folder=folder), Run(folder=folder.parent))
    runs = (run for run in found if run.exists and run.manifest_file.is_file())
    return next((run for run in runs if folder in (run.folder, run.model)), None)


def is_local(path: str) -> bool:
    """Whether a resolved path leads to a folder of this machine rather than to the hub."""
    return re.match(r"[~./\\]|[A-Za-z]:[\\/]", path) is not None


def file_name(path: str) -> str:
    """The last part of a path of any system: folders show who works where."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _card(path: Path) -> dict[str, Any]:
    try:
        return (metadata_load(path) if path.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):  # a header that is no YAML mapping states nothing
        return {}
