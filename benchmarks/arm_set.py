#!/usr/bin/env python3
"""The peer's arm with more of what it can be set to: arm_set.py WHAT[,WHAT] PEER.py [its arguments].

WHAT is a switch of its own configuration (use_liger_kernel, bf16), or varlen: torch's kernel for packed rows,
registered with transformers as its documentation shows, instead of a mask over the whole row.
"""

import runpy
import sys
from typing import Any

import torch
import trl
from transformers import AttentionInterface, AutoModelForCausalLM

from seodang.model.engine.attention_kernels import run_kernel

_bounds: tuple[Any, torch.Tensor, int] | None = None  # of the row at hand: asked for once, not in each layer


def bounds(position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(where sequences begin, int32; positions of the longest one) of a row whose positions begin anew with each."""
    global _bounds
    if _bounds is None or _bounds[0] is not position_ids:
        flat = position_ids.flatten()
        starts = (flat == 0).nonzero().flatten()
        ends = torch.cat([starts, starts.new_tensor([flat.numel()])]).to(torch.int32)
        _bounds = (position_ids, ends, int(ends.diff().max()))
    return _bounds[1:]


def varlen(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: Any, *,
    position_ids: torch.Tensor, scaling: float, sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention over a packed row in 16 bits; a row that is evaluated alone is a packed one too."""
    q, k, v = (states.to(torch.bfloat16) for states in (query, key, value))
    return run_kernel("varlen", q, k, v, *bounds(position_ids), scale=scaling, window=sliding_window), None


def main() -> None:
    _, wanted, *arguments = sys.argv
    switches = [what for what in wanted.split(",") if what != "varlen"]
    config_class, from_pretrained = trl.SFTConfig, AutoModelForCausalLM.from_pretrained

    def config(**settings: Any) -> Any:
        """The peer's own settings and the switches."""
        return config_class(**{**settings, **dict.fromkeys(switches, True)})

    def with_varlen(path: str, **settings: Any) -> Any:
        return from_pretrained(path, **{**settings, "attn_implementation": "peer_varlen"})

    trl.SFTConfig = config
    if "varlen" in wanted.split(","):
        AttentionInterface.register("peer_varlen", varlen)
        AutoModelForCausalLM.from_pretrained = with_varlen
    sys.argv = arguments
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
