"""errors.py: the tree that its docstring draws, and what a message says."""

import inspect
import re

import pytest

from seodang import errors
from seodang.errors import GateError, RecipeError, SeodangError, SourceError


def drawn_tree() -> dict[str, tuple[str, int]]:
    """Class → (parent, exit code) as the docstring draws them: a branch hangs under the root."""
    root = ""
    tree: dict[str, tuple[str, int]] = {}
    codes: dict[str, int] = {}
    for branch, name, code in re.findall(r"^ {4}([├└]── )?(\w+Error) +(?:exit code (\d))?", errors.__doc__ or "", re.M):
        root = root or name
        codes[name] = int(code or codes[root])
        tree[name] = (root if branch else "Exception", codes[name])
    return tree


def test_the_docstring_draws_the_classes() -> None:
    """Every error class stands in the drawn tree, under its parent and with its exit code, and no other."""
    classes = {
        name: (cls.__bases__[0].__name__, cls.exit_code)
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, SeodangError)
    }
    assert drawn_tree() == classes


def test_a_message_says_where_what_and_the_mend() -> None:
    """The text is `where: what`, and the mend on a line of its own."""
    assert str(SourceError("no answer", where="a.csv:7", hint="fill it")) == "a.csv:7: no answer\n  → fill it"
    assert str(GateError("worse than its base")) == "worse than its base"


@pytest.mark.parametrize(("faults", "count"), [(["a: missing"], "1 fault"), (["a: missing", "b: missing"], "2 faults")])
def test_a_recipe_error_carries_all_faults(faults: list[str], count: str) -> None:
    """Each fault has a line, and the faults can be read one by one."""
    error = RecipeError(faults, where="my.yaml")
    assert error.faults == tuple(faults)
    assert str(error) == f"my.yaml: {count} in the recipe" + "".join(f"\n  - {fault}" for fault in faults)
