#!/usr/bin/env python3
"""Whether an optimizer that takes less memory learns what AdamW learns; the last line is one JSON object.

    python benchmarks/loss_band.py --first FIRST.jsonl --then THEN.jsonl --out band.json     2 minutes on an H200

A model of a public configuration with random weights is first trained on one set of rows, then from there on the other
for 200 steps: by AdamW over float32 weights and by `adamw_bf16`, each in the same few orders of the rows, and by AdamW
over bf16 weights as they come. What is compared is the loss of held-out rows, every 25 steps: the band is what the
orders alone make of it.

Rows are tokenized, as JSON Lines: {"input_ids": […], "labels": […]}.

    python benchmarks/loss_band.py --tokenize DIR --first FIRST.jsonl --then THEN.jsonl

writes them from DIR's ko_general.jsonl and ko_medical.jsonl (`question`, `answer`) by the packaged tokenizer, also
where there is no GPU, and ends.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from random_models import CONFIGS, make_model
from seodang.data.pack import pack
from seodang.model.engine.engine import Engine
from seodang.train.bf16_adamw import Bf16AdamW
from seodang.types import IGNORED, Pack

Rows = tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]]
PACK_TOKENS = 16_384
FIRST_EXAMPLES = 80  # of a step on the first set
KINDS = {"float32": torch.float32, "adamw_bf16": torch.bfloat16, "bf16 to nearest": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(CONFIGS), default="gemma-3-270m")
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--then", type=Path, required=True)
    parser.add_argument("--tokenize", type=Path, metavar="DIR", help="write both files from DIR, and end")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--examples-per-step", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--held-out", type=int, default=400, help="rows of the second set that are measured")
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.tokenize:
        write_rows(args.tokenize, {"ko_general": args.first, "ko_medical": args.then})
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = make_model(args.model, torch.float32, device, tiny=device == "cpu").train()
    first, then = (read_rows(path, model.config.vocab_size) for path in (args.first, args.then))
    held_out = [column[: args.held_out] for column in then]
    rest = (then[0][args.held_out :], then[1][args.held_out :])
    evaluated = pack(*held_out, budget=PACK_TOKENS)
    begun = time.monotonic()
    steps = max(1, min(240, len(first[0]) // FIRST_EXAMPLES))
    train(model, "float32", first, evaluated, steps=steps, rate=5e-4, count=FIRST_EXAMPLES, seed=0, every=steps)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for kind, dtype in KINDS.items():
        model = model.to(dtype)
        for seed in range(args.orders if kind != "bf16 to nearest" else 1):
            model.load_state_dict(start)
            how: dict[str, Any] = {"steps": args.steps, "rate": args.learning_rate, "count": args.examples_per_step}
            found[kind].append(train(model, kind, rest, evaluated, **how, seed=seed, every=max(1, args.steps // 8)))
            print(f"{kind:16} order {seed}: {[round(loss, 4) for loss in found[kind][-1]]}", flush=True)
    result = {"seconds": round(time.monotonic() - begun, 1), "device": device, **summary(found), "losses": found}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "losses"}))


def write_rows(folder: Path, files: dict[str, Path]) -> None:
    """The rows of each source of the folder, in a random order, whose answers alone are trained."""
    from row_losses import MODEL, read  # needs packages that training does not
    from seodang.model.packaged import packaged_folder

    tokenizer = AutoTokenizer.from_pretrained(packaged_folder(MODEL))
    for source, path in files.items():
        with path.open("w", encoding="utf-8") as lines:
            for row in read(folder, source, tokenizer):
                labels = [IGNORED] * len(row.prompt) + row.reply
                lines.write(json.dumps({"input_ids": row.prompt + row.reply, "labels": labels}) + "\n")


def read_rows(path: Path, vocabulary: int) -> Rows:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ids, labels = ([np.array(line[key], dtype=np.int32) for line in lines] for key in ("input_ids", "labels"))
    ids = [row % vocabulary for row in ids]  # a tiny configuration's vocabulary is smaller
    return ids, [np.where(row == IGNORED, IGNORED, row % vocabulary).astype(np.int32) for row in labels]


def train(
    model: Any,
    kind: str,
    rows: Rows,
    held_out: Sequence[Pack],
    *,
    steps: int,
    rate: float,
    count: int,
    seed: int,
    every: int,
) -> list[float]:
    """Losses on the held-out rows, before the first step and every so many steps."""
    weights = list(model.parameters())
    optimizer: torch.optim.Optimizer = (
        Bf16AdamW(weights, lr=rate)
        if kind == "adamw_bf16"
        else torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=True)
    )
    on_gpu = model.device.type == "cuda"
    narrow = model.dtype == torch.bfloat16
    engine = Engine(
        packed=True,
        linear_cross_entropy=True,
        compiled=on_gpu,
        cuda_graphs=on_gpu,
        compute_dtype=None if narrow or not on_gpu else torch.bfloat16,
    )
    order = np.random.default_rng(seed)
    numbers = np.concatenate([order.permutation(len(rows[0])) for _ in range(1 + steps * count // len(rows[0]))])
    losses = []
    with engine.installed(model, print):
        for step in range(steps):
            if step % every == 0:
                losses.append(evaluate(model, held_out))
            chosen = numbers[step * count : (step + 1) * count]
            packs = pack([rows[0][n] for n in chosen], [rows[1][n] for n in chosen], budget=PACK_TOKENS)
            supervised = sum(int((one.targets != IGNORED).sum()) for one in packs)
            for one in packs:
                model(pack=one, weight=1 / supervised).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(evaluate(model, held_out))
    return losses


@torch.no_grad()
def evaluate(model: Any, packs: Sequence[Pack]) -> float:
    """Nats a token."""
    total = sum(float(model(pack=one)) for one in packs)
    return total / sum(int((one.targets != IGNORED).sum()) for one in packs)


def summary(found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """How far each kind lies from AdamW over float32 weights, and how far its own orders lie from each other."""
    exact = np.array(found["float32"])
    band = (exact.max(0) - exact.min(0))[1:]
    differences = {
        kind: np.abs(np.array(losses) - exact[: len(losses)])[:, 1:] for kind, losses in found.items() if losses
    }
    return {
        "learned": round(float(exact[:, 0].mean() - exact[:, -1].mean()), 4),
        "band": [round(float(width), 5) for width in band],
        "largest_difference": {kind: round(float(one.max()), 5) for kind, one in differences.items()},
        "mean_difference": {kind: round(float(one.mean()), 5) for kind, one in differences.items()},
        "inside": {kind: round(float((one <= band).mean()), 3) for kind, one in differences.items()},
    }


if __name__ == "__main__":
    main()
