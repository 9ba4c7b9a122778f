"""A stand-in for the hub on the loopback device, for reading: what huggingface_hub's real client asks for a file.

It answers HEAD and GET of files as the hub does: with a commit and an ETag, or with the status and the error code by
which the client knows gated, private and missing repositories.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from local_server import QuietHandler, serving

READER = "hf_" + "Reader0123456789" * 2  # a login that may read what is not gated
COMMIT = "c" * 40
CODES = {"gated": "GatedRepo", "missing": "RepoNotFound", "revision": "RevisionNotFound", "entry": "EntryNotFound"}


@dataclass
class ReadableHub:
    """What the hub holds, and what it was asked."""

    address: str = ""
    files: dict[str, Mapping[str, bytes]] = field(default_factory=dict)  # "OWNER/NAME", "datasets/OWNER/NAME" → files
    gated: set[str] = field(default_factory=set)  # of these; their README is open to all
    status: int = 200  # another one: every request is answered so
    requests: list[str] = field(default_factory=list)  # "METHOD path"


class _Handler(QuietHandler):
    hub: ReadableHub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.status != 200:
            self._send(self.hub.status)
            return
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/(?:models/|(?=datasets/))(.+?)(/(?:revision|tree|paths-info).*)?", path):
            self._api(match[1], match[2] or "", body)
        elif match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._send(404)

    def _file(self, repo: str, revision: str, name: str) -> None:
        has_login = self.headers.get("Authorization") == f"Bearer {READER}"
        if repo not in self.hub.files:
            self._send(404 if has_login else 401, code="missing")
        elif repo in self.hub.gated and name != "README.md":
            self._send(403 if has_login else 401, code="gated")
        elif revision not in ("main", COMMIT):
            self._send(404, code="revision")
        elif name not in self.hub.files[repo]:
            self._send(404, code="entry")
        else:
            self._send(200, self.hub.files[repo][name])

    def _api(self, repo: str, rest: str, body: bytes) -> None:
        if repo not in self.hub.files:
            self._send(404, code="missing")
        elif rest.startswith("/tree"):
            self._send_json([self._entry(repo, name) for name in self.hub.files[repo]])
        elif rest.startswith("/paths-info"):
            wanted = json.loads(body)["paths"]
            self._send_json([self._entry(repo, name) for name in self.hub.files[repo] if name in wanted])
        else:
            siblings = [{"rfilename": name} for name in self.hub.files[repo]]
            self._send_json({"id": repo.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings})

    def _entry(self, repo: str, name: str) -> dict[str, Any]:
        content = self.hub.files[repo][name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _send_json(self, data: object) -> None:
        self._send(200, json.dumps(data).encode(), kind="application/json")

    def _send(self, status: int, content: bytes = b"", *, code: str = "", kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", CODES[code])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve_reads() -> Iterator[ReadableHub]:
    """A hub that runs until the block is left."""
    hub = ReadableHub()
    with serving(type("Handler", (_Handler,), {"hub": hub})) as hub.address:
        yield hub
