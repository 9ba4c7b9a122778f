"""What a run was made from: versions, hardware, hashes. No secret and no environment variable gets in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import ClassVar

from seodang.types import ModelFacts, Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The main rank's machine, and how many processes share the work."""

    system: str
    cores: int | None
    memory_gb: float
    gpus: tuple[str, ...]
    processes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateFacts:
    """The chat template that was trained."""

    origin: str
    turn_end: str
    text_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """A file that rows were read from."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFiles:
    """All files of one source, or the fingerprint of a hub data set."""

    files: tuple[FileFacts, ...]
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFacts:
    """The model that training starts from."""

    path: str
    revision: str | None
    files: tuple[FileFacts, ...]  # configuration and weights, their paths within the model's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """What the weights lie between: (1 − alpha) · base + alpha · the run's."""

    run: str
    alpha: float  # 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsFacts:
    """The prepared rows."""

    preparation: str  # of the code that prepared them
    encoded_sha256: str  # token ids and labels, in their order, of training and holdouts
    holdout_sha256: str  # which rows are held out, whatever the template


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """One of the times that a run was resumed."""

    at: str  # ISO 8601, UTC
    command: str
    versions: Mapping[str, str]
    hardware: Hardware
    placement: Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """manifest.json."""

    SCHEMA_VERSION: ClassVar[int] = 1
    name: str
    created: str  # ISO 8601, UTC
    seodang: str  # its version
    command: str  # empty from Python
    versions: Mapping[str, str]  # package → version
    hardware: Hardware
    placement: Placement
    template: TemplateFacts
    data: Mapping[str, SourceFiles]  # source → its files
    seeds: Mapping[str, int]
    rows: RowsFacts
    base: BaseFacts | None = None  # `inspect` reads no weights
    model: ModelFacts  # the tuned one; before training: the base's path alone
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage → time taken by all starts together
    resumed: tuple[Resumption, ...] = ()
    blend: Blend | None = None  # none: the weights are as they were trained


def changed_inputs(before: Manifest, now: Manifest, *, of_rows: bool = True) -> list[str]:
    """What the weights depend on and is not what it was, in words; empty: nothing changed.

    Args:
        of_rows: whether the rows as they are encoded count, and the template; else only which are held out.
    """
    changed = []
    if before.base and now.base and (names := _other_files(before.base.files, now.base.files)):
        changed.append(f"the base ({', '.join(names)})")
    for name in before.data:
        source = now.data.get(name, SourceFiles(files=()))
        files = _other_files(before.data[name].files, source.files)
        if files or before.data[name].fingerprint != source.fingerprint:
            changed.append(f"the data of {name}" + (f" ({', '.join(files)})" if files else ""))
    if of_rows and before.template.text_sha256 != now.template.text_sha256:
        changed.append("the chat template")
    if changed:
        return changed
    if before.rows.holdout_sha256 != now.rows.holdout_sha256:
        changed.append("which rows are held out")
    elif of_rows and before.rows.encoded_sha256 != now.rows.encoded_sha256:
        changed.append("the prepared rows: their files did not change, what prepares them did")
    return changed


def changed_surroundings(before: Manifest, now: Manifest) -> list[str]:
    """What a result depends on in its last digits, and is not what it was: "torch 2.13.0 (was 2.12.1)"."""
    pairs = {name: (before.versions.get(name, "none"), found) for name, found in now.versions.items()}
    pairs |= {
        key: (getattr(before.placement, key) or "none", getattr(now.placement, key) or "none")
        for key in ("device", "dtype", "compute_dtype", "training_dtype", "attention")
    }
    pairs["seodang"] = before.seodang, now.seodang
    pairs["processes"] = str(before.hardware.processes), str(now.hardware.processes)
    return [f"{name} {found} (was {earlier})" for name, (earlier, found) in pairs.items() if found != earlier]


def resumed(before: Manifest, now: Manifest) -> Manifest:
    """The manifest of a run that is resumed: what it was begun with stays, and this start is added."""
    start = Resumption(
        at=now.created,
        command=now.command,
        versions=now.versions,
        hardware=now.hardware,
        placement=now.placement,
    )
    return replace(before, resumed=(*before.resumed, start))


def _other_files(before: Sequence[FileFacts], now: Sequence[FileFacts]) -> list[str]:
    """Names of the files that are not the same, wherever they lie."""
    there = {(PurePath(file.path).name, file.sha256) for file in now}
    gone = [PurePath(file.path).name for file in before if (PurePath(file.path).name, file.sha256) not in there]
    known = {(PurePath(file.path).name, file.sha256) for file in before}
    new = [PurePath(file.path).name for file in now if (PurePath(file.path).name, file.sha256) not in known]
    return list(dict.fromkeys([*gone, *new]))
