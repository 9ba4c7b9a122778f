"""A run's report served on this machine while the run goes on: built anew whenever the run's files have changed.

Only the page itself is served, on 127.0.0.1. The served copy asks this server every few seconds whether it has changed;
the file report.html holds no such script, and loads nothing.
"""

import threading
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.text import Text

from seodang.errors import RunError, SeodangError, first_line
from seodang.recipe import ReportLanguage
from seodang.run.evidence import NAMES, read_evidence
from seodang.run.folder import ALPHA, JUDGEMENT
from seodang.show.formatting import visible
from seodang.show.report import render, texts_of
from seodang.show.terminal.console import get_console
from seodang.user_paths import shown_path

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # that a request may name: a page elsewhere whose name leads here reads nothing
VERSION = "/version"
SCRIPT = """"use strict";
let shown = null;
setInterval(async () => {
  try {
    const answer = await fetch("version");
    if (!answer.ok) return;
    const now = await answer.text();
    if (shown !== null && shown !== now) location.reload();
    shown = now;
  } catch { /* the server has ended, or is being started again */ }
}, 2000);
"""


class LivePage:
    """The report of a run as it is now."""

    def __init__(self, run: Path, language: ReportLanguage | None = None) -> None:
        self._run, self._language = run, language
        self._lock = threading.Lock()
        self._built: tuple[str, str] | None = None  # version and page

    @property
    def version(self) -> str:
        """What the run's files are now, as a short hash of their sizes and times."""
        found = sha256()
        for name in (*NAMES, JUDGEMENT, ALPHA):
            try:
                stat = (self._run / name).stat()
            except OSError:
                continue
            found.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return found.hexdigest()[:16]

    def html(self) -> str:
        """The page, built anew if a file has changed since.

        Raises:
            SeodangError: the run's files cannot be shown.
        """
        with self._lock:
            version = self.version
            if self._built is None or self._built[0] != version:
                evidence = read_evidence(self._run)
                page = render(evidence, self._run.resolve().name, texts_of(evidence, self._language))
                self._built = version, _refreshing(page)
            return self._built[1]


def watch(run: Path, *, port: int = 0, language: ReportLanguage | None = None) -> None:
    """Serve a run's report on 127.0.0.1 until Ctrl-C; its address is printed.

    Args:
        port: 0 takes a free one.
        language: of the page; by default what the run's recipe wants.

    Raises:
        RunError: `run` holds none of a run's files, or the port is taken.
        SeodangError: a file was written by another version of seodang, or by none.
    """
    page = LivePage(run, language)
    page.html()  # what cannot be shown is reported at once
    with make_server(page, port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        get_console().print(Text(f"{address}  ({visible(shown_path(run))}; Ctrl-C ends)"), soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)


def make_server(page: LivePage, port: int = 0) -> ThreadingHTTPServer:
    """A server of one page, which does not run yet.

    Raises:
        RunError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in HOSTS:
                return self._answer(403, "ask for 127.0.0.1", "text/plain")
            if self.path == VERSION:
                return self._answer(200, page.version, "text/plain")
            if self.path != "/":
                return self._answer(404, "only the report is served", "text/plain")
            try:
                return self._answer(200, page.html(), "text/html")
            except SeodangError as error:
                return self._answer(500, visible(str(error)), "text/plain")
            except Exception as error:  # a file that went away or is damaged while it was read: the next one may do
                what = f"the report cannot be built: {type(error).__name__}: {first_line(error)}"
                return self._answer(500, visible(what), "text/plain")

        def _answer(self, status: int, text: str, kind: str) -> None:
            body = text.encode("utf-8", errors="replace")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are not worth a line each."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A browser that leaves before its answer is whole is no error."""

    try:
        server = Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        what = f"port {port} cannot be used: {getattr(error, 'strerror', None) or error}"
        raise RunError(what, where=HOST, hint="give another port by --port, or none") from None
    server.daemon_threads, server.block_on_close = True, False  # an open page must not keep the command from ending
    return server


def _refreshing(page: str) -> str:
    """The page with the script that reloads it, which its own policy would not let run."""
    allowed = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    page = page.replace("script-src '", f"connect-src 'self'; script-src 'sha256-{allowed}' '", 1)
    return page.replace("</body>", f"<script>{SCRIPT}</script>\n</body>")
