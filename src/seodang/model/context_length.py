"""How long a text a model can take: the positions that its configuration names, and whether it has learnt each."""

import copy

import torch
from torch import nn
from transformers import PreTrainedConfig

from seodang.model.checkpoint import auto_class
from seodang.model.engine.layers.rope import rope_parameters
from seodang.model.quiet import quiet

_STRETCHED = ("linear", "dynamic", "yarn")  # by a factor that the configured positions do not include
_LEARNT = ("wpe", "pos")  # how the embeddings of positions are named


def max_positions(config: PreTrainedConfig) -> int | None:
    """Positions that a model is made for; none: as many as one likes, by its configuration."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    stretched = [limit]
    for kind, rope in rope_parameters(text.to_dict()):
        if kind in _STRETCHED and rope.get("factor"):
            original = rope.get("original_max_position_embeddings") if kind == "yarn" else None
            stretched.append(int((original or limit) * rope["factor"]))
    return max(stretched)


def positions_are_learnt(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> bool:
    """Whether each position has an embedding of its own, so that there is nothing beyond the last one."""
    limit = max_positions(config)
    with torch.device("meta"), quiet():
        model = auto_class(config).from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    return any(
        isinstance(module, nn.Embedding)
        and limit <= module.num_embeddings <= limit + 2  # some keep two more, for padding
        and any(part in name.rpartition(".")[2] for part in _LEARNT)
        for name, module in model.named_modules()
        if limit is not None
    )
