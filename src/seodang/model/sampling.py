"""Drawing the next token from logits, each row from a random stream of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from seodang import recipe

NUCLEUS = 1024  # of the likeliest tokens nearly always hold top_p of the probability


class Draw(LogitsProcessor):
    """Temperature, then top_k, then top_p, then one token drawn: leaves only that one possible.

    Unlike transformers' sampling, a row's draws do not depend on its batch, and only what may be drawn is sorted: of
    262,144 logits a sort takes longer than a small model.
    """

    def __init__(self, settings: recipe.Generate, streams: Sequence[int]) -> None:
        self.temperature = settings.temperature or 1.0
        self.top_k, self.top_p = settings.top_k, settings.top_p
        self.random = [np.random.default_rng([settings.seed, stream]) for stream in streams]  # one a row

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [rows, vocabulary] → the same shape, 0 at the drawn token and −∞ elsewhere."""
        shares, tokens = self._shares(scores.float() / self.temperature)
        if self.top_p:
            before = shares.cumsum(-1) - shares  # the token that passes top_p is kept, as elsewhere
            shares = shares.masked_fill(before >= self.top_p, 0.0)
        summed = shares.cumsum(-1)
        # float32 stays below 1, so that the point stays below the sum
        points = torch.tensor([[stream.random(dtype=np.float32)] for stream in self.random], device=scores.device)
        chosen = torch.searchsorted(summed, points * summed[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.gather(1, chosen), 0.0)

    def _shares(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """(probabilities, token ids) that are drawn from, each [rows, kept]; the likeliest first where it matters."""
        vocabulary = scaled.shape[-1]
        if self.top_k:
            values, tokens = scaled.topk(min(self.top_k, vocabulary))
            return values.softmax(-1), tokens
        if self.top_p:
            values, tokens = scaled.topk(min(NUCLEUS, vocabulary))
            shares = (values - scaled.logsumexp(-1, keepdim=True)).exp()
            if bool((shares.sum(-1) < self.top_p).any()):  # a flat distribution: sort it whole
                values, tokens = scaled.sort(descending=True)
                shares = values.softmax(-1)
            return shares, tokens
        return scaled.softmax(-1), torch.arange(vocabulary, device=scaled.device).expand_as(scaled)
