import gc
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from seodang.data.pack import Plan, pack, pack_step
from seodang.model.engine.engine import Engine
from seodang.model.placement import Placement
from seodang.recipe import Adapter, Train
from seodang.train.memory_estimate import MemoryEstimator, make_estimator
from seodang.train.resources import (
    BF16_BYTES,
    GAPS,
    LATER_BYTES,
    MemoryPlan,
    available_memory,
    fit,
    largest_step,
    memory_finding,
    process_memory,
)
from seodang.types import IGNORED, Pack, Step
from tiny import make_config


def _placement(dtype: str = "float32", compute: str = "float32") -> Placement:
    return Placement(device="cpu", dtype=dtype, compute_dtype=compute, attention="packed", reasons=())


def _rehearsal(kind: str = "gemma3", compute: str = "float32", **settings: Any) -> MemoryEstimator:
    return make_estimator(make_config(kind), Train(**settings), _placement(compute=compute), num_embeddings=0)


def _packs(lengths: list[int], budget: int) -> tuple[Pack, ...]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(20, 300, length + 1).astype(np.int32) for length in lengths]
    labels = [np.concatenate([np.full(3, IGNORED, dtype=np.int32), row[3:]]) for row in ids]
    return pack(ids, labels, budget=budget)


def _step(budget: int) -> Step:
    rows = [np.arange(20, 120, dtype=np.int32)] * 40
    return pack_step(range(40), rows, rows, budget=budget)


def test_weights_gradients_and_states_are_those_of_the_model() -> None:
    """Full training: 4 bytes a weight, 4 a gradient, 8 of AdamW; 2 of states in 8 bits need CUDA, so 8 here too."""
    for kind in ("gemma2", "gemma3", "llama", "qwen3"):
        estimator = _rehearsal(kind)
        parameters = sum(weight.numel() for weight in estimator.model.parameters())
        taken = estimator.step(_packs([30, 20], 64), "none")
        assert taken.gradients == 4 * parameters
        assert taken.states == 8 * parameters
        assert 4 * parameters <= taken.weights <= 4 * parameters + 4096  # and some buffers
        assert taken.peak >= taken.weights + taken.gradients + taken.states


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_activations_grow_by_position_and_checkpointing_takes_them_away(kind: str) -> None:
    """Twice the positions, twice the activations; half of the layers' less if selective, nearly all if full."""
    estimator = _rehearsal(kind)
    one, two = (estimator.step(_packs([length] * 4, 1024), "none").activations for length in (50, 100))
    assert two == pytest.approx(2 * one, rel=0.1)
    selective, full = (estimator.step(_packs([100] * 4, 1024), how).activations for how in ("selective", "full"))
    assert selective == pytest.approx((two + full) / 2, rel=0.1)
    assert full < 0.2 * two
    assert not estimator.model.is_activation_checkpointing  # as it was


def test_gradients_of_an_earlier_pack_are_counted() -> None:
    """A second pack of a step runs beside the first one's gradients, whichever is larger."""
    estimator = _rehearsal()
    alone = estimator.step(_packs([60], 64), "none")
    for lengths in ([60, 58], [60, 20, 20, 20]):
        assert estimator.step(_packs(lengths, 64), "none").peak > alone.peak


def test_an_adapter_has_gradients_and_states_of_its_own_parameters_only() -> None:
    """LoRA: what is trained counts; the frozen weights have neither gradients nor states."""
    pytest.importorskip("peft")
    estimator = _rehearsal("llama", adapter=Adapter(rank=4))
    trained = sum(weight.numel() for weight in estimator.model.parameters() if weight.requires_grad)
    taken = estimator.step(_packs([30, 20], 64), "none")
    assert (taken.gradients, taken.states) == (4 * trained, 8 * trained)
    assert taken.gradients < 0.3 * taken.weights
    four_bit = make_estimator(
        make_config("llama"), Train(adapter=Adapter(kind="qlora", rank=4)), _placement(compute="bfloat16"),
        num_embeddings=0,
    )  # fmt: skip
    assert four_bit.step(_packs([30, 20], 64), "none").weights < 0.5 * taken.weights


def test_copies_in_bf16_count() -> None:
    """Under autocast the copies of the weights that the backward pass needs are among the activations."""
    same = _packs([8], 64)
    assert _rehearsal(compute="bfloat16").step(same, "none").activations > _rehearsal().step(same, "none").activations


def test_added_tokens_have_rows_in_the_embedding() -> None:
    """The embedding is as large as the vocabulary with the template's new tokens."""
    config, settings = make_config("llama"), Train()
    small, large = (
        make_estimator(config, settings, _placement(), num_embeddings=count).step(_packs([8], 64), "none").weights
        for count in (0, config.vocab_size + 10)
    )
    assert large - small == 10 * config.hidden_size * 4


def test_the_estimate_is_what_a_real_step_takes() -> None:
    """The bytes that torch's allocator hands out in a real step, at their most, are those of the rehearsal."""
    packs = _packs([400, 300, 200], 1024)
    config = make_config("llama", 40960, hidden_size=128, intermediate_size=512, num_hidden_layers=4)
    estimator = make_estimator(config, Train(), _placement(), num_embeddings=0)
    taken = estimator.step(packs, "none")
    real = _measured(config, packs)
    assert taken.peak - taken.states == pytest.approx(real, rel=0.1)


def _measured(config: Any, packs: tuple[Pack, ...]) -> int:
    """Peak of the allocator over forward and backward, weights included, told by torch's profiler."""
    from seodang.model.engine.engine import Engine
    from tiny import make_model

    model = make_model(config).train()
    alive = weights = sum(weight.numel() * 4 for weight in model.parameters())
    peak = weights
    gc.collect()
    with (
        Engine(packed=True, linear_cross_entropy=True).installed(model),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        for pack in packs:
            model(pack=pack).backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def test_auto_takes_the_least_checkpointing_that_fits_then_a_smaller_budget() -> None:
    """Room for all: none; less: selective, full; still less: half the budget; what is set is left as it is."""
    settings = Train(max_tokens=128)
    estimator = _rehearsal("llama")

    def peak(budget: int, how: str) -> int:
        fixed = settings.model_copy(update={"pack_tokens": budget, "checkpointing": how})
        return fit(estimator, fixed, "cpu", _step, available=0, process=0).peak

    peaks = {(budget, how): peak(budget, how) for budget in (1024, 512) for how in ("none", "selective", "full")}

    def chosen(room: int, settings: Train = settings) -> tuple[str, int, bool]:
        found = fit(estimator, settings, "cpu", _step, available=int(room / 0.9) + 2, process=0)
        return found.checkpointing, found.pack_tokens, found.fits

    assert chosen(peaks[1024, "none"]) == ("none", 1024, True)
    assert chosen(peaks[1024, "selective"]) == ("selective", 1024, True)
    assert chosen(peaks[1024, "full"]) == ("full", 1024, True)
    assert chosen(peaks[512, "full"]) == ("full", 512, True)
    assert chosen(0) == ("full", 512, False)
    assert chosen(0, settings.model_copy(update={"checkpointing": "none", "pack_tokens": 300})) == ("none", 300, False)
    assert chosen(0, settings.model_copy(update={"max_tokens": 900})) == ("full", 1024, False)  # never below a row


def test_what_does_not_fit_is_a_warning_with_what_is_left_to_do() -> None:
    """The warning names adapter, checkpointing and budget only where they can still help."""
    estimator = _rehearsal("llama")

    def warning(settings: Train, device: str = "cpu", available: int = 10**5) -> Any:
        found = fit(estimator, settings, device, _step, available=available, process=0)
        return memory_finding(found, settings, device)

    assert warning(Train(), available=10**12) is None
    told = warning(Train(max_tokens=256, checkpointing="none", pack_tokens=1024))
    assert told.severity == "warn"
    assert all(word in told.hint for word in ("adapter", "checkpointing=full", "pack_tokens=512"))
    told = warning(Train(max_tokens=900, adapter=Adapter()))
    assert told.hint == "take a smaller model"
    assert "paged" in warning(Train(), device="cuda").hint


def test_the_largest_step_of_the_run_is_rehearsed() -> None:
    """Of the steps that the run takes, the one with the most tokens, packed by the budget."""
    ids = [list(range(20, 20 + length)) for length in (10, 10, 30, 30, 12, 12, 90, 90)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "num_tokens": [len(row) for row in ids]})
    plan = Plan(num_rows=8, examples_per_step=2, seed=0)
    assert largest_step(rows, plan, 100, steps=100).rows == (6, 7)
    assert largest_step(rows, plan, 100, steps=3).rows == (2, 3)
    assert len(largest_step(rows, plan, 100, steps=3).packs) == 1


def test_memory_of_this_machine_and_process() -> None:
    """What is available includes what this process has; both are told in bytes."""
    own = process_memory("cpu", "float32") - LATER_BYTES
    assert 10**8 < own < available_memory("cpu") <= psutil.virtual_memory().total * 1.01
    assert process_memory("cpu", "bfloat16") >= own + LATER_BYTES + BF16_BYTES
    assert process_memory("cuda", "bfloat16") == 0


def test_gaps_between_blocks_count_on_a_cpu() -> None:
    """A CPU's allocator keeps free blocks that the next pack does not fit into; a GPU's is told by its own pool."""
    estimator = _rehearsal("llama")
    on_cpu, on_gpu = (
        fit(estimator, Train(), device, _step, available=10**12, process=0) for device in ("cpu", "cuda:0")
    )
    assert on_gpu.peak == on_gpu.taken.peak
    assert on_cpu.peak == on_cpu.taken.peak + int(GAPS * on_cpu.taken.activations)


def test_a_line_says_it_all() -> None:
    """The sentence holds the peak, what is available and the parts worth naming."""
    found = fit(_rehearsal("llama"), Train(), "cpu", _step, available=22 * 10**9, process=10**9)
    assert isinstance(found, MemoryPlan)
    assert found.line.startswith("memory: about 1.0 GB of 22.0 GB: process 1.0; 1,024 tokens a pack")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_on_a_gpu_it_is_what_a_step_takes(kind: str) -> None:
    """Weights, gradients, activations and logits of a step whose layers run as written, within 20 %."""
    config = make_config(kind, hidden_size=512, intermediate_size=2048, vocab_size=32_000)
    placement = Placement(device="cuda", dtype="float32", compute_dtype="bfloat16", attention="packed", reasons=())
    packs = _packs([180] * 20, 4096)
    taken = make_estimator(config, Train(), placement, num_embeddings=0).step(packs, "none")
    before = torch.cuda.memory_allocated()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to("cuda").train()
    with Engine(packed=True, linear_cross_entropy=True, compute_dtype=torch.bfloat16).installed(model):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats()
            for pack in packs:
                model(pack=pack).backward()
    measured = torch.cuda.max_memory_allocated() - before
    assert taken.peak - taken.states == pytest.approx(measured, rel=0.2)
