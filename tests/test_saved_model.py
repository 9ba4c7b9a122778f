"""A tuned model that was damaged since it was saved: saved again where its weights are kept, else one message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import seodang
from seodang.errors import RunError, SeodangError
from seodang.proof import stability
from seodang.publish.files import outgoing
from seodang.recipe import load_recipe
from seodang.run.folder import Run
from seodang.serve.chat_model import load_chat_model
from seodang.stages import finish
from tiny_recipe import tiny_recipe


@pytest.fixture(scope="module", params=["weights", "adapter"])
def finished(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a recipe and its finished run, of all weights or of an adapter."""
    adapter = {"rank": 2} if request.param == "adapter" else None
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "report", lambda folder, _: folder)
        seodang.tune(tiny_recipe(place, tiny_folder, ask_every=None, adapter=adapter), out=place / "run")
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run, and no pictures of what is resumed."""
    monkeypatch.setattr(finish, "report", lambda folder, _: folder)
    return Run(folder=Path(shutil.copytree(finished / "run", tmp_path / "run")))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def _other_bytes(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 4
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {"cut": _cut, "gone": Path.unlink, "other bytes": _other_bytes}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _resume(run: Run) -> Run:
    return seodang.tune(load_recipe(run.recipe_file), out=run.folder, resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_model_is_refused_where_it_would_be_used(damage: str, name: str, run: Run) -> None:
    """Chat, prove and push name the file and what restores it; none measures or answers with it."""
    DAMAGES[damage](run.model / name)
    before = _files(run.folder)
    for use in (
        lambda: load_chat_model(run.folder),
        lambda: load_chat_model(run.folder, base=True),
        lambda: seodang.prove(run.folder),
        lambda: outgoing(run.folder, adapter=False),
    ):
        with pytest.raises(
            RunError, match=rf"the tuned model is damaged: model/{name} (?s:.)*seodang tune .*--resume"
        ) as caught:
            use()
        assert str(run.folder) in caught.value.hint
    assert _files(run.folder) == before


@pytest.mark.parametrize(("damage", "name"), [("cut", "model.safetensors"), ("gone", "config.json")])
def test_a_damaged_model_is_saved_again(damage: str, name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """From the adapter or the kept checkpoint, byte for byte, with a note; the proof is the same."""
    saved, proof = _files(run.model), run.read_json("proof.json")
    DAMAGES[damage](run.model / name)
    _resume(run)
    kept = "adapter" if run.adapter.is_dir() else "checkpoint-6"
    printed = " ".join(capsys.readouterr().out.split())
    assert f"the tuned model is damaged (model/{name}" in printed
    assert f"it is saved again from {kept}" in printed
    assert _files(run.model) == saved
    assert run.read_json("proof.json")["sources"] == proof["sources"]


def test_a_finished_run_is_not_measured_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """--resume ends at once, with one sentence, and touches no file; without its proof there is something to resume."""
    before = _files(run.folder)
    assert _resume(run) == run
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("· ")
    assert "is finished: nothing to resume; its report again: seodang report" in printed
    assert _files(run.folder) == before
    with pytest.raises(RunError, match="never overwritten") as caught:
        seodang.tune(load_recipe(run.recipe_file), out=run.folder)
    assert "resume" not in (caught.value.hint or "")
    (run.folder / "proof.json").unlink()
    assert not finish.is_finished(run, load_recipe(run.recipe_file))


def test_weights_that_nothing_keeps_are_not_trained_again(run: Run) -> None:
    """Where checkpoints are gone and the adapter is damaged too, one message says so, and nothing is replaced."""
    shutil.rmtree(run.checkpoints)
    _other_bytes(run.model / "model.safetensors")
    if run.adapter.is_dir():
        _other_bytes(run.adapter / "adapter_model.safetensors")
    before = _files(run.folder)
    with pytest.raises(RunError, match=r"damaged, and neither its adapter nor a checkpoint has its weights"):
        _resume(run)
    assert _files(run.folder) == before


def test_a_run_killed_before_its_model_had_its_name_is_saved_again(run: Run) -> None:
    """The seal comes first: a model without it does not exist."""
    saved = _files(run.model)
    shutil.rmtree(run.model)
    assert _files(_resume(run).model) == saved


def test_an_intact_model_is_only_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that was saved stays where it is; of a run without a seal, a note says that it cannot be checked."""
    weights = run.model / "model.safetensors"
    number = weights.stat().st_ino
    run.recipe_file.touch()  # as by a start after the proof
    _resume(run)
    assert "damaged" not in capsys.readouterr().out
    (run.folder / "model_files.json").unlink()
    _resume(run)
    assert "cannot be checked for damage: model_files.json is missing" in " ".join(capsys.readouterr().out.split())
    assert weights.stat().st_ino == number


def test_a_number_that_is_not_finite_replaces_no_proof(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stability too: answers and proof stay those that belong together, and the run resumes at the measurement."""
    before = {name: (run.folder / name).read_bytes() for name in ("answers.jsonl", "proof.json", "base.json")}
    own = run.read_json("proof.json")
    run.recipe_file.touch()  # as by a start after the proof
    with monkeypatch.context() as patch:
        patch.setattr(stability, "_mean_pairwise_chrf", lambda _: float("nan"))
        with pytest.raises(SeodangError, match=r"stability\.base\.chrf is nan, which JSON cannot"):
            _resume(run)
    assert {name: (run.folder / name).read_bytes() for name in before} == before
    assert _resume(run).read_json("proof.json")["sources"] == own["sources"]


def test_saved_weights_are_the_ones_in_the_seal(run: Run) -> None:
    """Every file of model/ is sealed, and the adapter's with it."""
    sealed = set(json.loads((run.folder / "model_files.json").read_text(encoding="utf-8"))["files"])
    below = {f"model/{name}" for name in _files(run.model)}
    assert sealed == below | ({f"adapter/{name}" for name in _files(run.adapter)} if run.adapter.is_dir() else set())
    assert all(map(torch.is_tensor, safetensors.torch.load_file(run.model / "model.safetensors").values()))
