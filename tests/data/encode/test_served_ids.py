"""The three real tokenizers: every supervised answer stands behind exactly the ids that are served there."""

from pathlib import Path

import pytest

from planted import NAMES, check

ROWS = 40


@pytest.mark.shared
@pytest.mark.parametrize("thoughts", [False, True], ids=["plain", "thoughts"])
@pytest.mark.parametrize("name", NAMES)
def test_every_supervised_answer_stands_behind_the_ids_that_are_served(shared: Path, name: str, thoughts: bool) -> None:
    """Conversations of many rounds with planted thoughts and calls; transformers alone says what is served."""
    done, counts = check(name, shared / "data", ROWS, thoughts=thoughts)
    assert done["supervised"] == done["answers"] > 2 * ROWS
    assert not counts.dropped
