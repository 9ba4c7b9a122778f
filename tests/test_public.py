"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import seodang

NAMES = {
    "ChatSeodang", "Recipe", "Run", "__version__", "alpha_curve", "blend", "demo", "init", "inspect", "load_recipe",
    "prove", "push", "report", "tune",
}  # fmt: skip


def test_public_names_are_these() -> None:
    """A public name comes and goes with this list, a line in the changelog and a page of the documentation."""
    assert set(seodang.__all__) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name can be imported, and is callable or a text; what is callable says what it does."""
    found = getattr(seodang, name)
    assert isinstance(found, str) or (callable(found) and (found.__doc__ or "").strip())


def test_names_that_are_not_there_are_said_to_be_missing() -> None:
    """A wrong name is an AttributeError that tells it."""
    with pytest.raises(AttributeError, match="tuen"):
        _ = seodang.tuen


def test_importing_seodang_imports_nothing_heavy() -> None:
    """`import seodang` and the command line's help load neither torch nor transformers nor datasets."""
    script = (
        "import sys, seodang, seodang.cli\n"
        "heavy = ('torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
