"""What a proof takes, before it is begun."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from seodang import pipeline
from seodang.data.prepare import Prepared
from seodang.run.base_measurement import BaseMeasurement, KnownBase, measurement_settings
from seodang.stages import preflight, proof_cost
from seodang.stages.measure import EvaluationSet, make_evaluation_set
from seodang.stages.preflight import Base
from seodang.types import ProofCost
from tiny_recipe import tiny_recipe


@pytest.fixture
def inputs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Base, Prepared, EvaluationSet]:
    """A tiny model and its held-out rows, on a machine of one GFLOP/s."""
    monkeypatch.setattr(proof_cost, "_matrix_rate", lambda dtype, device: 1e9)
    recipe = tiny_recipe(tmp_path, tiny_folder)
    placement = preflight.place(recipe.model, recipe.train, will_train=False)
    found = pipeline.prepare(recipe, placement)
    return found.base, found.prepared, make_evaluation_set(recipe, found, 256)


def test_body_and_head_are_counted(inputs: tuple[Base, Prepared, EvaluationSet], tiny_model: PreTrainedModel) -> None:
    """Two FLOPs a weight: the body for every token, a tied head for scored ones, thrice where models are compared."""
    base, prepared, held_out = inputs
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


def test_what_is_known_of_the_base_takes_no_time(inputs: tuple[Base, Prepared, EvaluationSet]) -> None:
    """Measured before: the tuned model's share remains, with the reading that the base's hidden states may need."""
    base, _, held_out = inputs
    whole = proof_cost.proof_cost(held_out, base)
    assert whole.seconds is not None
    now = measurement_settings(base.placement, (), four_bit=False, weights="w", rows="r")
    before = BaseMeasurement(settings=now, rows={}, answers=())

    def left(**changes: object) -> ProofCost:
        known = KnownBase(settings=replace(now, **changes), measured=before, has_states=True)  # type: ignore[arg-type]
        return proof_cost.proof_cost(held_out, base, known)

    alone = left()
    assert (alone.of_base, alone.answers, alone.tokens) == ("nothing", whole.answers, whole.tokens)
    assert alone.seconds == pytest.approx(whole.reading_seconds + whole.writing_seconds)  # type: ignore[operator]
    answers = left(questions_sha256="others")
    assert answers.of_base == "answers"
    assert answers.seconds == pytest.approx(alone.seconds + whole.writing_seconds)  # type: ignore[operator]
    assert left(rows="others") == whole
    unread = proof_cost.proof_cost(held_out, base, KnownBase(settings=now, measured=before))
    assert unread.seconds is not None
    assert alone.seconds is not None
    assert alone.seconds < unread.seconds <= whole.seconds
