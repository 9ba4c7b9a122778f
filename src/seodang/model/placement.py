"""Where a model runs and in which precision: measured, not guessed, and said in sentences."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from seodang import recipe
from seodang.errors import ResourceError

_FAST = 1.5  # how many times faster bf16 has to be than fp32: below that its rounding buys nothing
_SIZES = (128, 384)  # of the products; small first, because a CPU without bf16 takes up to 200 times as long


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Device, precision and attention of a model."""

    device: str  # cpu, cuda, cuda:1, mps
    dtype: str  # of the weights
    compute_dtype: str  # of the products, by autocast; the same as `dtype` if there is none
    attention: Literal["packed", "padded"]
    reasons: tuple[str, ...]  # for people, one sentence a choice


def choose_placement(spec: recipe.Model) -> Placement:
    """Choose device, precision and attention for a recipe's model.

    Raises:
        ResourceError: the device asked for is not there, or cannot compute in the precision asked for.
    """
    device, where = _device(spec.device)
    dtype, compute, why = _precision(spec.dtype, device)
    packed = spec.attention != "padded"
    how = "several rows go through the model end to end, isolated" if packed else "one row at a time, as asked"
    return Placement(
        device=device,
        dtype=dtype,
        compute_dtype=compute,
        attention="packed" if packed else "padded",
        reasons=(where, why, f"Attention: {how}."),
    )


def _device(asked: str) -> tuple[str, str]:
    if asked == "auto":
        if torch.cuda.is_available():
            return _own_rank("cuda"), f"Device: {torch.cuda.get_device_name()}."
        hint = "; device: mps would use the Apple GPU" if torch.backends.mps.is_available() else ""
        return "cpu", f"Device: CPU, no CUDA device was found{hint}."
    kind, _, index = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (index == "" or (kind == "cuda" and index.isdigit())):
        raise ResourceError(f"{asked!r} is no device", where="model.device", mend="use auto, cpu, cuda, cuda:0 or mps")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found <= int(index or 0):
            what = f"{asked} was asked for, and there are {found} CUDA devices"
            raise ResourceError(what, where="model.device", mend="use auto, or install torch for this machine's CUDA")
        return _own_rank(asked), f"Device: {torch.cuda.get_device_name(int(index or 0))}, as asked."
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("mps was asked for, and there is no Apple GPU", where="model.device", mend="use auto")
    return asked, f"Device: {asked}, as asked."


def _own_rank(device: str) -> str:
    """Under torchrun each process takes the device of its rank."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank and device == "cuda" else device


def _precision(asked: str, device: str) -> tuple[str, str, str]:
    """(dtype of the weights, of the products, the reason)."""
    if asked == "auto":
        fast, why = _fast_bf16(device)
        compute = "bfloat16" if fast else "float32"
        return "float32", compute, f"Precision: float32 weights, {compute} products; {why}."
    if asked == "float32":
        return asked, asked, "Precision: float32, as asked."
    if asked == "float16":
        if device == "cpu":
            what = "float16 on a CPU is hundreds of times slower than float32"
            raise ResourceError(what, where="model.dtype", mend="use dtype: auto")
        return asked, asked, "Precision: pure float16, as asked: fit to generate, not to train (it overflows)."
    loss = "updates smaller than 1/256 of a weight are lost, at usual learning rates nearly all"
    slow = "" if _fast_bf16(device)[0] else "; this hardware is not fast at it"
    return asked, asked, f"Precision: pure bfloat16, as asked: in training, {loss}{slow}."


def _fast_bf16(device: str) -> tuple[bool, str]:
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        known = f"the GPU has compute capability {major}.{minor}"
        return major >= 8, f"{known}, and bf16 needs 8.0; float16 would overflow" if major < 8 else known
    if device == "mps":
        return False, "bf16 is not tried on Apple GPUs"
    ratio = _cpu_speed_up()
    return ratio >= _FAST, f"bf16 products measured {ratio:.1f} times as fast as fp32 here"


def _cpu_speed_up() -> float:
    """Time of an fp32 product over that of a bf16 one, on one thread, so that other processes disturb little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratio = 0.0
        for size in _SIZES:
            ratio = _product_seconds(size, torch.float32) / _product_seconds(size, torch.bfloat16)
            if ratio < 0.5:
                break
        return ratio
    finally:
        torch.set_num_threads(threads)


def _product_seconds(size: int, dtype: torch.dtype) -> float:
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    return _best_of(9, lambda: left @ right)


def _best_of(times: int, run: Callable[[], object]) -> float:
    run()  # the first call compiles
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found)
