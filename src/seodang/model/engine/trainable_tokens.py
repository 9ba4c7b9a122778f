"""Embedding rows that an adapter trains beside a frozen rest (peft's trainable tokens), without copies of the rest.

peft makes a whole new table at each use, and a whole gradient of it: in the embedding and in the head, for two rows of
262,144. Here the frozen table itself holds the trained rows while packs run, and their gradients are gathered from the
positions and logits that they are part of.

Legend: R trained rows, V vocabulary, D hidden size, S positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class TrainableTokens:
    """The trained rows of one embedding or head.

    Args:
        adapter: peft's TrainableTokensLayer.
    """

    def __init__(self, adapter: Any) -> None:
        (name,) = adapter.active_adapters
        self.layer: Any = adapter.get_base_layer()
        self.table_VD: Tensor = self.layer.weight  # frozen
        self.rows_RD: nn.Parameter = adapter.trainable_tokens_delta[name]  # what is trained: values, not differences
        self.ids: tuple[int, ...] = tuple(adapter.token_indices[name])
        self.index_R = torch.tensor(self.ids, device=self.table_VD.device)

    def put(self) -> None:
        """Write the rows into the table as they are now."""
        self.write(self.rows_RD.detach().to(self.table_VD.dtype))

    def read(self) -> Tensor:
        """What the table holds in their place, [R, D]."""
        return self.table_VD.detach()[self.index_R]

    def write(self, rows_RD: Tensor) -> None:
        self.table_VD.detach().index_copy_(0, self.index_R, rows_RD)

    def inside(self, tile: slice) -> tuple[Tensor | slice, Tensor] | None:
        """(which of the rows are in a tile of the vocabulary, where in it); none, if no row is."""
        if (tile.start, tile.stop) == (0, len(self.table_VD)):
            return slice(None), self.index_R
        numbers = [number for number, token in enumerate(self.ids) if tile.start <= token < tile.stop]
        device = self.table_VD.device
        places = [self.ids[number] - tile.start for number in numbers]
        return (torch.tensor(numbers, device=device), torch.tensor(places, device=device)) if numbers else None

    def look_up(self, input_ids: Tensor) -> Tensor:
        """The embedding of ids, with the rows as they are now."""
        self.put()
        found: Tensor = self.layer(input_ids)
        scale = getattr(self.layer, "embed_scale", 1.0)  # Gemma's, applied within
        with_gradient: Callable[..., Tensor] = _LookedUp.apply
        return with_gradient(found, self.rows_RD, input_ids, self.index_R, scale)


class _LookedUp(torch.autograd.Function):
    """Embeddings as they are, and the trained rows' gradient: the sum over the positions that hold their ids."""

    @staticmethod
    def forward(
        ctx: Any, found: Tensor, rows_RD: Tensor, input_ids: Tensor, index_R: Tensor, scale: Tensor | float
    ) -> Tensor:
        ctx.save_for_backward(input_ids, index_R)
        ctx.scale, ctx.dtype = scale, rows_RD.dtype
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_ids, index_R = ctx.saved_tensors
        grad_SD = grads[0].flatten(0, -2).float()
        is_row_RS = (index_R.unsqueeze(1) == input_ids.flatten()).float()
        return None, (is_row_RS @ grad_SD * ctx.scale).to(ctx.dtype), None, None, None


def base_layer(layer: Any) -> Any:
    """An embedding or head without what an adapter put around it."""
    adapter = getattr(layer, "token_adapter", None)
    return layer if adapter is None else adapter.get_base_layer()


def merge_tokens(model: nn.Module) -> None:
    """Write trained rows into their tables for good, in place; peft's own way takes four more tables at a time."""
    for module in model.modules():
        adapter: Any = getattr(module, "token_adapter", None)
        if adapter is not None and not adapter.merged:
            TrainableTokens(adapter).put()
            adapter.merged_adapters.extend(adapter.active_adapters)


@contextmanager
def trainable_tokens_in_place(model: PreTrainedModel) -> Iterator[TrainableTokens | None]:
    """Inside, trained rows are looked up in the frozen tables; the tables are given back as they were.

    Yields:
        The head's rows, for `linear_cross_entropy_loss`; none, where it has none.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {layer: found for layer in (embedding, head) if layer is not None and (found := _rows_of(layer))}
    tables = [(found, found.read()) for found in rows.values()]
    forwards = {layer: vars(layer).get("forward") for layer in rows}  # training has put some, around an evaluation
    if embedding in rows:
        embedding.forward = rows[embedding].look_up
    if head in rows:
        head.forward = _head_forward(head, rows[head])
    try:
        yield rows.get(head)
    finally:
        for layer, forward in forwards.items():
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
        for found, values in tables:
            found.write(values)


def _rows_of(layer: Any) -> TrainableTokens | None:
    adapter = getattr(layer, "token_adapter", None)
    return None if adapter is None or adapter.disable_adapters else TrainableTokens(adapter)


def _head_forward(head: Any, rows: TrainableTokens) -> Callable[[Tensor], Tensor]:
    merging: Callable[[Tensor], Tensor] = head.forward

    def forward(hidden: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return merging(hidden)
        rows.put()
        logits: Tensor = rows.layer(hidden)
        return logits

    return forward
