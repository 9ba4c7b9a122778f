"""Progress of what takes long where there are many files or rows, for whoever shows it. Shows nothing itself."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

# (what is counted, how many there are or None) → a context that gives what counts so many more as done
Counting = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def uncounted(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Where nobody looks."""
    yield lambda done: None
