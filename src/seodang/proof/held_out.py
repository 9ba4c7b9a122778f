"""Held-out rows as the proof sees them: which are not independent, which choose and which prove. Knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from seodang.data.arrow import column_values, read_columns, uniform_hash
from seodang.data.read.clean import normal_form
from seodang.proof.measured_rows import Half
from seodang.proof.statistics import union_clusters
from seodang.types import IGNORED

HALVED_CLUSTERS = 100  # from here on, half of the clusters choose and the other half prove


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutRow:
    """One row of a holdout, before any model is measured on it."""

    row_id: str
    where: str  # file:row
    cluster: str
    half: Half
    content_tokens: int
    end_tokens: int
    num_bytes: int  # UTF-8 bytes of the content

    @property
    def tokens(self) -> int:
        """All supervised tokens."""
        return self.content_tokens + self.end_tokens

    @property
    def proves(self) -> bool:
        """Whether the proof's figures are from this row."""
        return self.half != "choose"

    @property
    def chooses(self) -> bool:
        """Whether the best checkpoint and the base's form are chosen by this row."""
        return self.half != "prove"


def held_out_rows(rows: Dataset, ends: Mapping[int, str], *, seed: int) -> list[HeldOutRow]:
    """The rows of one source's holdout, in their order.

    Args:
        rows: as prepared: `row_id`, `file`, `row`, `messages`, `question_key`, `group`, `labels`, `num_bytes`.
        ends: id of each token that ends a turn → its text.
        seed: of the split.
    """
    names = ("row_id", "file", "row", "question_key", "group", "num_bytes")
    columns = {name: column.to_pylist() for name, column in zip(names, read_columns(rows, *names).columns, strict=True)}
    clusters = _clusters(columns["row_id"], columns["question_key"], columns["group"], column_values(rows, "messages"))
    halves = _halves(clusters, seed)
    found = []
    for number, labels in enumerate(read_columns(rows, "labels")["labels"]):
        scored = labels.values.to_numpy(zero_copy_only=False)[1:]
        counts = {token: int((scored == token).sum()) for token in ends}
        num_ends = sum(counts.values())
        end_bytes = sum(len(ends[token].encode()) * count for token, count in counts.items())
        found.append(
            HeldOutRow(
                row_id=columns["row_id"][number],
                where=f"{columns['file'][number]}:{columns['row'][number]}",
                cluster=clusters[number],
                half=halves[clusters[number]],
                content_tokens=int((scored != IGNORED).sum()) - num_ends,
                end_tokens=num_ends,
                num_bytes=columns["num_bytes"][number] - end_bytes,
            )
        )
    return found


def drawn(rows: Sequence[HeldOutRow], *, seed: int) -> NDArray[np.int64]:
    """The numbers of all rows, in an order that depends on nothing but each row's identity and the seed."""
    hashes = uniform_hash(pa.array([row.row_id for row in rows], pa.string()), f"prove:{seed}")
    return np.argsort(hashes, kind="stable")


def drawn_tokens(rows: Sequence[HeldOutRow], most: int, *, seed: int) -> list[int]:
    """Numbers of proving rows of at most so many scored tokens together, ascending."""
    taken, total = [], 0
    for number in drawn(rows, seed=seed).tolist():
        size = rows[number].tokens
        if rows[number].proves and size and total + size <= most:
            taken.append(number)
            total += size
    return sorted(taken)


def _clusters(
    row_ids: Sequence[str],
    question_keys: Sequence[str | None],
    groups: Sequence[str | None],
    messages: Iterable[Sequence[Mapping[str, Any]]],
) -> list[str]:
    """The cluster of each row, named by the smallest identity in it.

    Joined are windows of one document and examples of one conversation, rows of an equal question, of equal answers,
    and of an equal value in the column that rows are split by.
    """
    documents = [row_id.partition("#")[0] for row_id in row_ids]
    found = [(bool(turns), _answers(turns)) for turns in messages]
    questions = [key if is_asked else None for key, (is_asked, _) in zip(question_keys, found, strict=True)]
    numbers = union_clusters(documents, questions, [answers for _, answers in found], groups)
    names: dict[int, str] = {}
    for number, document in zip(numbers, documents, strict=True):
        names[number] = min(names.get(number, document), document)
    return [names[number] for number in numbers]


def _answers(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """All answers of a conversation, for comparison; none where it has no text in them."""
    texts = [normal_form(turn.get("content") or "") for turn in messages if turn["role"] == "assistant"]
    return "\n".join(texts) if any(texts) else None


def _halves(clusters: Sequence[str], seed: int) -> dict[str, Half]:
    names = sorted(set(clusters))
    if len(names) < HALVED_CLUSTERS:
        return dict.fromkeys(names, "both")
    hashes = uniform_hash(pa.array(names, pa.string()), f"half:{seed}")
    return {name: "choose" if value < 2**63 else "prove" for name, value in zip(names, hashes.tolist(), strict=True)}
