"""What a run is made from → its manifest: every file is read and hashed whole."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset

from seodang import distributed
from seodang.__version__ import __version__
from seodang.data.prepare import Prepared
from seodang.data.read.containers.hub_dataset import hub_fingerprint
from seodang.data.read.sources import local_files
from seodang.data.row_cache import code_hash, file_sha256
from seodang.data.template.find import ChatTemplate
from seodang.recipe import Recipe, Source
from seodang.run.manifest import BaseFacts, FileFacts, Hardware, Manifest, RowsFacts, SourceFiles, TemplateFacts
from seodang.types import ModelFacts, Placement

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "bitsandbytes", "numpy")


def make_manifest(
    recipe: Recipe,
    placement: Placement,
    template: ChatTemplate,
    prepared: Prepared,
    base_files: Sequence[Path] | None,
) -> Manifest:
    """The manifest as it stands before training; what the tuned model is and the seconds come later.

    Args:
        base_files: configuration and weights of the base; none: they are not read.
    """
    base = BaseFacts(
        path=recipe.model.path,
        revision=recipe.model.revision,
        files=tuple(replace(_file(path), path=path.name) for path in base_files or ()),
    )
    return Manifest(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seodang=__version__,
        command=" ".join(["seodang", *sys.argv[1:]]) if _is_command(Path(sys.argv[0])) else "",
        versions={
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
        hardware=hardware(),
        placement=placement,
        template=TemplateFacts(
            origin=template.origin,
            turn_end=template.turn_end,
            text_sha256=hashlib.sha256(template.text.encode()).hexdigest(),
        ),
        data={source.name: _source_files(source) for source in recipe.sources},
        seeds={"split": recipe.split.seed, "mix": recipe.mix.seed, "train": recipe.train.seed},
        rows=_rows_facts(prepared),
        base=base if base_files is not None else None,
        model=ModelFacts(path=recipe.model.path),
    )


def hardware() -> Hardware:
    """Processor, memory and GPUs of this machine."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return Hardware(
        system=f"{platform.system()} {platform.machine()}",
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=tuple(gpus),
        processes=distributed.world(),
    )


def _is_command(program: Path) -> bool:
    return program.name == "seodang" or (program.name, program.parent.name) == ("__main__.py", "seodang")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _source_files(source: Source) -> SourceFiles:
    if source.hub is not None:
        return SourceFiles(files=(), fingerprint=hub_fingerprint(source))
    return SourceFiles(files=tuple(map(_file, local_files(source))))


def _rows_facts(prepared: Prepared) -> RowsFacts:
    encoded, held_out = hashlib.sha256(), hashlib.sha256()
    for rows in (prepared.rows["train"], *prepared.holdouts.values()):
        for column in ("input_ids", "labels"):
            for chunk in _chunks(rows, column):
                encoded.update(np.diff(chunk.offsets.to_numpy()).tobytes())
                encoded.update(chunk.flatten().to_numpy().tobytes())
    for name, rows in prepared.holdouts.items():
        held_out.update(json.dumps([name, rows["row_id"][:]]).encode())
    return RowsFacts(
        preparation=code_hash(Path(__file__).parents[1]),
        encoded_sha256=encoded.hexdigest(),
        holdout_sha256=held_out.hexdigest(),
    )


def _chunks(rows: Dataset, column: str) -> Iterator[Any]:
    """A column of lists, some thousand rows at a time, as Arrow arrays."""
    for table in rows.select_columns([column]).with_format("arrow").iter(batch_size=4096):
        yield from table[column].chunks


def _file(path: Path) -> FileFacts:
    return FileFacts(path=str(path), sha256=file_sha256(path), bytes=path.stat().st_size)
