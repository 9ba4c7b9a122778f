#!/usr/bin/env python3
"""How fast held-out rows are measured, against plain transformers and the hardware limit; JSON on the last line.

    python benchmarks/bench_evaluate.py --out evaluate.json          one GPU: Gemma 3 1B and 270M, about half a minute
    python benchmarks/bench_evaluate.py --tiny                       the same on tiny shapes, also without a GPU: 10 s
    python benchmarks/bench_evaluate.py --data DIR --rows 96         CPU: Gemma 3 270M on real rows, about 2 minutes

Models of the public configurations with random weights, no hub, on rows of the tutorial's lengths; or, with --data, the
packaged Gemma 3 270M on a domain, a general and a plain text file, behind Gemma's turn markers.

`ours` is what `seodang tune` calls (`measure_source`: packs of --pack-tokens), `ours-large` the same with packs of
four times as many positions, `ours-own-norms` without the kernels for norms that a GPU gets, `ours-kl` the rows on
which KL(base‖tuned) is measured too (20,000 tokens at most) with a head from disk, as after training of all weights,
and `transformers` a plain loop: padded batches in the order of the rows, float32 losses. All compute in the dtype that
seodang chooses. `limit_share` is the time that the fewest operations of a forward pass take (a third of `step_flops`)
at the rate of the best square product, over the time measured; on a CPU that rate is timed right before and after each
repeat. Medians; a first pass over a few rows is not counted.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from random_models import CONFIGS, EOS, machine_name, make_model
from seodang.data.pack import pack
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.packaged import packaged_folder
from seodang.model.placement import choose_placement
from seodang.proof.contrast import SourceContrasts
from seodang.proof.divergence import Head, HiddenStates
from seodang.proof.evaluate import blocks
from seodang.proof.held_out import HeldOutRow
from seodang.proof.row_losses import BaseStates, HeldOutSource, SampleSizes, measure_source
from seodang.recipe import Model
from seodang.train.throughput import matrix_rate, step_flops, synchronize
from seodang.types import IGNORED
from shapes import rows_of

FILES = ("ko_medical", "ko_general", "cpt_ko_health_law")
CHARACTERS = 800  # of a text, at most
WARM_UP_ROWS = 64
ARMS = ["ours", "ours-large", "transformers", "ours-own-norms", "ours-kl"]  # the last changes the head
PEER_BATCH = 16  # rows
Arm = Callable[[HeldOutSource], list[float]]  # loss of each row, in nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; so it is without a GPU")
    parser.add_argument("--models", nargs="*", choices=list(CONFIGS), default=["gemma-3-1b", "gemma-3-270m"])
    parser.add_argument("--data", type=Path, help="folder of real rows, for the packaged Gemma 3 270M")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pack-tokens", type=int, default=None)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    placement = choose_placement(Model(path="random"))
    device, compute = placement.device, getattr(torch, placement.compute_dtype)
    args.tiny = not args.data and (args.tiny or device == "cpu")
    args.rows, args.repeats = (min(args.rows, 64), 2) if args.tiny else (args.rows, args.repeats)
    args.arms = args.arms or (["ours"] if args.data else ARMS)
    args.pack_tokens = args.pack_tokens or (1024 if device == "cpu" else 8192)
    args.rate = matrix_rate(compute, device) if device != "cpu" or args.tiny else None  # a CPU's changes all the time
    found = {}
    for name in ["gemma-3-270m"] if args.data else args.models:
        model, rows = _real(args) if args.data else _random(name, device, args)
        found[name] = measure(model.to(device), rows, compute, args)
        del model
        if device != "cpu":
            torch.cuda.empty_cache()
    result = {
        "date": date.today().isoformat(),
        "machine": machine_name(),
        "torch": torch.__version__,
        "matrix_tflops": args.rate and round(args.rate / 1e12, 3),
        "compute": placement.compute_dtype,
        "tiny": args.tiny,
        "repeats": args.repeats,
        "models": found,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))


def _random(name: str, device: str, args: argparse.Namespace) -> tuple[PreTrainedModel, list[dict[str, list[int]]]]:
    model = make_model(name, torch.float32, device, tiny=args.tiny)
    stream = np.random.default_rng(0).integers(2, model.config.vocab_size, 500 * args.rows)
    return model, list(rows_of(stream, "tutorial", args.rows))


def _real(args: argparse.Namespace) -> tuple[PreTrainedModel, list[dict[str, list[int]]]]:
    """As many rows of each file; of questions the answer is scored, of texts everything."""
    folder = str(packaged_folder("gemma-3-270m"))
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for name in FILES:
        lines = (args.data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for i in np.random.default_rng(0).permutation(len(lines))[: args.rows // len(FILES)]:
            line = json.loads(lines[i])
            text = line.get("text", "")[:CHARACTERS]
            head = "" if text else f"<start_of_turn>user\n{line['question']}<end_of_turn>\n<start_of_turn>model\n"
            prompt = tokenizer(head)["input_ids"]
            reply = tokenizer(text or line["answer"] + "<end_of_turn>", add_special_tokens=False)["input_ids"]
            found.append({"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), found


def source_of(rows: Sequence[dict[str, list[int]]], *, kl_tokens: int = 0) -> HeldOutSource:
    """The rows as a proof measures them, without other prompts; KL on the first of them."""
    counts = [sum(label != IGNORED for label in row["labels"][1:]) for row in rows]
    own = [
        HeldOutRow(
            row_id=f"{number}", where=f"rows:{number}", cluster=f"{number}", half="both",
            content_tokens=count, end_tokens=0, num_bytes=count,
        )
        for number, count in enumerate(counts)
    ]  # fmt: skip
    return HeldOutSource(
        name="rows",
        dataset=Dataset.from_list([dict(row) for row in rows]),
        rows=own,
        ends=frozenset((EOS,)),
        contrasts=SourceContrasts(),
        kl_rows=np.flatnonzero(np.cumsum(counts) <= kl_tokens).tolist(),
    )


def measure(
    model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], compute: torch.dtype, args: argparse.Namespace
) -> dict[str, Any]:
    """All arms on one model."""
    begun = time.perf_counter()
    engine = choose_engine(
        model,
        [np.array(row["input_ids"], dtype=np.int32) for row in rows[:3]],
        compiled=False,
        compute_dtype=None if compute == torch.float32 else compute,
    )
    trial_seconds = time.perf_counter() - begun
    source = source_of(rows)
    found, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for arm in args.arms:
            its_source = source_of(rows, kl_tokens=SampleSizes().kl_tokens) if arm == "ours-kl" else source
            if arm == "ours-kl":  # these rows alone
                its_source = source_of(rows[: len(its_source.kl_rows)], kl_tokens=SampleSizes().kl_tokens)
            run = _arm(arm, model, engine, compute, its_source, Path(folder), args.pack_tokens)
            found[arm], losses[arm] = timed(run, model, its_source, rows, compute, args)
            print(f"{arm:14} {found[arm]['tokens_per_second']:12,.1f} tok/s", flush=True)
    return {
        "trial_seconds": round(trial_seconds, 1),
        "remarks": engine.remarks,
        "arms": found,
        "largest_row_difference": _difference(losses.get("ours"), losses.get("transformers")),
    }


def _arm(
    arm: str, model: PreTrainedModel, engine: Engine, compute: torch.dtype, source: HeldOutSource, folder: Path,
    pack_tokens: int,
) -> Arm:  # fmt: skip
    if arm == "transformers":
        return lambda some: plain_losses(model, some, compute)
    base = None
    if arm == "ours-kl":
        hidden = HiddenStates(folder=folder)
        hidden.begin("bench")
        writer = hidden.writer(source.name, source.kl_tokens)
        measure_source(model, engine, source, pack_tokens=pack_tokens, choose_form=False, writer=writer)
        writer.close()
        hidden.keep_head(model)
        with torch.no_grad():
            model.get_output_embeddings().weight[-1] += 1e-3  # another head than the base's: that one is read
        head = hidden.head(Head.of(model))
        assert head is not None, "the base's head was not kept"
        base = BaseStates(hidden=hidden.reader(source.name), head=head)
    tokens = 4 * pack_tokens if arm == "ours-large" else pack_tokens

    def ours(some: HeldOutSource) -> list[float]:
        with patch("seodang.proof.evaluate.fused_norms", nullcontext) if arm == "ours-own-norms" else nullcontext():
            found, _ = measure_source(model, engine, some, pack_tokens=tokens, choose_form=False, base=base)
        return [row.loss.total for row in found]

    return ours


@torch.no_grad()
def plain_losses(model: PreTrainedModel, source: HeldOutSource, compute: torch.dtype) -> list[float]:
    """Padded batches in the rows' order, all logits, the loss in float32."""
    found: list[float] = []
    device = model.device
    for _, examples in blocks(source.dataset):
        for first in range(0, len(examples), PEER_BATCH):
            batch = examples[first : first + PEER_BATCH]
            shape = len(batch), max(len(row.input_ids) for row in batch)
            ids, labels = np.full(shape, EOS), np.full(shape, IGNORED)
            for number, row in enumerate(batch):
                ids[number, : len(row.input_ids)], labels[number, : len(row.labels)] = row.input_ids, row.labels
            mask = (np.arange(shape[1]) < np.array([len(row.input_ids) for row in batch])[:, None]).astype(np.int64)
            ids_BT, labels_BT, mask_BT = (torch.from_numpy(array).to(device) for array in (ids, labels, mask))
            with torch.autocast(device.type, dtype=compute, enabled=compute != torch.float32):
                logits = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
            flat = logits[:, :-1].float().flatten(0, 1)
            losses = F.cross_entropy(flat, labels_BT[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
            found += losses.view(len(batch), -1).sum(1).tolist()
            del logits, flat, losses
    return found


def timed(
    arm: Arm, model: PreTrainedModel, source: HeldOutSource, rows: Sequence[dict[str, list[int]]],
    compute: torch.dtype, args: argparse.Namespace,
) -> tuple[dict[str, Any], list[float]]:  # fmt: skip
    """What one arm took, and the loss of each row."""
    device = model.device.type
    few = min(WARM_UP_ROWS, len(source.rows), 4 if args.data else WARM_UP_ROWS)
    few_kl = [number for number in source.kl_rows if number < few]
    arm(replace(source, dataset=source.dataset.select(range(few)), rows=source.rows[:few], kl_rows=few_kl))
    examples = [
        (np.array(row["input_ids"], dtype=np.int32), np.array(row["labels"], dtype=np.int32))
        for row in rows[: len(source.rows)]
    ]
    flops = step_flops(model, pack(*zip(*examples, strict=True), budget=args.pack_tokens)) / 3
    tokens, scored = sum(len(ids) for ids, _ in examples), sum(row.tokens for row in source.rows)
    seconds, shares, losses = [], [], []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.repeats):
        before = args.rate or matrix_rate(compute)
        synchronize(device)
        begun = time.perf_counter()
        losses = arm(source)
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
        after = args.rate or matrix_rate(compute)
        shares.append(flops / max(before, after) / seconds[-1])
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    median = statistics.median(seconds)
    return {
        "rows": len(source.rows),
        "tokens": tokens,
        "scored_tokens": scored,
        "seconds": [round(value, 3) for value in seconds],
        "rows_per_second": round(len(source.rows) / median, 1),
        "tokens_per_second": round(tokens / median, 1),
        "limit_share": round(statistics.median(shares), 3),
        "peak_gb": round(of_process if peak is None else peak, 2),
    }, losses


def _difference(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> float | None:
    """The largest of two losses of a row, relative."""
    if not ours or not theirs:
        return None
    return round(float(np.max(np.abs(np.array(ours) / np.array(theirs) - 1))), 7)


if __name__ == "__main__":
    main()
