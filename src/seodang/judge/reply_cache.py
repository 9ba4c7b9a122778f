"""Replies of a judge, kept by what was asked: a judgement that was interrupted continues where it stopped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seodang.errors import SeodangError
from seodang.json_values import from_json, json_text, to_json
from seodang.user_paths import cache_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a judge wrote."""

    text: str
    finished: bool  # it ended by itself
    prompt_tokens: int | None  # as the server counts; None: it does not report it
    reply_tokens: int | None


class ReplyCache:
    """A file of replies, each line written at once; without a file, nothing is kept beyond this process.

    It holds hashes of requests and the replies to them: no question, no answer and no key.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._replies = dict(_read(file)) if file and file.is_file() else {}

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            line = json_text({"key": key, **to_json(reply)}, where=str(self._file)) + "\n"
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as lines:
                lines.write(line)


def cache_file(url: str, model: str) -> Path:
    """Where the replies of one judge are kept."""
    return cache_folder() / "judge" / f"{hashlib.sha256(f'{url} {model}'.encode()).hexdigest()[:16]}.jsonl"


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """SHA-256 of what is sent, and to whom."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> list[tuple[str, Reply]]:
    """Whole lines; one that a kill cut off is asked again."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
            found.append((row.pop("key"), from_json(Reply, row, where=str(file))))
        except (ValueError, AttributeError, KeyError, SeodangError):
            continue
    return found
