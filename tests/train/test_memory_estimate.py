import gc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from seodang import distributed
from seodang.data.pack import Plan, pack, pack_step
from seodang.model.engine.engine import Engine
from seodang.recipe import Adapter, Train
from seodang.train import resources
from seodang.train.memory_estimate import MemoryEstimator, MemoryUsage, make_estimator
from seodang.train.resources import (
    BF16_BYTES,
    FRAGMENTATION,
    TRAINING_BYTES,
    MemoryPlan,
    PackCost,
    _pack_cost,
    available_memory,
    candidates,
    largest_step,
    memory_finding,
    plan_memory,
    process_memory,
)
from seodang.train.setup import pack_tokens
from seodang.types import IGNORED, Pack, Placement, Step
from tiny import make_config

ADAMW = "adamw_torch_fused"


def _placement(dtype: str = "float32", compute: str = "float32") -> Placement:
    return Placement(device="cpu", dtype=dtype, compute_dtype=compute, attention="packed", reasons=())


def _estimator(kind: str = "gemma3", compute: str = "float32", **settings: Any) -> MemoryEstimator:
    return make_estimator(
        make_config(kind), Train(**settings), _placement(compute=compute), num_embeddings=0, optimizer=ADAMW
    )


def _plan(estimator: MemoryEstimator, settings: Train, device: str, *, available: int, process: int = 0) -> MemoryPlan:
    return plan_memory(
        estimator, settings, device, _step,
        pack_tokens=pack_tokens(settings, device), available=available, process=process,
    )  # fmt: skip


def _packs(lengths: list[int], budget: int) -> tuple[Pack, ...]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(20, 300, length + 1).astype(np.int32) for length in lengths]
    labels = [np.concatenate([np.full(3, IGNORED, dtype=np.int32), row[3:]]) for row in ids]
    return pack(ids, labels, budget=budget)


def _made_up(activations: float) -> Any:
    """An estimator by a formula: 0.3 MB, and kilobytes of a position, fewer where layers are computed twice."""
    kept = {"none": 1.0, "selective": 0.5, "full": 0.1}

    def estimate(packs: Sequence[Pack], how: str) -> MemoryUsage:
        size = int(1000 * activations * kept[how] * max(pack.input_ids.size for pack in packs))
        return MemoryUsage(weights=300_000, gradients=0, states=0, activations=size, logits=0, peak=300_000 + size)

    return SimpleNamespace(
        estimate=estimate, can_checkpoint=True, engine=Engine(packed=True, linear_cross_entropy=True),
        model=SimpleNamespace(dtype=torch.bfloat16), quantization_savings=0,
    )  # fmt: skip


def _step(budget: int, rows: int = 40) -> Step:
    ids = [np.arange(20, 120, dtype=np.int32)] * rows
    return pack_step(range(rows), ids, ids, budget=budget)


def test_weights_gradients_and_states_are_those_of_the_model() -> None:
    """Full training: 4 bytes a weight, 4 a gradient, 8 of AdamW; 2 of states in 8 bits need CUDA, so 8 here too."""
    for kind in ("gemma2", "gemma3", "llama", "qwen3"):
        estimator = _estimator(kind)
        parameters = sum(weight.numel() for weight in estimator.model.parameters())
        usage = estimator.estimate(_packs([30, 20], 64), "none")
        assert usage.gradients == 4 * parameters
        assert usage.states == 8 * parameters
        assert 4 * parameters <= usage.weights <= 4 * parameters + 4096  # and some buffers
        assert usage.peak >= usage.weights + usage.gradients + usage.states


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_activations_grow_by_position_and_checkpointing_takes_them_away(kind: str) -> None:
    """Twice the positions, twice the activations; half of the layers' less if selective, nearly all if full."""
    estimator = _estimator(kind)
    one, two = (estimator.estimate(_packs([length] * 4, 1024), "none").activations for length in (50, 100))
    assert two == pytest.approx(2 * one, rel=0.1)
    selective, full = (estimator.estimate(_packs([100] * 4, 1024), how).activations for how in ("selective", "full"))
    assert selective == pytest.approx((two + full) / 2, rel=0.1)
    assert full < 0.25 * two
    assert not estimator.model.is_activation_checkpointing  # as it was


def test_gradients_of_an_earlier_pack_are_counted() -> None:
    """A second pack of a step runs beside the first one's gradients, whichever is larger."""
    estimator = _estimator()
    alone = estimator.estimate(_packs([60], 64), "none")
    for lengths in ([60, 58], [60, 20, 20, 20]):
        assert estimator.estimate(_packs(lengths, 64), "none").peak > alone.peak


def test_an_adapter_has_gradients_and_states_of_its_own_parameters_only() -> None:
    """LoRA: what is trained counts; the frozen weights have neither gradients nor states."""
    pytest.importorskip("peft")
    estimator = _estimator("llama", adapter=Adapter(rank=4))
    trained = sum(weight.numel() for weight in estimator.model.parameters() if weight.requires_grad)
    usage = estimator.estimate(_packs([30, 20], 64), "none")
    assert (usage.gradients, usage.states) == (4 * trained, 8 * trained)
    assert usage.gradients < 0.3 * usage.weights
    four_bit = make_estimator(
        make_config("llama"), Train(adapter=Adapter(kind="qlora", rank=4)), _placement(compute="bfloat16"),
        optimizer=ADAMW, num_embeddings=0,
    )  # fmt: skip
    assert four_bit.estimate(_packs([30, 20], 64), "none").weights < 0.5 * usage.weights


def test_copies_in_bf16_count() -> None:
    """Under autocast the copies of the weights that the backward pass needs are among the activations."""
    same = _packs([8], 64)
    assert (
        _estimator(compute="bfloat16").estimate(same, "none").activations
        > _estimator().estimate(same, "none").activations
    )


def test_added_tokens_have_rows_in_the_embedding() -> None:
    """The embedding is as large as the vocabulary with the template's new tokens."""
    config, settings = make_config("llama"), Train()
    small, large = (
        make_estimator(config, settings, _placement(), num_embeddings=count, optimizer=ADAMW)
        .estimate(_packs([8], 64), "none")
        .weights
        for count in (0, config.vocab_size + 10)
    )
    assert large - small == 10 * config.hidden_size * 4


def test_the_estimate_is_what_a_real_step_takes() -> None:
    """The bytes that torch's allocator hands out in a real step, at their most, are those of the estimate."""
    packs = _packs([400, 300, 200], 1024)
    config = make_config("llama", 40960, hidden_size=128, intermediate_size=512, num_hidden_layers=4)
    estimator = make_estimator(config, Train(), _placement(), num_embeddings=0, optimizer=ADAMW)
    usage = estimator.estimate(packs, "none")
    real = _measured(config, packs)
    assert usage.peak - usage.states == pytest.approx(real, rel=0.1)


def _measured(config: Any, packs: tuple[Pack, ...]) -> int:
    """Peak of the allocator over forward and backward, weights included, measured by torch's profiler."""
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
            model(pack=pack, weight=1.0).backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("cpu", "1024 none, 512 none, 1024 selective, 512 selective, 1024 full, 512 full"),
        (
            "graphs",
            "8192 none, 4096 none, 2048 none, 8192 selective, 4096 selective, 8192 full, 2048 selective, 4096 full",
        ),
        (
            "cuda",
            "8192 none, 4096 none, 8192 selective, 4096 selective, 2048 none, 8192 full, 4096 full, 2048 selective",
        ),
        ("several", "8192 none, 8192 selective, 4096 none, 8192 full, 4096 selective, 4096 full, 2048 none"),
    ],
)
def test_a_smaller_pack_is_tried_before_layers_are_computed_twice(cost: PackCost, expected: str) -> None:
    """By estimated time, where a pack's fixed cost is small: with CUDA graphs, and on one device."""
    budgets = [1024, 512] if cost == "cpu" else [8192, 4096, 2048]
    rows = [np.arange(20, 148, dtype=np.int32)] * 128  # of 127 positions: two packs of 8,192
    found = candidates(
        budgets, ("none", "selective", "full"), cost, lambda tokens: pack_step(range(128), rows, rows, budget=tokens)
    )
    assert ", ".join(f"{budget} {level}" for budget, _, level in found).startswith(expected)


@pytest.mark.parametrize(
    ("device", "settings", "compute", "cost"),
    [
        ("cpu", {}, "float32", "cpu"),
        ("mps", {}, "float32", "mps"),
        ("cuda:1", {}, "bfloat16", "graphs"),
        ("cuda", {}, "float32", "cuda"),
        ("cuda", {"adapter": Adapter(kind="qlora", rank=4)}, "bfloat16", "cuda"),
    ],
)
def test_what_a_pack_costs_follows_from_the_device(
    device: str, settings: dict[str, Any], compute: str, cost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs are recorded of 16-bit products in one process, and not of weights in 4 bits."""
    estimator = _estimator("llama", compute=compute, **settings)
    assert _pack_cost(estimator, device) == cost
    monkeypatch.setattr(distributed, "world", lambda: 2)
    assert _pack_cost(estimator, device) == ("several" if device.startswith("cuda") else cost)


def test_a_budget_that_packs_alike_is_not_tried_again() -> None:
    """A small step is one pack under any budget that takes it."""
    found = candidates((8192, 4096, 2048, 1024), ("none", "full"), "graphs", lambda budget: _step(budget, rows=15))
    assert [(budget, len(packs), level) for budget, packs, level in found] == [
        (8192, 1, "none"),
        (1024, 2, "none"),
        (8192, 1, "full"),
        (1024, 2, "full"),
    ]


@pytest.mark.parametrize(
    ("activations", "available", "expected"),  # kB of a position with none; kB in all
    [
        (1.0, 10_000, ("none", 8192, True)),
        (1.0, 6_000, ("none", 4096, True)),
        (1.0, 3_500, ("none", 2048, True)),
        (1.0, 1_600, ("none", 1024, True)),
        (1.0, 1_000, ("full", 4096, True)),
        (1.0, 200, ("full", 1024, False)),
    ],
)
def test_the_fastest_plan_that_fits_is_chosen(
    activations: float, available: int, expected: tuple[str, int, bool]
) -> None:
    """Half of the activations with selective checkpointing, a tenth with full; a tenth of the memory is left free."""
    estimator = _made_up(activations)
    plan = plan_memory(
        estimator, Train(), "cuda", lambda budget: _step(budget, rows=200),
        pack_tokens=8192, available=1000 * available, process=0,
    )  # fmt: skip
    assert (plan.checkpointing, plan.pack_tokens, plan.fits) == expected


def test_what_cannot_fit_is_not_tried_in_every_way() -> None:
    """An estimate takes seconds: where full checkpointing does not fit under any budget, nothing else is tried."""
    estimator = _made_up(1.0)
    estimate, tried = estimator.estimate, []
    estimator.estimate = lambda packs, how: (tried.append((len(packs), how)), estimate(packs, how))[1]
    assert not _plan(estimator, Train(max_tokens=128), "cpu", available=0).fits
    assert tried == [(4, "none"), (8, "full"), (4, "full")]


def test_what_the_recipe_sets_is_left_as_it_is() -> None:
    """Budget and checkpointing are chosen where they are left out, and no budget is below a row."""
    settings = Train(max_tokens=128)
    estimator = _made_up(1.0)

    def chosen(memory: int, **fixed: Any) -> tuple[str, int, bool]:
        plan = _plan(estimator, settings.model_copy(update=fixed), "cpu", available=memory)
        return plan.checkpointing, plan.pack_tokens, plan.fits

    assert chosen(10**12) == ("none", 1024, True)
    assert chosen(10**12, checkpointing="full") == ("full", 1024, True)
    assert chosen(0) == ("full", 512, False)
    assert chosen(0, checkpointing="none", pack_tokens=300) == ("none", 300, False)
    assert chosen(0, max_tokens=900) == ("full", 1024, False)


def test_what_does_not_fit_is_a_warning_with_what_is_left_to_do() -> None:
    """The warning names adapter, checkpointing and budget only where they can still help."""
    estimator = _made_up(1.0)

    def warning(settings: Train, device: str = "cpu", available: int = 10**5) -> Any:
        plan = _plan(estimator, settings, device, available=available)
        return memory_finding(plan, settings, device)

    assert warning(Train(), available=10**12) is None
    warned = warning(Train(max_tokens=256, checkpointing="none", pack_tokens=1024))
    assert warned.severity == "warn"
    assert all(word in warned.hint for word in ("adapter", "checkpointing=full", "pack_tokens=512"))
    warned = warning(Train(max_tokens=900, adapter=Adapter()))
    assert warned.hint == "take a smaller model"
    assert "paged" in warning(Train(), device="cuda").hint


def test_the_largest_step_of_the_run_is_estimated() -> None:
    """Of the steps that the run takes, the one with the most tokens, packed by the budget."""
    ids = [list(range(20, 20 + length)) for length in (10, 10, 30, 30, 12, 12, 90, 90)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "num_tokens": [len(row) for row in ids]})
    plan = Plan(num_rows=8, examples_per_step=2, seed=0)
    assert largest_step(rows, plan, 100, steps=100).rows == (6, 7)
    assert largest_step(rows, plan, 100, steps=3).rows == (2, 3)
    assert len(largest_step(rows, plan, 100, steps=3).packs) == 1


def test_memory_of_this_machine_and_process() -> None:
    """What is available includes what this process has; both in bytes."""
    own = process_memory("cpu", "float32") - TRAINING_BYTES
    assert 10**8 < own < available_memory("cpu") <= psutil.virtual_memory().total * 1.01
    assert process_memory("cpu", "bfloat16") >= own + TRAINING_BYTES + BF16_BYTES
    assert process_memory("cuda", "bfloat16") == 0


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        (("memory.max", "memory.current", "memory.stat"), "anon 9\nactive_file 1000\ninactive_file 3000000"),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            "active_file 5\ninactive_file 7\ntotal_active_file 1000\ntotal_inactive_file 3000000",
        ),
    ],
)
def test_files_that_a_container_has_read_do_not_count(
    files: tuple[str, str, str], counts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts what it keeps of them as used, and gives it up where a process needs memory."""
    limit, used, stat = (tmp_path / name for name in files)
    limit.parent.mkdir(exist_ok=True)
    for file, text in ((limit, "9000000"), (used, "8000000"), (stat, counts)):
        file.write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=500))
    assert available_memory("cpu") == 1_000_000 + 3_001_000 + 500
    stat.unlink()
    assert available_memory("cpu") == 1_000_000 + 500


def test_gaps_between_blocks_count_on_a_cpu() -> None:
    """A CPU's allocator keeps free blocks that the next pack does not fit into; a GPU's has its own pool."""
    estimator = _made_up(1.0)
    on_cpu, on_gpu = (_plan(estimator, Train(), device, available=10**12, process=0) for device in ("cpu", "cuda:0"))
    assert on_gpu.peak == on_gpu.usage.peak
    assert on_cpu.peak == on_cpu.usage.peak + int(FRAGMENTATION * on_cpu.usage.activations)


def test_a_line_says_it_all() -> None:
    """The sentence holds the peak, what is available and the parts worth naming."""
    plan = _plan(_estimator("llama"), Train(), "cpu", available=22 * 10**9, process=10**9)
    assert isinstance(plan, MemoryPlan)
    assert plan.summary.startswith("memory: about 1.0 GB of 22.0 GB: process 1.0; 1,024 tokens a pack")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_on_a_gpu_it_is_what_a_step_takes(kind: str) -> None:
    """Weights, gradients, activations and logits of a step whose layers run as written, within 20 %."""
    config = make_config(kind, hidden_size=512, intermediate_size=2048, vocab_size=32_000)
    placement = Placement(device="cuda", dtype="float32", compute_dtype="bfloat16", attention="packed", reasons=())
    packs = _packs([180] * 20, 4096)
    usage = make_estimator(config, Train(), placement, num_embeddings=0, optimizer=ADAMW).estimate(packs, "none")
    before = torch.cuda.memory_allocated()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to("cuda").train()
    with Engine(packed=True, linear_cross_entropy=True, compute_dtype=torch.bfloat16).installed(model):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats()
            for pack in packs:
                model(pack=pack).backward()
    measured = torch.cuda.max_memory_allocated() - before
    assert usage.peak - usage.states == pytest.approx(measured, rel=0.2)
