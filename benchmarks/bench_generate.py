#!/usr/bin/env python3
"""Batched answers against one question after another; the last line is one JSON object.

    python benchmarks/bench_generate.py                  270M model, 32 questions of up to 96 new tokens
    python benchmarks/bench_generate.py --quick          16 questions of up to 32 new tokens (2 to 3 minutes)

Both arms are greedy, by `seodang.model.generate.batch` as `seodang tune` calls it, on the questions of the sample
data. They run in turn in one process, after a short warm-up; medians are reported, and how many answers are the same:
rounding may tip a greedy answer over.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from seodang.model.generate.batch import Completion, Prompt, generate
from seodang.model.load import choose_placement, load_model, load_tokenizer
from seodang.recipe import Generate, Model


def prompts_of(tokenizer: Any, count: int) -> list[Prompt]:
    """Korean and English questions in turn, through the model's chat template; a base's go in as they are."""
    sources = []
    for name in ("ko_medical", "en_medical", "ko_general", "en_general"):
        lines = files("seodang").joinpath("samples", f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        sources.append([json.loads(line)["question"] for line in lines])
    questions = [question for four in zip(*sources, strict=False) for question in four][:count]
    if len(questions) < count:
        raise SystemExit(f"there are {len(questions)} questions only")
    if tokenizer.chat_template:
        return [[{"role": "user", "content": question}] for question in questions]
    return [tokenizer(question)["input_ids"] for question in questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="package:gemma-3-270m")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.quick:
        args.questions, args.new_tokens = 16, 32
    torch.set_num_threads(args.threads)
    spec = Model(path=args.model)
    placement = choose_placement(spec)
    model, tokenizer = load_model(spec, placement), load_tokenizer(args.model)
    prompts = prompts_of(tokenizer, args.questions)
    turn_end_id = tokenizer.eos_token_id

    def answers(asked: list[Prompt], new_tokens: int = args.new_tokens) -> list[Completion]:
        return generate(model, tokenizer, asked, Generate(max_new_tokens=new_tokens), turn_end_id=turn_end_id)

    arms: dict[str, Callable[[], list[Completion]]] = {
        "batched": lambda: answers(prompts),
        "alone": lambda: [answers([prompt])[0] for prompt in prompts],
    }
    answers(prompts[:2], 2)
    runs: dict[str, list[tuple[float, list[Completion]]]] = {arm: [] for arm in arms}
    for _ in range(args.repeats):
        for arm, ask in arms.items():
            begun = time.perf_counter()
            found = ask()
            runs[arm].append((time.perf_counter() - begun, found))
            print(f"{arm:8} {runs[arm][-1][0]:7.1f} s  {sum(c.new_tokens for c in found)} tokens", flush=True)
    result = summary(args, placement.device, runs)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def summary(
    args: argparse.Namespace, device: str, runs: dict[str, list[tuple[float, list[Completion]]]]
) -> dict[str, Any]:
    """Medians of the repeats, and their ratio."""
    seconds = {arm: statistics.median(seconds for seconds, _ in found) for arm, found in runs.items()}
    first = {arm: found[0][1] for arm, found in runs.items()}
    same = sum(a.token_ids == b.token_ids for a, b in zip(first["batched"], first["alone"], strict=True))
    tokens = {arm: sum(completion.new_tokens for completion in found) for arm, found in first.items()}
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, {device}",
        "model": args.model,
        "questions": args.questions,
        "new_tokens": args.new_tokens,
        "repeats": args.repeats,
        "seconds": {arm: round(value, 2) for arm, value in seconds.items()},
        "tokens_per_second": {arm: round(tokens[arm] / value, 1) for arm, value in seconds.items()},
        "ended_by_themselves": sum(completion.stopped for completion in first["batched"]),
        "same_answers": same,
        "speedup": round(seconds["alone"] / seconds["batched"], 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


if __name__ == "__main__":
    main()
