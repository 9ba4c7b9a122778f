"""Which files of a run go to the hub: what loads the model, and nothing of how it was trained."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seodang.errors import RunError
from seodang.run.folder import CHECKPOINT, MODEL, Run
from seodang.run.sealed import adapter_damage, is_sealed, refuse_unsaved

CARD, KOREAN_CARD = "README.md", "README.ko.md"
WITHOUT_ADAPTER = "push the whole model without --adapter"
KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".py")  # no pickles: they run code and hide settings
LEGAL = re.compile(r"(?:LICENSE|NOTICE|USE_POLICY)(?:\.\w+)?")
PRIVATE = re.compile(r"optimizer|scheduler|rng_state|training_args|trainer_state")  # of training; may hold a login
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file as it will stand in the repository."""

    name: str  # path in the repository
    content: Path | bytes

    @property
    def num_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def outgoing(run: Path, *, adapter: bool) -> tuple[tuple[File, ...], tuple[str, ...]]:
    """The files that go, and the names of those in the same folder that stay here.

    Raises:
        RunError: there is no complete model (or adapter) in the run.
    """
    saved = Run(folder=run)
    folder = saved.adapter if adapter else saved.model
    if not folder.is_dir():
        what = "holds no adapter" if adapter else "holds no model: its training has not ended"
        raise RunError(what, where=str(run), hint=WITHOUT_ADAPTER if adapter else saved.resume_command)
    refuse_unsaved(saved)
    if adapter and is_sealed(saved) and (damage := adapter_damage(saved)):
        raise RunError(f"the adapter is damaged: {damage}", where=str(run), hint=WITHOUT_ADAPTER)
    there = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    names = {path.relative_to(folder).as_posix(): path for path in there}
    files = [File(name=name, content=path) for name, path in names.items() if _goes(name, path)]
    left = tuple(name for name in names if name not in {file.name for file in files})
    if adapter:
        known = {file.name for file in files}
        beside = (run / MODEL / name for name in TOKENIZER)  # without it nobody has the template that was trained
        files += [File(name=path.name, content=path) for path in beside if path.name not in known and path.is_file()]
    _complete(folder, files, adapter=adapter)
    return tuple(files), left


def _goes(name: str, path: Path) -> bool:
    """A link may lead out of the run, so it stays."""
    *folders, last = name.split("/")
    is_own = not any(part.startswith((".", CHECKPOINT)) for part in (*folders, last))
    is_wanted = path.suffix in KINDS or LEGAL.fullmatch(last)
    return bool(
        is_own and is_wanted and last not in (CARD, KOREAN_CARD) and not PRIVATE.match(last) and not path.is_symlink()
    )


def _complete(folder: Path, files: Sequence[File], *, adapter: bool) -> None:
    names = {file.name for file in files}
    needed = {"adapter_config.json", "adapter_model.safetensors"} if adapter else {"config.json"}
    index = folder / "model.safetensors.index.json"
    if not adapter and index.is_file():
        needed |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    elif not adapter:
        needed.add("model.safetensors")
    if missing := sorted((needed | {"tokenizer.json"}) - names):
        raise RunError(
            f"cannot be loaded by others: {', '.join(missing)} is missing (links do not count)",
            where=str(folder),
            hint="train again, or put the files back as seodang wrote them",
        )
