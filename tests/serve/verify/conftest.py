"""A run to verify against, shared by the tests of this folder."""

from pathlib import Path

import pytest

from seodang.run.folder import Run
from seodang.serve.verify.reference import Reference, load_reference
from tiny import CONTROL_TOKENS, PLAIN_TOKENS, make_tokenizer
from tiny_run import make_run, train_a_little

SYSTEM = "의사처럼 답하세요."
WITHOUT_MERGES = len(CONTROL_TOKENS) + len(PLAIN_TOKENS) + 256  # entries of the vocabulary
STEPS, ROWS = 200, 24  # until a tiny model writes words and ends its answers, but is sure of little


@pytest.fixture(scope="session")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a system text whose tiny model was trained a little, so that it writes letters and ends.

    Its vocabulary has no merges: what so small a model writes would be read in other tokens than it was written in.
    """
    folder = tmp_path_factory.mktemp("runs") / "demo"
    made = make_run(folder, tiny_folder, make_tokenizer(WITHOUT_MERGES), system=SYSTEM, ask={"holdout": 0})
    train_a_little(made, steps=STEPS, rows=ROWS)
    return made


@pytest.fixture(scope="session")
def reference(run: Run) -> Reference:
    return load_reference(run.folder)
