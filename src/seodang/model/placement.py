"""Where a model runs and in which precision: what the hardware is fast at, said in sentences."""

import os

import psutil
import torch

from seodang import distributed, recipe
from seodang.errors import ResourceError
from seodang.types import Placement

_HALF, _BF16 = (7, 0), (8, 0)  # CUDA compute capabilities that multiply float16, bf16 fast (tensor cores)


def choose_placement(spec: recipe.Model, *, frozen: bool = False, stochastic_rounding: bool = False) -> Placement:
    """Choose device, precision and attention for a recipe's model.

    Args:
        frozen: its weights are not trained; an adapter is, in float32.
        stochastic_rounding: its weights are trained in bf16 by `adamw_bf16`, on a GPU that is fast at it.

    Raises:
        ResourceError: the device asked for is not there, or cannot compute in the precision asked for.
    """
    device, where = _device(spec.device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # torch records, waits and measures on the current one
    can_round = device.startswith("cuda") and _fast_bf16(device)[0] and spec.dtype in ("auto", "bfloat16")
    if rounds := stochastic_rounding and can_round and not frozen:
        dtype = compute = "bfloat16"
        why = "Precision: bfloat16 weights, their updates rounded stochastically (train.optimizer: adamw_bf16)."
    else:
        dtype, compute, why = _precision(spec.dtype, device, frozen=frozen)
    training, how_trained = _training_precision(spec.dtype, device)
    packed = spec.attention != "padded"
    how = "several rows go through the model end to end, isolated" if packed else "one row at a time, as asked"
    return Placement(
        device=device,
        dtype=dtype,
        compute_dtype=compute,
        attention="packed" if packed else "padded",
        training_dtype=training,
        rounds_stochastically=rounds,
        reasons=(where, why, *how_trained, f"Attention: {how}.", *_processes()),
    )


def _device(asked: str) -> tuple[str, str]:
    if asked == "auto":
        if torch.cuda.is_available():
            return _own_rank("cuda"), f"Device: {torch.cuda.get_device_name()}."
        hint = "; device: mps would use the Apple GPU" if torch.backends.mps.is_available() else ""
        return "cpu", f"Device: CPU, no CUDA device was found{hint}."
    kind, _, index = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (index == "" or (kind == "cuda" and index.isdigit())):
        raise ResourceError(
            f"unknown device {asked!r}", where="model.device", hint="use auto, cpu, cuda, cuda:0 or mps"
        )
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found <= int(index or 0):
            what = f"{asked} was asked for, and there are {found} CUDA devices"
            raise ResourceError(what, where="model.device", hint="use auto, or install torch for this machine's CUDA")
        return _own_rank(asked), f"Device: {torch.cuda.get_device_name(int(index or 0))}, as asked."
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("mps was asked for, and there is no Apple GPU", where="model.device", hint="use auto")
    return asked, f"Device: {asked}, as asked."


def _processes() -> tuple[str, ...]:
    several = f"Processes: {distributed.world()} share the rows of every step."
    return (several,) if distributed.world() > 1 else ()


def _own_rank(device: str) -> str:
    """Under torchrun each process takes the device of its rank."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank and device == "cuda" else device


def _precision(asked: str, device: str, *, frozen: bool) -> tuple[str, str, str]:
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
            raise ResourceError(what, where="model.dtype", hint="use dtype: auto")
        return asked, asked, "Precision: pure float16, as asked: fit to generate, not to train (it overflows)."
    if frozen and _fast_bf16(device)[0]:
        return asked, asked, "Precision: bfloat16 for the frozen weights, as asked; the adapter is trained in float32."
    loss = "updates smaller than 1/256 of a weight are lost, at usual learning rates nearly all"
    slow = "" if _fast_bf16(device)[0] else "; this hardware is not fast at it"
    return asked, asked, f"Precision: pure bfloat16, as asked: in training, {loss}{slow}."


def _training_precision(asked: str, device: str) -> tuple[str | None, tuple[str, ...]]:
    """(dtype of the products of passes that train, if it is another one; the reason)."""
    if asked != "auto" or not device.startswith("cuda"):
        return None, ()
    if not _HALF <= torch.cuda.get_device_capability(device) < _BF16:
        return None, ()
    what = "float16 products under a scaled loss where a trial on your rows agrees with float32"
    return "float16", (f"Training: {what}; losses and answers are measured in float32.",)


def _fast_bf16(device: str) -> tuple[bool, str]:
    if device.startswith("cuda"):
        found = torch.cuda.get_device_capability(device)
        known = "the GPU has compute capability {}.{}".format(*found)
        return found >= _BF16, known if found >= _BF16 else f"{known}, and bf16 needs {_BF16[0]}.{_BF16[1]}"
    if device == "mps":
        return False, "bf16 is not tried on Apple GPUs"
    if device == "cpu" and (unit := _bf16_unit()):
        return True, f"this CPU has {unit} for bf16"
    return False, "this CPU computes bf16 in software, up to 200 times slower"


def _bf16_unit() -> str | None:
    """What the CPU has for bf16 products; asked, not timed: a resumed run must choose as the first one did.

    On an AMD Zen 4 with AVX512-BF16, products measured 2.1 times as fast as in fp32; AMX is faster still.
    """
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def memory_gb() -> tuple[float, float | None]:
    """(main memory, memory of one GPU or None), in GB."""
    gpu = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None
    return psutil.virtual_memory().total / 1e9, gpu
