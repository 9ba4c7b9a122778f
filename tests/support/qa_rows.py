"""Small converted data sets for tests: the columns that data/convert.py documents."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import pytest
from datasets import Dataset, Features, Json, List, Value

from paths import SHARED
from seodang.data.read.clean import exchange_hash, question_hash
from seodang.data.read.conversation import Conversation
from seodang.types import Message

DATA = SHARED / "data"
FEATURES = Features(
    {
        "row_id": Value("string"),
        "source": Value("string"),
        "role": Value("string"),
        "file": Value("string"),
        "row": Value("int64"),
        "messages": List(Json()),
        "tools": Value("string"),
        "text": Value("string"),
        "question_key": Value("string"),
        "exchange_keys": List(Value("string")),
        "group": Value("string"),
    }
)


def key(text: str) -> str:
    """16 hex digits that stand for a text."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def row(number: int, turns: Sequence[tuple[str, str]], source: str, **columns: Any) -> dict[str, Any]:
    """One conversation of (role, content) turns."""
    question = next(content for role, content in turns if role == "user")
    conversation = Conversation(messages=tuple(Message(role=role, content=content) for role, content in turns))
    return {
        "row_id": key(json.dumps(turns)),
        "source": source,
        "role": "domain",
        "file": f"{source}.jsonl",
        "row": number,
        "messages": [{"role": role, "content": content} for role, content in turns],
        "tools": None,
        "text": None,
        "question_key": question_hash(question),
        "exchange_keys": [exchange_hash(question_hash(asked), answer) for asked, answer in conversation.exchanges],
        "group": None,
    } | columns


def data_set(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows as a data set in memory."""
    return Dataset.from_list(list(rows), features=FEATURES)


def qa(pairs: Iterable[tuple[str, str]], source: str = "medical", groups: Sequence[str | None] = ()) -> Dataset:
    """Rows of one question and one answer each."""
    return data_set(
        row(
            number,
            [("user", question), ("assistant", answer)],
            source,
            group=groups[number - 1] if groups else None,
        )
        for number, (question, answer) in enumerate(pairs, start=1)
    )


def talk_rows(*talks: Sequence[Mapping[str, Any]], tools: Any = None) -> Dataset:
    """Rows of one conversation each, turns as they are; the questions have no keys."""
    columns: dict[str, Any] = {
        "source": "talk", "role": "domain", "file": "talk.jsonl", "text": None, "question_key": "", "exchange_keys": [],
        "group": None, "tools": tools and json.dumps(tools, ensure_ascii=False),
    }  # fmt: skip
    return data_set(
        {"row_id": key(str(number)), "row": number + 1, "messages": talk, **columns}
        for number, talk in enumerate(talks)
    )


def numbered(count: int, source: str = "medical", questions: int | None = None) -> Dataset:
    """`count` rows with different answers to `questions` (default: as many) different questions."""
    return qa(((f"{source} 질문 {n % (questions or count)}?", f"답 {n}.") for n in range(count)), source)


def texts(contents: Iterable[str], source: str = "wiki") -> Dataset:
    """Plain text rows."""
    return data_set(
        {
            "row_id": key(text),
            "source": source,
            "role": "retention",
            "file": f"{source}.jsonl",
            "row": number,
            "messages": [],
            "tools": None,
            "text": text,
            "question_key": key(text),
            "exchange_keys": [],
            "group": None,
        }
        for number, text in enumerate(contents, start=1)
    )


def shared_qa(name: str, limit: int | None = None) -> Dataset:
    """Question and answer rows of the real data beside the repository; skips the test where it is absent."""
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    lines = path.read_text(encoding="utf-8").splitlines()[:limit]
    return qa(((fields["question"], fields["answer"]) for fields in map(json.loads, lines)), name)
