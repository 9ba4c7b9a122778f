"""blend: a model between base and tuned model, which is a run of its own."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command import seodang
from seodang import blending
from seodang.alpha.curve import ALPHAS, AlphaCurve, read_curve
from seodang.blending import _open_blends, alpha_curve, blend, plan_curve
from seodang.errors import ModelError, RunError, SeodangError
from seodang.model.interpolate import interpolate
from seodang.pipeline import prove, tune
from seodang.proof import held_out
from seodang.proof.measured_rows import read_rows
from seodang.proof.proof import proof_of_run
from seodang.publish.hub import push
from seodang.run.evidence import read_manifest
from seodang.run.folder import ALPHA, ALPHA_POINTS, Run
from seodang.run.lock import guarded
from seodang.run.sealed import model_damage
from seodang.serve.chat_model import load_chat_model
from seodang.show.alpha_view import lead
from tiny import make_config, make_model
from tiny_recipe import tiny_recipe


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_copied_and_what_lies_between_is_computed_in_float32(dtype: torch.dtype) -> None:
    """At 0 and 1 every tensor is the base's and the tuned model's; at 0.3 the rounded value of the float32 one."""
    base, tuned = (make_model(make_config("llama", 300), seed=seed).to(dtype) for seed in (1, 2))
    first, second = weights(base), weights(tuned)
    for alpha in (1.0, 0.3, 0.0):
        tuned.load_state_dict(second, strict=False)
        interpolate(base, tuned, alpha)
        for name, found in weights(tuned).items():
            start, end = first[name].float(), second[name].float()
            expected = {0.0: start, 1.0: end}.get(alpha, start + alpha * (end - start))
            torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0 if alpha in (0, 1) else 1e-2)


def test_rows_added_to_the_vocabulary_stay_the_tuned_models() -> None:
    """The base has no such rows: nothing lies between."""
    base, tuned = (make_model(make_config("llama", size), seed=1) for size in (300, 310))
    own = tuned.get_input_embeddings().weight.detach().clone()
    interpolate(base, tuned, 0.5)
    assert torch.equal(tuned.get_input_embeddings().weight[300:], own[300:])
    assert not torch.equal(tuned.get_input_embeddings().weight[:300], own[:300])


def test_models_of_other_shapes_are_refused() -> None:
    """A tensor that the other model lacks, or that is smaller than the base's, is named."""
    small, large = (make_model(make_config("llama", size), seed=1) for size in (300, 310))
    with pytest.raises(ModelError, match=r"its tensor .* is \(300, \d+\), the base's is \(310, "):
        interpolate(large, small, 0.5)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """A trained run."""
    folder = tmp_path_factory.mktemp("blended")
    return tune(tiny_recipe(folder, tiny_folder), out=folder / "run")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_a_blend_of_a_run_is_a_run(tuned: Run) -> None:
    """Sealed, with the run's template and data; it can be proved, chatted with and pushed, and names what it is."""
    made = blend(tuned.folder, 0.5)
    assert made.folder == tuned.folder.with_name("run-alpha0.5")
    assert model_damage(made) is None
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (made.model / name).read_bytes() == (tuned.model / name).read_bytes(), name
    manifest = read_manifest(made)
    assert manifest
    assert manifest.blend
    assert (manifest.blend.alpha, manifest.name) == (0.5, "tiny-alpha0.5")
    assert not made.is_proven
    prove(made.folder)
    proof, whole = proof_of_run(made), proof_of_run(tuned)
    assert proof.sources["medical"].base == whole.sources["medical"].base
    assert proof.sources["medical"].change.value != whole.sources["medical"].change.value
    assert load_chat_model(made.folder).prompt([{"role": "user", "content": "약은요?"}])
    assert "(1 − 0.5) · base + 0.5 · tuned" in push(made.folder, "me/med", dry_run=True).card


def test_the_ends_are_base_and_tuned_model(tuned: Run, tiny_folder: Path) -> None:
    """In every tensor of the files; what tuning added to the base stays the tuned model's."""
    ends = {alpha: tensors(blend(tuned.folder, alpha).model) for alpha in (0.0, 1.0)}
    base, own = tensors(tiny_folder), tensors(tuned.model)
    assert ends[1.0].keys() == own.keys() == ends[0.0].keys()
    for name, tensor in own.items():
        assert torch.equal(ends[1.0][name], tensor), name
        if name in base:
            assert torch.equal(ends[0.0][name][: len(base[name])], base[name].to(tensor.dtype)), name


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_an_alpha_outside_of_the_two_models_is_refused(alpha: float, tuned: Run) -> None:
    """From 0 to 1 alone; nothing is written."""
    with pytest.raises(SeodangError, match="expected a number from 0 to 1"):
        blend(tuned.folder, alpha)


def test_a_blend_that_was_stopped_is_saved_again(tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its model is written, the folder holds no run that could be resumed as training by mistake."""
    out = tmp_path / "blend"

    def killed(*_: object, **__: object) -> None:
        (out / ".model-abc").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(blending, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            blend(tuned.folder, 0.5, out=out)
    assert not (out / "recipe.yaml").exists()
    assert blend(tuned.folder, 0.5, out=out).exists
    assert not (out / ".model-abc").exists()


def test_a_blend_is_not_trained(tuned: Run, tmp_path: Path) -> None:
    """Resuming would put a trained model in its place, under its name; the hint names what can be done."""
    made = blend(tuned.folder, 0.5, out=tmp_path / "blend")
    shutil.rmtree(made.model)
    with pytest.raises(RunError, match=r"a blend of .* \(alpha 0.5\)") as refused:
        tune(made.recipe(), out=made.folder, resume=True)
    assert f"seodang blend {tuned.folder} --alpha 0.5" in (refused.value.hint or "")
    assert not made.is_trained


def test_a_run_that_was_not_trained_is_refused(tmp_path: Path, tuned: Run) -> None:
    """Without a tuned model there is nothing to blend; a folder that is there is not written over."""
    (tmp_path / "recipe.yaml").write_bytes(tuned.recipe_file.read_bytes())
    with pytest.raises(RunError, match="its training has not ended"):
        blend(tmp_path, 0.5)
    with pytest.raises(RunError, match="never overwritten"):
        blend(tuned.folder, 0.5, out=tuned.folder)
    for measured in (alpha_curve, plan_curve):
        with pytest.raises(RunError, match="no such folder"):
            measured(tmp_path / "nothing")


@pytest.fixture(scope="module")
def curve(tuned: Run) -> AlphaCurve:
    """The run's alpha curve."""
    return alpha_curve(tuned.folder)


def test_the_alpha_curve_has_the_proofs_losses_at_its_ends(tuned: Run, curve: AlphaCurve) -> None:
    """Measured as the proof measures; written to alpha.json, report and card, from one file for each alpha."""
    assert [point.alpha for point in curve.points] == list(ALPHAS)
    assert curve.same_rows == ("medical",)
    assert read_curve(tuned.read_json(ALPHA)) == curve
    rows = read_rows(tuned)
    base, whole = (curve.points[at].sources["medical"] for at in (0, -1))
    assert whole.tuned.nats_per_token == pytest.approx(
        sum(row.tuned.total for row in rows) / sum(row.tokens for row in rows), rel=1e-6
    )
    assert base.change.value == 0
    for point in curve.points:
        points = tuned.read_json(f"{ALPHA_POINTS}/choose-{point.alpha:g}.json")
        assert len(points["losses"]["medical"]) == len(rows)
    assert 'id="alpha"' in tuned.report.read_text(encoding="utf-8")
    card = push(tuned.folder, "me/med", dry_run=True).card
    assert "| α | medical, nats/token | Rise within tolerance |" in card
    assert lead(curve) in card


def test_a_curve_is_resumed_at_the_alpha_that_is_missing(tuned: Run, curve: AlphaCurve) -> None:
    """What was measured of the same weights and rows stays; what is missing, damaged or of others is measured again."""
    files = {alpha: tuned.folder / ALPHA_POINTS / f"choose-{alpha:g}.json" for alpha in ALPHAS}
    written = {alpha: file.read_text(encoding="utf-8") for alpha, file in files.items()}
    files[0.25].unlink()
    files[0.5].write_text("{", encoding="utf-8")
    point = tuned.read_json(f"{ALPHA_POINTS}/choose-0.75.json")
    point["settings"]["weights"] = "those of another model"
    tuned.write_json(f"{ALPHA_POINTS}/choose-0.75.json", point)
    kept = {alpha: files[alpha].stat().st_mtime_ns for alpha in (0.0, 1.0)}
    assert alpha_curve(tuned.folder) == curve
    assert {alpha: file.read_text(encoding="utf-8") for alpha, file in files.items()} == written
    assert kept == {alpha: files[alpha].stat().st_mtime_ns for alpha in kept}


def test_rows_that_prove_did_not_choose(tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From enough clusters on, half of the rows give the curve; the others alone compare what was chosen."""
    monkeypatch.setattr(held_out, "HALVED_CLUSTERS", 2)
    shutil.copytree(tuned.folder, tmp_path / "run")
    with guarded():
        _, blends = _open_blends(tmp_path / "run", trust_remote_code=False)
        choosing, proving = (rows["medical"] for rows in (blends.choosing(0.5), blends.proving(0.5)))
    names = [{row.row_id for row in rows} for rows in (choosing, proving)]
    assert all(names)
    assert not names[0] & names[1]
    found = {row.row_id: row.base.total for row in (*choosing, *proving)}
    assert found == pytest.approx({row.row_id: row.base.total for row in read_rows(tuned)})


def test_what_a_curve_takes_leaves_out_what_was_measured(tuned: Run, curve: AlphaCurve, tmp_path: Path) -> None:
    """Alphas of the same rows, whose weights are not read; one that is damaged or of other rows is measured again."""
    assert curve.points
    run = tmp_path / "run"
    shutil.copytree(tuned.folder, run)
    whole = plan_curve(run)
    assert (whole.alphas, whole.known, whole.seconds) == (5, 5, 0)
    (run / ALPHA_POINTS / "choose-0.25.json").write_text("{", encoding="utf-8")
    point = Run(folder=run).read_json(f"{ALPHA_POINTS}/choose-0.5.json")
    point["settings"]["rows"] = "others"
    Run(folder=run).write_json(f"{ALPHA_POINTS}/choose-0.5.json", point)
    part = plan_curve(run)
    assert part.known == 3
    assert part.seconds


def test_what_a_curve_takes_is_announced(tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured, and by itself with --dry-run: rows, time and memory."""
    run = tmp_path / "run"
    shutil.copytree(tuned.folder, run)
    shutil.rmtree(run / ALPHA_POINTS, ignore_errors=True)
    capsys.readouterr()
    cost = plan_curve(run)
    assert (cost.alphas, cost.sequences, cost.proving_sequences) == (5, 4, 0)
    size = sum(weight.nbytes for weight in load_chat_model(tuned.folder).model.parameters())
    assert cost.weight_bytes == 2 * size
    printed = capsys.readouterr().out
    assert "5 models between base and tuned model, 4 sequences and " in " ".join(printed.split())
    for shown_before in ("learning rate", "held out: ", "first rows", "tokens per example"):
        assert shown_before not in printed
    for mistaken in (("--dry-run", "--alpha", "0.5"), ("--out", "elsewhere")):
        assert seodang("blend", tuned.folder, *mistaken).code == 2
