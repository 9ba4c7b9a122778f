"""The command line as a user meets it: the real entry point, run in this process."""

import io
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from seodang.cli import main


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def seodang(*arguments: object) -> Ended:
    """Run `seodang ARGUMENTS`. An exception that escapes `main` is what a user would see as a traceback."""
    out, err = io.BytesIO(), io.BytesIO()
    code = 0
    with (
        patch.object(sys, "argv", ["seodang", *map(str, arguments)]),
        redirect_stdout(io.TextIOWrapper(out, encoding="utf-8", write_through=True)),
        redirect_stderr(io.TextIOWrapper(err, encoding="utf-8", write_through=True)),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code=code, out=out.getvalue().decode(), err=err.getvalue().decode())


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def qa_rows(count: int) -> list[dict[str, Any]]:
    """Questions and answers, each of them different."""
    return [{"question": f"{n}번 약은 어떻게 먹나요?", "answer": f"{n}번은 물과 함께 먹습니다."} for n in range(count)]


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A user's folder with a model, data and recipes; it is also where commands are run."""

    folder: Path
    model: Path

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def recipe(self, *changes: str, path: str = "data.jsonl") -> list[str]:
        """Arguments for a sound recipe on `path`, with KEY=VALUE changes; data.jsonl is 40 sound rows."""
        if not (self.folder / "data.jsonl").exists():
            self.write("data.jsonl", json_lines(qa_rows(40)))
        sound = {
            "name": "mine",
            "model": {"path": str(self.model), "dtype": "float32"},
            "template": "chatml",
            "sources": [{"name": "medical", "role": "domain", "path": path, "holdout": 4}],
            "train": {"steps": 1, "examples_per_step": 2, "max_tokens": 128},
            "ask": {"holdout": 1, "holdout_tokens": 4},
        }
        self.write("recipe.yaml", yaml.safe_dump(sound, allow_unicode=True))
        return ["recipe.yaml", *changes]

    def snapshot(self) -> dict[str, bytes | None]:
        """Every file's content and every folder: two that are equal mean that nothing was touched or left."""
        return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(self.folder.rglob("*"))}


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
