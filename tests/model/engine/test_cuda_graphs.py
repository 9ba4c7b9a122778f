"""Passes recorded and replayed: the same losses and gradients, whatever the packs; on a CPU work is done again."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rank_jobs
from seodang.data.pack import pack
from seodang.model.engine import compile as compile_module
from seodang.model.engine import cuda_graphs, linear_cross_entropy_gpu
from seodang.model.engine.cuda_graphs import fill, size_of
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.engine.head_gradient import GradientPlaces
from seodang.model.engine.weight_copies import WeightCopies
from seodang.recipe import Adapter
from seodang.train.adapter import add_adapter
from seodang.types import IGNORED, Pack
from tiny import make_config, make_model

BF16 = torch.bfloat16
PLAIN = Engine(packed=True, linear_cross_entropy=True)
REPLAYED = Engine(packed=True, linear_cross_entropy=True, compiled=True, cuda_graphs=True)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A graph on a CPU: replaying is doing the work again. What was recorded and replayed."""
    log: list[str] = []

    def record(work: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
        log.append("recorded")

        def cuda_graphs() -> None:
            log.append("replayed")
            with torch.enable_grad():  # a graph holds what was recorded with gradients
                work()

        return cuda_graphs, pool or "pool"

    monkeypatch.setattr(cuda_graphs, "record", record)
    return log


@pytest.fixture(autouse=True)
def as_written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a CPU nothing is compiled; the head takes the vocabulary whole, as on a GPU."""
    if request.node.get_closest_marker("gpu"):
        yield
        return
    for module in (compile_module, linear_cross_entropy_gpu):
        monkeypatch.setattr(module, "compile_lazily", lambda function, **_: function)
    linear_cross_entropy_gpu.passes.cache_clear()
    yield
    linear_cross_entropy_gpu.passes.cache_clear()


def _pack(seed: int, lengths: tuple[int, ...] = (30, 17, 9, 25)) -> Pack:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(3, 300, length).astype(np.int32) for length in lengths]
    labels = [np.where(np.arange(row.size) < 5, IGNORED, row).astype(np.int32) for row in rows]
    (packed,) = pack(rows, labels, budget=10_000)
    return packed


@pytest.mark.parametrize("seed", range(20))
def test_a_filled_pack_holds_the_pack(seed: int) -> None:
    """Its positions, sequences and targets come first; nothing added counts; the size is one of few, and not large."""
    lengths = tuple(np.random.default_rng(seed).integers(6, 400, 1 + seed % 7).tolist())
    packed = _pack(seed, lengths)
    size = size_of(packed)
    host = fill(packed, size)
    count, supervised = packed.input_ids.size, np.flatnonzero(packed.targets != IGNORED)
    assert count <= size.positions <= count * 17 / 16 + 1
    assert (host.input_ids[:count] == packed.input_ids).all()
    assert (host.position_ids[:count] == packed.position_ids).all()
    assert host.position_ids.max() == packed.position_ids.max(), "no position that the model may not have"
    assert host.input_ids.size == host.position_ids.size == host.seq_bounds[-1] == size.positions
    assert (host.seq_bounds[: packed.cu_seqlens.size] == packed.cu_seqlens).all()
    assert (np.diff(host.seq_bounds) >= 0).all()
    assert host.seq_bounds.size == size.sequences + 1
    assert (host.supervised[: supervised.size] == supervised).all()
    assert (host.targets[: supervised.size] == packed.targets[supervised]).all()
    assert (host.targets[supervised.size :] < 0).all()
    assert host.supervised.size == host.targets.size == size.supervised <= supervised.size * 17 / 16 + 1
    assert host.seq_lens.total == size.positions
    assert max(host.seq_lens.each) <= host.seq_lens.longest == size.longest


def test_sizes_are_few() -> None:
    """All packs between half a budget and the budget come in 16 sizes of positions."""
    assert len({cuda_graphs._up(number, 16) for number in range(4097, 8193)}) == 16
    assert [cuda_graphs._up(number, 1) for number in (0, 1, 2, 3, 5, 64, 65)] == [0, 1, 2, 4, 8, 64, 128]


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_replayed_steps_are_steps(kind: str, tied: bool, again: list[str]) -> None:
    """Four steps of two packs each, gradients dropped in between: losses and gradients of passes as written.

    The first step is not recorded: the optimizer has no memory yet.
    """
    model = make_model(make_config(kind, tie_word_embeddings=tied)).train()
    expected = _steps(model, PLAIN)
    found = _steps(model, REPLAYED)
    assert again.count("recorded") == 2 * 2  # one size, forward and backward, of first packs and of later ones
    assert again.count("replayed") == 2 * 6 + 3  # and once to try the graphs: of later packs the forward pass alone
    for (losses, gradients), (wanted, exact) in zip(found, expected, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(gradients, exact, atol=1e-4, rtol=1e-4)


def _steps(model: Any, engine: Engine) -> list[tuple[list[float], Tensor]]:
    found = []
    with engine.installed(model):
        for step in range(4):
            model.zero_grad(set_to_none=True)
            losses = []
            for number in range(2):
                loss = model(pack=_pack(2 * step + number, (30 - number, 17, 9 + number, 25)), weight=0.25)
                loss.backward()
                losses.append(float(loss.detach()))
            found.append((losses, torch.cat([weight.grad.flatten().clone() for weight in model.parameters()])))
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_replayed_steps_by_copies_of_the_weights(kind: str, again: list[str]) -> None:
    """Products in bf16: linear layers multiply by copies, whose gradients reach the float32 weights; so by autocast."""
    plain, replayed = (replace(engine, compute_dtype=BF16) for engine in (PLAIN, REPLAYED))
    model = make_model(make_config(kind)).train()
    expected = _steps(model, plain)
    found = _steps(model, replayed)
    assert again.count("recorded") == 4
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    for (losses, gradients), (wanted, exact) in zip(found, expected, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-3)
        assert torch.nn.functional.cosine_similarity(gradients, exact, dim=0) > 0.999
        assert float(gradients.norm()) == pytest.approx(float(exact.norm()), rel=1e-2)


def test_copies_follow_the_weights(again: list[str]) -> None:
    """Every pass multiplies by the weights of now; outside of one, and without gradients, layers by their own."""
    engine = replace(REPLAYED, compute_dtype=BF16)
    model = make_model(make_config("llama")).train()
    layer, hidden = model.model.layers[0].mlp.up_proj, torch.randn(2, 64)
    with engine.installed(model):
        for number in range(3):
            model(pack=_pack(number), weight=1e-3).backward()
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= 0.5 * weight.grad
                loss = float(model(pack=_pack(9)))
            model.zero_grad(set_to_none=True)
        assert vars(layer)["weight_copy"].dtype == BF16
        assert torch.equal(layer(hidden), hidden @ layer.weight.T)
    assert type(layer) is torch.nn.Linear
    assert not {"weight_copy", "copies"} & set(vars(layer))
    with torch.no_grad(), replace(PLAIN, compute_dtype=BF16).installed(model):
        assert loss == pytest.approx(float(model(pack=_pack(9))), rel=1e-3)


def test_frozen_weights_are_copied_and_take_no_gradient(again: list[str]) -> None:
    """As in a model whose adapter is trained: only what is trained gets a gradient, through the others."""
    found = []
    for engine in (PLAIN, REPLAYED):
        model = make_model(make_config("llama")).train()
        model.requires_grad_(False)
        trained = model.model.layers[0].mlp.up_proj.weight.requires_grad_()
        with replace(engine, compute_dtype=BF16).installed(model):
            for number in range(3):
                model.zero_grad(set_to_none=True)
                model(pack=_pack(number), weight=0.5).backward()
        assert [weight for weight in model.parameters() if weight.grad is not None] == [trained]
        found.append(trained.grad.clone().flatten())
    assert "recorded" in again
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999


def test_a_graph_with_other_gradients_is_not_used(again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replay's gradients are compared with those as written: here copies deliver none."""

    def lose(self: WeightCopies, weight: Tensor) -> Callable[[Tensor], None]:
        return lambda copy: setattr(copy, "grad", None)

    monkeypatch.setattr(WeightCopies, "_deliver", lose)
    model, notes = make_model(make_config("llama")).train(), list[str]()
    with replace(REPLAYED, compute_dtype=BF16).installed(model, notes.append):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            model(pack=_pack(0)).backward()
    assert len(notes) == 1
    assert "the gradients differ" in notes[0]


def test_a_weight_that_a_model_takes_without_its_layer_is_trained(again: list[str]) -> None:
    """As Gemma 3n's `correction_coefs.weight`: its gradient comes by itself or by both ways, not by a copy alone."""
    found = []
    for engine in (PLAIN, REPLAYED):
        model = make_model(make_config("llama")).train()
        layer = model.model.layers[0].self_attn
        layer.extra = torch.nn.Linear(64, 64, bias=False)
        own = layer.q_proj.forward

        def forward(hidden: Tensor, layer: Any = layer, own: Any = own) -> Tensor:
            return own(
                hidden + hidden @ layer.extra.weight + 0.1 * hidden @ layer.k_proj.weight.T @ layer.k_proj.weight
            )

        torch.manual_seed(0)
        torch.nn.init.normal_(layer.extra.weight, std=0.02)
        layer.q_proj.forward = forward
        found.append(_steps(model, replace(engine, compute_dtype=BF16))[-1][1])
    assert "recorded" in again
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999
    assert float(found[1].norm()) == pytest.approx(float(found[0].norm()), rel=1e-2)


def test_a_padding_token_within_a_text_is_trained(again: list[str]) -> None:
    """Where it ends a turn as well: no replayed pass is refused, and its row takes part."""
    notes: list[str] = []
    model = make_model(make_config("llama", pad_token_id=7)).train()
    rows = [np.where(np.arange(30) % 6 == 0, 7, np.arange(30) + 3).astype(np.int32)] * 2
    (packed,) = pack(rows, rows, budget=100)
    with REPLAYED.installed(model, notes.append):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            model(pack=packed).backward()
        assert model.get_input_embeddings().padding_idx is None
    assert notes == []
    assert "recorded" in again
    assert model.get_input_embeddings().padding_idx == 7
    assert float(model.get_input_embeddings().weight.grad[7].norm()) > 0


def test_dropout_is_replayed(again: list[str]) -> None:
    """Two passes of it differ: what is compared is the loss alone."""
    model, notes = make_model(make_config("llama")).train(), list[str]()
    adapted: Any = add_adapter(model, Adapter(kind="lora", rank=4, dropout=0.5), ())
    adapted.train()
    with REPLAYED.installed(model, notes.append):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            model(pack=_pack(0)).backward()
    assert notes == []
    assert "recorded" in again


def _squared(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, ids: own(self, ids) ** 2


def test_an_embedding_that_does_more_than_look_up_is_left_alone(again: list[str]) -> None:
    """Its gradient comes by autograd then, and is the same."""
    found = []
    for engine in (PLAIN, REPLAYED):
        model = make_model(make_config("gemma3")).train()
        embedding = model.get_input_embeddings()
        own = type(embedding).forward
        embedding.__class__ = type("Squared", (type(embedding),), {"forward": _squared(own)})
        found.append(_steps(model, engine)[-1][1])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_a_pack_of_a_new_size_runs_as_written(again: list[str]) -> None:
    """Amid replayed ones, and its gradients are added to theirs, before and after."""
    model = make_model(make_config("llama")).train()
    small, large = (40, 12), (300, 250)
    for order in [(small, large, small), (large, small, small)]:
        gradients = []
        for engine in (PLAIN, REPLAYED):
            with engine.installed(model):
                for lengths in (small, small, small):
                    model(pack=_pack(0, lengths)).backward()
                model.zero_grad(set_to_none=True)
                for number, lengths in enumerate(order):
                    model(pack=_pack(number, lengths)).backward()
                gradients.append(torch.cat([weight.grad.flatten().clone() for weight in model.parameters()]))
                model.zero_grad(set_to_none=True)
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_a_weight_that_takes_no_part_has_no_gradient(again: list[str]) -> None:
    """AdamW leaves alone what has none; zeros would let it decay."""
    model = make_model(make_config("llama")).train()
    model.register_parameter("idle", torch.nn.Parameter(torch.ones(3)))
    with REPLAYED.installed(model):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            model(pack=_pack(0)).backward()
    assert "recorded" in again
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == ["idle"]


def test_what_takes_no_gradients_is_not_recorded(again: list[str]) -> None:
    """Evaluations during training run as written."""
    model = make_model(make_config("llama"))
    with REPLAYED.installed(model), torch.no_grad():
        for _ in range(3):
            model(pack=_pack(0))
    assert again == []


def test_a_checkpointed_model_is_not_recorded(again: list[str]) -> None:
    """Layers that are computed twice keep the state of random numbers, which a graph cannot."""
    model = make_model(make_config("llama")).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with replace(REPLAYED, compute_dtype=BF16).installed(model):
        for _ in range(3):
            model(pack=_pack(0)).backward()
        assert "weight_copy" not in vars(model.model.layers[0].mlp.up_proj)  # memory is short
    assert again == []


def test_what_cannot_be_recorded_runs_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says why, once; losses and gradients are right, and memory for gradients is given back."""
    places, begin = list[GradientPlaces](), GradientPlaces.__init__

    def noted(self: GradientPlaces, device: torch.device) -> None:
        begin(self, device)
        places.append(self)

    def refuse(work: Callable[[], None], pool: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    monkeypatch.setattr(GradientPlaces, "__init__", noted)
    model, notes = make_model(make_config("llama")).train(), list[str]()
    with REPLAYED.installed(model, notes.append):
        for _ in range(4):
            model.zero_grad(set_to_none=True)
            loss = model(pack=_pack(0))
            loss.backward()
        assert places[0].of == {}
    gradient = model.lm_head.weight.grad.clone()
    assert notes == ["CUDA graphs are not used: operation not permitted when stream is capturing"]
    model.zero_grad(set_to_none=True)
    with PLAIN.installed(model):
        expected = model(pack=_pack(0))
        expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, model.lm_head.weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("free", "recorded"), [(210, 0), (230, 1), (320, 1), (340, 2)])
def test_passes_are_recorded_where_others_still_fit_beside(
    free: int, recorded: int, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs keep the memory of the largest pass that was recorded; a size that was not needs as much again."""
    taken = iter([100, 150])
    monkeypatch.setattr(cuda_graphs, "measured", lambda work, _: (work(), next(taken)))
    monkeypatch.setattr(cuda_graphs, "free_memory", lambda _: free - 100 * bool(again))
    model, notes = make_model(make_config("llama")).train(), list[str]()
    with REPLAYED.installed(model, notes.append):
        for lengths in [(30, 17), (30, 17), (60, 40), (60, 40)]:
            model.zero_grad(set_to_none=True)
            model(pack=_pack(0, lengths)).backward()
    assert again.count("recorded") == 2 * recorded
    assert len(notes) == (recorded < 2)
    assert all("of free memory" in note for note in notes)


def test_the_first_recording_is_of_a_first_pack(again: list[str]) -> None:
    """Its gradients can be compared, and none lie beside their places then, which would take their memory twice."""
    model = make_model(make_config("llama")).train()
    with REPLAYED.installed(model):
        for step in range(3):
            model.zero_grad(set_to_none=True)
            model(pack=_pack(0, (20 * (step + 1), 3))).backward()
            model(pack=_pack(1)).backward()
            assert again == []
        model.zero_grad(set_to_none=True)
        model(pack=_pack(0, (60, 3))).backward()
        model(pack=_pack(1)).backward()
    assert again.count("recorded") == 4


def test_what_replayed_passes_held_is_freed_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, copies of weights and graphs, at once: what is measured after training needs the memory."""
    work: list[Callable[[], None]] = []
    held: list[weakref.ref[Any]] = []
    begin = GradientPlaces.__init__

    def record(again: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
        work.append(again)
        return partial(_do_again, work, len(work) - 1), "pool"

    def noted(self: GradientPlaces, device: torch.device) -> None:
        begin(self, device)
        held.append(weakref.ref(self))

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(GradientPlaces, "__init__", noted)
    model = make_model(make_config("llama")).train()
    gc.disable()
    try:
        with replace(REPLAYED, compute_dtype=BF16).installed(model, pytest.fail):
            for _ in range(3):
                model.zero_grad(set_to_none=True)
                model(pack=_pack(0)).backward()
            assert len(work) == 2
            held.append(weakref.ref(vars(model.model.layers[0].mlp.up_proj)["weight_copy"]))
        work.clear()
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


def _do_again(work: list[Callable[[], None]], number: int) -> None:
    with torch.enable_grad():
        work[number]()


def test_a_pass_that_waits_for_the_gpu_is_found_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that fails at it leaves torch on another stream, and unable to draw random numbers."""
    modes: list[int | str] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with cuda_graphs.never_waiting(torch.device("cuda")):
        assert modes == ["error"]
    assert modes == ["error", 0]


def test_a_failed_recording_leaves_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch stays on the stream of a recording that it cannot end."""
    streams = ["default"]

    class Graph:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> None:
            streams.append("of the recording")

        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    with pytest.raises(RuntimeError, match="previous error"):
        cuda_graphs.record(lambda: None, None)
    assert streams == ["default", "of the recording", "default"]


def test_a_graph_that_says_something_else_is_not_used(again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replay's loss is compared with the pass as written."""
    monkeypatch.setattr(cuda_graphs._Recorded, "forward", lambda self, host: self.loss.fill_(1.0))
    model, notes = make_model(make_config("llama")).train(), list[str]()
    with REPLAYED.installed(model, notes.append):
        losses = [float(model(pack=_pack(0)).detach()) for _ in range(3)]
    assert losses == pytest.approx([losses[0]] * 3)
    assert losses[0] > 100
    assert "instead of" in notes[0]


def test_backward_passes_come_in_turn(again: list[str]) -> None:
    """A graph keeps the activations of one pack: a backward pass after another's forward pass is refused."""
    model = make_model(make_config("llama")).train()
    with REPLAYED.installed(model):
        model(pack=_pack(0)).backward()
        model.zero_grad(set_to_none=True)
        first = model(pack=_pack(0))
        model(pack=_pack(1))
        with pytest.raises(AssertionError, match="after another"):
            first.backward()


def test_a_whole_training_is_the_same(again: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Trainer, with evaluations in between and the best checkpoint at the end."""
    _, expected = rank_jobs.run_training(tmp_path / "plain")
    monkeypatch.setattr(rank_jobs, "choose_engine", lambda *_: REPLAYED)
    _, found = rank_jobs.run_training(tmp_path / "replayed")
    assert again.count("recorded") >= 2
    assert again.count("replayed") > again.count("recorded")
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert found["evaluations"] == pytest.approx(expected["evaluations"], rel=1e-4)
    assert found["best_step"] == expected["best_step"]


def _trained(model: Any, engine: Engine, inner: Any = None) -> tuple[list[float], Tensor]:
    """Five steps by AdamW: losses, and the weights at the end."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    losses = []
    with engine.installed(inner or model, pytest.fail):
        for step in range(5):
            for number in range(2):
                loss = model(pack=_pack(10 * step + number), weight=0.01)
                loss.backward()
                losses.append(float(loss.detach()))
                del loss
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses, torch.cat([weight.detach().float().flatten() for weight in model.parameters()])


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["gemma3", "llama", "qwen3"])
def test_graphs_on_a_gpu(kind: str, compiled: bool) -> None:
    """Real graphs, of layers as written and compiled: trained weights as without, and none of it is left out."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("a GPU older than capability 8.0")
    plain, model = (make_model(make_config(kind)).to("cuda").train() for _ in range(2))
    expected, wanted = _trained(plain, Engine(packed=True, linear_cross_entropy=True, compute_dtype=BF16))
    losses, weights = _trained(
        model, Engine(packed=True, linear_cross_entropy=True, compiled=compiled, cuda_graphs=True, compute_dtype=BF16)
    )
    assert losses == pytest.approx(expected, rel=2e-2)
    assert torch.nn.functional.cosine_similarity(weights, wanted, dim=0) > 0.9999
    engine = choose_engine(model, [np.arange(3, 19, dtype=np.int32)] * 2, compute_dtype=BF16)
    assert engine.cuda_graphs


@pytest.mark.gpu
def test_an_adapter_is_replayed_on_a_gpu() -> None:
    """LoRA with trained rows of the embedding, which are put into the frozen table at each pass."""
    found = []
    for recorded in (False, True):
        model = make_model(make_config("gemma3"))
        torch.manual_seed(0)
        adapted: Any = add_adapter(model, Adapter(kind="lora", rank=4), (300, 301)).to("cuda").train()
        engine = Engine(packed=True, linear_cross_entropy=True, cuda_graphs=recorded, compute_dtype=BF16)
        found.append(_trained(adapted, engine, model))
    (expected, wanted), (losses, weights) = found
    assert losses == pytest.approx(expected, rel=2e-2)
    assert torch.nn.functional.cosine_similarity(weights, wanted, dim=0) > 0.9999


def test_rows_of_zeros_say_nothing_of_an_embedding() -> None:
    """The first rows are of padding and control tokens: a factor of 0 would leave the embedding untrained."""
    embedding = make_model(make_config("llama")).get_input_embeddings()
    assert cuda_graphs._scale_of(embedding) == pytest.approx(1.0)
    with torch.no_grad():
        embedding.weight[:4] = 0.0
    assert cuda_graphs._scale_of(embedding) is None
