"""proof.json: what is written is read back as the same values."""

import json

import pytest

import run_folder
from seodang.errors import SeodangError
from seodang.proof.behaviour import Behaviour, behaviour
from seodang.proof.proof import behaviour_of, stability_of
from seodang.proof.stability import Stability, stability


def test_behaviour_and_stability_are_read_as_they_were_written() -> None:
    """Values → JSON text → the same values."""
    answers = list(run_folder.run_answers())
    proof = json.loads(json.dumps(run_folder.run_proof(), allow_nan=False))
    assert behaviour_of(proof) == behaviour(answers)
    assert stability_of(proof) == stability(answers, temperature=0.1)


@pytest.mark.parametrize("name", ["behaviour", "stability"])
def test_another_version_ends_in_one_message(name: str) -> None:
    """A part that another version of seodang wrote, or none, is refused with both versions named."""
    read = {"behaviour": behaviour_of, "stability": stability_of}[name]
    part = run_folder.run_proof()[name]
    with pytest.raises(SeodangError, match=rf"proof.json, {name}: schema version 1 expected, found 99"):
        read({name: part | {"schema_version": 99}})
    with pytest.raises(SeodangError, match="found none"):
        read({name: {key: value for key, value in part.items() if key != "schema_version"}})


def test_a_proof_without_answers_has_empty_values() -> None:
    """Where nothing was asked, nothing is known, and nothing fails."""
    assert behaviour_of({}) == Behaviour()
    assert stability_of({"stability": None}) == Stability()
