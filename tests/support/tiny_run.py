"""Writes a run's folder as far as chatting needs it: a recipe, and a random model with its template."""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from seodang.data.template.find import apply_template, find_template
from seodang.model.save import save_model
from seodang.recipe import Recipe, Template
from seodang.run.folder import Run, write_text
from seodang.run.start import dump_recipe
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


def _nothing_to_borrow(path: str) -> PreTrainedTokenizerFast:
    raise AssertionError(path)
