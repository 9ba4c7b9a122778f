"""What a proof takes, before it is begun."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from seodang import pipeline
from seodang.stages import preflight, proof_cost
from seodang.stages.measure import make_evaluation_set
from tiny_recipe import tiny_recipe


def test_body_and_head_are_counted(
    tiny_folder: Path, tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two FLOPs a weight: the body for every token, a tied head for scored ones, thrice where models are compared."""
    monkeypatch.setattr(proof_cost, "_matrix_rate", lambda dtype, device: 1e9)
    recipe = tiny_recipe(tmp_path, tiny_folder)
    placement = preflight.place(recipe.model, recipe.train, will_train=False)
    base, renderer, prepared, _ = pipeline.prepare(recipe, placement)
    held_out = make_evaluation_set(recipe, prepared, renderer, 256)
    cost = proof_cost.proof_cost(held_out, base)
    head = tiny_model.get_output_embeddings().weight.numel()
    body = tiny_model.num_parameters() - head
    tokens = sum(prepared.holdouts["medical"]["num_tokens"])
    scored = sum(row.tokens for row in held_out.sources[0].rows)
    assert (cost.sequences, cost.tokens) == (4, tokens)
    assert (cost.answers, cost.answer_tokens) == (6, 6 + 6 + 2 * 6 + 2 * 4)
    reading = 2 * (2 * body * tokens + 3 * head * scored) / proof_cost.READING_SHARE["cpu"]
    writing = 2 * 2 * (body + head) * cost.answer_tokens / proof_cost.WRITING_SHARE["cpu"]
    assert cost.seconds == pytest.approx((reading + writing) / 1e9)
