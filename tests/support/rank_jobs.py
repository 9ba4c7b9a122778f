"""Training as each of several ranks does it: what tests/test_distributed.py runs in one process and in two.

python rank_jobs.py ddp|fsdp|command|gated FOLDER
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from datasets import Dataset
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, TrainerCallback

import seodang
from brief_rates import BRIEF
from held_out import measured_by_rank
from seodang import distributed
from seodang.cli import main
from seodang.data.pack import pack
from seodang.errors import RunError
from seodang.model.engine import compile, linear_cross_entropy_gpu
from seodang.model.engine import engine as engine_module
from seodang.model.engine.engine import Engine, choose_engine
from seodang.proof.evaluate import evaluate
from seodang.recipe import Train
from seodang.run.events import EvalEvent, Event, SavedEvent, TrainEvent
from seodang.run.folder import Run
from seodang.train import throughput
from seodang.train.setup import choose_optimizer, make_setup
from seodang.train.trainer import train
from seodang.types import IGNORED
from tiny import make_config, make_model

SETTINGS = Train(epochs=2, examples_per_step=4, learning_rate=0.03, eval_every=2, keep_checkpoints=9)
NUM_ROWS = 21  # the last step of an epoch holds one row: one of two ranks has nothing
INTERRUPTED, LAST = 5, 12


def rows_of(count: int, seed: int) -> Dataset:
    """Random rows of very different lengths."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(20, 300, int(rng.integers(8, 60))).tolist() for _ in range(count)]
    labels = [[IGNORED] * 4 + row[4:] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "num_bytes": [10] * count})


def run_training(
    folder: Path,
    *,
    on_event: Callable[[Event], None] = lambda _: None,
    kind: str = "gemma3",
    tied: bool = True,
    device: str = "cpu",
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train a tiny model, or go on where a checkpoint is; the model, and what is to be compared."""
    model = make_model(make_config(kind, tie_word_embeddings=tied)).to(device)
    rows, tests = rows_of(NUM_ROWS, 0), {"medical": rows_of(5, 1)}
    engine = choose_engine(model, [np.array(row, dtype=np.int32) for row in rows[:2]["input_ids"]])
    run = Run(folder=folder)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    optimizer = choose_optimizer(SETTINGS.optimizer, device)
    setup = make_setup(run, SETTINGS, model, engine, num_rows=len(rows), optimizer=optimizer, pack_tokens=64)
    losses: dict[str, float] = {}
    evaluations: dict[str, float] = {}

    def record(event: Event) -> None:
        if isinstance(event, TrainEvent):
            losses[str(event.step)] = event.loss
        elif isinstance(event, EvalEvent) and event.loss is not None:
            evaluations[str(event.step)] = event.loss
        on_event(event)

    trained = train(
        model,
        rows,
        SETTINGS,
        setup,
        measure=lambda: evaluate(model, engine, tests, pack_tokens=64),
        chosen_loss=lambda metrics: metrics["medical"].loss,
        on_event=record,
        callbacks=callbacks,
    )
    return model, {
        "losses": losses,
        "evaluations": evaluations,
        "best_step": trained.best_step,
        "stopped": trained.stopped,
        "interrupted": trained.interrupted,
        "checkpoints": sorted(path.name for path in run.checkpoints.iterdir()),
        "norm": float(sum(_whole(parameter).double().square().sum() for parameter in model.parameters())),
    }


def interrupted(
    folder: Path, *, rank: int, after: type[TrainEvent | SavedEvent] = TrainEvent, step: int = INTERRUPTED
) -> dict[str, Any]:
    """A training in which one rank gets a SIGINT."""

    def interrupt(event: Event) -> None:
        if isinstance(event, after) and event.step == step and distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGINT)

    return run_training(folder, on_event=interrupt)[1]


def ddp(folder: Path) -> dict[str, Any]:
    """Two ranks that hold all weights each: a whole training, one that is interrupted, one that a single one began."""
    return {
        "meeting": meeting(folder),
        "rows": measured_by_rank(folder),
        "unbroken": run_training(folder / "unbroken")[1],
        "two": interrupted(folder / "two", rank=1),
        "one": interrupted(folder / "one", rank=1, after=SavedEvent, step=LAST),
        "compiled": compiled(),
    }


def compiled() -> dict[str, Any]:
    """A step under DDP, layers as written and compiled; and what is chosen if no rank finds an error, or one does."""
    gradients = []
    for wanted in (False, True):
        model = make_model(make_config("llama", num_hidden_layers=1)).train()
        rows = [np.array(ids, dtype=np.int32) for ids in rows_of(4, seed=distributed.rank())["input_ids"]]
        (packed,) = pack(rows, rows, budget=1000)
        engine = Engine(packed=True, linear_cross_entropy=True, compiled=wanted)
        with _compiled_for_autograd_alone(), engine.installed(model):
            together = DistributedDataParallel(model)  # alive until the gradients are summed
            together(pack=packed).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    chosen = {}
    for name, error in (("none", 0.0), ("rank 1", 0.3 * distributed.rank())):
        with (
            patch.object(engine_module, "on_cuda", lambda _: True),
            patch.object(engine_module, "compile_error", lambda *_, error=error, **__: error),
        ):
            engine = choose_engine(model, rows)
        chosen[name] = [engine.compiled, engine.cuda_graphs, *engine.remarks]
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "difference": float((gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()),
        "norm": float(gradients[1].norm()),
        "chosen": chosen,
    }


@contextmanager
def _compiled_for_autograd_alone() -> Iterator[None]:
    """Compiled layers are traced and differentiated as ever; what they are made of runs without a C++ compiler."""

    def lazily(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
        return torch.compile(function, dynamic=dynamic, backend="aot_eager")

    as_written = patch.object(linear_cross_entropy_gpu, "compile_lazily", lambda function, **_: function)
    linear_cross_entropy_gpu.passes.cache_clear()
    with patch.object(compile, "compile_lazily", lazily), as_written:
        yield
    linear_cross_entropy_gpu.passes.cache_clear()


def meeting(folder: Path) -> dict[str, Any]:
    """Who goes first, who does what, and what becomes of one rank's error."""
    prepared = folder / "prepared"
    with distributed.main_first():
        is_prepared = prepared.exists()
        if distributed.is_main():
            time.sleep(0.5)
        prepared.touch()
    spread = distributed.spread(3, lambda indices: [f"{index} by {distributed.rank()}" for index in indices])
    error = ""
    try:
        with distributed.agreed():
            if distributed.rank() == 1:
                raise RunError("is lost", where="run", hint="find it")
    except RunError as caught:
        error = str(caught)
        with distributed.ending(caught) as is_reported_here:
            pass
    return {"is_prepared": is_prepared, "spread": spread, "error": error, "tells": is_reported_here}


def fsdp(folder: Path) -> dict[str, Any]:
    """Two ranks that share the weights, tied with the head or not; and the whole pipeline, with `ask_every`."""
    found: dict[str, Any] = {}
    with sharded_on_cpu():
        for kind, tied in (("gemma3", True), ("llama", False)):
            model, found[kind] = run_training(folder / kind, kind=kind, tied=tied)
            found[kind]["are_sharded"] = all(isinstance(parameter, DTensor) for parameter in model.parameters())
        recipe = seodang.load_recipe(folder / "recipe.yaml", ["train.ask_every=3"])
        run = seodang.tune(recipe, out=folder / "run")
    return {**found, "run": str(run.folder)}


def command(folder: Path) -> dict[str, Any]:
    """The command line, twice the same: the second time the folder is in the way."""
    with written_under(folder / "run") as written:
        codes = [_exit_code("tune", folder / "recipe.yaml", "--out", folder / "run") for _ in range(2)]
    return {"codes": codes, "written": written}


def gated(folder: Path) -> dict[str, Any]:
    """Two seeds with a gate that does not hold; then the first of them proven again, with the same gate."""
    tuned = _exit_code("tune", folder / "recipe.yaml", "--seeds", 2, "--gate", "--json", "--out", folder / "run")
    return {"codes": [tuned, _exit_code("prove", folder / "run-s1", "--gate")]}


def _exit_code(*arguments: object) -> int:
    with patch.object(sys, "argv", ["seodang", *map(str, arguments)]):
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


@contextmanager
def written_under(folder: Path) -> Iterator[list[str]]:
    """What Python opens for writing, makes or renames below a folder."""
    written: list[str] = []
    is_watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[1], str) and not arguments[1].startswith("r")
        if is_watching and (opens or event in ("os.mkdir", "os.rename")) and str(arguments[0]).startswith(str(folder)):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)  # it stays until the process ends
    try:
        yield written
    finally:
        is_watching = False


@contextmanager
def sharded_on_cpu() -> Iterator[None]:
    """accelerate shards on GPUs only, and silently takes DDP elsewhere: here it takes this machine for one."""
    own = AcceleratorState.__init__

    def as_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        own(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    with patch.object(AcceleratorState, "__init__", as_fsdp):
        yield


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return found.detach()


if __name__ == "__main__":
    for name, value in BRIEF.items():
        setattr(throughput, name, value)
    job, where = sys.argv[1], Path(sys.argv[2])
    if job in ("ddp", "fsdp"):
        distributed.join("cpu")
    found = {"ddp": ddp, "fsdp": fsdp, "command": command, "gated": gated}[job](where)
    (where / f"{job}.{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.leave()
