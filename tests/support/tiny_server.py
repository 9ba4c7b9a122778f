"""Models behind a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seodang.serve.engines import Address
from seodang.serve.server import Server, free_port, serving


@contextmanager
def tiny_server(model: str | Path, **options: Any) -> Iterator[tuple[Server, list[str]]]:
    """A real server on a free port, and its log so far."""
    log: list[str] = []
    with serving(model, address=Address(port=free_port()), log=log.append, **options) as server:
        yield server, log
