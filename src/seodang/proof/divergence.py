"""KL(base‖tuned) of each token, from the base's hidden states on disk and the tuned model's in memory.

Both heads are walked over the vocabulary together, a tile at a time, so that no model's probabilities are held.

Legend: N positions, D hidden size, V vocabulary, W tokens of one tile.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang import distributed
from seodang.model.engine.linear_cross_entropy import TILE
from seodang.model.engine.loss import head_scaling
from seodang.model.engine.trainable_tokens import base_layer
from seodang.run.folder import write_text

GPU_TILE = 32_768  # tokens of the vocabulary at a time, where a launch costs more than memory
MOST_POSITIONS = 1024  # at a time
HEAD, BIAS, INDEX = "head.npy", "bias.npy", "json"


class Head(NamedTuple):
    """An output head: logits = softcap · tanh(raw · factor / softcap); without a soft-cap, raw · factor."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    factor: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Head":
        layer: Any = base_layer(model.get_output_embeddings())
        return cls(layer.weight.detach(), getattr(layer, "bias", None), *head_scaling(model))

    def logits(self, hidden_ND: Tensor, tile: slice) -> Tensor:
        """[N, W] float32."""
        weight_WD = self.weight_VD[tile].to(hidden_ND.device, hidden_ND.dtype)
        raw = hidden_ND @ weight_WD.T
        if self.bias_V is not None:
            raw += self.bias_V[tile].to(raw.device, raw.dtype)
        logits = raw.float()
        if self.factor != 1.0:
            logits *= self.factor
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)


@torch.no_grad()
def kl_divergence(base_ND: Tensor, base: Head, tuned_ND: Tensor, tuned: Head) -> Tensor:
    """KL(base‖tuned) of the next token at each position, in nats: [N] float32.

    KL = Σ p(a − b) − log Σ exp a + log Σ exp b, with logits a of the base, whose probabilities are p, and b of the
    tuned model. Of equal hidden states and heads it is exactly 0.

    Args:
        base_ND, tuned_ND: hidden states in the dtype of the products, on one device.
    """
    parts = [
        _kl_of_few(base_ND[start : start + MOST_POSITIONS], base, tuned_ND[start : start + MOST_POSITIONS], tuned)
        for start in range(0, len(base_ND), MOST_POSITIONS)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def _kl_of_few(base_ND: Tensor, base: Head, tuned_ND: Tensor, tuned: Head) -> Tensor:
    size = TILE if base_ND.device.type == "cpu" else GPU_TILE
    base_sums, tuned_sums, differences = [], [], []  # of each tile: log Σ exp, the same, mean of a − b under p
    for start in range(0, len(base.weight_VD), size):
        tile = slice(start, start + size)
        a, b = base.logits(base_ND, tile), tuned.logits(tuned_ND, tile)
        top_a, top_b = a.amax(-1, keepdim=True), b.amax(-1, keepdim=True)
        difference = a - b
        shares = a.sub_(top_a).exp_()
        total = shares.sum(-1)
        differences.append((shares * difference).sum(-1) / total)
        base_sums.append(total.log_() + top_a.squeeze(-1))
        tuned_sums.append(b.sub_(top_b).exp_().sum(-1).log_() + top_b.squeeze(-1))
    sums = torch.stack(base_sums).double()
    normalizer = sums.logsumexp(0)
    mean = ((sums - normalizer).exp() * torch.stack(differences).double()).sum(0)
    return (mean - normalizer + torch.stack(tuned_sums).double().logsumexp(0)).float()


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """The base's hidden states at the scored positions of some rows, and its head, in files.

    Each rank writes what it has computed; all files are read.
    """

    folder: Path

    @property
    def has_head(self) -> bool:
        return (self.folder / HEAD).is_file()

    def keep_head(self, model: PreTrainedModel) -> None:
        """Write the base's head."""
        head = Head.of(model)
        if head.bias_V is not None:
            _save(self.folder / BIAS, head.bias_V)
        _save(self.folder / HEAD, head.weight_VD)

    def head(self, tuned: Head) -> Head:
        """The base's head, in the dtype of the tuned model's."""
        weight_VD = _as_tensor(np.load(self.folder / HEAD, mmap_mode="c"), tuned.weight_VD.dtype)
        bias_V = None
        if (self.folder / BIAS).is_file():
            bias_V = _as_tensor(np.load(self.folder / BIAS), tuned.weight_VD.dtype)
        return Head(weight_VD, bias_V, tuned.softcap, tuned.factor)

    def writer(self, source: str, num_tokens: int) -> "HiddenWriter":
        """Takes hidden states of at most so many tokens of a source's rows."""
        return HiddenWriter(self._path(source), num_tokens)

    def reader(self, source: str) -> "HiddenReader":
        """What all ranks have written of a source."""
        files = {path: _index(path) for path in self.folder.glob(f"{source}-*.npy")}
        places = {row: (path, *place) for path, index in files.items() for row, place in index.items()}
        return HiddenReader(places)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, source: str) -> Path:
        return self.folder / f"{source}-{distributed.rank()}.npy"


class HiddenWriter:
    """One rank's hidden states of one source."""

    def __init__(self, path: Path, num_tokens: int) -> None:
        self._path, self._num_tokens = path, num_tokens
        self._array: NDArray[np.float32] | None = None
        self._places: dict[int, tuple[int, int]] = {}  # row → its first token in the file, and the one after its last
        path.with_suffix(f".{INDEX}").unlink(missing_ok=True)

    def put(self, row: int, hidden_ND: Tensor) -> None:
        if self._array is None:  # sparse: what no token is written to takes no space
            shape = (self._num_tokens, hidden_ND.shape[1])
            self._array = np.lib.format.open_memmap(self._path, mode="w+", dtype=np.float32, shape=shape)
        first = max((last for _, last in self._places.values()), default=0)
        self._array[first : first + len(hidden_ND)] = hidden_ND.float().cpu().numpy()
        self._places[row] = first, first + len(hidden_ND)

    def close(self) -> None:
        """Only what was closed is found by a reader."""
        if self._array is not None:
            write_text(self._path.with_suffix(f".{INDEX}"), json.dumps(self._places))


class HiddenReader:
    """Hidden states of one source."""

    def __init__(self, places: Mapping[int, tuple[Path, int, int]]) -> None:
        self._places = places
        self._arrays: dict[Path, NDArray[np.float32]] = {}

    def has(self, rows: Sequence[int]) -> bool:
        return all(row in self._places for row in rows)

    def get(self, row: int) -> Tensor:
        """[tokens, D] float32."""
        path, first, last = self._places[row]
        if path not in self._arrays:
            self._arrays[path] = np.load(path, mmap_mode="r")
        return torch.from_numpy(np.array(self._arrays[path][first:last]))


def _index(path: Path) -> dict[int, tuple[int, int]]:
    index = path.with_suffix(f".{INDEX}")
    places = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    return {int(row): (first, last) for row, (first, last) in places.items()}


def _save(path: Path, tensor: Tensor) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}")
    np.save(aside, _as_array(tensor))
    aside.replace(path)


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """NumPy knows no bfloat16: its bits."""
    tensor = tensor.detach().cpu()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _as_tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.int16 else tensor.to(dtype)
