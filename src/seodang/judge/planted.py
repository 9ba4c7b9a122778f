"""Pairs whose better answer is known, made from held-out rows: a judge that cannot tell these apart is unfit."""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seodang.judge.criteria import language_of
from seodang.judge.pairs import Pair

NUM_PLANTED = 20
Fault = Literal["another question's answer", "cut off", "sentences shuffled", "padded with empty phrases"]
FEWEST_WORDS = 8  # of an answer that is cut: of a shorter one the half may be as good
FEWEST_SENTENCES = 3  # of an answer whose sentences are shuffled: two may stand in either order
PADDING = {
    "en": (
        "That is a very good question, and many people ask it.",
        "There is a lot that could be said about this, and it is worth looking at it from several sides.",
        "As with so many things, it depends, and every case is a little different.",
        "I hope that this was helpful, and please feel free to ask if there is anything else.",
    ),
    "ko": (
        "정말 좋은 질문입니다. 많은 분들이 궁금해하시는 내용이기도 합니다.",
        "이 주제에 대해서는 드릴 말씀이 아주 많고, 여러 각도에서 살펴볼 필요가 있습니다.",
        "세상의 많은 일이 그렇듯 상황에 따라 다르고, 경우마다 조금씩 차이가 있을 수 있습니다.",
        "도움이 되셨기를 바라며, 더 궁금한 점이 있으시면 언제든지 편하게 물어보시기 바랍니다.",
    ),
}
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """A pair of which `ours` is the reference and `theirs` the same with a fault, or another question's."""

    fault: Fault
    pair: Pair


def plant(pairs: Sequence[Pair]) -> list[Planted]:
    """At most `NUM_PLANTED` planted pairs, the four faults in turn; the same pairs give the same ones.

    Args:
        pairs: whose questions and references are used; each pair gives at most one of each fault.
    """
    known = {(pair.question, pair.reference): pair for pair in pairs if pair.reference and pair.reference.strip()}
    rows = list(known.values())
    waiting = [_with_fault(fault, rows, number * len(rows) // len(_FAULTS)) for number, fault in enumerate(_FAULTS)]
    found: list[Planted] = []
    while waiting and len(found) < NUM_PLANTED:
        for planted in list(waiting):
            if (one := next(planted, None)) is None:
                waiting.remove(planted)
            elif len(found) < NUM_PLANTED:
                found.append(one)
    return found


def _with_fault(fault: Fault, rows: Sequence[Pair], start: int) -> Iterator[Planted]:
    """Every row that can bear the fault, from the `start`-th on, so that the four faults begin with other rows."""
    for place in (*range(start, len(rows)), *range(start)):
        row = rows[place]
        assert row.reference, "a row without a reference"
        worse = _other(rows, place) if fault == "another question's answer" else _MAKERS[fault](row.reference)
        if worse is not None and worse.split() != row.reference.split():
            pair = Pair(
                question=row.question,
                ours=row.reference,
                theirs=worse,
                reference=row.reference,
                source=row.source,
                row_id=row.row_id,
            )
            yield Planted(fault=fault, pair=pair)


def _other(rows: Sequence[Pair], place: int) -> str | None:
    """The reference of the next row, of another question and in the same language if there is one."""
    own = rows[place]
    others = [row for row in (*rows[place + 1 :], *rows[:place]) if row.question.split() != own.question.split()]
    same_source = [row for row in others if row.source == own.source]
    language = language_of(own.question)
    alike = [row for row in same_source or others if language_of(row.question) == language]
    return next((row.reference for row in alike or others if row.reference != own.reference), None)


def _cut(text: str) -> str | None:
    words = text.split()
    if len(words) < FEWEST_WORDS:
        return None
    end = len(text) * 2 // 5
    return text[: text.rfind(" ", 0, end) if " " in text[:end] else end].rstrip()


def _shuffled(text: str) -> str | None:
    sentences = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    if len(set(sentences)) < FEWEST_SENTENCES:
        return None
    order = list(range(len(sentences)))
    draw = random.Random(text)
    while any(place == moved for place, moved in enumerate(order)):  # none stays where it was
        draw.shuffle(order)
    return " ".join(sentences[moved] for moved in order)


def _padded(text: str) -> str:
    first, second, third, last = PADDING[language_of(text)]
    return " ".join([first, second, third, text, second, third, last])


_MAKERS: Mapping[Fault, Callable[[str], str | None]] = {
    "cut off": _cut,
    "sentences shuffled": _shuffled,
    "padded with empty phrases": _padded,
}
_FAULTS: tuple[Fault, ...] = ("another question's answer", *_MAKERS)
