"""Continued pretraining on plain text, then instruction tuning from that run: two recipes, one after the other."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

import seodang
from command import json_lines
from seodang.errors import ModelError, TemplateError
from seodang.publish.hub import push
from seodang.recipe import Recipe, load_recipe
from seodang.run.folder import Run
from seodang.serve.chat_model import load_chat_model


def _recipe(folder: Path, model: str, *sources: dict[str, Any], **changes: Any) -> Recipe:
    rows = [{"question": f"약 {n}번은요?", "answer": f"{n}번 약입니다."} for n in range(24)]
    texts = [{"text": f"{n}번 약은 물과 함께 먹는다. " * 4} for n in range(24)]
    (folder / "rows.jsonl").write_text(json_lines(rows), encoding="utf-8")
    (folder / "texts.jsonl").write_text(json_lines(texts), encoding="utf-8")
    data = {
        "model": {"path": model, "dtype": "float32", "device": "cpu"},
        "template": "gemma",
        "sources": sources,
        "train": {"steps": 2, "examples_per_step": 4, "max_tokens": 64, "learning_rate": "1e-2", "eval_every": 2},
        "ask": {"holdout": 2, "holdout_tokens": 4, "domain": ["약은요?"], "generate": {"max_new_tokens": 4}},
        **changes,
    }
    path = folder / f"{changes['name']}.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    return load_recipe(path)


TEXTS = {"name": "texts", "role": "replay", "path": "texts.jsonl", "holdout": 4}
ROWS = {"name": "rows", "role": "domain", "path": "rows.jsonl", "holdout": 4}


@pytest.fixture(scope="module")
def first(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("steps")
    return seodang.tune(_recipe(folder, str(tiny_folder), TEXTS, name="first"), out=folder / "runs" / "first")


def test_text_alone_is_continued_pretraining(first: Run) -> None:
    """The text's own holdout is measured before and after, in bits per byte, and the run is complete."""
    proof = first.read_json("proof.json")
    assert proof["sources"]["texts"]["unit"] == "bits per byte"
    assert proof["sources"]["texts"]["change"]["value"] < 0
    assert first.report.is_file()


def test_a_template_that_nothing_was_trained_with_is_not_saved(first: Run) -> None:
    """A model that read text alone keeps the tokenizer and the end of text of its base: it was taught no turns."""
    tokenizer = AutoTokenizer.from_pretrained(first.model)
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token == "<eos>"
    assert GenerationConfig.from_pretrained(first.model).eos_token_id == [1]
    with pytest.raises(TemplateError, match="trained on text alone"):
        load_chat_model(first.folder)


def test_proving_a_run_of_text_again_gives_its_own_numbers(first: Run, tmp_path: Path) -> None:
    """The recipe's template stands in for the one that was not saved, for the questions too."""
    again = seodang.prove(first.folder, out=tmp_path / "proof")
    for name in ("sources", "behaviour"):
        assert again.read_json("proof.json")[name] == first.read_json("proof.json")[name]


def test_a_run_is_the_base_of_the_next(first: Run, tmp_path: Path) -> None:
    """`model: runs/NAME` is the run's model; as the base it reads no turns yet, so the template is new to it."""
    recipe = _recipe(first.folder.parents[1], "runs/first", ROWS, TEXTS, name="second")
    assert recipe.model.path == str(first.folder)
    second = seodang.tune(recipe, out=tmp_path / "second")
    proof = second.read_json("proof.json")
    assert proof["compared"]["base_has_template"] is False
    assert proof["sources"]["rows"]["role"] == "domain"
    assert AutoTokenizer.from_pretrained(second.model).eos_token == "<end_of_turn>"
    base = {file["path"]: file["sha256"] for file in second.read_json("manifest.json")["base"]["files"]}
    saved = first.read_json("model_files.json")
    assert base["model.safetensors"] in json.dumps(saved)
    again = seodang.prove(second.folder, out=tmp_path / "proof")
    assert again.read_json("proof.json")["sources"] == proof["sources"]


def test_a_run_that_has_no_model_yet_is_no_base(tiny_folder: Path, tmp_path: Path) -> None:
    """A run without a model is named, with how to finish it; so is one that is not there."""
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "runs" / "begun" / "recipe.yaml").write_text("{}", encoding="utf-8")
    for path, what in (("runs/begun", r"no model yet(.|\n)*--resume"), ("runs/begin", "no such folder")):
        with pytest.raises(ModelError, match=what):
            seodang.inspect(_recipe(tmp_path, path, ROWS, name="next"))


def test_the_card_of_a_model_of_text_promises_no_answers(first: Run) -> None:
    """Pushed, it is a base model: no chat in its header, in its example, in its intended use."""
    card = push(first.folder, "me/first", dry_run=True).card
    assert "A base model, made from" in card
    assert "continued-pretraining" in card
    assert not any(word in card for word in ("conversational", "apply_chat_template", "messages", "instruction tuning"))
