"""prove and tune from the command line: gate, JSON, plan in advance, quick proof, several seeds."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from command import Ended, Workplace, json_lines, json_rows, seodang
from held_out import qa
from seodang.cli.options import resumed_by_repeating
from seodang.errors import Stopped
from tiny import make_config, make_model, make_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Workplace:
    """A folder with two runs of one recipe that differ in their seeds: runs/mine-s1 and runs/mine-s2."""
    place = Workplace(folder=tmp_path_factory.mktemp("place"), model=tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        recipe = place.recipe("sources.medical.holdout=20")
        ended = seodang("tune", *recipe, "--language", "en", "--seeds", 2, "--json")
        assert ended.code == 0, ended.err
        place.write("seeds.json", ended.out)
    return place


@pytest.fixture(autouse=True)
def _inside(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)


def test_seeds_train_and_mix_otherwise_on_the_same_rows(place: Workplace) -> None:
    """Two folders, other training seeds, equal held-out rows; --json is the comparison and nothing else."""
    found = json.loads((place.folder / "seeds.json").read_text(encoding="utf-8"))
    assert [Path(run).name for run in found["runs"]] == ["mine-s1", "mine-s2"]
    runs = [place.folder / run for run in found["runs"]]
    rows = [[row["row_id"] for row in json_rows(run / "rows.jsonl")] for run in runs]
    assert rows[0] == rows[1]
    assert len(found["sources"]["medical"]["change"]["values"]) == 2
    recipes = [(run / "recipe.yaml").read_text(encoding="utf-8") for run in runs]
    assert [recipe.count("seed: 43") for recipe in recipes] == [0, 2]
    assert all("report:\n  language: en" in recipe for recipe in recipes)


def test_seeds_that_are_resumed_are_of_one_recipe(place: Workplace) -> None:
    """What is finished stays as it is; runs that were trained under other settings are no seeds of this recipe."""
    recipe = place.recipe("sources.medical.holdout=20")
    proofs = [place.folder / "runs" / name / "proof.json" for name in ("mine-s1", "mine-s2")]
    before = [proof.stat().st_mtime_ns for proof in proofs]
    again = seodang("tune", *recipe, "--language", "en", "--seeds", 2, "--resume", "--json")
    assert json.loads(again.out) == json.loads((place.folder / "seeds.json").read_text(encoding="utf-8"))
    other = seodang("tune", *recipe, "train.learning_rate=0.5", "--language", "en", "--seeds", 2, "--resume")
    assert other.code == 2
    assert "other settings: train.learning_rate" in other.err
    assert [proof.stat().st_mtime_ns for proof in proofs] == before


def test_several_runs_are_compared_as_they_were_proven() -> None:
    """The same two runs, given by their folders: a line for each source; other options are refused."""
    ended = seodang("prove", "runs/mine-s1", "runs/mine-s2")
    assert ended.code == 0
    assert "2 runs" in ended.out
    assert "change by seed" in ended.out
    refused = seodang("prove", "runs/mine-s1", "runs/mine-s2", "--quick")
    assert refused.code == 2


def gated(*arguments: str) -> Ended:
    return seodang("prove", *arguments, "--gate", "--json")


def test_a_gate_that_does_not_hold_ends_with_1(place: Workplace) -> None:
    """A model against itself gained nothing: exit code 1 after everything was written, and the JSON printed."""
    model = "runs/mine-s1/model"
    ended = gated(model, "--against", model, "--recipe", "recipe.yaml", "--out", "itself")
    assert ended.code == 1
    assert "error: the gate: that the domain improved is not shown" in ended.err
    proof = json.loads(ended.out)
    assert proof == json.loads((place.folder / "itself" / "proof.json").read_text(encoding="utf-8"))
    assert {loss["change"]["value"] for loss in proof["sources"].values()} == {0.0}
    assert (place.folder / "itself" / "report.html").is_file()
    assert f"model   {model}\n" in ended.err  # a proof of a model has none of its own
    assert "first rows" in ended.err  # of another recipe, and none that it would train on
    splits = {line.split()[1] for line in ended.err.splitlines() if line.startswith("medical ")}
    assert ("holdout" in splits, "train" in splits) == (True, False)


def test_a_plan_measures_nothing(place: Workplace) -> None:
    """--dry-run says what would be read and written, and about how long it takes; no file is touched."""
    before = place.snapshot()
    ended = seodang("prove", "runs/mine-s1", "--dry-run")
    assert ended.code == 0, ended.err
    assert "the proof, about" in " ".join(ended.out.split())
    assert "as the base was measured already: it reads" in " ".join(ended.out.split())
    assert "writes 1 answer, at most 4 tokens in all" in " ".join(ended.out.split())
    assert place.snapshot() == before
    other = seodang("prove", "runs/mine-s1", "--against", "runs/mine-s2/model", "--dry-run")
    assert "for base and tuned model together: each reads" in " ".join(other.out.split())


@pytest.mark.parametrize(("name", "text"), [("training.json", "{"), ("judgement.json", "{}"), ("lengths.json", "{}")])
def test_files_that_the_end_needs_are_read_first(name: str, text: str, place: Workplace, tmp_path: Path) -> None:
    """One that is damaged is named before rows are prepared and models are loaded, and nothing is written."""
    run = tmp_path / "run"
    shutil.copytree(place.folder / "runs/mine-s1", run)
    (run / name).write_text(text, encoding="utf-8")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = seodang("prove", run)
    assert ended.code == 2, ended.err
    assert name in ended.err
    assert "held out" not in ended.out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_quick_proof_says_that_it_is_one(place: Workplace) -> None:
    """It is marked in proof.json, and in the verdict; the report is in the language that is asked for.

    Plan and rows of the run's own recipe were shown when it was tuned, and are not again.
    """
    ended = seodang("prove", "runs/mine-s1", "--quick", "--out", "quick", "--language", "ko")
    assert ended.code == 0, ended.err
    assert "A quick proof: fewer rows were measured" in " ".join(ended.out.split())
    for shown_before in ("held out: ", "first rows", "tokens per example"):
        assert shown_before not in ended.out
    page = (place.folder / "quick" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="ko">' in page
    assert "간이 검증입니다" in page
    assert json.loads((place.folder / "quick" / "proof.json").read_text(encoding="utf-8"))["compared"]["is_quick"]


def test_a_run_without_a_proof_is_named(place: Workplace) -> None:
    """Runs are compared by their proofs: one that has none is named, with how to get it."""
    ended = seodang("prove", "runs/mine-s1", "runs/none")
    assert ended.code == 2
    assert "runs/none: this run has no proof" in ended.err
    assert "seodang prove runs/none" in ended.err


def test_models_with_different_tokenizers_are_compared_by_bytes(place: Workplace) -> None:
    """Each is measured with its own on the same rows: in bits per byte, with a note, nothing token by token."""
    other = place.folder / "other"
    tokenizer = make_tokenizer(400)
    tokenizer.save_pretrained(other)
    make_model(make_config("llama", len(tokenizer)), seed=3).save_pretrained(other)
    ended = seodang("prove", "runs/mine-s1", "--against", other, "--out", "two", "--verbose")
    assert ended.code == 0, ended.err
    assert "The two models have different tokenizers" in ended.out
    shown = " ".join(ended.out.split())
    assert "KL(base‖tuned) was not measured: different tokenizers." in shown
    assert "What the change is made of was not measured: medical (20 examples: different tokenizers)." in shown
    measured = json.loads((place.folder / "two" / "base.json").read_text(encoding="utf-8"))
    assert {row["answer"] for row in measured["rows"]["medical"]} == {None}
    proof = json.loads((place.folder / "two" / "proof.json").read_text(encoding="utf-8"))
    assert proof["compared"]["no_kl"] == "different tokenizers"
    loss = proof["sources"]["medical"]
    assert (loss["unit"], loss["kl"], proof["parts"]) == ("bits per byte", None, {})
    assert proof["skipped"] == {"medical": {"different tokenizers": 20}}
    itself = json.loads((place.folder / "runs/mine-s1/proof.json").read_text(encoding="utf-8"))["sources"]["medical"]
    assert loss["tuned"] == itself["tuned"]
    assert loss["base"] != itself["base"]
    assert loss["change"]["value"] == pytest.approx(loss["tuned"]["bits_per_byte"] - loss["base"]["bits_per_byte"])


def test_an_interrupted_proof_of_a_model_is_resumed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again, into the folder that the first one began: the base is not measured a second time."""
    from seodang.stages import measure

    model, again = "runs/mine-s2/model", False
    base = Path(place.model)
    command = ("prove", model, "--against", base, "--recipe", "recipe.yaml", "--out", "interrupted", "--no-cache")
    own, names = measure.measure_source, list[str]()

    def counted(*args, **keys):  # type: ignore[no-untyped-def]
        names.append("base" if "writer" in keys else "tuned")
        if names[-1] == "tuned" and not again:
            raise KeyboardInterrupt
        return own(*args, **keys)

    monkeypatch.setattr(measure, "measure_source", counted)
    assert seodang(*command).code == 130
    again = True
    ended = seodang(*command)
    assert ended.code == 0, ended.err
    assert names == ["base", "tuned", "tuned"]
    refused = seodang(*command)
    assert refused.code == 2
    assert "already exists, and runs are never overwritten" in refused.err
    assert "--resume" not in refused.err


def test_a_base_against_itself_differs_nowhere(place: Workplace) -> None:
    """Loaded twice, cache off: every loss the same to the last bit, the domain not shown, the rest kept, no part."""
    place.write("text.jsonl", json_lines({"text": f"{n}. 물은 {n}번 낮은 곳으로 흐른다."} for n in range(16)))
    place.write("domain.jsonl", json_lines(qa(80)[:40]))
    place.write("general.jsonl", json_lines(qa(80)[40:]))
    own = json.loads((place.folder / "runs/mine-s1/proof.json").read_text(encoding="utf-8"))["compared"]["tuned"]
    sources = [
        {"name": "medical", "role": "domain", "path": "domain.jsonl", "holdout": 24},
        {"name": "general", "role": "general", "path": "general.jsonl", "train": False},
        {"name": "text", "role": "retention", "path": "text.jsonl"},
    ]
    recipe = {"name": "itself", "model": {"path": own}, "sources": sources, "train": {"max_tokens": 128},
              "ask": {"holdout": 2, "holdout_tokens": 4}}  # fmt: skip
    place.write("itself.yaml", json.dumps(recipe))
    ended = seodang("prove", own, "--recipe", "itself.yaml", "--no-cache", "--json")
    assert ended.code == 0, ended.err
    proof = json.loads(ended.out)
    rows = json_rows(place.folder / "runs/itself-proof/rows.jsonl")
    assert len(rows) == 24 + 40 + 16
    assert all(row["base"] == row["tuned"] and row["kl"] == 0.0 for row in rows)
    assert proof["parts"].keys() == {"medical", "general"}
    assert {loss["change"]["value"] for loss in proof["sources"].values()} == {0.0}
    shown = {role: proof["verdict"][role] for role in ("domain", "general", "retention", "substance")}
    assert shown == {"domain": "not shown", "general": "kept", "retention": "kept", "substance": "not shown"}
    for parts in proof["parts"].values():
        names = ("gain", "ending", "format", "style", "substance")
        assert [parts[name]["value"] for name in names] == [0.0] * 5


def test_a_run_in_the_way_of_a_later_seed_is_refused_before_the_first_is_trained(place: Workplace) -> None:
    """What would stop the second run after hours of the first is looked for at once."""
    place.write("runs/late-s2/note.txt", "mine")
    ended = seodang("tune", *place.recipe("name=late"), "--seeds", 2)
    assert ended.code == 2
    assert ended.err.startswith("error: runs/late-s2: already exists")
    assert "--resume makes what is missing" in ended.err
    assert not (place.folder / "runs" / "late-s1").exists()


@pytest.mark.parametrize(
    ("came_to", "words"),
    [
        ("stopped after step 3 of 9; to resume:\n  seodang tune runs/mine-s1 --resume", ["--seeds", "2"]),
        ("stopped after step 3 of 9; to resume:\n  seodang tune runs/mine-s1 --resume", ["--resume", "--seeds", "2"]),
        ("", ["--seeds", "2"]),
    ],
)
def test_several_seeds_are_resumed_together(came_to: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be typed after an interruption resumes the seeds that have not begun as well."""
    monkeypatch.setattr(sys, "argv", ["seodang", "tune", "my recipe.yaml", *words])
    said, command = str(resumed_by_repeating(Stopped(came_to))).split("\n")
    assert said == (came_to.partition("\n")[0] or "interrupted; to resume:")
    assert command == "  seodang tune 'my recipe.yaml' --seeds 2 --resume"
