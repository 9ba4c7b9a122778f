"""A judge is another model than those it judges: judges prefer their own answers. Only names can be compared."""

import re
from collections.abc import Mapping

from seodang.errors import SeodangError

PACKAGE = "package:"  # in front of the names of packaged models


def refuse_own(judge: str, models: Mapping[str, str]) -> None:
    """Stop if the judge has the name of a model that takes part.

    Args:
        judge: its name at the server.
        models: name, path or hub id → what the model is, such as "the base".

    Raises:
        SeodangError: it has.
    """
    for name, what in models.items():
        if _short(judge) == _short(name):
            raise SeodangError(
                f"{judge} is {what} ({name}): judges prefer their own answers",
                where="judge.model",
                hint="choose a model of another make; a name is all that can be checked, "
                "so do not serve one of these models under another name",
            )


def related(judge: str, models: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences on models whose names begin as the judge's does: gemma-3-27b-it and gemma-3-1b-pt."""
    family = _family(judge)
    names = [f"{what} ({name})" for name, what in models.items() if family and _family(name) == family]
    if not names:
        return ()
    return (
        f"by its name, the judge {judge} is related to {', '.join(names)}: judges prefer answers of their own kind",
    )


def _short(name: str) -> str:
    """What is compared of a name: the last part of a path or hub id, without a tag, an ending and punctuation."""
    return re.sub(r"[\W_]", "", _last(name).removesuffix(":latest").removesuffix(".gguf"))


def _family(name: str) -> str:
    """The letters that a name begins with; empty where they are too few."""
    found = re.match(r"[^\W\d_]{4,}", _last(name))
    return found[0] if found else ""


def _last(name: str) -> str:
    """The last part of a path or hub id."""
    return name.removeprefix(PACKAGE).replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()
