"""What each held-out row costs both models: equal to plain transformers, exactly 0 of a base against itself."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from held_out import measure_both, prepared, qa, renderer, source
from seodang.json_values import from_json, to_json
from seodang.model.engine.engine import choose_engine
from seodang.proof.contrast import Contrast
from seodang.proof.divergence import HiddenStates
from seodang.proof.measured_rows import MeasuredRow, read_rows, write_rows
from seodang.proof.row_losses import (
    HeldOutSource,
    SampleSizes,
    held_out_source,
    keep_hidden_states,
    measure_source,
    metric_of,
)
from seodang.run.folder import Run
from tiny import make_config, make_model

TWO = tuple(make_model(make_config("gemma3", 512), seed=seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOutSource:
    return source(tmp_path_factory.mktemp("rows"), qa(24))


@pytest.fixture(scope="module")
def rows(held_out: HeldOutSource, tmp_path_factory: pytest.TempPathFactory) -> list[MeasuredRow]:
    return measure_both(held_out, *TWO, tmp_path_factory.mktemp("run"))[1]


def _plain(model: PreTrainedModel, ids: np.ndarray, first: int) -> list[float]:
    """−log p of the ids from `first` on, by transformers alone."""
    with torch.no_grad():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0].double().log_softmax(-1)
    return [-float(logits[at - 1, ids[at]]) for at in range(first, len(ids))]


def test_losses_of_rows_are_those_of_plain_transformers(held_out: HeldOutSource, rows: list[MeasuredRow]) -> None:
    """Content and turn end of each row, base and tuned, to 1e-4 of one model call for the row alone."""
    for number, row in enumerate(rows):
        line = held_out.dataset[number]
        ids, labels = np.array(line["input_ids"]), np.array(line["labels"])
        (scored,) = np.nonzero(labels >= 0)
        for model, loss in zip(TWO, (row.base, row.tuned), strict=True):
            expected = _plain(model, ids[: scored[-1] + 1], int(scored[0]))
            assert loss.content == pytest.approx(sum(expected[:-1]), abs=1e-4 * len(expected))
            assert loss.ending == pytest.approx(expected[-1], abs=1e-4)
        assert (row.content_tokens, row.end_tokens) == (len(scored) - 1, 1)
        assert row.num_bytes == len(line["messages"][-1]["content"].encode())


def test_real_rows_and_texts_cost_what_transformers_says(tmp_path: Path) -> None:
    """The sample's own rows and texts, in float32: each scored token to 1e-4, the sums of both halves of a loss."""
    own, model = renderer(), TWO[0]
    engine = choose_engine(model, [np.arange(20, 60, dtype=np.int32)])
    for name in ("ko_medical", "ko_general", "ko_text"):
        lines = files("seodang.samples").joinpath(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:8]
        (folder := tmp_path / name).mkdir()
        dataset = prepared(folder, [json.loads(line) for line in lines], own)
        held_out = held_out_source(name, dataset, own, sizes=SampleSizes(), max_tokens=512, seed=1)
        found, _ = measure_source(model, engine, held_out, pack_tokens=1024, choose_form=True)
        assert len(found) == len(dataset) >= 6
        for row, measured, planned in zip(dataset, found, held_out.rows, strict=True):
            ids, labels = np.array(row["input_ids"]), np.array(row["labels"])
            (scored,) = np.nonzero(labels >= 0)
            expected = _plain(model, ids[: scored[-1] + 1], int(scored[0]))
            assert len(expected) == planned.content_tokens + planned.end_tokens
            total = measured.loss.content + measured.loss.ending
            assert total == pytest.approx(sum(expected), abs=1e-4 * len(expected))
            assert (measured.loss.ending > 0) == (name != "ko_text")


def test_answers_behind_foreign_prompts_are_those_of_plain_transformers(
    held_out: HeldOutSource, rows: list[MeasuredRow]
) -> None:
    """The same answer ids behind the prompts of three other rows, in the form that was chosen for the base."""

    def content(model: PreTrainedModel, prompt: np.ndarray, contrast: Contrast) -> float:
        return sum(_plain(model, np.concatenate([prompt, contrast.asked.answer]), len(prompt))[:-1])

    assert len(held_out.contrasts.rows) == len(rows) == 24
    forms = set()
    for contrast in held_out.contrasts.rows[:6]:
        found = rows[contrast.asked.number].contrast
        assert found
        forms.add(found.form)
        foreign = contrast.plain if found.form == "plain" else contrast.template
        expected = [content(TWO[0], prompt, contrast) for prompt in foreign]
        assert found.base.foreign == pytest.approx(expected, rel=1e-4)
        assert found.tuned.foreign == pytest.approx(
            [content(TWO[1], prompt, contrast) for prompt in contrast.template], rel=1e-4
        )
        assert found.base_plain == pytest.approx(content(TWO[0], contrast.asked.plain, contrast), rel=1e-4)
        assert found.base_template == pytest.approx(content(TWO[0], contrast.asked.prompt, contrast), rel=1e-4)
        assert found.tuned.own == pytest.approx(content(TWO[1], contrast.asked.prompt, contrast), rel=1e-4)
        assert found.tuned.own + found.tuned_ending == pytest.approx(
            rows[contrast.asked.number].tuned.content + rows[contrast.asked.number].tuned.ending, rel=1e-6
        )
    assert len(forms) == 1
    measured = [row.contrast for row in rows if row.contrast]
    plain_is_likelier = sum((one.base_plain or 0.0) - one.base_template for one in measured) < 0
    assert forms == {"plain" if plain_is_likelier else "template"}


def test_the_divergence_is_that_of_full_logits(held_out: HeldOutSource, rows: list[MeasuredRow]) -> None:
    """Σ KL(base‖tuned) over a row's scored tokens, as torch computes it of both models' logits."""
    for number, row in enumerate(rows[:6]):
        line = held_out.dataset[number]
        (scored,) = np.nonzero(np.array(line["labels"]) >= 0)
        with torch.no_grad():
            base, tuned = (
                model(torch.tensor([line["input_ids"]])).logits[0, scored - 1].double().log_softmax(-1) for model in TWO
            )
        expected = torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="sum")
        assert row.kl == pytest.approx(float(expected), rel=1e-5)
        assert row.kl_tokens == row.content_tokens + row.end_tokens


def test_a_base_against_itself_changes_nothing(held_out: HeldOutSource, tmp_path: Path) -> None:
    """Loaded twice, every loss is the same number, and the divergence exactly 0."""
    again = make_model(make_config("gemma3", 512), seed=0)
    _, rows = measure_both(held_out, TWO[0], again, tmp_path)
    for row in rows:
        assert row.base == row.tuned
        assert row.kl == 0.0
        assert row.contrast
        assert row.contrast.base_template == row.contrast.tuned.own
        assert row.contrast.form == "plain" or row.contrast.base == row.contrast.tuned


def test_rows_are_written_and_read_as_they_are(rows: list[MeasuredRow], tmp_path: Path) -> None:
    """rows.jsonl holds one row a line, and gives the same values again."""
    write_rows(Run(folder=tmp_path), rows)
    assert read_rows(Run(folder=tmp_path)) == rows
    assert from_json(MeasuredRow, to_json(rows[0]), where="row") == rows[0]


def test_hidden_states_can_be_written_later(held_out: HeldOutSource, tmp_path: Path) -> None:
    """Where the losses are known, the hidden states alone are written, those of the drawn rows."""
    few = replace(held_out, kl_rows=held_out.kl_rows[3:5])
    hidden = HiddenStates(folder=tmp_path)
    engine = choose_engine(TWO[0], [np.arange(20, 60, dtype=np.int32)])
    writer = hidden.writer("medical", few.kl_tokens)
    keep_hidden_states(TWO[0], engine, few, writer, pack_tokens=256)
    assert not hidden.reader("medical").has(few.kl_rows)
    writer.close()
    assert hidden.reader("medical").has(few.kl_rows)
    assert not hidden.reader("medical").has(held_out.kl_rows)
    row = few.kl_rows[0]
    assert len(hidden.reader("medical").get(row)) == held_out.rows[row].content_tokens + 1


def test_few_tokens_and_rows_are_drawn(tmp_path: Path) -> None:
    """The divergence takes as many tokens as it may, the contrast as many rows."""
    held_out = source(tmp_path, qa(40), sizes=SampleSizes(contrast_rows=20, kl_tokens=300))
    assert 200 < held_out.kl_tokens <= 300
    assert len(held_out.contrasts.rows) == 20
    assert set(held_out.contrasts.reasons.values()) == {"not drawn"}


def test_the_metrics_are_sums_of_rows(held_out: HeldOutSource, tmp_path: Path) -> None:
    """The loss of a source is the sum over its rows, in tokens and bytes that are counted once."""
    base, rows = measure_both(held_out, *TWO, tmp_path)
    metric = metric_of(held_out, base, choosing=True)
    assert metric.loss_sum == pytest.approx(sum(row.base.content + row.base.ending for row in rows))
    assert metric.tokens == sum(row.content_tokens + row.end_tokens for row in rows)
    assert metric.num_bytes == sum(row.num_bytes for row in rows)
