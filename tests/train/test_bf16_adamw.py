"""AdamW over bf16 weights: what is rounded stochastically arrives on average, and a resumed run is the unbroken one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from seodang.model.engine.engine import Engine
from seodang.recipe import Train
from seodang.run.events import Event, TrainEvent
from seodang.run.folder import Run
from seodang.train import bf16_adamw
from seodang.train.bf16_adamw import Bf16AdamW, noise, round_by
from seodang.train.setup import BF16_ADAMW, Setup
from seodang.train.trainer import train
from tiny import make_config, make_model
from tiny_rows import tiny_rows

BF16 = torch.bfloat16


def _bits(count: int, seed: int = 5) -> torch.Tensor:
    return noise(torch.arange(count, dtype=torch.int32), torch.tensor(seed, dtype=torch.int32))


def test_noise_is_even() -> None:
    """Both halves of the bits are uniform, independent of each other, of their neighbours and of another seed."""
    bits, others = _bits(2**18), _bits(2**18, 6)
    low, high, other = ((one & 0xFFFF).double() / 2**16 for one in (bits, bits >> 16, others))
    for half in (low, high):
        assert float(half.mean()) == pytest.approx(0.5, abs=5e-3)
        assert float(half.std()) == pytest.approx(12**-0.5, abs=5e-3)
    pairs = [(low, high), (low[1:], low[:-1]), (low, other)]
    assert all(abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) < 0.01 for pair in pairs)


@pytest.mark.parametrize("value", [1.0 + 1 / 1024, -1.0 - 1 / 1024, 3e-5, 0.1, -7e30])
def test_rounding_is_right_on_average(value: float) -> None:
    """To one of the two neighbours in bf16, and their mean is the value."""
    found = round_by(torch.full((2**18,), value), _bits(2**18)).float()
    assert len(found.unique()) == 2
    assert float(found.double().mean()) == pytest.approx(value, rel=1e-4)


def test_what_bf16_holds_stays() -> None:
    """0 and values of 8 bits are not changed."""
    held = torch.tensor([0.0, 1.0, -2.5, 0.15625]).repeat(2**10)
    assert torch.equal(round_by(held, _bits(len(held))).float(), held)


def test_small_updates_arrive() -> None:
    """Steps of a 250th of a weight's last bit add up as in float32, and the mean of squares falls as it does there."""
    torch.manual_seed(0)
    start = (torch.randn(64, 500) * 0.1).to(BF16)
    ends, squares = [], []
    for dtype in (BF16, torch.float32):
        weight = torch.nn.Parameter(start.to(dtype, copy=True))
        optimizer: Any = (
            Bf16AdamW([weight], lr=1e-6) if dtype == BF16 else torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0)
        )
        for step in range(300):
            weight.grad = torch.full_like(weight, 1e-2 if step < 100 else 1e-4)
            optimizer.step()
        ends.append(float((weight.detach().float() - start.float()).mean()))
        squares.append(optimizer.state[weight]["exp_avg_sq"].float())
    assert ends[0] == pytest.approx(ends[1], rel=0.05)
    assert float(squares[0].mean()) == pytest.approx(float(squares[1].mean()), rel=0.01)
    nearest = torch.nn.Parameter(start.clone())
    plain = torch.optim.AdamW([nearest], lr=1e-6, weight_decay=0.0)
    for _ in range(10):
        nearest.grad = torch.full_like(nearest, 1e-2)
        plain.step()
    assert float((nearest != start).float().mean()) < 0.1  # what this is for


def test_weight_decay_and_betas_are_those_of_adamw() -> None:
    """One step from equal weights, at a rate that bf16 resolves, is AdamW's within bf16's rounding."""
    torch.manual_seed(0)
    start, gradient = torch.randn(1000).to(BF16), torch.randn(1000).to(BF16)
    ends = []
    for dtype in (BF16, torch.float32):
        weight = torch.nn.Parameter(start.to(dtype, copy=True))
        kind: Any = Bf16AdamW if dtype == BF16 else torch.optim.AdamW
        optimizer = kind([weight], lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
        for _ in range(3):
            weight.grad = gradient.to(dtype)
            optimizer.step()
        ends.append(weight.detach().float())
    torch.testing.assert_close(ends[0], ends[1], rtol=2e-2, atol=2e-2)


def test_large_weights_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not compiled makes float32 copies of a part at a time, and rounds as if it were one."""
    ends = []
    for chunk in (2**24, 7):
        monkeypatch.setattr(bf16_adamw, "CHUNK", chunk)
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 50).to(BF16).view(5, 10))
        optimizer = Bf16AdamW([weight], lr=1e-3)
        for _ in range(5):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)


def test_weights_that_stay_in_float32_are_not_rounded() -> None:
    """Some models keep a few: they are updated as by AdamW. Other dtypes are refused."""
    torch.manual_seed(0)
    start, gradient, ends = torch.randn(40), torch.randn(40), []
    for kind in (Bf16AdamW, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        optimizer: Any = kind([weight], lr=1e-3, weight_decay=0.1)
        for _ in range(3):
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="float16"):
        Bf16AdamW([torch.nn.Parameter(torch.ones(3, dtype=torch.float16))], lr=1e-3)


def test_what_is_not_a_number_stays_so() -> None:
    """Also the NaN of a GPU, whose bits would carry into the sign, and infinity: a broken run must be noticed."""
    broken = torch.tensor([0x7FFFFFFF, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32).view(torch.float32)
    found = round_by(broken.repeat(2**8), _bits(2**10)).float().view(-1, 4)
    assert found[:, :2].isnan().all()
    assert torch.equal(found[:, 2:], broken[2:].expand(2**8, 2))


def test_a_transposed_weight_is_updated_in_place() -> None:
    """A weight and a gradient that do not lie in one piece."""
    ends = []
    for order in (lambda tensor: tensor, lambda tensor: tensor.T.contiguous().T):
        weight = torch.nn.Parameter(order(torch.linspace(-1, 1, 12).view(3, 4)))
        optimizer = Bf16AdamW([weight], lr=1e-3)
        weight.grad = order(torch.linspace(1, -1, 12).view(3, 4))
        optimizer.step()
        ends.append(weight.detach().contiguous())
    assert torch.equal(*ends)


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Through Trainer: losses fall, states are bf16, and a run resumed after 6 of 10 steps ends in the same weights."""
    settings = Train(examples_per_step=4, learning_rate=1e-3, steps=10, keep_checkpoints=9, save_every="3")

    def run(name: str, resume: int | None = None) -> tuple[Any, list[float]]:
        model, folder = make_model(make_config("llama")).to(BF16), Run(folder=tmp_path / name)
        losses: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, TrainEvent):
                losses.append(event.loss)

        setup = Setup(
            engine=Engine(packed=True, linear_cross_entropy=True), pack_tokens=64, optimizer=BF16_ADAMW,
            checkpoints=folder.checkpoints, resume_command="", total_steps=10, eval_every=3,
            resume_from=folder.checkpoints / f"checkpoint-{resume}" if resume else None,
        )  # fmt: skip
        train(model, tiny_rows(20, 0), settings, setup, measure=dict, chosen_loss=None, on_event=note)
        return model, losses

    unbroken, losses = run("run")
    assert losses[-1] < losses[0] - 0.5
    resumed, rest = run("run", resume=6)
    assert rest == losses[6:]
    assert all(torch.equal(one, other) for one, other in zip(unbroken.parameters(), resumed.parameters(), strict=True))
    assert {weight.dtype for weight in resumed.parameters()} == {BF16}
