"""Architectures of every sort go through the whole pipeline; all of transformers' do in `support/sweep.py`."""

from pathlib import Path

import pytest

from sweep import sweep


@pytest.mark.parametrize(
    "kind",
    [
        "stablelm",  # attention of its own
        "nemotron",  # no attention function that could be exchanged
        "mamba2",  # states in place of attention
        "gpt2",  # learnt positions
    ],
)
def test_what_transformers_loads_can_be_tuned(kind: str, tmp_path: Path) -> None:
    """Inspected, trained for two steps, saved, loaded again and asked, whatever its layers are."""
    result = sweep(kind, tmp_path)
    assert result.stage == "done", result.what
