"""KL(base‖tuned) of each token, from the base's hidden states on disk and the tuned model's in memory.

The base's head is walked over the vocabulary beside the tuned model's, a tile at a time: no probabilities are held.

Legend: N positions, D hidden size, V vocabulary, W tokens of one tile.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seodang import distributed
from seodang.errors import SeodangError
from seodang.json_values import read_value, to_json
from seodang.model.engine.loss import head_scaling
from seodang.model.engine.trainable_tokens import base_layer
from seodang.run import sealed
from seodang.run.folder import write_text

KEY, HEAD, BIAS, HEAD_FACTS, INDEX = "key.txt", "head.npy", "bias.npy", "head.json", "json"
SEAL = "files.json"


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

    @property
    def digest(self) -> str:
        """Names its weights."""
        digest = xxhash.xxh3_128()
        for tensor in (self.weight_VD, self.bias_V):
            if tensor is not None:
                digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(_as_array(tensor.contiguous()).data)
        return digest.hexdigest()

    def put_logits(self, hidden_ND: Tensor, tile: slice, logits_NW: Tensor) -> None:
        """Write the logits of a tile, float32, computed as the engine's head computes them."""
        weight_WD = self.weight_VD[tile].to(hidden_ND.device, hidden_ND.dtype)
        is_whole = hidden_ND.dtype == logits_NW.dtype
        raw = torch.mm(hidden_ND, weight_WD.T, out=logits_NW) if is_whole else torch.mm(hidden_ND, weight_WD.T)
        if self.bias_V is not None:
            raw += self.bias_V[tile].to(raw.device, raw.dtype)
        logits = raw if is_whole else logits_NW.copy_(raw)
        if self.factor != 1.0:
            logits *= self.factor
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)


class Comparison:
    """KL(base‖tuned) at each position of a pack, filled in while the tuned model's logits are computed.

    KL = Σ p(a − b) − log Σ exp a + log Σ exp b, with logits a of the base, whose probabilities are p, and b of the
    tuned model. Of equal hidden states and heads it is exactly 0: both are treated alike.

    Args:
        base: its head.
        hidden_SD: what the base puts into it.
    """

    def __init__(self, base: Head, hidden_SD: Tensor) -> None:
        self._base, self._hidden_SD = base, hidden_SD
        self.kl_S = torch.zeros(len(hidden_SD), dtype=torch.float64)
        self._tiles: list[tuple[Tensor, Tensor, Tensor]] = []  # of one chunk: log Σ exp a, log Σ exp b, mean of a − b
        self._buffers: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, chunk: slice, tile: slice, hidden_ND: Tensor, logits_NW: Tensor) -> None:
        """See the tuned model's hidden states and logits, as `target_losses` shows them."""
        if tile.start == 0:
            self._tiles = []
        a, b, difference = (self._buffer(number, logits_NW) for number in range(3))
        self._base.put_logits(self._hidden_SD[chunk].to(hidden_ND.device, hidden_ND.dtype), tile, a)
        torch.sub(a, logits_NW, out=difference)
        base_sum = _put_exponentials(a)
        mean = (difference.mul_(a)).sum(-1) / a.sum(-1)
        tuned_sum = _put_exponentials(b.copy_(logits_NW))
        self._tiles.append((base_sum, tuned_sum, mean))
        if tile.stop == len(self._base.weight_VD):
            base_sums, tuned_sums, means = (torch.stack(parts).double() for parts in zip(*self._tiles, strict=True))
            normalizer = base_sums.logsumexp(0)
            mean = ((base_sums - normalizer).exp() * means).sum(0)
            self.kl_S[chunk] = (mean - normalizer + tuned_sums.logsumexp(0)).cpu()

    def _buffer(self, number: int, like: Tensor) -> Tensor:
        """Memory of its own that is used again, tile after tile: fresh memory is zeroed first."""
        if len(self._buffers) <= number or self._buffers[number].numel() < like.numel():
            self._buffers[number:] = [torch.empty_like(like).view(-1)]
        return self._buffers[number][: like.numel()].view(like.shape)


def _put_exponentials(logits_NW: Tensor) -> Tensor:
    """log Σ exp of each row [N]; the logits become their exponentials, the largest of a row 1."""
    top = logits_NW.amax(-1, keepdim=True)
    return logits_NW.sub_(top).exp_().sum(-1).log_() + top.squeeze(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _HeadFacts:
    """What is known of the base's head beside its weights."""

    digest: str
    softcap: float | None
    factor: float


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """The base's hidden states at the scored positions of some rows, and its head, in files.

    Each rank writes what it has computed; all files are read.
    """

    folder: Path

    def begin(self, key: str) -> None:
        """Make an empty folder.

        Args:
            key: names the model and the rows.
        """
        self.remove()
        self.folder.mkdir(parents=True)
        write_text(self.folder / KEY, key)

    def is_of(self, key: str) -> bool:
        """Whether the folder was made for this model and these rows."""
        path = self.folder / KEY
        return path.is_file() and path.read_bytes() == key.encode()

    def seal(self) -> None:
        """Write down sizes and hashes of all files, once every rank has written its own."""
        sealed.write_seal(self.folder / SEAL, sealed.files_below(self.folder))

    @property
    def is_intact(self) -> bool:
        """Whether all files are there as they were sealed: each is read whole."""
        return sealed.find_damage(self.folder, self.folder / SEAL) is None

    def has_head(self, *, stays: bool) -> bool:
        """Whether the base's head is there.

        Args:
            stays: the tuned model's head will be the base's own: to know it by is enough.
        """
        return self._head_facts() is not None and (stays or (self.folder / HEAD).is_file())

    def keep_head(self, model: PreTrainedModel, *, stays: bool = False) -> None:
        """Write the base's head; only what it is known by, where the tuned model's head will be the same."""
        head = Head.of(model)
        if not stays:
            if head.bias_V is not None:
                _save(self.folder / BIAS, head.bias_V)
            _save(self.folder / HEAD, head.weight_VD)
        facts = _HeadFacts(digest=head.digest, softcap=head.softcap, factor=head.factor)
        write_text(self.folder / HEAD_FACTS, json.dumps(to_json(facts)))

    def head(self, tuned: Head) -> Head | None:
        """The base's head, in the dtype of the tuned model's and on its device: that one itself, where it is the same.

        None: it was not kept, and the tuned model's is another.
        """
        facts = self._head_facts()
        if facts is None:
            return None
        weight_VD, bias_V = tuned.weight_VD, tuned.bias_V
        if facts.digest != tuned.digest:
            if not (self.folder / HEAD).is_file():
                return None
            dtype, device, bias = tuned.weight_VD.dtype, tuned.weight_VD.device, self.folder / BIAS
            # carried to a GPU once, not for each chunk of positions
            weight_VD = _as_tensor(np.load(self.folder / HEAD, mmap_mode="c"), dtype).to(device)
            bias_V = _as_tensor(np.load(bias), dtype).to(device) if bias.is_file() else None
        return Head(weight_VD, bias_V, facts.softcap, facts.factor)

    def _head_facts(self) -> "_HeadFacts | None":
        try:
            return read_value(_HeadFacts, self.folder / HEAD_FACTS)
        except (OSError, ValueError, SeodangError):  # not written yet, or cut short
            return None

    def writer(self, source: str, num_tokens: int) -> "HiddenWriter":
        """Takes hidden states of at most so many tokens of a source's rows."""
        return HiddenWriter(self._path(source), num_tokens)

    def reader(self, source: str) -> "HiddenReader":
        """What all ranks have written of a source."""
        files = {path: _index(path) for path in (self.folder / source).glob("*.npy")}
        places = {row: (path, *place) for path, index in files.items() for row, place in index.items()}
        return HiddenReader(places)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, source: str) -> Path:
        return self.folder / source / f"{distributed.rank()}.npy"


class HiddenWriter:
    """One rank's hidden states of one source: a file of numpy's, [tokens, D] float32, filled from its beginning.

    Written, not mapped: where the disk is full, a file that is mapped ends the process without an error (SIGBUS).
    """

    def __init__(self, path: Path, num_tokens: int) -> None:
        self._path, self._num_tokens = path, num_tokens
        self._file: BinaryIO | None = None
        self._num_bytes = 0  # of the whole file
        self._written = 0  # tokens
        self._places: dict[int, tuple[int, int]] = {}  # row → its first token in the file, and the one after its last
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(f".{INDEX}").unlink(missing_ok=True)

    def put(self, row: int, hidden_ND: Tensor) -> None:
        """Add a row's hidden states [tokens, D].

        Raises:
            OSError: the disk is full.
        """
        if self._file is None:
            self._file = self._path.open("wb")
            shape, dtype = (self._num_tokens, hidden_ND.shape[1]), np.dtype(np.float32)
            header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._num_bytes = self._file.tell() + math.prod(shape) * dtype.itemsize
        self._file.write(hidden_ND.float().cpu().numpy().tobytes())
        self._places[row] = self._written, self._written + len(hidden_ND)
        self._written += len(hidden_ND)

    def close(self) -> None:
        """Only what was closed is found by a reader. What other ranks write in files of their own takes no space here.

        Raises:
            OSError: the disk is full.
        """
        if self._file is not None:
            self._file.truncate(self._num_bytes)
            self._file.close()
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
    """What a file holds; nothing where it was not closed."""
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
