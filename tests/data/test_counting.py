"""Progress over many files and rows: every stage counts all that it goes through, whatever holds them."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from made_files import write_objects, zip_folder
from seodang.data.prepare import gather
from seodang.data.row_cache import sources_key
from seodang.recipe import Source, Split
from seodang.starter.propose import propose

ROWS = [{"question": f"{n}번 약은요?", "answer": f"{n}번 약입니다."} for n in range(50)]


class Counted:
    """Counts as a console would show it, and checks that no more is counted than there is."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.open = 0

    @contextmanager
    def __call__(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        done = 0
        assert not self.open, "two bars at a time"
        self.open += 1

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self.done[title] += more

        yield advance
        self.open -= 1
        assert total in (None, done)


@pytest.mark.parametrize("is_zip", [False, True])
def test_reading_counts_every_file_and_row(is_zip: bool, tmp_path: Path) -> None:
    """One-object files, in a folder and in an archive; for the cache's key an archive is one file."""
    path = write_objects(tmp_path / "rows", ROWS)
    path = zip_folder(path, tmp_path / "rows.zip") if is_zip else path
    source, counted = Source(name="medical", role="domain", path=(str(path),)), Counted()
    gather([source], Split(), counted)
    sources_key([source], Split(), counted)
    assert counted.done == {"files opened": 50, "rows of medical read": 50, "files hashed": 1 if is_zip else 50}


def test_a_starter_counts_every_file_and_row(tmp_path: Path) -> None:
    """Files are opened to find their layout, and again with the columns that were found; rows are looked at once."""
    path, counted = write_objects(tmp_path / "rows", ROWS), Counted()
    propose([path], out=tmp_path / "recipe.yaml", counting=counted)
    assert counted.done["files opened"] == 100
    assert counted.done[f"rows of {path} looked at"] == 50
