"""Korean model families: the licence of each, and whose chat template a base borrows. Known from names alone.

What was looked up, and what was not, is in docs/templates.md.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

NON_COMMERCIAL = "CC BY-NC 4.0, which forbids commercial use"
SOLAR = r'{headers: {system: "### System:\n", user: "### User:\n", assistant: "### Assistant:\n"}}'


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one name."""

    pattern: str  # found in the name of a base or of a folder, whatever its case
    licence: str
    template: str | None = None  # as the recipe takes it, with the pattern's groups; none: an instruct model's own
    sibling: str | None = None  # the instruct model of a base, with the pattern's groups
    is_templated: bool = False  # the base has a chat template on the hub, though nobody tuned it on turns


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one model."""

    licence: str
    template: str | None
    sibling: str | None
    is_templated: bool


def _kanana(pattern: str, sibling: str, licence: str, *, is_templated: bool) -> Family:
    donor = f"kakaocorp/{sibling}"
    return Family(pattern=pattern, licence=licence, template=donor, sibling=donor, is_templated=is_templated)


FAMILIES = (  # the first that fits; bases before what else bears the family's name
    _kanana(r"kanana-nano-2\.1b-base", "kanana-nano-2.1b-instruct", NON_COMMERCIAL, is_templated=True),
    _kanana(r"kanana-1\.5-(2\.1b|8b)-base", r"kanana-1.5-\1-instruct-2505", "Apache 2.0", is_templated=True),
    _kanana(r"kanana-1\.5-15\.7b-a3b-base", "kanana-1.5-15.7b-a3b-instruct", "the Kanana License", is_templated=False),
    _kanana(r"kanana-2-(1\.3b|3b)-base", r"kanana-2-\1-instruct", "the Kanana Open License", is_templated=False),
    _kanana(
        r"kanana-2-30b-a3b-(?:base|mid)(-2601)?",
        r"kanana-2-30b-a3b-instruct\1",
        "Kakao's terms for Kanana 2",
        is_templated=False,
    ),
    Family(pattern=r"kanana", licence="Kakao's terms for this Kanana model"),
    Family(pattern=r"hyperclova-?x-seed", licence="the HyperCLOVA X SEED Model License Agreement"),
    Family(pattern=r"(^|/)a\.x-(3\.1|4\.0|k\d)", licence="Apache 2.0"),
    Family(pattern=r"midm-2\.0", licence="MIT"),
    Family(pattern=r"midm-bitext", licence=NON_COMMERCIAL),
    Family(pattern=r"k-exaone", licence="the K-EXAONE AI Model License Agreement", template="exaone4"),
    Family(pattern=r"exaone-?4", licence="the EXAONE AI Model License Agreement", template="exaone4"),
    Family(pattern=r"exaone", licence="the EXAONE AI Model License Agreement", template="exaone3"),
    Family(pattern=r"solar-10\.7b-instruct", licence=NON_COMMERCIAL),
    Family(pattern=r"solar-10\.7b", licence="Apache 2.0", template=SOLAR, sibling="upstage/SOLAR-10.7B-Instruct-v1.0"),
    Family(pattern=r"solar[-_]open", licence="the Upstage Solar License", template="solar_open"),
)


def known_model(names: Iterable[str]) -> Known | None:
    """What is known of the first of these names that is known; None: no family's.

    Args:
        names: of one model: a hub id, a folder's name, the kind in its configuration.
    """
    for name in names:
        for family in FAMILIES:
            if found := re.search(family.pattern, name, re.IGNORECASE):
                return Known(
                    licence=family.licence,
                    template=_filled(family.template, found),
                    sibling=_filled(family.sibling, found),
                    is_templated=family.is_templated,
                )
    return None


def _filled(text: str | None, found: re.Match[str]) -> str | None:
    r"""`\1` replaced by what the pattern's group matched."""
    return None if text is None else text.replace(r"\1", (found.group(1) or "").lower() if found.re.groups else "")
