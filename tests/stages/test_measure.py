"""What the base measured is not measured again: by a resumed run, or by another under the same settings."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from held_out import qa, renderer, source
from seodang.model.engine.engine import Engine, choose_engine
from seodang.proof.questions import Question
from seodang.recipe import Generate, Source
from seodang.run.folder import Run
from seodang.stages import measure
from seodang.stages.measure import (
    EvaluationSet,
    Measured,
    has_context,
    known_base,
    known_without_weights,
    measure_base,
    measure_tuned,
    rows_of,
)  # fmt: skip
from seodang.stages.proof_cost import base_bytes
from seodang.types import Counts, Placement
from seodang.user_paths import cache_folder
from tiny import make_config, make_model

CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())
BASE, OTHER = (make_model(make_config("gemma3", 512), seed=seed) for seed in (0, 1))
ENGINE = choose_engine(BASE, [np.arange(20, 60, dtype=np.int32)])


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    return EvaluationSet(
        sources=[source(tmp_path_factory.mktemp("rows"), qa(20))],
        questions=[],
        renderer=renderer(),
        pack_tokens=256,
        chosen_loss=None,
        has_trained_template=False,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """An empty run's folder, and an empty cache."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    return Run(folder=tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are measured, in the order in which they are."""
    found: list[str] = []
    own = measure.measure_source

    def counted(model, engine, of, **keys):  # type: ignore[no-untyped-def]
        found.append(of.name)
        return own(model, engine, of, **keys)

    monkeypatch.setattr(measure, "measure_source", counted)
    return found


def _measure(run: Run, held_out: EvaluationSet, *, use_cache: bool = False) -> Measured:
    return _base(run, BASE, ENGINE, held_out, use_cache=use_cache)


def _base(
    run: Run,
    model: PreTrainedModel,
    engine: Engine,
    held_out: EvaluationSet,
    *,
    use_cache: bool = True,
    head_stays: bool = False,
) -> Measured:
    known = known_base(run, model, held_out, CPU, use_cache=use_cache)
    return measure_base(run, model, engine, held_out, known, use_cache=use_cache, head_stays=head_stays)


def test_a_resumed_proof_begins_where_it_was_interrupted(run: Run, held_out: EvaluationSet, calls: list[str]) -> None:
    """The base's losses are read from base.json; its hidden states are written again, the same, if they are gone."""
    before = _measure(run, held_out)
    again = _measure(run, held_out)
    assert calls == ["medical"]
    assert again.rows == before.rows
    measure.HiddenStates(folder=run.hidden_states).remove()
    _measure(run, held_out)
    assert calls == ["medical"]
    tuned = measure_tuned(run, make_model(make_config("gemma3", 512), seed=0), ENGINE, held_out)
    assert set(tuned.divergences["medical"].values()) == {0.0}
    assert len(tuned.divergences["medical"]) == 20
    assert [row.loss for row in tuned.rows["medical"]] == [row.loss for row in before.rows["medical"]]


HIDDEN_FILES = ("medical/0.json", "medical/0.npy", "head.npy", "head.json", "key.txt", "files.json")


@pytest.mark.parametrize("name", HIDDEN_FILES)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_damaged_hidden_states_are_written_again(run: Run, held_out: EvaluationSet, name: str, share: float) -> None:
    """A file of theirs that was cut short is no error and no other figure: the base is asked again."""
    _measure(run, held_out)
    file = run.hidden_states / name
    os.truncate(file, int(file.stat().st_size * share))
    _measure(run, held_out)
    tuned = measure_tuned(run, make_model(make_config("gemma3", 512), seed=0), ENGINE, held_out)
    assert list(tuned.divergences["medical"].values()) == [0.0] * 20


@pytest.mark.parametrize("name", HIDDEN_FILES)
def test_a_flipped_byte_of_hidden_states_is_noticed(run: Run, held_out: EvaluationSet, name: str) -> None:
    """Where every size is right and one byte is not, the base is asked again too, and the file is as it was."""
    _measure(run, held_out)
    file = run.hidden_states / name
    before = file.read_bytes()
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 0x81
    file.write_bytes(damaged)
    _measure(run, held_out)
    assert file.read_bytes() == before


def test_hidden_states_of_another_base_are_not_taken(run: Run, held_out: EvaluationSet) -> None:
    """A proof against another base was interrupted here: what it left is not compared with."""
    _base(run, OTHER, ENGINE, held_out)
    shutil.copytree(run.hidden_states, run.folder / "left")
    _measure(run, held_out, use_cache=True)
    shutil.rmtree(run.hidden_states)
    shutil.copytree(run.folder / "left", run.hidden_states)
    _measure(run, held_out, use_cache=True)
    tuned = measure_tuned(run, make_model(make_config("gemma3", 512), seed=0), ENGINE, held_out)
    assert set(tuned.divergences["medical"].values()) == {0.0}


def test_a_base_is_measured_once_for_all_runs(
    run: Run, held_out: EvaluationSet, calls: list[str], tmp_path: Path
) -> None:
    """Another run takes the same numbers from the user's cache, unless it is switched off or the entry is damaged."""
    first = _measure(run, held_out, use_cache=True)
    others = [Run(folder=tmp_path / str(number)) for number in range(3)]
    for other in others:
        other.folder.mkdir()
    calls.clear()
    second = _measure(others[0], held_out, use_cache=True)
    assert calls == []
    assert second.rows == first.rows
    assert others[0].read_json("base.json") == run.read_json("base.json")
    _measure(others[1], held_out, use_cache=False)
    assert calls == ["medical"]
    for entry in (cache_folder() / "measured").glob("*.json"):
        entry.write_text(entry.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    _measure(others[2], held_out, use_cache=True)
    assert calls == ["medical", "medical"]


def test_an_entry_that_goes_meanwhile_is_no_fault(
    run: Run, held_out: EvaluationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process may make room in the user's cache at the same time: what was measured is kept all the same."""
    folder = cache_folder() / "measured"
    folder.mkdir(parents=True)
    (folder / "gone.json").symlink_to("nowhere")
    _measure(run, held_out, use_cache=True)
    shown = capsys.readouterr()
    assert "not kept" not in shown.out + shown.err


def test_other_weights_or_rows_are_measured_again(
    run: Run, held_out: EvaluationSet, calls: list[str], tmp_path: Path
) -> None:
    """One weight that differs by a rounding, another question, or another template is another measurement."""
    _measure(run, held_out, use_cache=True)
    model = make_model(make_config("gemma3", 512), seed=0)
    model.get_parameter("model.norm.weight").data[-1] += 1e-6
    _base(run, model, ENGINE, held_out)
    assert calls == ["medical"] * 2
    (folder := tmp_path / "rows").mkdir()
    _measure(run, replace(held_out, sources=[source(folder, qa(20, seed=1))]), use_cache=True)
    _measure(run, replace(held_out, has_trained_template=True), use_cache=True)
    assert calls == ["medical"] * 4


def test_what_is_known_of_a_base_needs_no_weights(run: Run, held_out: EvaluationSet, tmp_path: Path) -> None:
    """By the weights that base.json names: all of it, its losses alone where other questions are asked, or nothing."""
    assert known_without_weights(run, held_out, CPU) is None
    _measure(run, held_out)
    found = known_without_weights(run, held_out, CPU)
    assert found == known_base(run, BASE, held_out, CPU)
    assert found.has_answers
    assert found.has_states
    asked = Question(kind="general", text="왜요?", prompt="왜요?", settings=Generate())
    other = known_without_weights(run, replace(held_out, questions=[asked]), CPU)
    assert other
    assert (other.has_losses, other.has_answers) == (True, False)
    (folder := tmp_path / "rows").mkdir()
    rows = known_without_weights(run, replace(held_out, sources=[source(folder, qa(20, seed=1))]), CPU)
    assert rows
    assert not rows.has_losses
    (run.folder / "base.json").write_text("{", encoding="utf-8")
    assert known_without_weights(run, held_out, CPU) is None


def test_answers_are_known_under_their_own_kind_alone(run: Run, held_out: EvaluationSet) -> None:
    """A question that moved from one list to another is asked again: the base's answer would stand in the old group."""
    asked = Question(kind="general", text="왜요?", prompt="왜요?", settings=Generate(max_new_tokens=2))
    before = _measure(run, replace(held_out, questions=[asked]))
    moved = replace(held_out, questions=[replace(asked, kind="domain")])
    after = _measure(run, moved)
    assert after.rows == before.rows
    assert [answer.kind for answer in after.answers] == ["domain"]


def test_a_base_with_a_trained_template_is_asked_in_it_alone(run: Run, held_out: EvaluationSet) -> None:
    """No plain form is tried, and base and tuned model stand behind the same prompts."""
    known = replace(held_out, has_trained_template=True)
    before = _measure(run, known)
    tuned = measure_tuned(run, make_model(make_config("gemma3", 512), seed=0), ENGINE, known)
    for row in rows_of(known, before, tuned):
        assert row.contrast
        assert (row.contrast.form, row.contrast.base_plain) == ("template", None)
        assert row.contrast.base == row.contrast.tuned


def test_a_head_that_training_leaves_is_not_kept(run: Run, held_out: EvaluationSet) -> None:
    """The divergence is the same without a copy of the base's head; where the head changed all the same, none."""
    tuned = make_model(make_config("gemma3", 512), seed=0)
    tuned.get_parameter("model.norm.weight").data += 0.5
    _base(run, BASE, ENGINE, held_out, use_cache=False)
    kept = measure_tuned(run, tuned, ENGINE, held_out)
    shutil.rmtree(run.hidden_states)
    _base(run, BASE, ENGINE, held_out, use_cache=False, head_stays=True)
    assert not list(run.hidden_states.glob("*.npy"))
    assert measure_tuned(run, tuned, ENGINE, held_out).divergences == kept.divergences
    assert min(kept.divergences["medical"].values()) > 0
    assert measure_tuned(run, OTHER, ENGINE, held_out).divergences == {"medical": {}}


@pytest.mark.parametrize("head_stays", [False, True])
def test_the_disk_is_asked_for_what_is_kept_of_the_base(run: Run, held_out: EvaluationSet, head_stays: bool) -> None:
    """Before training: its hidden states, which may be gigabytes, and its head where that changes."""
    _base(run, BASE, ENGINE, held_out, use_cache=False, head_stays=head_stays)
    written = sum(file.stat().st_size for file in run.hidden_states.rglob("*.npy"))
    needed = base_bytes(BASE, held_out, head_stays=head_stays)
    assert needed <= written <= needed + 2 * 128, "the files' headers aside"
    assert base_bytes(BASE, replace(held_out, sources=[]), head_stays=head_stays) == 0


@pytest.mark.parametrize("why", ["a custom output head", "heads of different sizes"])
def test_the_divergence_is_left_out_where_heads_cannot_be_compared(
    why: str, run: Run, held_out: EvaluationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses are measured all the same; a note says why there is no KL."""
    engine = replace(ENGINE, linear_cross_entropy="sizes" in why)
    before = _base(run, BASE, engine, held_out, use_cache=False)
    other = OTHER if "custom" in why else make_model(make_config("gemma3", 600), seed=1)
    rows = rows_of(held_out, before, measure_tuned(run, other, engine, held_out))
    assert {(row.kl, row.kl_tokens) for row in rows} == {(None, 0)}
    assert all(row.contrast for row in rows)
    shown = capsys.readouterr()
    assert why in shown.out + shown.err


def test_what_chooses_is_evaluated_in_training(tmp_path: Path) -> None:
    """From a hundred clusters on, training sees one half of the holdout, and the figures are from the other."""
    both = source(tmp_path, qa(300))
    assert 100 < len(both.choosing) < 200
    assert len(both.choosing) == sum(row.chooses for row in both.rows)
    assert all(both.rows[contrast.asked.number].proves for contrast in both.contrasts.rows)
    assert all(both.rows[asked.number].chooses for asked in both.contrasts.choosing)
    assert all(both.rows[number].proves for number in both.kl_rows)
    assert "chooses" in both.contrasts.reasons.values()


def test_a_column_of_passages_is_known_by_recipe_and_by_name() -> None:
    """A context column that the recipe names, or that conversion found by itself."""
    plain = Source(name="s", role="domain", path=("d.jsonl",))

    def found(remark: str, given: Source = plain) -> bool:
        counts = Counts(stage="convert", source="s", rows_in=3, kept=3, remarks=(remark,))
        return has_context(given, [counts])

    assert found("read as qa (question: q, answer: a, context: passage)")
    assert not found("read as qa (question: context, answer: a); not used: b")
    assert found("read as qa (question: q, answer: a)", plain.model_copy(update={"context": "c"}))
