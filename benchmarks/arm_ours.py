#!/usr/bin/env python3
"""seodang's arm of a training benchmark: the same rows and steps as the peer's, the same JSON on the last line.

Input, JSON Lines, one example a line, in the order in which the steps take them: {"input_ids": […], "labels": […]}.
Trains through `seodang.train.trainer`, as `seodang tune` does, with a constant learning rate and no weight decay.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState

from arms import speed
from seodang.model.engine.engine import choose_engine
from seodang.model.placement import choose_placement
from seodang.recipe import Model, Train
from seodang.run.events import Event, NoteEvent, TrainEvent
from seodang.train.setup import BF16_ADAMW, Setup
from seodang.train.trainer import train


class StepClock(TrainerCallback):
    """Wall seconds of each optimizer step, synchronized with the device; the first losses are reported one by one."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0
        self._every = 1

    def on_train_begin(self, _: Any, state: TrainerState, __: Any, **___: Any) -> None:
        self._every, state.logging_steps = state.logging_steps, 1

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, _: Any, state: TrainerState, __: Any, **___: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        if len(self.seconds) == 3:
            state.logging_steps = self._every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--examples-per-step", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--pack-tokens", type=int, default=None)
    parser.add_argument(
        "--optimizer", choices=["adamw", "adamw_bf16"], default="adamw", help="adamw_bf16: bf16 weights"
    )
    parser.add_argument("--compute", choices=["float32", "bfloat16"], help="default: as `tune` chooses")
    args = parser.parse_args()
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    with Path(args.data).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(args.steps * args.examples_per_step), strict=False)]
    placement = choose_placement(Model(path=args.model))
    narrow = args.optimizer == BF16_ADAMW
    dtype = torch.bfloat16 if narrow else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(placement.device)
    compute = args.compute or placement.compute_dtype
    begun = time.perf_counter()
    engine = choose_engine(
        model,
        [np.array(row["input_ids"], dtype=np.int32) for row in rows[:3]],
        compute_dtype=None if compute == "float32" or narrow else torch.bfloat16,
        recompute=narrow,
    )
    trial_seconds = time.perf_counter() - begun
    clock = StepClock()
    events: list[Event] = []
    settings = Train(
        steps=args.steps, examples_per_step=args.examples_per_step, learning_rate=args.learning_rate,
        schedule="constant", warmup=0, keep_checkpoints=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            engine=engine,
            pack_tokens=args.pack_tokens or (8192 if cuda else 1024),
            optimizer=BF16_ADAMW if narrow else "adamw_torch_fused",
            checkpoints=Path(folder),
            resume_from=None,
            resume_command="",
            total_steps=args.steps,
            eval_every=10 * args.steps,
        )
        train(
            model, Dataset.from_list(rows), settings, setup,
            measure=dict, chosen_loss=None, on_event=events.append, callbacks=[clock],
        )  # fmt: skip
    tokens = sum(len(row["input_ids"]) for row in rows)
    print(
        json.dumps(
            {
                "arm": "ours",
                "engine": {**asdict(engine), "compute_dtype": compute},
                "trial_seconds": trial_seconds,
                "losses": [event.loss for event in events if isinstance(event, TrainEvent)],
                "notes": [event.what for event in events if isinstance(event, NoteEvent)],
                "step_seconds": clock.seconds,
                "tokens": tokens,
                "supervised_tokens": sum(label != -100 for row in rows for label in row["labels"]),
                "tokens_per_second": speed(clock.seconds, rows, args.examples_per_step),
                "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "peak_cuda_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
            }
        )
    )


if __name__ == "__main__":
    main()
