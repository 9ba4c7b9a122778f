#!/usr/bin/env python3
"""Batched answers against one question after another and against plain transformers; JSON on the last line.

    python benchmarks/bench_generate.py --out generate.json     one GPU: Gemma 3 1B, 256 prompts, 64 new tokens; 30 s
    python benchmarks/bench_generate.py --tiny                  the same on tiny shapes, also without a GPU: 6 s
    python benchmarks/bench_generate.py --model package:gemma-3-270m            CPU: 32 sample questions, 96 new tokens
    python benchmarks/bench_generate.py --model package:gemma-3-270m --quick    16 questions, 32 new tokens; 2 minutes

Models of the public configurations with random weights, no hub, on prompts of random tokens; or, with --model, the
questions of the sample data. All arms are greedy. `batched` is `seodang.model.generate.batch` as `seodang tune` calls
it, in the dtype of its weights (float32); `alone` the same, a question at a time, on the first --alone of them;
`transformers` its own `generate` on one left-padded batch with bf16 weights, `transformers-float32` with the weights
of ours, and `batched-own-norms` shows what the kernels for norms do on a GPU. They run in turn in one process after a
short warm-up; medians. `weights_share` is the time to read all weights once for each token of one batch, at the memory
rate, over the time measured. `same_answers` counts what an arm answers as `batched` does, and `same_tokens` how many
of its tokens come before the first difference: rounding may tip a greedy answer over, and random weights are often
undecided.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from random_models import CONFIGS, EOS, machine_name, make_model, make_tokenizer
from seodang.model.generate.batch import Prompt, generate, prompt_ids
from seodang.model.load import load_model, load_tokenizer
from seodang.model.placement import choose_placement
from seodang.model.save import end_ids
from seodang.recipe import Generate, Model
from seodang.train.throughput import memory_rate, synchronize

ARMS = ["batched", "transformers", "alone", "transformers-float32", "batched-own-norms"]
PROMPT_TOKENS, SPREAD = 60, 0.35  # mean, and deviation of the logarithm
WARM_UP_TOKENS = 4
Answers = list[list[int]]  # new tokens of each prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; so it is without a GPU")
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=["gemma-3-1b"])
    parser.add_argument("--model", help="a model with its tokenizer, on sample questions")
    parser.add_argument("--quick", action="store_true", help="16 questions of up to 32 new tokens")
    parser.add_argument("--prompts", type=int, default=None)
    parser.add_argument("--new-tokens", type=int, default=None)
    parser.add_argument("--alone", type=int, default=None, help="prompts that are answered one by one")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    placement = choose_placement(Model(path=args.model or "random"))
    args.tiny = not args.model and (args.tiny or placement.device == "cpu")
    _fill(args)
    rate = memory_rate(placement.device, 2**24 if args.tiny else None)
    found = {}
    for name in [args.model] if args.model else args.models:
        if args.model:
            model, tokenizer = load_model(Model(path=name), placement), load_tokenizer(name)
            prompts = sample_prompts(tokenizer, args.prompts)
        else:
            model, tokenizer = make_model(name, torch.float32, placement.device, tiny=args.tiny), make_tokenizer()
            prompts = random_prompts(model.config.vocab_size, args.prompts)
        found[name] = measure(model, tokenizer, prompts, args, rate)
        del model
        if placement.device != "cpu":
            torch.cuda.empty_cache()
    result = {
        "date": date.today().isoformat(),
        "machine": f"{machine_name()}, {args.threads} threads",
        "torch": torch.__version__,
        "tiny": args.tiny,
        "prompts": args.prompts,
        "new_tokens": args.new_tokens,
        "repeats": args.repeats,
        "memory_gb_per_second": round(rate / 1e9, 1),
        "models": found,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def _fill(args: argparse.Namespace) -> None:
    """What was not given on the command line."""
    if args.model:
        prompts, new_tokens = (16, 32) if args.quick else (32, 96)
    else:
        prompts, new_tokens = (16, 16) if args.tiny else (256, 64)
    args.prompts, args.new_tokens = args.prompts or prompts, args.new_tokens or new_tokens
    args.alone = min(args.prompts, args.alone or (args.prompts if args.model else 2))
    args.arms = args.arms or (["batched", "alone"] if args.model else ARMS)


def sample_prompts(tokenizer: Any, count: int) -> list[Prompt]:
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


def random_prompts(vocabulary: int, count: int) -> list[Prompt]:
    draw = np.random.default_rng(0)
    lengths = np.maximum(4, PROMPT_TOKENS * draw.lognormal(-(SPREAD**2) / 2, SPREAD, count)).astype(int)
    return [draw.integers(2, vocabulary, length).tolist() for length in lengths]


def measure(
    model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Prompt], args: argparse.Namespace, rate: float
) -> dict[str, Any]:
    """All arms on one model."""
    device, turn_end_id = model.device.type, tokenizer.eos_token_id

    def ours(asked: Sequence[Prompt], new_tokens: int) -> Answers:
        settings = Generate(max_new_tokens=new_tokens)
        return [list(one.token_ids) for one in generate(model, tokenizer, asked, settings, turn_end_id=turn_end_id)]

    def plain(asked: Sequence[Prompt], new_tokens: int, peer: PreTrainedModel) -> Answers:
        ids = [prompt_ids(tokenizer, prompt) for prompt in asked]
        return plain_answers(peer, ids, new_tokens, end_ids(model, turn_end_id))

    arms: dict[str, Callable[[Sequence[Prompt], int], Answers]] = {
        "batched": ours,
        "alone": lambda asked, tokens: [ours([prompt], tokens)[0] for prompt in asked[: args.alone]],
        "transformers-float32": lambda asked, tokens: plain(asked, tokens, model),
        "batched-own-norms": lambda asked, tokens: as_written(lambda: ours(asked, tokens)),
    }
    if "transformers" in args.arms:
        in_bf16 = copy.deepcopy(model).to(torch.bfloat16)
        arms["transformers"] = lambda asked, tokens: plain(asked, tokens, in_bf16)
    runs: dict[str, list[tuple[float, Answers]]] = {arm: [] for arm in args.arms}
    peaks = {}
    for repeat in range(args.repeats):
        for arm in args.arms:
            if not repeat:
                arms[arm](prompts[:2] if arm == "alone" else prompts, WARM_UP_TOKENS)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            synchronize(device)
            begun = time.perf_counter()
            answers = arms[arm](prompts, args.new_tokens)
            synchronize(device)
            runs[arm].append((time.perf_counter() - begun, answers))
            peaks[arm] = _peak_gb(device)
            tokens = sum(map(len, answers))
            print(
                f"{arm:20} {runs[arm][-1][0]:7.2f} s {tokens:7} tokens {tokens / runs[arm][-1][0]:9.1f} tok/s",
                flush=True,
            )
    return summary(model, runs, peaks, rate)


def as_written(work: Callable[[], Answers]) -> Answers:
    """The work with the model's own norms."""
    with patch("seodang.model.generate.batch.fused_norms", nullcontext):
        return work()


@torch.no_grad()
def plain_answers(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int, stops: Sequence[int]
) -> Answers:
    """transformers' own greedy answers, in one batch padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[EOS] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=EOS)
    output = model.generate(ids, attention_mask=mask, generation_config=config)
    answers = []
    for row in output[:, width:].tolist():
        end = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
        answers.append(row[: end + 1])
    return answers


def summary(
    model: PreTrainedModel, runs: dict[str, list[tuple[float, Answers]]], peaks: dict[str, float], rate: float
) -> dict[str, Any]:
    """Medians of the repeats, and what they share with the batched answers."""
    expected = runs["batched"][0][1] if "batched" in runs else None
    found: dict[str, Any] = {}
    for arm, repeats in runs.items():
        answers = repeats[0][1]
        seconds, tokens = statistics.median(seconds for seconds, _ in repeats), sum(map(len, answers))
        weights = model.num_parameters() * (2 if arm == "transformers" else model.dtype.itemsize)
        steps = tokens if arm == "alone" else max(map(len, answers))
        found[arm] = {
            "seconds": round(seconds, 2),
            "answers": len(answers),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1),
            "milliseconds_per_step": round(1e3 * seconds / steps, 2),  # of one batch
            "weights_share": round(steps * weights / rate / seconds, 4),
            "ended_by_themselves": sum(answer[-1] == EOS for answer in answers),
            "peak_gb": round(peaks[arm], 2),
        }
        if expected and arm != "batched":
            pairs = list(zip(answers, expected, strict=False))
            found[arm]["same_answers"] = sum(own == other for own, other in pairs)
            same = [next((at for at, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), None) for pair in pairs]
            found[arm]["same_tokens"] = sum(
                len(pair[0]) if at is None else at for at, pair in zip(same, pairs, strict=True)
            )
            found[arm]["speed_of_batched"] = round(
                found["batched"]["tokens_per_second"] / found[arm]["tokens_per_second"], 2
            )
    return found


def _peak_gb(device: str) -> float:
    """Of the GPU since it was reset; on a CPU of the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
