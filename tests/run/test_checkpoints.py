"""checkpoints: whatever happened to a file since it was written, the newest intact checkpoint is used."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from seodang.run.checkpoints import find_damage, newest_intact, seal
from seodang.run.folder import Run

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")


def _checkpoint(run: Run, step: int, best: int) -> Path:
    folder = run.checkpoints / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "0.distcp").write_bytes(b"0" * 100)
    safetensors.torch.save_file({"weight": torch.arange(50.0)}, folder / "model.safetensors")
    torch.save({"state": {0: torch.ones(50)}}, folder / "optimizer.pt")
    torch.save({"numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}), encoding="utf-8")
    seal(folder)
    return folder


class _Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (exec, ("raise AssertionError('executed')",))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "one byte": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
    "gone": lambda file: file.unlink(),
    "a pickle": lambda file: file.write_bytes(pickle.dumps(_Trap())),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", [*FILES, "part/0.distcp", "checkpoint_files.json"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_checkpoint_is_passed_over(name: str, damage: str, tmp_path: Path) -> None:
    """Any file, damaged in any way: the checkpoint before it is used, with a note that names the file."""
    run = Run(folder=tmp_path)
    before, newest = _checkpoint(run, 2, 2), _checkpoint(run, 4, 4)
    assert newest_intact(run).folder == newest
    assert newest_intact(run).remarks == ()
    DAMAGES[damage](newest / name)
    found = newest_intact(run)
    assert found.folder == before
    if (newest / "trainer_state.json").is_file():  # else it is no checkpoint at all
        assert name in found.remarks[0]
        assert found.remarks[-1] == "resuming from checkpoint-2, the newest intact one"


FORGED: dict[str, Callable[[Path], object]] = {
    "optimizer.pt": lambda file: file.write_bytes(pickle.dumps(_Trap())),
    "rng_state.pth": lambda file: torch.save(_Trap(), file),
    "model.safetensors": lambda file: file.write_bytes(pickle.dumps(_Trap())),
    "trainer_state.json": lambda file: file.write_text("[1]", encoding="utf-8"),
}


@pytest.mark.parametrize("name", list(FORGED))
def test_a_forged_checkpoint_with_a_forged_seal_is_passed_over(name: str, tmp_path: Path) -> None:
    """Sizes and hashes fit: it is named all the same, nothing of it runs, and the one before is used."""
    run = Run(folder=tmp_path)
    before, newest = _checkpoint(run, 2, 2), _checkpoint(run, 4, 4)
    FORGED[name](newest / name)
    (newest / "checkpoint_files.json").unlink()
    seal(newest)
    found = newest_intact(run)
    assert found.folder == before
    assert f"checkpoint-4 cannot be used: {name} is not a " in found.remarks[0]


def test_a_checkpoint_needs_the_best_one_too(tmp_path: Path) -> None:
    """The weights that are kept at the end may be older: where they are damaged, training goes back before them."""
    run = Run(folder=tmp_path)
    first, best, _ = _checkpoint(run, 2, 2), _checkpoint(run, 4, 4), _checkpoint(run, 6, 4)
    (best / "model.safetensors").write_bytes(b"")
    assert newest_intact(run).folder == first
    shutil.rmtree(first)
    found = newest_intact(run)
    assert found.folder is None
    assert found.remarks[-1] == "no intact checkpoint is left: training starts from the base"


def test_a_run_without_checkpoints_starts_from_the_base(tmp_path: Path) -> None:
    """There is nothing to say then."""
    found = newest_intact(Run(folder=tmp_path))
    assert (found.folder, found.remarks) == (None, ())


def test_rewinding_removes_what_came_later(tmp_path: Path) -> None:
    """A damaged newer checkpoint cannot push the ones in use out, and none is left half written."""
    run = Run(folder=tmp_path)
    kept, newer = _checkpoint(run, 2, 2), _checkpoint(run, 4, 4)
    (run.checkpoints / "saving-6").mkdir()
    run.rewind(2)
    assert sorted(run.checkpoints.iterdir()) == [kept]
    assert find_damage(kept) is None
    assert find_damage(newer) == "checkpoint_files.json is missing"
