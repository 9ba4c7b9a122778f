"""docs/notebook.md: its Python runs, and what it says of adapters holds."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT
from seodang.recipe import load_recipe
from seodang.run.folder import Run
from seodang.train.setup import learning_rate_remark
from tiny_recipe import tiny_recipe

PAGE = ROOT / "docs" / "notebook.md"


def test_the_pages_python_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block runs, one after the other; those for IPython where it is installed."""
    tiny_recipe(tmp_path, tiny_folder)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block in (block.replace("ask_every=20", "ask_every=2") for block in blocks):
        if "IPython" not in block or find_spec("IPython"):
            exec(compile(block, str(PAGE), "exec"), known)
    run: Run = known["run"]
    assert (run.folder / "pictures" / "loss.png").is_file()
    assert (run.folder / "pictures" / "lengths.png").is_file()
    assert "사과는 왜 빨간가요? →" in capsys.readouterr().out


def test_the_recipe_for_16_gb_trains_an_adapter_at_its_rate() -> None:
    """What ships for small GPUs is LoRA, and becomes QLoRA by the command in the page."""
    page = PAGE.read_text(encoding="utf-8")
    changes = re.findall(r"^seodang tune lora-16gb (.*)$", page, re.MULTILINE)[0].split()
    plain, changed = load_recipe("lora-16gb"), load_recipe("lora-16gb", changes)
    assert plain.train.adapter
    assert plain.train.adapter.kind == "lora"
    assert learning_rate_remark(plain.train) is None
    assert changed.train.adapter
    assert changed.train.adapter.kind == "qlora"
    assert changed.model.dtype == "auto"
