"""Adapters: what they leave alone, what they train, and that nothing is lost when they are merged or resumed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from seodang.data.pack import pack
from seodang.errors import ModelError, ResourceError
from seodang.model.engine.engine import choose_engine
from seodang.model.engine.loss import linear_cross_entropy_loss, on_device
from seodang.model.load import load_model
from seodang.model.placement import choose_placement
from seodang.model.save import save_model
from seodang.proof.evaluate import evaluate
from seodang.recipe import Adapter, Model, Train
from seodang.run.events import EvalEvent, Event, TrainEvent
from seodang.run.folder import Run
from seodang.train.adapter import (
    add_adapter,
    check_adapter,
    load_adapter,
    merge,
    num_adapter_parameters,
    save_adapter,
    unwrapped,
)
from seodang.train.resources import disk_bytes
from seodang.train.setup import Setup, learning_rate_remark, total_steps
from seodang.train.trainer import TrainingResult, train
from tiny import make_config, make_model
from tiny_rows import tiny_rows

peft = pytest.importorskip("peft")
IDS = torch.tensor([[5, 20, 31, 6, 512, 7, 514, 40]])
NEW = [512, 513, 514]
SETTINGS = Train(
    epochs=2, examples_per_step=4, learning_rate=5e-3, eval_every=2, keep_checkpoints=2,
    adapter=Adapter(rank=4, dropout=0.1),
)  # fmt: skip


def _model(kind: str = "gemma3", **changes: Any) -> PreTrainedModel:
    """A tiny model with rows for three new tokens."""
    return make_model(make_config(kind, 515, **changes))


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=IDS.to(model.device), use_cache=False).logits
    return logits.cpu()


def _disturb(adapted: Any) -> None:
    """As if much had been learnt."""
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)


def _train(
    folder: Path, settings: Train = SETTINGS, *, resume: bool = False, on_event: Any = None
) -> tuple[PreTrainedModel, Any, TrainingResult, list[dict[str, Any]]]:
    model = _model()
    rows, tests = tiny_rows(20, 0), {"medical": tiny_rows(6, 1)}
    engine = choose_engine(model, [np.array(row, dtype=np.int32) for row in rows[:2]["input_ids"]])
    assert settings.adapter
    adapted = add_adapter(model, settings.adapter, NEW)
    run, events = Run(folder=folder), list[Event]()

    def record(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(event)

    setup = Setup(
        engine=engine, pack_tokens=64, optimizer="adamw_torch_fused",
        checkpoints=run.checkpoints, resume_command="", resume_from=run.last_checkpoint() if resume else None,
        total_steps=total_steps(settings, len(rows)), eval_every=2,
        checkpointing="none" if settings.checkpointing == "auto" else settings.checkpointing,
    )  # fmt: skip
    trained = train(
        adapted, rows, settings, setup,
        measure=lambda: evaluate(model, engine, tests, pack_tokens=64),
        chosen_loss=lambda metrics: metrics["medical"].loss,
        on_event=record,
    )  # fmt: skip
    return model, adapted, trained, events


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_merged_logits_equal_the_adapters(
    kind: str, tied: bool, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """With trained tokens, tied embeddings or not: merged, saved and loaded plainly, the model says the same."""
    model = _model(kind, tie_word_embeddings=tied)
    before = _logits(model)
    adapted = add_adapter(model, Adapter(rank=4), NEW)
    assert torch.equal(_logits(model), before), "an adapter that has learnt nothing changes nothing"
    _disturb(adapted)
    expected = _logits(adapted)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(_logits(model), expected)  # the model is the adapted one
    save_adapter(adapted, tmp_path / "adapter")
    merged = merge(adapted, tmp_path / "adapter")
    torch.testing.assert_close(_logits(merged), expected, atol=1e-4, rtol=1e-4)
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tied
    save_model(merged, tiny_tokenizer, tmp_path / "model", turn_end_id=1)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(_logits(plain), expected, atol=1e-4, rtol=1e-4)


def test_the_saved_adapter_gives_the_adapted_model_again(tmp_path: Path) -> None:
    """On a fresh base the saved adapter is the trained one; its file holds neither the base nor its embeddings."""
    adapted = add_adapter(_model(), Adapter(rank=4), NEW)
    _disturb(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    again = _model()
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(_logits(again), _logits(adapted))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trained == num_adapter_parameters(_model(), Adapter(rank=4), NEW)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 4 * trained + 8000


def test_only_the_adapter_and_the_new_rows_learn() -> None:
    """One step moves the rows of new tokens, in the embedding and in the head alike, and no other row or weight."""
    model = _model()
    adapted = add_adapter(model, Adapter(rank=4), NEW)
    frozen = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    row = IDS[0].numpy().astype(np.int32)
    (packed,) = pack([row], [row], budget=0)
    linear_cross_entropy_loss(model, on_device(packed, model.device)).backward()
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, tensor in adapted.state_dict().items() if not torch.equal(tensor, frozen[name])}
    assert moved
    assert all(".lora_" in name or "trainable_tokens_delta" in name for name in moved)
    assert any("trainable_tokens_delta" in name for name in moved)
    weight = merge(adapted, Path()).get_output_embeddings().weight
    changed = (weight != _model().get_output_embeddings().weight).any(dim=1).nonzero().flatten().tolist()
    assert changed == NEW


def test_linear_cross_entropy_gives_the_models_own_loss_and_gradients() -> None:
    """Trained rows reach the loss by the head's merged weights: both ways agree, gradients included."""
    row = IDS[0].numpy().astype(np.int32)
    (packed,) = pack([row], [row], budget=0)
    found = []
    for own in (True, False):
        model = _model("gemma2")
        adapted = add_adapter(model, Adapter(rank=4), NEW)
        _disturb(adapted)
        if own:
            loss = linear_cross_entropy_loss(model, on_device(packed, model.device))
        else:
            logits = adapted(input_ids=torch.tensor(row[None, :-1]), use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]).long(), reduction="sum")
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in adapted.parameters() if p.requires_grad)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_adapter() -> None:
    """The random half of the matrices depends on the seed alone."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(int.from_bytes(os.urandom(4)))
        states.append(add_adapter(_model(), Adapter(rank=4), seed=seed).state_dict())
    same, other = ([torch.equal(states[0][k], state[k]) for k in states[0]] for state in states[1:])
    assert all(same)
    assert not all(other)


def test_training_learns_and_checkpoints_hold_the_adapter_alone(tmp_path: Path) -> None:
    """The loss falls; a checkpoint is smaller than the base; the model ends with the best evaluation's weights."""
    settings = SETTINGS.model_copy(update={"epochs": 6, "learning_rate": 0.05})
    model, adapted, trained, events = _train(tmp_path, settings)
    losses = [event.loss for event in events if isinstance(event, TrainEvent)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    best = min((event for event in events if isinstance(event, EvalEvent)), key=lambda event: event.loss)
    assert trained.best_step == best.step
    assert not any(module.training for module in adapted.modules())
    engine = choose_engine(model, [np.arange(20, 40, dtype=np.int32)])
    measured = evaluate(model, engine, {"medical": tiny_rows(6, 1)}, pack_tokens=64)["medical"].loss
    assert measured == best.loss
    checkpoint = next((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert not (checkpoint / "model.safetensors").exists()
    size = sum(file.stat().st_size for file in checkpoint.iterdir() if file.name != "training_args.bin")
    assert size < 4 * unwrapped(adapted).num_parameters()
    merged = merge(adapted, Path())
    assert evaluate(merged, engine, {"medical": tiny_rows(6, 1)}, pack_tokens=64)["medical"].loss == pytest.approx(
        best.loss, rel=1e-5
    )


def test_a_resumed_adapter_equals_the_unbroken_one(tmp_path: Path) -> None:
    """Stopped by Ctrl-C and resumed, an adapter with dropout ends in the unbroken run's weights, bit for bit."""

    def interrupt(event: Event) -> None:
        if isinstance(event, TrainEvent) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    unbroken = _train(tmp_path / "unbroken")[1].state_dict()
    _, _, stopped, _ = _train(tmp_path / "broken", on_event=interrupt)
    assert stopped.stopped
    resumed, trained = _train(tmp_path / "broken", resume=True)[1:3]
    assert not trained.stopped
    assert all(torch.equal(tensor, unbroken[name]) for name, tensor in resumed.state_dict().items())


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    """With frozen embeddings too, recomputed activations give the same losses."""
    settings = SETTINGS.model_copy(update={"adapter": Adapter(rank=4)})
    losses = []
    for kind in ("none", "full"):
        events = _train(tmp_path / kind, settings.model_copy(update={"checkpointing": kind}))[3]
        losses.append([event.loss for event in events if isinstance(event, TrainEvent)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("auto",), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("q_proj", "layers.0.mlp.up_proj"), {"q_proj", "up_proj"}),
    ],
)
def test_targets_are_all_linear_layers_or_those_named(targets: tuple[str, ...], expected: set[str]) -> None:
    """auto takes every linear layer but the head; names take what ends in them."""
    adapted = add_adapter(_model("llama", tie_word_embeddings=False), Adapter(rank=2, targets=targets))
    layers = {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if ".lora_A" in name
    }
    assert layers == expected


MIXTURE = {
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


@pytest.mark.parametrize("kind", ["gpt2", "mamba2", "mamba", "qwen3_moe", "qwen3_next", "gpt_oss", "phimoe", "phi"])
def test_auto_finds_targets_in_other_architectures(kind: str) -> None:
    """Fused projections, state spaces and mixtures of experts are adapted, counted and merged too."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
        "mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 8},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        "qwen3_moe": {**sizes, **MIXTURE},
        "qwen3_next": {
            **sizes,
            **MIXTURE,
            "shared_expert_intermediate_size": 16,
            "head_dim": 8,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "gpt_oss": {**sizes, **MIXTURE, "head_dim": 8},
        "phimoe": {**sizes, **MIXTURE},
        "phi": sizes,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=515, **own[kind])).eval()
    expected_size = num_adapter_parameters(model, Adapter(rank=2), NEW)
    adapted = add_adapter(model, Adapter(rank=2), NEW)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == expected_size
    _disturb(adapted)
    expected = _logits(model)
    torch.testing.assert_close(_logits(merge(adapted, Path())), expected, rtol=1e-3, atol=1e-3)


def test_all_linear_is_another_name_of_auto() -> None:
    """As peft calls it, in a list or not."""
    settings = Train.model_validate({"adapter": {"rank": 2, "targets": "all-linear"}})
    assert settings.adapter
    model = _model("llama")
    assert num_adapter_parameters(model, settings.adapter) == num_adapter_parameters(model, Adapter(rank=2))


def test_an_unknown_target_names_the_nearest_one() -> None:
    """A target that no linear layer has is one message with the names there are."""
    with pytest.raises(ModelError, match="no linear layer 'q_porj'; did you mean 'q_proj'") as caught:
        add_adapter(_model(), Adapter(targets=("q_porj",)))
    assert "down_proj" in caught.value.hint


def test_a_head_that_peft_computes_wrongly_is_refused() -> None:
    """peft's trained rows forget the bias of a head: found before training, not after."""
    config = make_config("llama", 515, tie_word_embeddings=False)
    model = make_model(config)
    model.lm_head = torch.nn.Linear(64, 515, bias=True)
    torch.nn.init.normal_(model.lm_head.bias, std=5.0)
    with pytest.raises(ModelError, match="peft changes what LlamaForCausalLM computes"):
        add_adapter(model, Adapter(), NEW)


def test_qlora_without_cuda_says_what_to_do() -> None:
    """On a CPU, qlora is refused before anything is prepared, with the hint; lora is not."""
    with pytest.raises(ResourceError, match=r"qlora needs a CUDA device.*") as caught:
        check_adapter(Adapter(kind="qlora"), "cpu")
    assert "kind: lora" in caught.value.hint
    check_adapter(Adapter(), "cpu")


def test_frozen_bfloat16_weights_are_trained_beside_in_float32() -> None:
    """Matrices and new rows stay in float32, so that small updates are not rounded away."""
    adapted = add_adapter(_model().to(torch.bfloat16), Adapter(rank=4), NEW)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}
    _disturb(adapted)
    expected = _logits(adapted).float()
    difference = (_logits(merge(adapted, Path())).float() - expected).abs().max() / expected.abs().max()
    assert difference < 0.05


def test_an_adapter_needs_little_disk() -> None:
    """Checkpoints are the adapter's; the merged model is written once."""
    whole = disk_bytes(parameters=10**9, weight_bytes=4, optimizer="adamw_torch_fused", keep_checkpoints=3)
    small = disk_bytes(
        parameters=10**9, weight_bytes=4, optimizer="adamw_torch_fused", keep_checkpoints=3, adapter_parameters=10**7
    )
    assert whole == 5 * 12 * 10**9 + 4 * 10**9
    assert small == 5 * 12 * 10**7 + 4 * 10**9 + 4 * 10**7


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"learning_rate": 2e-5, "adapter": {}}, "low for an adapter"),
        ({"learning_rate": 2e-4, "adapter": {}}, None),
        ({"learning_rate": 3e-4}, "high where all weights are trained"),
        ({"learning_rate": 2e-5}, None),
    ],
)
def test_a_learning_rate_of_the_other_kind_is_remarked_on(settings: dict[str, Any], expected: str | None) -> None:
    """Adapters want about ten times the rate of full training; a rate of the other kind is remarked on, not changed."""
    remark = learning_rate_remark(Train.model_validate(settings))
    assert remark is None if expected is None else expected in str(remark)


@pytest.mark.gpu
def test_a_quantized_model_is_merged_into_the_weights_that_it_stands_for(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """QLoRA: 4 bits while training; the merged model is plain, says the same, and leaves the trained one alone."""
    pytest.importorskip("bitsandbytes")
    save_model(_model("llama"), tiny_tokenizer, tmp_path / "base", turn_end_id=1)
    spec = Model(path=str(tmp_path / "base"), dtype="float32")
    model = load_model(spec, choose_placement(spec), four_bit=True)
    adapted = add_adapter(model, Adapter(kind="qlora", rank=4), NEW)
    _disturb(adapted)
    expected = _logits(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    merged = merge(adapted, tmp_path / "adapter")
    save_model(merged, tiny_tokenizer, tmp_path / "model", turn_end_id=1)
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(_logits(plain), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(_logits(adapted), expected)
    again = load_model(spec, choose_placement(spec), four_bit=True)
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(_logits(again), expected)
