"""Writes a run's folder as far as chatting needs it: a recipe, and a random model with its template."""

import copy
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from seodang.data.template.find import apply_template, find_template
from seodang.model.save import save_model
from seodang.recipe import Recipe, Template
from seodang.run.folder import Run, write_text
from seodang.run.start import dump_recipe
from seodang.types import IGNORED
from tiny import make_config, make_model

SETTINGS = {"max_new_tokens": 12, "repetition_penalty": 1.1}


def make_run(
    folder: Path, base: Path, tokenizer: PreTrainedTokenizerFast, *, template: str = "chatml", **recipe: Any
) -> Run:
    """A run on the tiny base whose tuned model is another random one."""
    made = Recipe.model_validate(
        {
            "name": folder.name,
            "model": str(base),
            "sources": [{"name": "medical", "role": "domain", "path": "sample:ko_medical"}],
            "ask": {"generate": SETTINGS},
            **recipe,
        }
    )
    tokenizer = copy.deepcopy(tokenizer)
    found = find_template(
        tokenizer, Template(borrow=template), num_embeddings=len(tokenizer), load_tokenizer=_nothing_to_borrow
    )
    apply_template(tokenizer, found)
    run = Run(folder=folder)
    folder.mkdir(parents=True)
    write_text(folder / "recipe.yaml", dump_recipe(made))
    model = make_model(make_config("llama", len(tokenizer)), seed=1)
    save_model(
        model,
        tokenizer,
        run.model,
        turn_end_id=found.turn_end_id,
        system=made.system,
        sampling=made.ask.generate,
    )
    return run


def train_a_little(run: Run, *, steps: int, rows: int) -> None:
    """Teach a run's model sample answers, so that it writes words and ends."""
    lines = (files("seodang") / "samples" / "en_medical.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    turns = [_turns(json.loads(line)) for line in lines[:rows]]
    prompts = [tokenizer.apply_chat_template(each[:1], add_generation_prompt=True)["input_ids"] for each in turns]
    answers = [[*tokenizer(each[1]["content"])["input_ids"][1:], tokenizer.eos_token_id] for each in turns]
    teach(run.model, list(zip(prompts, answers, strict=True)), steps=steps)


def teach(folder: Path, examples: Sequence[tuple[list[int], list[int]]], *, steps: int) -> None:
    """Train a model's folder on (prompt, answer) ids, one after the other."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        prompt, answer = examples[step % len(examples)]
        labels = torch.tensor([[IGNORED] * len(prompt) + answer])
        model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    question, answer = row["question"], row["answer"]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.split(".")[0][:48] + "."}]


def _nothing_to_borrow(path: str) -> PreTrainedTokenizerFast:
    raise AssertionError(path)
