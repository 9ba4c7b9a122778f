"""docs/notebook.md and notebooks/tutorial.ipynb: their Python runs; and what docs/lora.md has about adapters holds."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from drawn import pictures
from paths import ROOT
from seodang.model import packaged
from seodang.recipe import load_recipe
from seodang.run.folder import Run
from seodang.train.setup import learning_rate_remark
from tiny_recipe import tiny_recipe

PAGE, ADAPTERS = ROOT / "docs" / "notebook.md", ROOT / "docs" / "lora.md"


def test_the_pages_python_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block runs, one after the other; those for IPython where it is installed."""
    tiny_recipe(tmp_path, tiny_folder)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    with pictures():
        for block in (block.replace("ask_every=20", "ask_every=2") for block in blocks):
            if "IPython" not in block or find_spec("IPython"):
                exec(compile(block, str(PAGE), "exec"), known)
    run: Run = known["run"]
    assert (run.folder / "pictures" / "loss.png").is_file()
    assert (run.folder / "pictures" / "lengths.png").is_file()
    assert "사과는 왜 빨간가요? →" in capsys.readouterr().out


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "notebooks" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"])


def test_the_notebook_is_committed_without_output(cells: list[dict[str, Any]]) -> None:
    """No output, no numbers of executions."""
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    cells: list[dict[str, Any]],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each code cell, in order, on a tiny random model: from the installation to a second turn of a chat."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_folder, tmp_path / "cache" / "models" / f"gemma-3-270m-v{packaged._CONVERSION}")
    holdouts = [f"sources.{name}.holdout=2" for name in ("medical", "general", "text")]
    changes = ["train.steps=2", "ask.holdout=1", "ask.generate.max_new_tokens=8", *holdouts]
    monkeypatch.setenv("SEODANG_CHANGES", " ".join(changes))
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("max_new_tokens=96", "max_new_tokens=8")
            exec(compile(source, cell["id"], "exec"), known)
    assert "report" in known["run"]._repr_html_()
    assert [turn["role"] for turn in known["turns"]] == ["user", "assistant", "user", "assistant"]
    assert "[tuned] 충치가 너무 아파요." in capsys.readouterr().out


def test_the_recipe_for_16_gb_trains_an_adapter_at_its_rate() -> None:
    """What ships for small GPUs is LoRA, and becomes QLoRA by the command in the page."""
    page = ADAPTERS.read_text(encoding="utf-8")
    changes = re.findall(r"^seodang tune lora-16gb (.*)$", page, re.MULTILINE)[0].split()
    plain, changed = load_recipe("lora-16gb"), load_recipe("lora-16gb", changes)
    assert plain.train.adapter
    assert plain.train.adapter.kind == "lora"
    assert learning_rate_remark(plain.train) is None
    assert changed.train.adapter
    assert changed.train.adapter.kind == "qlora"
    assert changed.model.dtype == "auto"
