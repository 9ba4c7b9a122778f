"""Rows of an embedding that an adapter trains: the same losses and gradients as peft's, without its copies."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine import linear_cross_entropy
from seodang.model.engine.engine import Engine
from seodang.model.engine.loss import linear_cross_entropy_loss, on_device
from seodang.model.generate.batch import generate
from seodang.recipe import Adapter, Generate
from seodang.train.adapter import add_adapter, merge
from seodang.train.throughput import step_flops
from seodang.types import Pack
from tiny import make_config, make_model

pytest.importorskip("peft")
NEW = (7, 512, 514)
KINDS = ["llama", "qwen3", "gemma2", "gemma3"]
ENGINE = Engine(packed=True, linear_cross_entropy=True)


def _adapted(kind: str, *, tied: bool = True, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Any]:
    """A tiny model, and the same as an adapter's, whose matrices and rows are not what they began as."""
    model = make_model(make_config(kind, 515, tie_word_embeddings=tied)).to(dtype)
    adapted = add_adapter(model, Adapter(rank=4), NEW)
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model, adapted


def _pack() -> Pack:
    """Two sequences in a row that hold the trained ids, some more than once, and one never."""
    rows = [np.array([5, 7, 31, 6, 512, 7, 40, 7], np.int32), np.array([512, 20, 9, 7, 33, 41], np.int32)]
    labels = [np.where(np.arange(len(row)) > 2, row, -100).astype(np.int32) for row in rows]
    (packed,) = pack(rows, labels, budget=64)
    return packed


def _gradients(adapted: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("own", "tile"), [(True, 4096), (True, 64), (False, 4096)])
def test_losses_and_gradients_are_those_of_pefts_tables(
    kind: str, tied: bool, own: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied or not, scaled, soft-capped, tile by tile or whole: the same loss, and gradient of every trained tensor."""
    monkeypatch.setattr(linear_cross_entropy, "TILE", tile)
    found = []
    for engine in (Engine(packed=True, linear_cross_entropy=own), None):
        model, adapted = _adapted(kind, tied=tied)
        if engine:
            with engine.installed(model):
                loss = adapted(pack=_pack())
                loss.backward()
        else:
            loss = sum(linear_cross_entropy_loss(model, on_device(alone, model.device)) for alone in _alone())
            loss.backward()
        found.append({"loss": loss.detach(), **_gradients(adapted)})
    assert any("trainable_tokens_delta" in name for name in found[0])
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[1].items():
        assert (found[0][name] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), name


def _alone() -> list[Pack]:
    """The same sequences, one a pack: isolation then needs no attention of ours."""
    packed = _pack()
    cuts = packed.cu_seqlens
    packs = []
    for begin, end in pairwise(cuts):
        ids, targets = packed.input_ids[begin:end], packed.targets[begin:end]
        row = np.append(ids, 1).astype(np.int32)
        packs += pack([row], [np.concatenate([[-100], targets]).astype(np.int32)], budget=0)
    return packs


@pytest.mark.parametrize("tied", [True, False])
def test_the_frozen_tables_are_given_back(tied: bool) -> None:
    """After the engine, even after an error, tables and layers are what they were; within, an evaluation may nest."""
    model, adapted = _adapted("gemma3", tied=tied)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}

    def work() -> None:
        with ENGINE.installed(model):
            first = adapted(pack=_pack()).item()
            with ENGINE.installed(model):
                assert adapted(pack=_pack()).item() == first
            assert adapted(pack=_pack()).item() == first
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_step_shows_in_the_next_pack() -> None:
    """What the optimizer does to the rows is what the next pack reads, within one installation."""
    model, adapted = _adapted("gemma3")
    with ENGINE.installed(model):
        adapted(pack=_pack()).backward()
        torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1e-3).step()
        second = adapted(pack=_pack()).item()
    with ENGINE.installed(model):
        assert adapted(pack=_pack()).item() == second


def test_answers_amid_training_are_the_merged_models(tiny_tokenizer: Any) -> None:
    """Generation under the engine reads trained rows, in the embedding and in the head."""
    model, adapted = _adapted("gemma3", tied=False)
    settings = Generate(max_new_tokens=12)
    prompts = [[5, 7, 31], [512, 20, 9, 514]]
    with ENGINE.installed(model):
        amid = generate(model, tiny_tokenizer, prompts, settings, turn_end_id=1)
    assert amid == generate(merge(adapted, Path()), tiny_tokenizer, prompts, settings, turn_end_id=1)


class _Tables(TorchDispatchMode):
    """Operations that make a tensor as large as the embedding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            is_new = isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known
            if is_new and leaf.numel() >= self.size:
                self.found.append(str(func))
        return out


def test_no_table_is_copied_and_none_gets_a_gradient() -> None:
    """Forward and backward make nothing as large as the embedding; peft's own way does, which shows the test's eyes."""
    model, adapted = _adapted("gemma3")
    size = 515 * model.config.get_text_config().hidden_size
    with ENGINE.installed(model), _Tables(size) as seen:
        adapted(pack=_pack()).backward()
    assert not seen.found
    with _Tables(size) as seen:
        linear_cross_entropy_loss(model, on_device(_alone()[0], model.device)).backward()
    assert seen.found


def test_a_frozen_table_counts_as_frozen_in_the_floor() -> None:
    """Two of six operations of the head fall away where its weights are not trained, rows or not."""
    with_rows = step_flops(_adapted("gemma3")[0], [_pack()])
    model = make_model(make_config("gemma3", 515))
    add_adapter(model, Adapter(rank=4))
    assert with_rows == pytest.approx(step_flops(model, [_pack()]), rel=5e-3)


def test_frozen_bfloat16_tables_get_float32_rows() -> None:
    """Rows stay float32 where they are trained, and are rounded where they are read."""
    model, adapted = _adapted("llama", dtype=torch.bfloat16)
    with ENGINE.installed(model):
        adapted(pack=_pack()).backward()
    gradients = _gradients(adapted)
    rows = next(tensor for name, tensor in gradients.items() if "trainable_tokens_delta" in name)
    assert rows.dtype == torch.float32
    assert rows.abs().sum() > 0


@pytest.mark.gpu
def test_on_a_gpu_too() -> None:
    """Where the vocabulary is taken whole: the same loss and gradients as on a CPU."""
    found = []
    for device in ("cpu", "cuda"):
        model, adapted = _adapted("gemma3")
        adapted.to(device)
        with ENGINE.installed(model):
            loss = adapted(pack=_pack())
            loss.backward()
        found.append({"loss": loss.detach(), **_gradients(adapted)})
    for name, tensor in found[0].items():
        assert (found[1][name].cpu() - tensor).abs().max() <= 1e-4 * tensor.abs().max(), name
