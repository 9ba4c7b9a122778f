"""errors.py: the tree that its docstring draws, and what a message says."""

import inspect
import pickle
import re

import pytest

from seodang import errors
from seodang.errors import GateError, RecipeError, RunError, SeodangError, SourceError


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


def test_a_message_says_where_what_and_how_to_fix_it() -> None:
    """The text is `where: what`, and the hint on a line of its own."""
    assert str(SourceError("no answer", where="a.csv:7", hint="fill it")) == "a.csv:7: no answer\n  → fill it"
    assert str(GateError("worse than its base")) == "worse than its base"


def test_control_characters_are_shown() -> None:
    """A file's name or a row's text in a message steers no terminal, wherever it stands; a name takes one line."""
    error = SourceError("no column '\x1b]0;x\x07'", where="a\x1b[2J\nb\udcb0.csv:1", hint="see \u202ea.csv\x9b")
    assert str(error) == "a␛[2J␊b\ufffd.csv:1: no column '␛]0;x␇'\n  → see \ufffda.csv\ufffd"
    assert (error.where, error.what) == ("a␛[2J␊b\ufffd.csv:1", "no column '␛]0;x␇'")
    assert "\x1b" not in str(RecipeError(["name: '\x1b[31m'"], where="\x1b.yaml")) + repr(RunError("\x1b"))
    assert RecipeError(["a\x1b"]).faults == ("a␛",)
    str(error).encode()  # no lone surrogate is left
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(("faults", "count"), [(["a: missing"], "1 fault"), (["a: missing", "b: missing"], "2 faults")])
def test_a_recipe_error_carries_all_faults(faults: list[str], count: str) -> None:
    """Each fault has a line, and the faults can be read one by one."""
    error = RecipeError(faults, where="my.yaml")
    assert error.faults == tuple(faults)
    assert str(error) == f"my.yaml: {count} in the recipe" + "".join(f"\n  - {fault}" for fault in faults)


def test_messages_stay_short() -> None:
    """A name, a row or a recipe of millions of characters gives no message of millions."""
    for error in (
        SourceError("x" * 10**6, where="y" * 10**6, hint="fix it"),
        RecipeError(["x" * 10**6] * 100, where="my.yaml"),
    ):
        assert len(str(error)) < 22_000
        assert "more characters)" in str(error)
    assert str(SeodangError(7)) == "7"  # type: ignore[arg-type]  # whatever a template raises
