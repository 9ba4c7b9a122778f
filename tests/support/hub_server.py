"""A stand-in for the hub on the loopback device: it speaks what huggingface_hub's real client says when it uploads.

whoami-v2, repos/create, model info, validate-yaml, preupload, Git LFS batch, upload and verify, commit. It checks what
the real one checks (login, rights, LFS hashes, that each LFS file of a commit has arrived) and keeps what arrived.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from local_server import QuietHandler, serving

WRITER, READER = "hf_" + "Writer0123456789" * 2, "hf_" + "Reader0123456789" * 2
REFUSED = {401: "Invalid username or password.", 403: "You don't have the rights to create a model here"}


@dataclass
class Repo:
    """One model repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)  # their summaries

    @property
    def tags(self) -> list[str]:
        """As the hub reads them from the card's header."""
        header = self.files.get("README.md", b"").decode().split("---\n")
        return list((yaml.safe_load(header[1]) or {}).get("tags", [])) if len(header) > 2 else []


@dataclass
class Hub:
    """What the hub holds, and what it was asked."""

    address: str = ""
    users: dict[str, str] = field(default_factory=lambda: {WRITER: "me", READER: "me"})
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # sha256 → LFS object
    requests: list[str] = field(default_factory=list)  # "METHOD path"
    fails: dict[str, int] = field(default_factory=dict)  # part of a path → status to answer with


class _RefusedError(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        self.status, self.message = status, message or REFUSED.get(status, "refused")


class _Handler(QuietHandler):
    hub: Hub

    def answer(self) -> None:
        body = self._read()
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            status, reply = 200, self._route(body)
        except _RefusedError as refused:
            status, reply = refused.status, {"error": refused.message}
            if status == 409:
                reply["url"] = self._create(json.loads(body), checked=True)["url"]
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, body: bytes) -> dict[str, Any]:
        for part, status in self.hub.fails.items():
            if part in self.path:
                raise _RefusedError(status)
        if match := re.fullmatch(r"/lfs/(\w{64})", self.path):  # the storage has addresses of its own, and no login
            return self._store(match[1], body)
        user = self.hub.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            raise _RefusedError(401)
        if self.path == "/api/whoami-v2":
            return {"type": "user", "name": user}
        if self.path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(/.*)?", self.path)
        if match is None or match[1] not in self.hub.repos:
            raise _RefusedError(404, "Repository not found")
        return self._of_repo(match[1], match[2] or "", body)

    def _of_repo(self, name: str, rest: str, body: bytes) -> dict[str, Any]:
        repo = self.hub.repos[name]
        if not rest:
            siblings = [{"rfilename": file} for file in repo.files]
            return {"id": name, "sha": "0" * 40, "private": repo.private, "tags": repo.tags, "siblings": siblings}
        if self.headers["Authorization"] != f"Bearer {WRITER}" or not name.startswith("me/"):
            raise _RefusedError(403)
        if rest == "/preupload/main":
            return {"files": [self._mode(file) for file in json.loads(body)["files"]]}
        if rest == "/info/lfs/objects/batch":
            return {
                "transfer": "basic",
                "objects": [self._object(name, wanted) for wanted in json.loads(body)["objects"]],
            }
        if rest == "/verify":
            return {"ok": json.loads(body)["oid"] in self.hub.stored}
        if rest == "/commit/main":
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        raise _RefusedError(404, self.path)

    def _create(self, wanted: dict[str, Any], *, checked: bool = False) -> dict[str, Any]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if not checked:
            if name in self.hub.repos:
                raise _RefusedError(409, "You already created this model repo")
            if wanted["organization"] != "me" or self.headers["Authorization"] != f"Bearer {WRITER}":
                raise _RefusedError(403)
            self.hub.repos[name] = Repo(private=wanted.get("visibility") == "private", files={".gitattributes": b""})
        return {"url": f"{self.hub.address}/{name}", "name": name}

    def _validate(self, card: str) -> dict[str, Any]:
        header = yaml.safe_load(card.split("---\n")[1])
        if not isinstance(header, dict) or "/" not in str(header.get("base_model", "a/b")):
            raise _RefusedError(400, '"base_model" with value is not valid.')
        return {"errors": [], "warnings": []}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _object(self, repo: str, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.hub.stored:
            return wanted
        upload = {"href": f"{self.hub.address}/lfs/{wanted['oid']}"}
        return wanted | {"actions": {"upload": upload, "verify": {"href": f"{self.hub.address}/{repo}/verify"}}}

    def _store(self, oid: str, body: bytes) -> dict[str, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _RefusedError(400, "the hash is another")
        self.hub.stored[oid] = body
        return {}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        repo = self.hub.repos[name]
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    raise _RefusedError(400, f"LFS pointer {value['path']} points to no file")
                files[value["path"]] = self.hub.stored[value["oid"]]
            else:
                del files[value["path"]]
        repo.files = files
        repo.commits.append(lines[0]["value"]["summary"])
        number = f"{len(repo.commits):040x}"
        return {"commitUrl": f"{self.hub.address}/{name}/commit/{number}", "commitOid": number}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that runs until the block is left."""
    hub = Hub()
    with serving(type("Handler", (_Handler,), {"hub": hub})) as hub.address:
        yield hub
