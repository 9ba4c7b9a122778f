#!/usr/bin/env python3
"""How fast held-out rows are measured, against the hardware limit, and what memory it takes; JSON on the last line.

    python benchmarks/bench_evaluate.py --data DIR                  Gemma 3 270M, 96 rows; about 2 minutes
    python benchmarks/bench_evaluate.py --data DIR --rows 12 --repeats 1

The rows of a domain, a general and a plain text file of ../shared/data, behind Gemma's turn markers. `limit_share` is
the time that the fewest operations of a forward pass take (a third of `step_flops`) at the rate of the best square
product, timed right before and after each repeat, over the time of `token_losses`, which evaluation and proof share.
"""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from seodang.data.pack import pack
from seodang.model.engine.engine import choose_engine
from seodang.model.packaged import packaged_folder
from seodang.proof.evaluate import Example, measuring, token_losses
from seodang.train.throughput import matrix_rate, step_flops
from seodang.types import IGNORED

FILES = ("ko_medical", "ko_general", "cpt_ko_health_law")
CHARACTERS = 800  # of a text, at most


def examples(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> list[Example]:
    """As many rows of each file; of questions the answer is scored, of texts everything."""
    found = []
    for name in FILES:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for i in np.random.default_rng(0).permutation(len(lines))[: rows // len(FILES)]:
            line = json.loads(lines[i])
            text = line.get("text", "")[:CHARACTERS]
            head = "" if text else f"<start_of_turn>user\n{line['question']}<end_of_turn>\n<start_of_turn>model\n"
            prompt = tokenizer(head)["input_ids"]
            reply = tokenizer(text or line["answer"] + "<end_of_turn>", add_special_tokens=False)["input_ids"]
            labels = [IGNORED] * len(prompt) + reply
            found.append(Example(np.array(prompt + reply, dtype=np.int32), np.array(labels, dtype=np.int32)))
    return found


def peak_gb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pack-tokens", type=int, default=1024)
    args = parser.parse_args()
    folder = str(packaged_folder(args.model))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = examples(args.data, tokenizer, args.rows)
    engine = choose_engine(model, [row.input_ids for row in rows[:3]])
    loaded, shares, seconds = peak_gb(), [], []
    budget = engine.budget(args.pack_tokens)
    flops = step_flops(model, list(pack(*zip(*rows, strict=True), budget=budget))) / 3
    with measuring(model, engine):
        token_losses(model, rows[:4], budget=budget)
        for _ in range(args.repeats):
            before = matrix_rate()
            begun = time.perf_counter()
            token_losses(model, rows, budget=budget)
            seconds.append(time.perf_counter() - begun)
            shares.append(flops / max(before, matrix_rate()) / seconds[-1])
    tokens = sum(len(row.input_ids) for row in rows)
    print(
        json.dumps(
            {
                "rows": len(rows),
                "tokens": tokens,
                "tokens_per_second": round(tokens / statistics.median(seconds), 1),
                "limit_share": round(statistics.median(shares), 3),
                "limit_shares": [round(share, 3) for share in shares],
                "loaded_gb": round(loaded, 2),
                "peak_gb": round(peak_gb(), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
