"""A run that is resumed: compared with what it was begun with before anything is written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import seodang
from command import json_lines
from command import seodang as seodang_command
from seodang.cli import run_commands
from seodang.errors import RunError
from seodang.recipe import Recipe, load_recipe
from seodang.run.evidence import read_base, read_events, read_manifest
from seodang.run.folder import Run
from seodang.stages import preflight
from tiny_recipe import tiny_recipe

pytestmark = pytest.mark.usefixtures("no_report")


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, its data, a recipe, and a run that was stopped in its third step."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(tiny_folder, folder / "base")
    recipe = tiny_recipe(folder, folder / "base", ask_every=None)
    with pytest.raises(KeyboardInterrupt):
        seodang.tune(recipe, out=folder / "run", callbacks=[_StopAfter(3)])
    return folder


@pytest.fixture
def place(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it in which every path is its own."""
    copied = tmp_path / "place"
    shutil.copytree(stopped, copied)
    for file in (copied / "recipe.yaml", copied / "run" / "recipe.yaml"):
        file.write_text(file.read_text(encoding="utf-8").replace(str(stopped), str(copied)), encoding="utf-8")
    return copied


def _recipe(place: Path, **changes: Any) -> Recipe:
    data = json.loads((place / "recipe.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    (place / "recipe.yaml").write_text(json.dumps(data), encoding="utf-8")
    return load_recipe(place / "recipe.yaml")


def _other_rows(place: Path) -> None:
    rows = [{"question": f"약 {n}번은요?", "answer": f"{n + 1}번 약이 아닙니다."} for n in range(24)]
    (place / "medical.jsonl").write_text(json_lines(rows), encoding="utf-8")


def _fewer_rows(place: Path) -> None:
    path = place / "medical.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:12]), encoding="utf-8")


def _other_base(place: Path) -> None:
    path = place / "base" / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    name = min(weights)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] += 1e-3  # one value of one tensor: no sample of the weights may miss it
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


def _other_configuration(place: Path) -> None:
    path = place / "base" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "rms_norm_eps": 1e-3}), encoding="utf-8")


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("weights are loaded")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_other_rows, r"the data of medical \(medical\.jsonl\)"),
        (_fewer_rows, r"the data of medical \(medical\.jsonl\)"),
        (_other_base, r"the base \(model\.safetensors\)"),
        (_other_configuration, r"the base \(config\.json\)"),
    ],
)
def test_other_inputs_are_refused_and_nothing_is_written(
    change: Callable[[Path], None], named: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data or base changed since the run was begun: named before weights are loaded, and the run is as it was."""
    monkeypatch.setattr(preflight, "load_model", _never)
    change(place)
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"changed since this run was begun: {named}(?s:.)*--out"):
        seodang.tune(load_recipe(place / "recipe.yaml"), out=place / "run", resume=True)
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before


def test_another_template_is_refused(stopped: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The recipe names a file whose text changed."""
    template = tmp_path / "own.jinja"
    text = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    )
    template.write_text(text, encoding="utf-8")
    tiny_recipe(tmp_path, tiny_folder, ask_every=None)
    recipe = _recipe(tmp_path, template=str(template))
    with pytest.raises(KeyboardInterrupt):
        seodang.tune(recipe, out=tmp_path / "run", callbacks=[_StopAfter(1)])
    template.write_text(text.replace("<end_of_turn>\n", "<end_of_turn>\n\n"), encoding="utf-8")
    with pytest.raises(RunError, match="changed since this run was begun: the chat template"):
        seodang.tune(recipe, out=tmp_path / "run", resume=True)


def test_another_library_is_a_warning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What moves the last digits is said, and the manifest keeps both; the time of both starts is added up."""
    run = Run(folder=place / "run")
    old = run.read_json("manifest.json")
    old["versions"]["torch"] = "2.0.0"
    old["placement"] |= {"compute_dtype": "bfloat16", "training_dtype": "float16"}
    old["seconds"] = {"prepare": 100.0, "train": 1000.0}
    run.write_json("manifest.json", old)
    seodang.tune(load_recipe(place / "recipe.yaml"), out=run.folder, resume=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "(was 2.0.0)" in printed
    assert "compute_dtype float32 (was bfloat16)" in printed
    assert "training_dtype none (was float16)" in printed
    manifest = read_manifest(run)
    assert manifest
    assert manifest.versions["torch"] == "2.0.0"
    (again,) = manifest.resumed
    assert again.versions["torch"] != "2.0.0"
    assert manifest.created == old["created"]
    assert manifest.seconds["prepare"] > 100
    assert 1000 < manifest.seconds["train"] < 1300
    assert manifest.seconds["after"] > 0


def test_seconds_of_a_start_that_was_stopped_are_kept(stopped: Path) -> None:
    """Each stage that ran is in the manifest, the one that was cut off too."""
    manifest = read_manifest(Run(folder=stopped / "run"))
    assert manifest
    assert list(manifest.seconds) == ["prepare", "load", "before", "train"]
    assert all(seconds > 0 for seconds in manifest.seconds.values())


def test_questions_changed_on_resume_are_answered_by_both_models(place: Path) -> None:
    """Base and tuned model answer the same questions under the same settings; the base's losses are kept."""
    run = Run(folder=place / "run")
    before = read_base(run)
    assert before
    changed = _recipe(place, ask={"domain": ["물은요?"], "generate": {"max_new_tokens": 5, "temperature": 0.9}})
    seodang.tune(changed, out=run.folder, resume=True)
    after = read_base(run)
    assert after
    assert after.rows == before.rows
    asked: dict[str, list[tuple[str, str]]] = {"base": [], "tuned": []}
    for row in run.read_lines("answers.jsonl"):
        asked[row["model"]].append((row["kind"], row["question"]))
        assert row["new_tokens"] <= 5
    assert asked["base"] == asked["tuned"]
    assert ("domain", "물은요?") in asked["base"]
    stability = run.read_json("proof.json")["stability"]
    assert {stability[model]["temperature"] for model in ("base", "tuned")} == {0.9}
    assert [event.step for event in read_events(run) if event.event == "eval"] == [0, 2, 4, 6]


def test_a_base_that_was_measured_in_another_precision_is_measured_again(place: Path) -> None:
    """Losses and answers of base and tuned model come from the same precision."""
    run = Run(folder=place / "run")
    stored = run.read_json("base.json")
    stored["settings"]["compute_dtype"] = "bfloat16"
    for row in stored["rows"]["medical"]:
        row["loss"]["content"] = 0.001
    run.write_json("base.json", stored)
    seodang.tune(load_recipe(place / "recipe.yaml"), out=run.folder, resume=True)
    found = read_base(run)
    assert found
    assert all(row.loss.content > 1 for row in found.rows["medical"])
    assert found.settings.compute_dtype == "float32"
    rows = [row for row in run.read_lines("rows.jsonl") if row["source"] == "medical"]
    assert [row["base"] for row in rows] == [asdict(row.loss) for row in found.rows["medical"]]
    tokens = sum(row["content_tokens"] + row["end_tokens"] for row in rows)
    proof = run.read_json("proof.json")["sources"]["medical"]["base"]["nats_per_token"]
    assert proof == pytest.approx(sum(row.loss.total for row in found.rows["medical"]) / tokens)


def test_damaged_files_do_not_stand_in_the_way(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """base.json, metrics and the newest checkpoint cut short: measured again, rewound, and trained from before."""
    run = Run(folder=place / "run")
    for name in ("base.json", "metrics.jsonl", "counts.json", "lengths.json"):
        path = run.folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    newest = run.last_checkpoint()
    assert newest
    (newest / "optimizer.pt").write_bytes(b"")
    seodang.tune(load_recipe(place / "recipe.yaml"), out=run.folder, resume=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "run, resumed" in printed
    assert "left training from step 3, measuring the tuned model" in printed
    for shown_before in ("learning rate 0.01;", "first rows", "tokens per example"):
        assert shown_before not in printed
    assert "the base is measured again" in printed
    assert f"{newest.name} cannot be used: optimizer.pt has 0 of" in printed
    assert [event.step for event in read_events(run) if event.event == "train"] == [1, 2, 3, 4, 5, 6]


def test_prove_refuses_other_rows(place: Path) -> None:
    """Rows that were trained might be held out now; with a recipe of its own, prove measures what that names."""
    run = Run(folder=place / "run")
    seodang.tune(load_recipe(place / "recipe.yaml"), out=run.folder, resume=True)
    before = run.read_json("proof.json")["sources"]
    (run.folder / "lengths.json").unlink()  # the rows are there, and their lengths are those of the run
    assert seodang.prove(run.folder).read_json("proof.json")["sources"] == before
    _fewer_rows(place)
    with pytest.raises(RunError, match=r"changed since this run was begun: the data of medical"):
        seodang.prove(run.folder)
    seodang.prove(run.folder, recipe=place / "recipe.yaml", out=place / "other")
    assert (place / "other" / "proof.json").is_file()


def test_report_prints_once(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of several ranks the main one writes the page and prints its path."""
    for rank in ("1", "0"):
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        run_commands.report([place / "run"])
        assert capsys.readouterr().out.count("report.html") == (rank == "0")


def test_a_moved_run_is_resumed_where_it_lies(stopped: Path, tmp_path: Path) -> None:
    """On another machine: the folder is given, with where base and data lie now; the same content is the same run."""
    moved = tmp_path / "another machine"
    shutil.copytree(stopped, moved)
    paths = [f"model.path={moved / 'base'}", f"sources.medical.path={moved / 'medical.jsonl'}"]
    _fewer_rows(moved)
    assert "changed since this run was begun" in seodang_command("tune", moved / "run", "--resume", *paths).err
    shutil.copyfile(stopped / "medical.jsonl", moved / "medical.jsonl")
    ended = seodang_command("tune", moved / "run", "--resume", *paths)
    assert ended.code == 0, ended.err
    assert Run(folder=moved / "run").is_proven
    assert not Run(folder=stopped / "run").is_proven
