"""A recipe of six steps on 24 short rows, as a user would write it to a folder."""

import json
from pathlib import Path
from typing import Any

from command import json_lines
from seodang.recipe import Recipe, load_recipe


def tiny_recipe(folder: Path, model: Path, **train: Any) -> Recipe:
    """Write rows and a recipe of six steps to a folder; `train` changes its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"약 {n}번은요?", "answer": f"{n}번 약입니다."} for n in range(24)]
    (folder / "medical.jsonl").write_text(json_lines(rows), encoding="utf-8")
    data = {
        "name": "tiny",
        "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
        "template": "gemma",
        "sources": [{"name": "medical", "role": "domain", "path": "medical.jsonl", "holdout": 4}],
        "train": {
            "steps": 6, "examples_per_step": 4, "max_tokens": 128, "learning_rate": "1e-2", "eval_every": 2,
            "ask_every": 2, **train,
        },
        "ask": {
            "domain": ["약은 무엇인가요?"], "general": ["사과는 왜 빨간가요?"], "holdout": 2, "holdout_tokens": 4,
            "repeat": {"question": "감기약은요?", "times": 2}, "generate": {"max_new_tokens": 6, "temperature": 0.5},
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(data), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")
