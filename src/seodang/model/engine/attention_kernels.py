"""Kernels that attend over a whole packed row in one launch, on CUDA: which one fits a layer, and how it is called.

Legend: H heads, K key/value heads, T positions of the row, N sequences, D head size.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

Kernel = Literal["varlen", "flash"]  # torch's own, and the package flash_attn


class Hardware(NamedTuple):
    """What a choice of kernels depends on besides the layer."""

    device: str  # cpu, cuda, mps
    capability: tuple[int, int]  # of the GPU; (0, 0) if there is none
    installed: tuple[Kernel, ...]


def choose_kernel(
    hardware: Hardware,
    *,
    dtype: torch.dtype,
    head_size: int,
    value_size: int,
    softcap: float | None = None,
    sinks: bool = False,
    dropout: float = 0.0,
) -> Kernel | None:
    """The kernel for a layer; none: sequence by sequence.

    Both are flash attention 2: 16 bits, capability 8.0, heads of a multiple of 8 up to 256. Torch's takes neither
    soft-caps nor dropout, the package's either, but not both.

    Args:
        dtype: of the products.
        head_size: of queries and keys; value_size: of values.
    """
    wide = head_size == value_size and head_size % 8 == 0 and head_size <= 256
    sixteen = dtype in (torch.bfloat16, torch.float16)
    if hardware.device != "cuda" or hardware.capability < (8, 0) or not (wide and sixteen) or sinks:
        return None
    if not softcap and not dropout and "varlen" in hardware.installed:
        return "varlen"
    return "flash" if "flash" in hardware.installed and not (softcap and dropout) else None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # asked while a layer is compiled, not in it
def hardware_of(device: torch.device) -> Hardware:
    """The device, asked once."""
    return _hardware(device)


@lru_cache
def _hardware(device: torch.device) -> Hardware:
    if device.type != "cuda":
        return Hardware(device.type, (0, 0), ())
    found: list[Kernel] = ["varlen"] if torch.backends.cuda.is_flash_attention_available() else []
    if _flash_attn() is not None:
        found.append("flash")
    return Hardware("cuda", torch.cuda.get_device_capability(device), tuple(found))


def product_dtype(query: Tensor) -> torch.dtype:
    """Of the layer's products: norms and rotations between them leave float32 under autocast."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def run_kernel(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention of each sequence to itself.

    Args:
        query: [1, H, T, D]; key, value: [1, K, T, D]; all in one 16-bit dtype.
        cu_seqlens: int32 [N + 1], where sequences begin, on the same device.
        longest: positions of the longest sequence.
        window: a position sees itself and the `window` − 1 before it.

    Returns:
        [1, T, H, D].
    """
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    # how many positions before and after its own one sees; -1: all
    seen = (window - 1 if window and window < longest else -1, 0)
    ends = (cu_seqlens, cu_seqlens, longest, longest)
    if kernel == "varlen":
        out: Any = varlen_attn(q, k, v, *ends, scale=scale, window_size=seen, enable_gqa=q.shape[1] != k.shape[1])
    else:
        out = _flash_attn()(
            q,
            k,
            v,
            *ends,
            dropout_p=dropout,
            softmax_scale=scale,
            causal=True,
            window_size=seen,
            softcap=softcap or 0.0,
        )
    attended: Tensor = out.unsqueeze(0)
    return attended


@lru_cache
def _flash_attn() -> Any:
    """The package's function, if it is installed and was built for this torch."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func
