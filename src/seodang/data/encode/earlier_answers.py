"""What is done about earlier answers that would be served otherwise than the whole conversation shows them.

Measured on a sample of each source, since the choice holds for all of them: how many answers, and what it costs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset

from seodang.data.arrow import block
from seodang.data.encode.rows import messages_of
from seodang.data.encode.tokenize import Encoder
from seodang.data.template.renderer import Renderer, parse_tools
from seodang.data.template.supervision import has_loss
from seodang.errors import TemplateError
from seodang.types import EarlierAnswers, Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 300  # rows of each source
MOST_GROWTH = 2.0  # of the tokens, up to which earlier answers are split off
MOST_CHARACTERS = 16  # for each token that is allowed: longer rows are not measured
SHOWN_IDS = 8


@dataclass(kw_only=True)
class _Measured:
    """Sums over conversations, each weighted by the rows of its source that it stands for."""

    answers: float = 0  # with a loss
    unserved: float = 0
    tokens: float = 0  # of whole conversations
    split_tokens: float = 0  # with the examples that are split off
    is_sample: bool = False
    difference: tuple[str, str] | None = None  # the first one: as served, as it stands in the whole conversation
    where: tuple[str, ...] = ()  # file:row of examples


def choose_earlier_answers(
    sources: Mapping[str, Dataset], renderer: Renderer, *, max_tokens: int
) -> tuple[EarlierAnswers, Finding | None]:
    """What is done about earlier answers, and the finding on it where there are such answers.

    Args:
        sources: source → the rows to train on.
        renderer: its own choice may be auto: they are split off unless that more than doubles the tokens.
    """
    if renderer.loss_on != "answers":
        return "keep", None
    found = _measure(sources, renderer.with_earlier_answers("split"), max_tokens)
    growth = found.split_tokens / found.tokens if found.tokens else 1.0
    choice = renderer.earlier_answers
    if choice == "auto":
        choice = "split" if growth <= MOST_GROWTH else "keep"
    if not found.unserved:
        return choice, None
    return choice, _finding(found, choice, growth, renderer)


def _measure(sources: Mapping[str, Dataset], renderer: Renderer, max_tokens: int) -> _Measured:
    encoder = Encoder(renderer.tokenizer, renderer.template)
    found = _Measured()
    for rows in sources.values():
        chosen = np.unique(np.linspace(0, max(len(rows) - 1, 0), min(SAMPLE, len(rows))).astype(int))
        weight = len(rows) / max(len(chosen), 1)
        found.is_sample = found.is_sample or len(chosen) < len(rows)
        for row in _conversations(block(rows.select(chosen), 0, len(chosen))):
            _add(found, row, weight, renderer, encoder, max_tokens)
    return found


def _conversations(table: pa.Table) -> Iterator[dict[str, Any]]:
    others = table.select(["file", "row", "tools"]).to_pylist()
    for row, messages in zip(others, messages_of(table), strict=True):
        if messages:
            yield {**row, "messages": messages}


def _add(
    found: _Measured, row: dict[str, Any], weight: float, renderer: Renderer, encoder: Encoder, max_tokens: int
) -> None:
    messages, tools = row["messages"], parse_tools(row["tools"])
    try:
        examples = renderer.examples(messages, tools)
    except TemplateError:  # the row is dropped, and counted, when it is rendered
        return
    texts = [example.rendered.text for example in examples]
    if len(texts[0]) > MOST_CHARACTERS * max_tokens:
        return
    sizes = [len(ids) for ids, _ in encoder.encode(texts)]
    answers = sum(turn["role"] == "assistant" and has_loss(turn) for turn in messages)
    unserved = answers - len(examples[0].answers)
    found.answers, found.unserved = found.answers + weight * answers, found.unserved + weight * unserved
    found.tokens, found.split_tokens = found.tokens + weight * sizes[0], found.split_tokens + weight * sum(sizes)
    if unserved:
        found.difference = found.difference or renderer.difference(messages, tools)
        found.where = (*found.where, f"{row['file']}:{row['row']}")[:5]


def _finding(found: _Measured, choice: EarlierAnswers, growth: float, renderer: Renderer) -> Finding:
    about = "about " if found.is_sample else ""
    share = found.unserved / found.answers
    what = (
        f"{about}{found.unserved:,.0f} of {found.answers:,.0f} answers ({share:.0%}) are served behind other token ids "
        f"than their whole conversation has in front of them"
    )
    if found.difference:
        what += f" ({_differing(*found.difference, renderer.tokenizer)})"
    done: dict[EarlierAnswers, str] = {
        "split": f"each is trained in an example of its own, as it is served ({growth:.2f} times the tokens)",
        "context": f"they are not supervised: {1 - share:.0%} of the answers are",
        "keep": "they are trained as they stand",
    }
    cost = {
        "split": f"split trains each as it is served, with {growth:.2f} times the tokens",
        "context": f"context supervises the other {1 - share:.0%} of the answers alone",
        "keep": "keep trains them as they stand, behind a prompt that is never served, for no more tokens",
    }
    severities: dict[EarlierAnswers, Literal["fixed", "note", "warn"]]
    severities = {"split": "fixed", "context": "note", "keep": "warn"}
    return Finding(
        check="earlier_answers",
        severity=severities[choice],
        where=renderer.template.origin,
        what=f"{what}; {done[choice]}",
        hint="template.earlier_answers: " + "; ".join(text for name, text in cost.items() if name != choice),
        rows=found.where,
    )


def _differing(served: str, trained: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Where the ids of two texts differ, in words."""
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (served, trained))
    first = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    one, other = one[first:], other[first:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return f"served: {_shown(one, tokenizer)}; in the conversation: {_shown(other, tokenizer)}"


def _shown(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    if not ids:
        return "no such ids"
    more = " …" if len(ids) > SHOWN_IDS else ""
    ids = ids[:SHOWN_IDS]
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return f"{' '.join(map(str, ids))}{more} ({text!r})"
