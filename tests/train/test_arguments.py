"""transformers' training arguments: what they must not leave to the machine."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend

from seodang.model.engine.engine import Engine
from seodang.recipe import Train
from seodang.train.arguments import training_arguments
from seodang.train.setup import Setup
from tiny import make_config, make_model
from tiny_training import train_tiny


@pytest.mark.parametrize("index", [0, 1])
def test_training_stays_on_the_gpu_of_the_model(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several GPUs: transformers would train on the first, and on copies of the model on all others."""
    made_current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made_current.append(torch.device(device)))
    model, device = make_model(make_config("llama")), torch.device("cuda", index)
    monkeypatch.setattr(type(model), "device", device)
    engine = Engine(packed=True, linear_cross_entropy=True)
    setup = Setup(
        engine=engine, pack_tokens=64, optimizer="adamw_torch_fused", checkpoints=tmp_path, resume_command="",
        resume_from=None, total_steps=3, eval_every=1,
    )  # fmt: skip
    arguments = training_arguments(model, Train(), setup, has_evaluation=False)
    assert (arguments.n_gpu, arguments.device) == (1, device)
    assert made_current[-1] == device


def test_the_engine_alone_chooses_dtypes_and_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` leaves its wishes in the environment: fp16 would scale gradients that no engine scaled."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    train_tiny(tmp_path, Train(steps=1, examples_per_step=2))
    state = AcceleratorState()
    assert state.mixed_precision == "no"
    assert state.dynamo_plugin.backend == DynamoBackend.NO
