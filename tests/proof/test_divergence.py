"""KL of two heads over their whole vocabulary, tile by tile."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from seodang.model.engine import linear_cross_entropy
from seodang.model.engine.linear_cross_entropy import target_losses
from seodang.proof.divergence import Comparison, Head, HiddenStates
from tiny import make_config, make_model


def _head(vocabulary: int, *, seed: int, softcap: float | None = None, bias: bool = False) -> Head:
    torch.manual_seed(seed)
    bias_V = torch.randn(vocabulary) if bias else None
    return Head(torch.randn(vocabulary, 16), bias_V, softcap, 1.0 if softcap is None else 0.5)


def _kl(base_SD: torch.Tensor, base: Head, tuned_SD: torch.Tensor, tuned: Head) -> list[float]:
    """KL(base‖tuned) at each position, seen while the tuned head's losses are computed."""
    comparison = Comparison(base, base_SD)
    targets = torch.zeros(len(tuned_SD), dtype=torch.int64)
    scaling = (tuned.softcap, tuned.factor)
    target_losses(tuned_SD, tuned.weight_VD, tuned.bias_V, targets, *scaling, comparison)
    return comparison.kl_S.tolist()


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("vocabulary", "tiled"), [(50, True), (9000, True), (9000, False)])
def test_it_is_that_of_full_logits(
    vocabulary: int, tiled: bool, bias: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to torch's kl_div in float64, with a soft-cap, a scale and a bias; in tiles, and whole as on a GPU."""
    monkeypatch.setattr(linear_cross_entropy, "_is_tiled", lambda device, compiled: tiled)
    base, tuned = (_head(vocabulary, seed=seed, softcap=softcap, bias=bias) for seed in (1, 2))
    hidden = [torch.randn(7, 16) * 2 for _ in range(2)]
    found = _kl(hidden[0], base, hidden[1], tuned)
    logs = []
    for one, head in zip(hidden, (base, tuned), strict=True):
        raw = one.double() @ head.weight_VD.double().T + (0 if head.bias_V is None else head.bias_V.double())
        logits = raw * head.factor
        logs.append((logits if softcap is None else softcap * torch.tanh(logits / softcap)).log_softmax(-1))
    expected = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none").sum(-1)
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_model_is_at_no_distance_from_itself() -> None:
    """Equal hidden states and heads give exactly 0, whatever is computed."""
    head, hidden = _head(9000, seed=1), torch.randn(2000, 16)
    assert not any(_kl(hidden, head, hidden.clone(), head))
    assert _kl(hidden[:0], head, hidden[:0], head) == []


def _two(dtype: torch.dtype) -> list[PreTrainedModel]:
    return [make_model(make_config("llama", 512, tie_word_embeddings=False), seed=seed).to(dtype) for seed in (0, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_is_kept_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    """Written and mapped again, the base's head has the same bits, in 16 bits too; the folder goes with the proof."""
    base, tuned = _two(dtype)
    hidden = HiddenStates(folder=tmp_path / "hidden")
    hidden.folder.mkdir()
    assert not hidden.has_head(stays=False)
    hidden.keep_head(base)
    assert hidden.has_head(stays=False)
    kept = hidden.head(Head.of(tuned))
    assert kept
    assert torch.equal(kept.weight_VD, base.get_output_embeddings().weight)
    assert kept.weight_VD.dtype == dtype
    hidden.remove()
    assert not hidden.folder.exists()


@pytest.mark.parametrize("stays", [True, False])
def test_a_head_that_is_the_tuned_models_own_is_not_read(stays: bool, tmp_path: Path) -> None:
    """One copy serves both in memory; on disk there is none where it was known before that training leaves it."""
    base, tuned = _two(torch.float32)
    hidden = HiddenStates(folder=tmp_path)
    hidden.keep_head(base, stays=stays)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".npy"] == [] if stays else ["head.npy"]
    assert hidden.has_head(stays=True)
    assert hidden.has_head(stays=False) is not stays
    kept = hidden.head(own := Head.of(base))
    assert kept
    assert kept.weight_VD.data_ptr() == own.weight_VD.data_ptr()
    assert (hidden.head(Head.of(tuned)) is None) is stays


def test_hidden_states_take_space_as_they_are_written(tmp_path: Path) -> None:
    """On a full disk writing fails with an error; a file that is mapped at its full size would end the process."""
    states = HiddenStates(folder=tmp_path)
    writer = states.writer("medical", 1000)
    kept = {row: torch.randn(row + 1, 8) for row in (3, 1)}
    for row, hidden_ND in kept.items():
        writer.put(row, hidden_ND)
    (file,) = tmp_path.rglob("*.npy")
    assert file.stat().st_size < 1000
    assert not states.reader("medical").has([3])
    writer.close()
    reader = states.reader("medical")
    assert reader.has([1, 3])
    assert all(torch.equal(reader.get(row), hidden_ND) for row, hidden_ND in kept.items())
