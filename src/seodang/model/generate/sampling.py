"""Drawing the next token from logits, each row from a random stream of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from seodang import recipe

TILE = 4096  # tokens of the vocabulary at a time
NUCLEUS = 1024  # of the likeliest tokens nearly always hold top_p of the probability


class Draw(LogitsProcessor):
    """Temperature, then top_k, then top_p, then one token drawn: its logit becomes infinite, so that argmax takes it.

    Unlike transformers' sampling, a row's draws do not depend on its batch, and only what may be drawn is sorted: of
    262,144 logits a sort takes longer than a small model.
    """

    def __init__(self, settings: recipe.Generate, streams: Sequence[int], *, drawn: int = 0) -> None:
        """Args:
        streams: the random stream of each row.
        drawn: tokens that were drawn from each before.
        """
        self.temperature = settings.temperature or 1.0
        self.top_k, self.top_p = settings.top_k, settings.top_p
        self.random = [np.random.default_rng([settings.seed, stream]) for stream in streams]  # one a row
        for stream in self.random:
            stream.random(drawn, dtype=np.float32)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [rows, vocabulary] → the same, changed in place: ∞ at each row's drawn token."""
        # float32 stays below 1, so that the point stays below the sum
        points = torch.tensor([[stream.random(dtype=np.float32)] for stream in self.random], device=scores.device)
        likeliest = self.top_k or (NUCLEUS if self.top_p else scores.shape[-1])
        return scores.scatter_(1, self._drawn(scores, points, likeliest), torch.inf)

    def _drawn(self, scores: Tensor, points: Tensor, likeliest: int) -> Tensor:
        """Token ids [rows, 1]: where `points` [rows, 1] fall in what may be drawn, from so many of the likeliest."""
        vocabulary = scores.shape[-1]
        if likeliest < vocabulary or self.top_p:
            values, tokens = scores.topk(min(likeliest, vocabulary))
        else:  # in any order
            values, tokens = scores, torch.arange(vocabulary, device=scores.device).expand_as(scores)
        shares = (values.float() / self.temperature - self._normalizer(values if self.top_k else scores)).exp()
        is_enough = shares.sum(-1) >= (self.top_p or 1.0)
        if self.top_p:
            before = shares.cumsum(-1) - shares  # the token that passes top_p is kept, as elsewhere
            shares = shares.masked_fill(before >= self.top_p, 0.0)
        summed = shares.cumsum(-1)
        drawn = tokens.gather(1, torch.searchsorted(summed, points * summed[:, -1:], right=True))
        if likeliest < vocabulary and not self.top_k and not bool(is_enough.all()):
            flat = ~is_enough
            drawn[flat] = self._drawn(scores[flat], points[flat], likeliest * 16)
        return drawn

    def _normalizer(self, scores: Tensor) -> Tensor:
        """log Σ exp(score / temperature), [rows, 1]; on a CPU in tiles that stay in its cache."""
        size = TILE if scores.device.type == "cpu" else scores.shape[-1]
        parts = [(tile.float() / self.temperature).logsumexp(-1) for tile in torch.split(scores, size, dim=-1)]
        return torch.stack(parts, dim=-1).logsumexp(-1, keepdim=True)
