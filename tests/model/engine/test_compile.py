"""Norms and the head's passes compiled: the same numbers, and what cannot be compiled is not used."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from seodang.data.pack import pack
from seodang.model.engine import attention_kernels, compile, linear_cross_entropy, linear_cross_entropy_gpu
from seodang.model.engine import engine as engine_module
from seodang.model.engine.attention_kernels import Hardware, Kernel
from seodang.model.engine.compile import compiled_layers
from seodang.model.engine.engine import Engine, choose_engine
from seodang.model.engine.linear_cross_entropy import LinearCrossEntropy
from seodang.model.engine.self_test import compile_error
from seodang.recipe import Train
from seodang.train.setup import is_worth_compiling
from seodang.types import Pack
from tiny import make_config, make_model
from varlen_op import varlen_attn

BF16 = torch.bfloat16
ROW = np.arange(3, 19, dtype=np.int32)


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Functions that would be compiled run as they are written: their numbers, without a compiler."""
    for module in (compile, linear_cross_entropy_gpu):
        monkeypatch.setattr(module, "compile_lazily", lambda function, **_: function)
    linear_cross_entropy_gpu.passes.cache_clear()
    yield
    linear_cross_entropy_gpu.passes.cache_clear()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [5, 64])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_whole_vocabulary_at_once_is_the_cross_entropy(
    softcap: float | None,
    factor: float,
    bias: bool,
    rows: int,
    compiled: bool,
    as_written: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss and all gradients are autograd's of the written out logits, in one chunk and in several."""
    torch.manual_seed(0)
    monkeypatch.setattr(linear_cross_entropy, "COMPILED_BYTES", 16 * 97 * 4)
    made = linear_cross_entropy_gpu.passes
    monkeypatch.setattr(linear_cross_entropy, "passes", lambda softcap, factor, _: made(softcap, factor, compiled))
    leaves = [torch.randn(rows, 8), torch.randn(97, 8), *([torch.randn(97)] if bias else [])]
    targets = torch.randint(97, (rows,))
    found = []
    for own in (False, True):
        hidden, weight, *rest = (leaf.clone().requires_grad_() for leaf in leaves)
        if own:
            given = rest[0] if rest else None
            loss = LinearCrossEntropy.apply(
                hidden, weight, given, targets, softcap, factor, True, None, None, None, True
            )
        else:
            logits = (hidden @ weight.T + (rest[0] if rest else 0)) * factor
            logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        (2 * loss).backward()
        found.append([loss, hidden.grad, weight.grad, *(leaf.grad for leaf in rest)])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_layers_are_compiled_where_they_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer and the last norm, each once; as written without gradients; afterwards each is its class's again."""
    made: list[str] = []
    ran: list[str] = []

    def noted(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        name = type(function.__self__).__name__  # type: ignore[attr-defined]
        made.append(name)

        def fast(*args: Any, **kwargs: Any) -> Any:
            ran.append(name)
            return function(*args, **kwargs)

        return fast

    monkeypatch.setattr(compile, "compile_lazily", noted)
    model = make_model(make_config("gemma3")).train()
    with compiled_layers(model), compiled_layers(model):  # around an evaluation during training
        assert made == ["Gemma3DecoderLayer", "Gemma3DecoderLayer", "Gemma3RMSNorm"]
        ids = torch.arange(3, 19).unsqueeze(0)
        model(ids)
        assert ran == made
        with torch.no_grad():
            model(ids)
        assert ran == made
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model(ids)
        assert ran == [*made, "Gemma3RMSNorm"]
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`choose_engine` of a model that says it is on CUDA, where compiling differs by an error."""

    def choose(error: float) -> Engine:
        monkeypatch.setattr(engine_module, "on_cuda", lambda _: True)
        monkeypatch.setattr(engine_module, "hardware_of", lambda _: Hardware("cpu", (0, 0), ()))
        monkeypatch.setattr(engine_module, "compile_error", lambda *_, **__: error)
        return choose_engine(make_model(make_config("llama")), [ROW, ROW])

    return choose


def test_what_agrees_is_compiled(on_a_gpu: Callable[..., Engine]) -> None:
    """On CUDA chains are compiled where they say the same; on a CPU they are not tried."""
    assert on_a_gpu(1e-3).compiled
    assert on_a_gpu(1e-3).remarks == ()


def test_a_cpu_compiles_nothing() -> None:
    """There the head has tiles, and norms are computed twice."""
    assert not choose_engine(make_model(make_config("llama")), [ROW, ROW]).compiled


@pytest.mark.parametrize(("error", "what"), [(float("inf"), "does not work"), (0.3, "differ"), (float("nan"), "")])
def test_what_differs_or_does_not_compile_is_reported(error: float, what: str, on_a_gpu: Callable[..., Engine]) -> None:
    """The run continues as written, with one sentence."""
    engine = on_a_gpu(error)
    assert not engine.compiled
    assert what in engine.remarks[0]


@pytest.mark.parametrize(
    ("changes", "compute", "recorded"),
    [({}, BF16, True), ({}, None, False), ({"kernels": False}, BF16, False), ({"packed": False}, BF16, False)],
)
def test_what_can_be_recorded_is_replayed(
    changes: dict[str, bool], compute: torch.dtype | None, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA, in 16 bits, by a kernel for the whole row: one sequence after another differs from pack to pack."""
    installed: tuple[Kernel, ...] = ("varlen",)
    error = 1.0 if changes.get("kernels") is False else 0.0
    monkeypatch.setattr(engine_module, "on_cuda", lambda _: True)
    monkeypatch.setattr(engine_module, "hardware_of", lambda _: Hardware("cuda", (9, 0), installed))
    monkeypatch.setattr(engine_module, "kernel_error", lambda *_: error)
    model, packed = make_model(make_config("llama")), changes.get("packed", True)
    engine = choose_engine(model, [ROW, ROW], packed=packed, compiled=False, compute_dtype=compute)
    assert (engine.cuda_graphs, engine.compiled) == (recorded, False)


def test_short_runs_are_not_compiled() -> None:
    """By the positions of the run: its steps, examples a step, and the rows' mean length."""
    lengths = np.array([100, 300])
    assert is_worth_compiling(Train(steps=1000, examples_per_step=16), lengths)
    assert not is_worth_compiling(Train(steps=900, examples_per_step=16), lengths)
    assert not is_worth_compiling(Train(epochs=3), lengths)
    assert is_worth_compiling(Train(epochs=3), np.full(5000, 200))


def test_an_error_of_the_compiler_is_no_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: compiled code is not used, and the model is as before."""

    def broken(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> None:
            raise OSError("no C compiler")

        return call

    monkeypatch.setattr(compile, "compile_lazily", broken)
    model = make_model(make_config("llama"))
    assert compile_error(model, [ROW, ROW], BF16) == float("inf")
    assert not any("forward" in vars(module) for module in model.modules())


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 1.2 * grads[0]


def test_a_compiled_backward_pass_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers whose values are right and whose gradients are not."""
    wrong: Callable[..., Tensor] = _Wrong.apply
    monkeypatch.setattr(
        compile, "compile_lazily", lambda layer, **_: lambda hidden, *_, **__: wrong(layer(hidden, *_, **__))
    )
    monkeypatch.setattr(linear_cross_entropy_gpu, "compile_lazily", lambda function, **_: function)
    linear_cross_entropy_gpu.passes.cache_clear()
    assert compile_error(make_model(make_config("llama")), [ROW, ROW], None) > engine_module.TOLERANCE[BF16]
    linear_cross_entropy_gpu.passes.cache_clear()


def test_layers_with_dropout_are_compared_without_it(as_written: None) -> None:
    """Compiled code draws other numbers: what differs by them alone is compiled all the same."""
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert config.resid_pdrop == 0.1
    assert compile_error(model, [ROW, ROW], None) < 1e-3
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}


def _pack(seed: int) -> Pack:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(3, 300, length).astype(np.int32) for length in draw.integers(2, 60, 4)]
    (packed,) = pack(rows, rows, budget=1000)
    return packed


def _trained(model: Any, *, compiled: bool) -> tuple[list[float], Tensor]:
    """(losses of three packs under bf16 autocast and of one without gradients, all gradients end to end)."""
    model.zero_grad(set_to_none=True)
    losses = []
    with Engine(packed=True, linear_cross_entropy=True, compiled=compiled, compute_dtype=BF16).installed(model):
        for seed in range(3):
            loss = model(pack=_pack(seed))
            loss.backward()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            losses.append(float(model(pack=_pack(3))))
    return losses, torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def _assert_same(model: Any) -> None:
    losses, gradients = _trained(model, compiled=True)
    expected, wanted = _trained(model, compiled=False)
    assert losses == pytest.approx(expected, rel=2e-3)
    assert torch.nn.functional.cosine_similarity(gradients, wanted, dim=0) > 0.999


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_training_is_training_as_written() -> None:
    """Losses and gradients of packs of other lengths, by torch's compiler for CPUs: the code that a GPU runs."""
    _assert_same(make_model(make_config("gemma2")).train())  # soft-caps: compiled up to attention and from it on


@pytest.fixture
def traced(as_written: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers are traced and cut into a forward and a backward pass as for a GPU, and no kernels are made of them.

    The head's passes run as written.
    """

    def lazily(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
        return torch.compile(function, dynamic=dynamic, backend="aot_eager_decomp_partition")

    monkeypatch.setattr(compile, "compile_lazily", lazily)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_layers_are_compiled_with_their_attention(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one kernel takes the row, a layer is one graph for rows of all lengths, and computes what is written."""
    monkeypatch.setattr(attention_kernels, "_hardware", lambda _: Hardware("cuda", (9, 0), ("varlen",)))
    monkeypatch.setattr(attention_kernels, "varlen_attn", varlen_attn)
    counted = torch._dynamo.utils.counters
    counted.clear()
    _assert_same(make_model(make_config("gemma3")).train())
    assert not counted["graph_break"]
    assert counted["stats"]["unique_graphs"] <= 6  # two kinds of layers, windows shorter or longer than rows, a norm


def test_copies_of_weights_have_fixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a compiled layer only numbers of positions and rows are open: kernels that know the other sizes are faster.

    What was compiled to be tried is what trains.
    """
    shapes: dict[str, tuple[Any, ...]] = {}
    made: list[Any] = []

    def noted(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        for node in graph.graph.find_nodes(op="placeholder"):
            shapes[node.name] = tuple(getattr(node.meta["example_value"], "shape", ()))
        return graph.forward

    monkeypatch.setattr(compile, "compile_lazily", partial(torch.compile, backend=noted, dynamic=True))
    monkeypatch.setattr(linear_cross_entropy_gpu, "compile_lazily", lambda function, **_: function)
    linear_cross_entropy_gpu.passes.cache_clear()
    model = make_model(make_config("llama")).train()
    assert compile_error(model, [ROW, ROW], BF16, copied=True) < engine_module.TOLERANCE[BF16]
    tried = len(made)
    engine = Engine(packed=True, linear_cross_entropy=True, compiled=True, cuda_graphs=True, compute_dtype=BF16)
    with engine.installed(model):
        model(pack=_pack(0)).backward()
    linear_cross_entropy_gpu.passes.cache_clear()
    assert len(made) == tried > 0
    copies = [shape for name, shape in shapes.items() if name.endswith("weight_copy")]
    assert len(copies) >= 4
    assert {type(size) for shape in copies for size in shape} == {int}


@pytest.mark.slow
def test_layers_that_recompute_keep_less(traced: None) -> None:
    """The same loss, with less memory between the forward and the backward pass."""
    model, kept, losses = make_model(make_config("llama", num_hidden_layers=1)).train(), [], []
    for recompute in (False, True):
        torch._dynamo.reset()
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        if recompute:  # compiles for training too
            assert compile_error(model, [ROW, ROW], None, recompute=True) < 1e-3
        engine = Engine(packed=True, linear_cross_entropy=True, compiled=True, recompute=recompute)
        with engine.installed(model), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(pack=_pack(0))
        kept.append(sum(sizes.values()))
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert kept[1] < 0.9 * kept[0]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "llama", "qwen3"])
def test_compiled_training_on_a_gpu(kind: str) -> None:
    """The same by Triton, and the engine chooses it."""
    model = make_model(make_config(kind)).to("cuda").train()
    _assert_same(model)
    assert compile_error(model, [ROW, ROW], BF16) < engine_module.TOLERANCE[BF16]
    assert choose_engine(model, [ROW, ROW], compute_dtype=BF16).compiled
