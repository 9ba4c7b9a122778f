"""Whether runs write their pictures: they take as long as all else of a tiny run, so a test asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from seodang.show import plots

write_pictures = plots.write_pictures


@contextmanager
def pictures() -> Iterator[None]:
    """Inside, reports come with their pictures."""
    with patch.object(plots, "write_pictures", write_pictures):
        yield


@contextmanager
def no_pictures() -> Iterator[None]:
    """Inside, reports are their page alone."""
    with patch.object(plots, "write_pictures", lambda *_, **__: []):
        yield
