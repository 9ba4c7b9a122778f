"""seeds: the spread between runs, and a verdict that all of them bear out."""

from dataclasses import replace
from pathlib import Path

import pytest

from planted_rows import noisy_rows, text_rows
from run_folder import RECIPE
from seodang.errors import GateError, RunError
from seodang.json_values import from_json, to_json
from seodang.pipeline import hold_gate, prove_seeds
from seodang.proof.proof import Compared, Proof, prove_rows
from seodang.proof.seeds import SeedsProof, compare_seeds
from seodang.recipe import load_recipe
from seodang.run.folder import PROOF, Run
from seodang.run.start import create

COMPARED = Compared(name="run", base="base", tuned="tuned")


def proved(change: float, *, text: float = 0.02, seed: int = 0, rows: int = 40) -> Proof:
    """The proof of one run; rows have the same lengths whatever the change."""
    found = [*noisy_rows(rows, change=change, noise=0.1, seed=seed), *text_rows(40, change=text)]
    return prove_rows(found, [], COMPARED, roles={"medical": "domain", "wiki": "retention"}, trained=["medical"])


def test_the_spread_stands_beside_the_interval_within_rows() -> None:
    """Mean and standard deviation of three runs; the verdict is what all show, and it is read back as written."""
    proofs = {Path(f"s{n}"): proved(change) for n, change in enumerate((-1.0, -1.2, -1.4))}
    found = compare_seeds(proofs)
    values = [proof.sources["medical"].change.value for proof in proofs.values()]
    medical = found.sources["medical"]
    assert medical.change.values == tuple(values)
    assert medical.change.mean == pytest.approx(sum(values) / 3)
    assert medical.change.sd
    assert medical.change.interval
    assert medical.change.interval.low < min(values) < max(values) < medical.change.interval.high
    assert (found.domain, found.general, found.retention) == ("improved", "not measured", "kept")
    assert from_json(SeedsProof, to_json(found), where="x") == found


def test_one_run_that_differs_leaves_it_not_shown() -> None:
    """A gain or loss that one seed does not show is not shown."""
    found = compare_seeds({Path("a"): proved(-1.0, text=1.0), Path("b"): proved(2.0)})
    assert (found.domain, found.retention) == ("not shown", "not shown")
    assert found.sources["medical"].outcomes == ("improved", "worse")


@pytest.mark.parametrize("what", ["base", "rows"])
def test_other_runs_are_refused(what: str) -> None:
    """Runs with another base, or measured on other rows, have no spread in common."""
    other = proved(-1.0, rows=30) if what == "rows" else replace(proved(-1.0), compared=replace(COMPARED, base="else"))
    with pytest.raises(RunError, match=r"b: was measured .*\n  → give runs of one recipe"):
        compare_seeds({Path("a"): proved(-1.0), Path("b"): other})


def test_runs_of_other_recipes_are_no_seeds(tmp_path: Path) -> None:
    """Another learning rate is named; other seeds and questions are those of one recipe."""
    recipe = load_recipe(RECIPE)
    runs = []
    for name, changes in (
        ("a", {"seed": 1}),
        ("b", {"seed": 2, "pack_tokens": 512}),
        ("c", {"learning_rate": 0.5}),
    ):
        runs.append(run := Run(folder=tmp_path / name))
        create(run, recipe.model_copy(update={"train": recipe.train.model_copy(update=changes), "name": name}))
        run.write_json(PROOF, to_json(proved(-1.0)))
    prove_seeds([run.folder for run in runs[:2]])
    with pytest.raises(
        RunError, match=r"c: was made with other settings than .*a: train\.learning_rate\n  → give runs"
    ):
        prove_seeds([run.folder for run in runs])


def test_a_gate_has_to_hold_for_every_run(tmp_path: Path) -> None:
    """What one of the runs lost does not pass because another seed kept it: more seeds make no gate wider."""
    runs = []
    for name, text in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        runs.append(run := Run(folder=tmp_path / name))
        run.folder.mkdir()
        run.write_json(PROOF, to_json(proved(-1.0, text=text)))
    found = prove_seeds([run.folder for run in runs])
    assert (found.domain, found.retention) == ("improved", "not shown")
    with pytest.raises(GateError, match=r"^the gate: b: retention lost beyond its tolerance\n"):
        hold_gate(found)
    hold_gate(prove_seeds([runs[0].folder, runs[2].folder]))
