#!/usr/bin/env python3
"""Proofs of runs whose truth is known beforehand, on a real base model and real data; the last line is one JSON object.

    python benchmarks/planted_proofs.py                     every arm, two seeds
    python benchmarks/planted_proofs.py as-is shuffled      these arms
    python benchmarks/planted_proofs.py shuffled --seeds 1  one arm with this seed
    python benchmarks/planted_proofs.py --steps 2 --holdout 16 --model FOLDER as-is    a try

| arm | what is planted | what the proof must show |
|---|---|---|
| as-is | nothing | the domain improved; substance where the holdout is large enough to see it |
| shuffled | every question has another one's answer, trained and held out | no substance |
| constant | one answer to all training questions, measured on real answers | no substance |
| replay | half of the tokens are general questions | beside as-is: what replay keeps, and what it costs |
| collapse | ten times the learning rate | plain text lost beyond the tolerance |
| no-end | the turn end is not trained | at most 10 % of the answers stop; as-is: at least 80 % |

All arms take the same number of steps, of rows of at most --characters; documents are cut to 400 characters. Arms
whose answers are judged by nothing generate few. Each run folder stays under --out, with its report. About 8 minutes
of two cores for each arm and seed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from seodang.pipeline import tune
from seodang.proof.proof import Proof, proof_of_run
from seodang.recipe import load_recipe
from seodang.run.folder import PROOF, Run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ARMS = ("as-is", "shuffled", "constant", "replay", "collapse", "no-end")
ONE_SEED = ("collapse", "no-end")
CONSTANT = "증상이 계속되면 가까운 병원에서 진료를 받으시기 바랍니다."
TRAINED_ROWS = 2000
DOCUMENTS, DOCUMENT_CHARACTERS = 48, 400
STOPPING = ("as-is-0", "no-end-0")  # their answers show whether they stop
PARTS = ("ending", "format", "style", "substance")


def read(name: str) -> list[dict[str, Any]]:
    """Rows of one of the shared files, in an order of their own."""
    rows = [json.loads(line) for line in (SHARED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def exchange_answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every question with the answer of the next row whose answer is another one: none keeps its own."""
    answers = [row["answer"] for row in rows]
    shifted = answers[1:] + answers[:1]
    taken = [
        {"question": row["question"], "answer": answer}
        for row, answer in zip(rows, shifted, strict=True)
        if answer != row["answer"]
    ]
    assert len(taken) > 0.9 * len(rows), f"{len(taken)} of {len(rows)} rows are left"
    return taken


def read_short(name: str, characters: int) -> list[dict[str, Any]]:
    """Questions and answers of one file that are at most so long together."""
    rows = [{key: row[key] for key in ("question", "answer")} for row in read(name)]
    return [row for row in rows if len(row["question"]) + len(row["answer"]) <= characters]


def sources(arm: str, folder: Path, holdout: int, characters: int) -> list[dict[str, Any]]:
    """The recipe's sources, with their files."""
    medical = read_short("ko_medical", characters)[:TRAINED_ROWS]
    general = read_short("ko_general", characters)[: TRAINED_ROWS * 2]
    text = [{"text": row["text"][:DOCUMENT_CHARACTERS]} for row in read("cpt_ko_health_law")[:DOCUMENTS]]
    if arm == "shuffled":
        medical = exchange_answers(medical)
    domain: list[dict[str, Any]] = [
        {"name": "medical", "role": "domain", "path": write(folder / "medical.jsonl", medical), "holdout": holdout}
    ]
    if arm == "constant":
        measured, trained = medical[:holdout], medical[holdout:]
        trained = [{"question": row["question"], "answer": CONSTANT} for row in trained]
        domain = [
            {"name": "constant", "role": "domain", "path": write(folder / "constant.jsonl", trained), "holdout": 0},
            {"name": "medical", "role": "domain", "path": write(folder / "medical.jsonl", measured), "train": False},
        ]
    is_replayed = arm == "replay"
    general_path = write(folder / "general.jsonl", general if is_replayed else general[:holdout])
    use = {"holdout": holdout} if is_replayed else {"train": False}
    return [
        *domain,
        {"name": "general", "role": "general", "path": general_path, **use},
        {"name": "text", "role": "retention", "path": write(folder / "text.jsonl", text), "text": "text"},
    ]


def recipe_of(arm: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of one arm."""
    rate = options.learning_rate * (10 if arm == "collapse" else 1)
    return {
        "name": f"{arm}-{seed}",
        "model": {"path": options.model},
        "template": {"borrow": "gemma"},
        "sources": sources(arm, folder, options.holdout, options.characters),
        "mix": {"seed": seed, **({"shares": {"medical": 0.5, "general": 0.5}} if arm == "replay" else {})},
        "train": {
            "steps": options.steps, "examples_per_step": 8, "max_tokens": 512, "learning_rate": rate, "seed": seed,
            "eval_every": options.steps, "keep_checkpoints": 1,
        },
        "ask": {"holdout": 50 if f"{arm}-{seed}" in STOPPING else 2, "holdout_tokens": 96},
    }  # fmt: skip


@contextmanager
def without_turn_end() -> Iterator[None]:
    """Inside, no turn end is trained: the mistake of a mask that stops one token early."""
    import seodang.train.trainer as trainer
    from seodang.data.pack import pack_step
    from seodang.types import IGNORED

    def cut(rows: Any, input_ids: Any, labels: Any, **settings: Any) -> Any:
        shorter = []
        for row in labels:
            row = row.copy()
            supervised = row != IGNORED
            row[supervised & ~np.append(supervised[1:], False)] = IGNORED
            shorter.append(row)
        return pack_step(rows, input_ids, shorter, **settings)

    with patch.object(trainer, "pack_step", cut):
        yield


def summary(proof: Proof) -> dict[str, Any]:
    """What the table shows of a proof."""

    def number(estimate: Any) -> Any:
        if estimate is None:
            return None
        ends = (estimate.interval.low, estimate.interval.high) if estimate.interval else ()
        return [round(value, 4) for value in (estimate.value, *ends)]

    stops = {
        f"{group.source}": [group.base and group.base.stopped.value, group.tuned and group.tuned.stopped.value]
        for group in proof.behaviour
        if group.kind == "holdout"
    }
    return {
        "changes": {name: [loss.outcome, *number(loss.change)] for name, loss in proof.sources.items()},
        "kl": {name: number(loss.kl) for name, loss in proof.sources.items()},
        "parts": {
            name: {part: number(getattr(parts, part)) for part in PARTS}
            | {
                "per answer": number(parts.substance_per_answer),
                "form": parts.form,
                "rows": parts.rows,
                "dependence": parts.dependence,
                "own question wins": [parts.own_question_wins.first, parts.own_question_wins.second],
            }
            for name, parts in proof.parts.items()
        },
        "stops": stops,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", default=ARMS, help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="after the arms")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--holdout", type=int, default=64)
    parser.add_argument("--characters", type=int, default=120, help="of a question and its answer together, at most")
    parser.add_argument("--learning-rate", type=float, default=8e-5)
    parser.add_argument("--model", default="package:gemma-3-270m")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="planted-"))
    found = {}
    for arm in options.arms:
        for seed in options.seeds[:1] if arm in ONE_SEED else options.seeds:
            folder = out / f"{arm}-{seed}-data"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "recipe.json"
            path.write_text(json.dumps(recipe_of(arm, seed, folder, options), ensure_ascii=False), encoding="utf-8")
            run = Run(folder=out / f"{arm}-{seed}")
            with without_turn_end() if arm == "no-end" else nullcontext():
                if not (run.folder / PROOF).is_file():
                    tune(load_recipe(path), out=run.folder)
            found[f"{arm}-{seed}"] = summary(proof_of_run(run))
            print(f"{arm}-{seed}", json.dumps(found[f"{arm}-{seed}"], ensure_ascii=False), file=sys.stderr, flush=True)
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
