"""What a run was made from: versions, hardware, hashes. No secret and no environment variable gets in here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class DataFile:
    """A file that rows were read from."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFiles:
    """All files of one source; none of a hub data set."""

    files: tuple[DataFile, ...]


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
    model: ModelFacts  # before training: the path alone
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage → time taken; known at the end
