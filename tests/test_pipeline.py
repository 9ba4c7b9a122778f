"""The whole line on a tiny random model: what a run leaves behind, how it goes on, what it proves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import seodang
from command import json_lines
from drawn import pictures
from launched import run_alone
from seodang.errors import RunError
from seodang.proof.proof import proof_of_run
from seodang.recipe import Recipe, load_recipe
from seodang.recipe_file import shipped_recipes
from seodang.run.folder import Run
from seodang.show.language import texts_in

FILES = (
    "recipe.yaml", "manifest.json", "counts.json", "dropped.jsonl", "findings.json", "lengths.json", "samples.json",
    "metrics.jsonl", "base.json", "training.json", "answers.jsonl", "proof.json", "report.html",
)  # fmt: skip


def _rows(count: int, topic: str) -> list[dict[str, str]]:
    return [
        {"question": f"{topic} {n}번은 무엇인가요?", "answer": f"{n}번 {topic}의 답은 {n * 7}입니다."}
        for n in range(count)
    ]


def _recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "medical.jsonl").write_text(json_lines(_rows(24, "약")), encoding="utf-8")
    (folder / "general.jsonl").write_text(json_lines(_rows(16, "상식")), encoding="utf-8")
    (folder / "text.jsonl").write_text(
        json_lines({"text": f"{n}. 물은 낮은 곳으로 흐른다."} for n in range(5)), encoding="utf-8"
    )
    data: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(model), "dtype": "float32"},
        "template": "gemma",
        "sources": [
            {"name": "medical", "role": "domain", "path": "medical.jsonl", "holdout": 4},
            {"name": "general", "role": "general", "path": "general.jsonl", "holdout": 3, "take": "1/2"},
            {"name": "text", "role": "retention", "path": "text.jsonl"},
        ],
        "train": {
            "steps": 6, "examples_per_step": 4, "max_tokens": 128, "learning_rate": "1e-3", "eval_every": 2,
            "keep_checkpoints": 2, "best_by": "domain_within_tolerance",
        },
        "ask": {
            "domain": ["약은 무엇인가요?"], "general": ["사과는 왜 빨간가요?"],
            "repeat": {"question": "감기약은요?", "times": 3}, "holdout": 4, "holdout_tokens": 8,
            "generate": {"max_new_tokens": 8},
        },
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return load_recipe(path)


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.model / "model.safetensors")


def _equal(one: Run, other: Run) -> bool:
    a, b = _weights(one), _weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("line")
    with pictures():
        return seodang.tune(_recipe(folder, tiny_folder), out=folder / "run")


def test_a_run_leaves_all_its_files(run: Run) -> None:
    """Everything that the report is made from lies in the run's folder, with the model, checkpoints and pictures."""
    assert [name for name in FILES if not (run.folder / name).is_file()] == []
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert list((run.folder / "tensorboard").iterdir())
    assert sorted(path.name for path in (run.folder / "pictures").iterdir())


def test_the_counts_tell_what_became_of_every_row(run: Run) -> None:
    """Rows in are rows kept and rows dropped with a reason, at every step of every source."""
    for counts in run.read_json("counts.json"):
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values()), counts


def test_metrics_hold_every_step_and_evaluation(run: Run) -> None:
    """metrics.jsonl: the base at step 0, each step once, an evaluation per source at each multiple and at the end."""
    rows = run.read_lines("metrics.jsonl")
    assert [row["step"] for row in rows if row["event"] == "train"] == [1, 2, 3, 4, 5, 6]
    evaluations = [row for row in rows if row["event"] == "eval"]
    assert [row["step"] for row in evaluations] == [0, 2, 4, 6]
    assert all(set(row["sources"]) == {"medical", "general", "text"} for row in evaluations)


def test_the_speed_is_recorded_once(run: Run) -> None:
    """One event tells tokens per second and the share of the hardware limit."""
    (speed,) = [row for row in run.read_lines("metrics.jsonl") if row["event"] == "speed"]
    assert speed["tokens_per_second"] > 0
    assert 0 < speed["limit_share"] < 2
    assert speed["matrix_gflops"] > 0


def test_the_memory_is_told_before_training(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """inspect prints the estimate as a table; an architecture that cannot be rehearsed gets a sentence instead."""
    seodang.inspect(_recipe(tmp_path, tiny_folder))
    told = capsys.readouterr().out
    assert "memory of training, estimated" in told
    assert all(name in told for name in ("weights", "gradients", "activations", "logits", "peak", "available"))
    moe = tmp_path / "moe"
    shutil.copytree(tiny_folder, moe)
    sizes = json.loads((tiny_folder / "config.json").read_text(encoding="utf-8"))
    config = {key: sizes[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    (moe / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}), encoding="utf-8")
    seodang.inspect(_recipe(tmp_path, moe))
    told = capsys.readouterr()
    assert "memory: no estimate for this architecture" in told.out
    assert "Traceback" not in told.out + told.err


def test_the_proof_follows_from_the_files(run: Run) -> None:
    """Base and tuned losses in the proof are those of step 0 and of the best evaluation in metrics.jsonl."""
    proof = run.read_json("proof.json")
    evaluations = {row["step"]: row for row in run.read_lines("metrics.jsonl") if row["event"] == "eval"}
    best = evaluations[proof["compared"]["training"]["best_step"]]
    assert best["loss"] == min(row["loss"] for step, row in evaluations.items() if step)
    for source, losses in proof["sources"].items():
        assert losses["base"]["nats_per_token"] == pytest.approx(evaluations[0]["sources"][source]["loss"], rel=1e-6)
        assert losses["tuned"]["nats_per_token"] == pytest.approx(best["sources"][source]["loss"], rel=1e-6)
    assert proof["sources"]["medical"]["change"]["value"] < 0
    kinds = [(row["model"], row["kind"]) for row in run.read_lines("answers.jsonl")]
    for model in ("base", "tuned"):
        assert {kind: kinds.count((model, kind)) for kind in ("domain", "general", "repeat", "holdout")} == {
            "domain": 1, "general": 1, "repeat": 3, "holdout": 7,
        }  # fmt: skip


def test_the_kept_checkpoint_is_explained(run: Run) -> None:
    """Which evaluations were within the tolerances, and how much the kept one rose: as metrics.jsonl has it."""
    training = proof_of_run(run).compared.training
    assert training
    assert training.choice
    choice = training.choice
    assert (choice.evaluations, choice.kept.is_within) == (3, choice.within > 0)
    base, best = (
        next(row for row in run.read_lines("metrics.jsonl") if row["event"] == "eval" and row["step"] == step)[
            "sources"
        ]
        for step in (0, choice.kept.step)
    )
    assert choice.kept.rises["general"].value == pytest.approx(best["general"]["loss"] - base["general"]["loss"])
    rise = best["text"]["bits_per_byte"] - base["text"]["bits_per_byte"]
    assert (choice.kept.rises["text"].value, choice.kept.rises["text"].unit) == (pytest.approx(rise), "bits per byte")
    assert texts_in("ko")("curve.best_within") in (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_report_tells_the_run(run: Run) -> None:
    """The page names the run, its sources and the questions, and asks nothing of a network."""
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for text in ("tiny", "medical", "general", "사과는 왜 빨간가요?"):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_saved_model_works_without_seodang(run: Run) -> None:
    """In a fresh process plain transformers loads model and template, and gives the run's greedy answers."""
    script = textwrap.dedent("""
        import json, sys
        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
        folder, question = sys.argv[1:]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(output[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True)
        piped = pipeline("text-generation", model=folder)([{"role": "user", "content": question}],
            max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]["content"]
        eos = model.generation_config.eos_token_id
        print(json.dumps({"text": text, "piped": piped, "eos": tokenizer.convert_ids_to_tokens(eos),
                          "seodang": "seodang" in sys.modules}))
    """)
    answer = next(row for row in run.read_lines("answers.jsonl") if (row["model"], row["kind"]) == ("tuned", "general"))
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.model), answer["question"]], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["text"] == found["piped"] == answer["text"]
    assert "<end_of_turn>" in found["eos"]
    assert not found["seodang"]


def test_the_same_recipe_gives_the_same_weights(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """A second run of the same recipe ends in bit-equal weights and the same answers."""
    again = seodang.tune(_recipe(tmp_path, tiny_folder), out=tmp_path / "run")
    assert _equal(run, again)
    assert run.read_lines("answers.jsonl") == again.read_lines("answers.jsonl")


@pytest.mark.parametrize("moment", ["on_step_end", "on_save"])
def test_a_killed_run_resumes_to_the_same_weights(moment: str, run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """kill -9 between two checkpoints or right after one; --resume ends in the unbroken run's weights and metrics."""
    _recipe(tmp_path, tiny_folder)
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from transformers import TrainerCallback
        import seodang

        class Kill(TrainerCallback):
            def {moment}(self, args, state, control, **_):
                if state.global_step >= 3:
                    os.kill(os.getpid(), signal.SIGKILL)

        seodang.tune(seodang.load_recipe("recipe.yaml"), out=Path("run"), callbacks=[Kill()])
    """)
    assert run_alone("-c", script, cwd=tmp_path).code == -signal.SIGKILL
    recipe = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RunError, match="--resume"):
        seodang.tune(recipe, out=tmp_path / "run")
    resumed = seodang.tune(recipe, out=tmp_path / "run", resume=True)
    assert _equal(run, resumed)
    steps = [row["step"] for row in resumed.read_lines("metrics.jsonl") if row["event"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_can_be_resumed(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in training saves, raises KeyboardInterrupt, and the resumed run ends in the unbroken run's weights."""

    class Interrupt(TrainerCallback):
        def on_step_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
        ) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    recipe = _recipe(tmp_path, tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        seodang.tune(recipe, out=tmp_path / "run", callbacks=[Interrupt()])
    assert _equal(run, seodang.tune(recipe, out=tmp_path / "run", resume=True))


def test_ctrl_c_in_the_last_evaluation_saves_the_step_that_it_reports(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    """Training has ended: the best model is saved, training.json names its step, and a resumed run only measures."""

    class Interrupt(TrainerCallback):
        def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            if state.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    recipe = _recipe(tmp_path, tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        seodang.tune(recipe, out=tmp_path / "run", callbacks=[Interrupt()])
    stopped = Run(folder=tmp_path / "run")
    assert stopped.read_json("training.json") == run.read_json("training.json")
    assert _equal(run, stopped)
    assert not stopped.is_proven
    proofs = [each.read_json("proof.json") for each in (seodang.tune(recipe, out=stopped.folder, resume=True), run)]
    assert proofs[0]["sources"] == proofs[1]["sources"]


def test_a_run_killed_after_training_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    """Where the best model is saved already, --resume only measures it and writes proof and report."""
    recipe = load_recipe(run.folder.parent / "recipe.yaml")
    first = Run(folder=shutil.copytree(run.folder, tmp_path / "run"))
    saved = (first.model / "model.safetensors").stat().st_mtime_ns
    proof = first.read_json("proof.json")
    (first.folder / "proof.json").unlink()
    again = seodang.tune(recipe, out=tmp_path / "run", resume=True)
    assert (again.model / "model.safetensors").stat().st_mtime_ns == saved
    assert again.read_json("proof.json")["sources"] == proof["sources"]


def test_a_base_measured_against_itself_gives_no_change(run: Run, tmp_path: Path) -> None:
    """prove MODEL --against the same MODEL: every change is exactly 0, every answer the same."""
    chat = shutil.copytree(run.model, tmp_path / "chat")
    recipe = run.folder.parent / "recipe.yaml"
    proven = seodang.prove(chat, against=str(chat), recipe=recipe, out=tmp_path / "proof")
    proof = proven.read_json("proof.json")
    assert {losses["change"]["value"] for losses in proof["sources"].values()} == {0.0}
    texts: dict[str, list[str]] = {"base": [], "tuned": []}
    for row in proven.read_lines("answers.jsonl"):
        texts[row["model"]].append(row["text"])
    assert texts["base"] == texts["tuned"]


def test_proving_a_run_again_gives_its_own_numbers(run: Run, tmp_path: Path) -> None:
    """prove RUN loads base and tuned model anew and finds what the run found."""
    before = run.read_json("proof.json")
    after = seodang.prove(run.folder, out=tmp_path / "proof").read_json("proof.json")
    assert after["sources"] == before["sources"]
    assert after["behaviour"] == before["behaviour"]


def test_the_prepared_rows_are_handed_out(tiny_folder: Path, tmp_path: Path) -> None:
    """inspect gives a DatasetDict whose rows have source, role, messages, text, ids and labels that fit together."""
    prepared = seodang.inspect(_recipe(tmp_path, tiny_folder))
    assert list(prepared.rows) == ["train", "holdout"]
    train: Dataset = prepared.rows["train"]
    assert {"source", "role", "messages", "text", "input_ids", "labels", "row_id"} <= set(train.column_names)
    assert train.num_rows == 20 + 7
    for row in train:
        assert len(row["input_ids"]) == len(row["labels"])
        assert row["messages"][-1]["content"] in row["text"]


def test_text_rows_are_trained_only_if_asked(tiny_folder: Path, tmp_path: Path) -> None:
    """Retention text stays out of training; with train: true every token of it but BOS is supervised."""
    recipe = _recipe(tmp_path, tiny_folder)
    assert "text" not in seodang.inspect(recipe).rows["train"]["source"]
    text = recipe.sources[2].model_copy(update={"train": True, "holdout": 2})
    trained = seodang.inspect(recipe.model_copy(update={"sources": (*recipe.sources[:2], text)})).rows["train"]
    rows = [row for row in trained if row["source"] == "text"]
    assert len(rows) == 3
    assert all(row["labels"][1:] == row["input_ids"][1:] for row in rows)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_runs(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recipe that ships loads and runs two steps on a tiny model, its own settings otherwise kept."""
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    sources = []
    for source in recipe.sources:
        path = source.path
        if source.hub or not path or not path[0].startswith("sample:"):
            path = (str(tmp_path / f"{source.name}.jsonl"),)
            texts = [{"text": row["answer"]} for row in _rows(60, source.name)]
            rows = texts if source.role == "replay" else _rows(60, source.name)
            Path(path[0]).write_text(json_lines(rows), encoding="utf-8")
        holdout = source.holdout if source.holdout is None or source.holdout < 1 else 4
        sources.append(source.model_copy(update={"hub": None, "path": path, "holdout": holdout}))
    ask = recipe.ask.model_copy(
        update={
            "holdout": 2,
            "holdout_tokens": 4,
            "generate": recipe.ask.generate.model_copy(update={"max_new_tokens": 4}),
        }
    )
    small = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"path": str(tiny_folder)}),
            "template": recipe.template.model_copy(update={"borrow": "gemma"}),
            "sources": tuple(sources),
            "train": recipe.train.model_copy(update={"steps": 2, "eval_every": 1, "max_tokens": 1024}),
            "ask": ask,
        }
    )
    proven = seodang.tune(small, out=tmp_path / "run")
    assert proven.read_json("proof.json")["compared"]["training"]["best_step"] in (1, 2)
