"""The loss of a pack against the model's own."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from seodang.data.pack import pack
from seodang.model.engine.engine import Engine
from seodang.model.engine.loss import logits_loss, on_device
from tiny import make_config, make_model


def _mixture(*, router_loss: bool) -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "router_aux_loss_coef": 0.5}
    config = {**make_config("qwen3").to_dict(), **experts, "model_type": "qwen3_moe"}
    return make_model(AutoConfig.for_model(**config, output_router_logits=router_loss))


@pytest.mark.parametrize("router_loss", [False, True])
def test_a_router_loss_is_trained_as_the_model_defines_it(router_loss: bool) -> None:
    """Where the configuration asks for it, a step's loss holds the router's, as transformers' does; measuring never."""
    model = _mixture(router_loss=router_loss)
    row = np.arange(20, 60, dtype=np.int32)
    (single,) = pack([row], [row], budget=0)
    ids = torch.from_numpy(row.astype(np.int64)).unsqueeze(0)
    with torch.no_grad(), Engine(packed=False, linear_cross_entropy=True).installed(model):
        measured = model(pack=single) / 39
        model.train()
        trained = model(pack=single) / 39
        targets = torch.cat([ids[:, 1:], torch.full((1, 1), -100)], dim=1)[:, :-1]
        theirs = model(input_ids=ids[:, :-1], shift_labels=targets, labels=targets, use_cache=False)
    assert (theirs.aux_loss is not None) == router_loss
    torch.testing.assert_close(trained, theirs.loss)
    torch.testing.assert_close(measured, theirs.loss - 0.5 * theirs.aux_loss if router_loss else theirs.loss)


def test_a_model_that_keeps_all_logits_has_the_same_loss() -> None:
    """Some architectures know no `logits_to_keep` (ProphetNet): the supervised positions are taken from all of them."""
    model = make_model(make_config("llama"))
    row = np.arange(20, 60, dtype=np.int32)
    (packed,) = pack([row], [np.where(row < 40, -100, row).astype(np.int32)], budget=0)
    tensors = on_device(packed, model.device)

    def ignoring(*, logits_to_keep: torch.Tensor, **inputs: object) -> object:
        return model(**inputs)

    with torch.no_grad():
        torch.testing.assert_close(logits_loss(model, tensors, ignoring), logits_loss(model, tensors, model.forward))
