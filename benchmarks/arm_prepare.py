#!/usr/bin/env python3
"""One arm of the preparation benchmark, in a process of its own; the last line is one JSON object.

ours    what `seodang tune` does before a model is loaded, and the first step's packs; prepared rows are kept in
        $SEODANG_CACHE, so that a second call is a second start
stages  the same up to the plan of what is measured, with the CPU seconds and the memory of each stage
trl     TRL's SFTTrainer as it is made from the same file: load_dataset, chat template, tokens, labels
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def ours(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that stands between a recipe and the first optimizer step, but for the model."""
    import datasets  # noqa: F401  as the trainer's arm imports all it needs before it begins
    import numpy as np

    from seodang.data.pack import Plan, pack_step
    from seodang.model.load import load_tokenizer
    from seodang.model.placement import choose_placement
    from seodang.pipeline import prepare
    from seodang.recipe import load_recipe

    started = time.time()
    load_tokenizer(str(args.model))  # timed by itself; `prepare` does it again
    begun = time.time()
    recipe = load_recipe(
        {
            "name": "bench",
            "model": str(args.model),
            "sources": [{"name": "rows", "role": "domain", "path": str(args.rows), "holdout": 0.01}],
            "train": {"max_tokens": args.max_tokens},
        }
    )
    prepared = prepare(recipe, choose_placement(recipe.model)).prepared
    rows = prepared.rows["train"]
    plan = Plan(num_rows=len(rows), examples_per_step=recipe.train.examples_per_step, seed=recipe.train.seed)
    indices = plan.rows(0, 0)
    columns = rows.select_columns(["input_ids", "labels"])[indices.tolist()]
    ids, labels = ([np.array(row, dtype=np.int32) for row in columns[name]] for name in ("input_ids", "labels"))
    step = pack_step(indices.tolist(), ids, labels, budget=args.max_tokens)
    return {
        "seconds": time.time() - begun,
        "seconds_loading": begun - started,
        "rows_left": sum(map(len, prepared.rows.values())),
        "first_step_tokens": step.tokens,
    }


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of each stage, workers included, and the largest memory of this process and of a worker, in GB."""
    import resource

    import datasets  # noqa: F401

    from seodang.data.prepare import mix_sources
    from seodang.model.placement import choose_placement
    from seodang.recipe import load_recipe
    from seodang.stages import measure, preflight, preparation

    source = {"name": "rows", "role": "domain", "path": str(args.rows), "holdout": args.holdout}
    recipe = load_recipe(
        {"name": "bench", "model": str(args.model), "sources": [source], "train": {"max_tokens": args.max_tokens}}
    )
    seconds: dict[str, float] = {}
    since = sum(os.times()[:4])

    def done(stage: str) -> None:
        nonlocal since
        now = sum(os.times()[:4])
        seconds[stage], since = round(now - since, 2), now

    base = preflight.resolve_base(recipe.model, choose_placement(recipe.model))
    done("tokenizer")
    row_cache = preparation.open_row_cache()
    sources = preparation.read_sources(recipe.sources, recipe.split, row_cache)
    done("read, convert, split, audit")
    renderer = preparation.make_renderer(
        base.tokenizer, recipe.template, num_embeddings=base.num_embeddings, has_thinking=sources.has_thinking,
        system=None, loss_on=recipe.train.loss_on,
    )  # fmt: skip
    done("template")
    encoded = preparation.encode(sources, renderer, recipe.train, row_cache)
    done("render, tokenize, mask, keep")
    prepared = mix_sources(encoded, recipe.mix, max_tokens=recipe.train.max_tokens)
    done("mix, lengths")
    inputs = preflight.Inputs(base=base, renderer=renderer, prepared=prepared)
    held_out = measure.make_evaluation_set(recipe, inputs, args.max_tokens)
    done("what is measured")
    memory = {"process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {
        "seconds": sum(seconds.values()),
        "stages": seconds,
        "rows": sum(counts.rows_in for counts in encoded.counts if counts.stage == "convert"),
        "rows_left": sum(map(len, prepared.rows.values())),
        "held_out": sum(len(one.rows) for one in held_out.sources),
        "rss_gb": {name: round(resource.getrusage(who).ru_maxrss / 1e6, 2) for name, who in memory.items()},
    }


def trl(args: argparse.Namespace) -> dict[str, Any]:
    """The trainer's own preparation, loss on answers only."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = AutoTokenizer.from_pretrained(args.model), AutoModelForCausalLM.from_pretrained(args.model)
    begun = time.time()
    loaded = load_dataset("json", data_files=str(args.rows), split="train")
    read = time.time()
    settings = SFTConfig(
        output_dir=str(args.rows.parent / "trl"), max_length=args.max_tokens, assistant_only_loss=True,
        dataset_num_proc=args.processes, report_to="none", use_cpu=True, bf16=False,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=settings, train_dataset=loaded, processing_class=tokenizer)
    first = trainer.train_dataset[0]
    return {
        "seconds": time.time() - begun,
        "seconds_reading": read - begun,
        "rows_left": len(trainer.train_dataset),
        "columns": trainer.train_dataset.column_names,
        "first_row_supervised": sum(label != -100 for label in first["labels"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=["ours", "stages", "trl"])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--holdout", type=float, default=0.02, help="of the arm `stages`")
    parser.add_argument("--processes", type=int, default=None)
    args = parser.parse_args()
    result = {"ours": ours, "stages": stages, "trl": trl}[args.arm](args)
    print(json.dumps({**result, "cpu_seconds": sum(os.times()[:4])}))


if __name__ == "__main__":
    main()
