"""Rendered rows, kept in the user's cache so that the next start finds them. Knows files, not how rows are made.

::

    prepared/
      1f0c9a…-77ab01…/        key of the sources – key of what rendered them
        entry.json            all but the rows; sizes and checksums of the files
        medical-train.arrow   medical-holdout.arrow …

An entry is written under another name and renamed, so that what lies here is whole; a damaged one is made again.
"""

import json
import os
import platform
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b, file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import xxhash
from datasets import Dataset
from filelock import FileLock

from seodang.__version__ import __version__
from seodang.data.counting import Counting, uncounted
from seodang.data.encode.rows import TooLong
from seodang.data.prepare import RenderedSources, rows_file
from seodang.data.read.containers.hub_dataset import hub_fingerprint
from seodang.data.read.sources import local_files
from seodang.data.split import Splits
from seodang.data.template.renderer import Renderer
from seodang.errors import SeodangError, SourceError, os_reason
from seodang.json_values import read_value, to_json
from seodang.recipe import Source, Split
from seodang.types import Counts, Finding, Sample
from seodang.user_paths import beyond, shown_path

MOST_BYTES = 20_000_000_000  # the entries used least recently go when all together are larger
ABANDONED_SECONDS = 86_400  # an unfinished entry that is older was left behind by a process that was killed
CHUNK_BYTES = 1 << 20  # read at a time
ENTRY = "entry.json"
LIBRARIES = ("datasets", "jinja2", "numpy", "pyarrow", "tokenizers", "transformers")  # they split, render, tokenize
CODE = (
    "data",
    "check/audit.py",
    "check/suspicious_text.py",
)  # what makes the rows and the findings that are kept with them


class DamagedError(Exception):
    """An entry that is not what was written; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """An Arrow file as it was written."""

    num_bytes: int
    checksum: str

    @classmethod
    def of(cls, path: Path) -> "_File":
        return cls(num_bytes=path.stat().st_size, checksum=_checksum(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """`entry.json`: `RenderedSources` without the rows."""

    SCHEMA_VERSION: ClassVar[int] = 2

    has_thinking: bool
    splits: Mapping[str, Counts]  # source → what its split did
    counts: tuple[Counts, ...]
    findings: tuple[Finding, ...]
    cut: Mapping[str, Mapping[str, int]]
    samples: Mapping[str, Mapping[str, Sample]]
    files: Mapping[str, _File]  # by name


class Store:
    """Entries in one folder.

    Args:
        folder: of the cache; made when it is needed.
        warn: takes a sentence for the user where an entry is damaged or cannot be kept.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder, warn

    def has_thinking(self, sources: str) -> bool | None:
        """Whether any answer of these sources comes with thinking, if any entry of them knows."""
        for entry in self.folder.glob(f"{sources}-*"):
            with suppress(DamagedError):
                return _read_entry(entry).has_thinking
        return None

    def get(self, key: str, make: Callable[[Path | None], RenderedSources]) -> RenderedSources:
        """The entry of this key, as it was kept or as it is made now; a second process waits for the first.

        Args:
            make: folder for the Arrow files (none: a temporary one) → what is kept.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{key}.lock")
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else error
            self.warn(f"prepared rows are not cached: {shown_path(self.folder)}: {reason}")
            return make(None)
        try:
            return self._found(key) or self._made(key, make)
        finally:
            lock.release()

    def _found(self, key: str) -> RenderedSources | None:
        entry = self.folder / key
        if not os.path.lexists(entry):
            return None
        try:
            return read(entry)
        except DamagedError as error:
            self.warn(f"prepared rows in {entry} are damaged ({error}): preparing them again")
            return None

    def _made(self, key: str, make: Callable[[Path | None], RenderedSources]) -> RenderedSources:
        self._free_space()
        with _unfinished(self.folder) as unfinished:
            made = make(unfinished)
            try:
                write(unfinished, made)
                _remove(self.folder / key)
                unfinished.rename(self.folder / key)
                return read(self.folder / key)
            except OSError as error:
                self.warn(f"prepared rows are not cached: {shown_path(self.folder / key)}: {os_reason(error)}")
        return make(None)

    def _free_space(self) -> None:
        """Remove what was left behind, and the entries used least recently as long as all are too large.

        Another process may rename or remove any of them at the same time.
        """
        for abandoned in self.folder.glob(".unfinished-*"):
            with suppress(OSError):
                if time.time() - abandoned.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(abandoned, ignore_errors=True)
        entries: list[tuple[float, int, Path]] = []
        for file in self.folder.glob(f"*/{ENTRY}"):
            entry = file.parent
            with suppress(OSError):
                entries.append((entry.lstat().st_mtime, sum(one.lstat().st_size for one in entry.iterdir()), entry))
        for entry in beyond(entries, MOST_BYTES):
            with suppress(OSError):
                _remove(entry)  # a run that has it open keeps it until it ends


def write(folder: Path, made: RenderedSources) -> None:
    """Complete an entry whose Arrow files lie in `folder`."""
    entry = _Entry(
        has_thinking=made.has_thinking,
        splits={name: splits.counts for name, splits in made.splits.items()},
        counts=made.counts,
        findings=made.findings,
        cut=made.cut,
        samples=made.samples,
        files={file.name: _File.of(file) for file in folder.glob("*.arrow")},
    )
    (folder / ENTRY).write_text(json.dumps(to_json(entry), ensure_ascii=False), encoding="utf-8")


def read(folder: Path) -> RenderedSources:
    """The entry in a folder, its rows memory-mapped.

    Raises:
        DamagedError: a file is missing, or not the one that was written.
    """
    try:
        entry = _read_entry(folder)
        for name, known in entry.files.items():
            if _File.of(folder / name) != known:
                raise DamagedError(f"{name} is not as it was written")
        os.utime(folder)
        return RenderedSources(
            splits={
                name: Splits(train=_rows(folder, name, "train"), holdout=_rows(folder, name, "holdout"), counts=counts)
                for name, counts in entry.splits.items()
            },
            counts=entry.counts,
            findings=entry.findings,
            cut=entry.cut,
            samples=entry.samples,
            has_thinking=entry.has_thinking,
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from None


def _read_entry(folder: Path) -> _Entry:
    try:
        return read_value(_Entry, folder / ENTRY)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from None
    except SeodangError as error:
        raise DamagedError(f"{ENTRY}: {error.what}") from None


def _rows(folder: Path, source: str, split_name: str) -> Dataset:
    return Dataset.from_file(str(folder / rows_file(source, split_name)))


def _remove(path: Path) -> None:
    """Remove whatever is there, of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder to write to, gone unless it is renamed."""
    path = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> str:
    """Checksum of all bytes of a file, as fast as they can be read: it finds damage, no forgery."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def sources_key(sources: Sequence[Source], split: Split, counting: Counting = uncounted) -> str:
    """Key of the rows as they are gathered: the contents of every file, how they are read and split, and by which code.

    Contents are hashed whole (SHA-256): sizes and times can stay the same while a file changes. A hub data set counts
    by the fingerprint that `datasets` gives the revision it found.

    Args:
        counting: shows how many files were hashed.

    Raises:
        SourceError: a source that is not there, or cannot be read.
    """
    return _key(
        {
            "seodang": __version__,
            "code": code_hash(Path(__file__).parents[1]),
            "libraries": {name: version(name) for name in LIBRARIES},
            "python": [platform.python_version(), unicodedata.unidata_version],
            "split": split.model_dump(),
            "sources": [source.model_dump() for source in sources],
            "contents": [_contents(source, counting) for source in sources],
        }
    )


def rows_key(sources: str, renderer: Renderer, *, max_tokens: int, too_long: TooLong) -> str:
    """Key of the rendered rows; the first part of it is `sources`, the key of the sources."""
    tokenizer = renderer.tokenizer
    made_with = {
        "tokenizer": blake2b(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "class": type(tokenizer).__name__,
        "template": asdict(renderer.template),
        "system": renderer.system,
        "loss_on": renderer.loss_on,
        "earlier_answers": renderer.earlier_answers,
        "max_tokens": max_tokens,
        "too_long": too_long,
    }
    return f"{sources}-{_key(made_with)}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; within a session an unchanged file is read once."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def _contents(source: Source, counting: Counting) -> list[str]:
    if source.hub is not None:
        return [hub_fingerprint(source)]
    try:
        paths, hashes = local_files(source), []
        with counting("files hashed", len(paths)) as advance:
            for path in paths:
                hashes.append(f"{path.name} {file_sha256(path)}")
                advance(1)
        return hashes
    except OSError as error:
        what, where = f"cannot be read: {os_reason(error)}", str(error.filename or source.name)
        raise SourceError(what, where=where, hint="check the file's permissions") from None


@lru_cache(maxsize=1 << 17)
def _sha256(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4)
def code_hash(package: Path) -> str:
    """Hash of the code that makes the rows: a change of it makes them anew, without a number that someone has to raise.

    Args:
        package: the folder of seodang itself.
    """
    digest = blake2b(digest_size=16)
    for path in (package / name for name in CODE):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _key(made_from: Any) -> str:
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()
