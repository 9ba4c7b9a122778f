"""What prepared rows are made from, as keys: the same key, the same rows. Makes no rows."""

import json
import platform
import unicodedata
from dataclasses import asdict
from functools import lru_cache
from hashlib import blake2b, file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seodang import __version__
from seodang.data.read.sources import hub_fingerprint, local_files
from seodang.data.template.renderer import Renderer
from seodang.errors import SourceError
from seodang.recipe import Recipe, Source

LIBRARIES = ("datasets", "jinja2", "numpy", "pyarrow", "tokenizers", "transformers")  # they split, render, tokenise


def sources_key(recipe: Recipe) -> str:
    """Key of the rows as they are gathered: the contents of every file, how they are read and split, and by which code.

    Contents are hashed whole (SHA-256): sizes and times can stay the same while a file changes. A hub data set counts
    by the fingerprint that `datasets` gives the revision it found.

    Raises:
        SourceError: a source that is not there, or cannot be read.
    """
    return _key(
        {
            "seodang": __version__,
            "code": _code(),
            "libraries": {name: version(name) for name in LIBRARIES},
            "python": [platform.python_version(), unicodedata.unidata_version],
            "split": recipe.split.model_dump(),
            "sources": [source.model_dump() for source in recipe.sources],
            "contents": [_contents(source) for source in recipe.sources],
        }
    )


def rows_key(sources: str, recipe: Recipe, renderer: Renderer) -> str:
    """Key of the rendered rows; the first part of it is the sources' own."""
    tokenizer = renderer.tokenizer
    made_with = {
        "tokenizer": blake2b(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "class": type(tokenizer).__name__,
        "template": asdict(renderer.template),
        "system": renderer.system,
        "loss_on": renderer.loss_on,
        "max_tokens": recipe.train.max_tokens,
        "too_long": recipe.train.too_long,
    }
    return f"{sources}-{_key(made_with)}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; within a session an unchanged file is read once."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


def _contents(source: Source) -> list[str]:
    if source.hub is not None:
        return [hub_fingerprint(source)]
    try:
        return [file_sha256(path) for path in local_files(source)]
    except OSError as error:
        reason, where = error.strerror or str(error), str(error.filename or source.name)
        raise SourceError(f"cannot be read: {reason}", where=where, mend="check the file's permissions") from None


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """The code that makes the rows: a change of it makes them anew, without a number that someone has to raise."""
    digest = blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _key(made_from: Any) -> str:
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()
