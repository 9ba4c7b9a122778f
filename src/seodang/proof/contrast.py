"""How much an answer depends on its own question: the same answer behind the prompts of other rows. Knows no model.

Each of a source's rows gets `FOREIGN` prompts of other rows: of the same script, another cluster and another answer.
Rows are ordered by the length of their prompts and shifted cyclically, so that each prompt serves equally often.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from seodang.data.arrow import column_values
from seodang.data.encode.rows import bos_id
from seodang.data.encode.tokenize import Encoder
from seodang.data.read.clean import normal_form
from seodang.data.template.renderer import Renderer
from seodang.errors import TemplateError
from seodang.proof.held_out import HeldOutRow, drawn
from seodang.types import IGNORED

FOREIGN = 3  # prompts of other rows
MIN_CLUSTERS = 16
MAX_OVERLAP = 0.5  # of two answers' character 5-grams
GRAM = 5
FOREIGN_SHARE = 0.2  # of the letters, from which a text is of another script than Latin: a syllable is worth several

TOOLS, PREFILLED, CONTEXT, CUT = "tools", "prefilled", "context passage", "question cut"
NO_ANSWER, TOO_LONG, TOO_FEW = "its last answer is not supervised", "too long", f"fewer than {MIN_CLUSTERS} clusters"
NO_OTHER, CHOOSES, NOT_DRAWN, TEXT = "no other prompt suits it", "chooses", "not drawn", "plain text"

Ids = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A row whose last answer can be put behind other prompts."""

    number: int  # of the row in its holdout
    row_id: str
    turns: Sequence[Mapping[str, Any]]  # before the last answer, without the system turn
    system: str | None  # its text
    script: str  # of its letters, most of them
    prompt: Ids  # in the chat template
    plain: Ids  # in the plain form
    answer: Ids  # content and turn end
    scored_before: int  # of the row's tokens, before the answer's
    reference: str  # the answer as it is compared with others

    @property
    def grams(self) -> frozenset[str]:
        """Its character 5-grams; the whole where it is shorter."""
        text = self.reference
        return frozenset(text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """One row with the prompts that its answer is put behind."""

    asked: Asked
    prompts: tuple[str, ...]  # row_id of each foreign one
    template: tuple[Ids, ...]  # the foreign prompts in the chat template, after the row's own system text
    plain: tuple[Ids, ...]  # and in the plain form


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceContrasts:
    """What is measured of one source."""

    rows: tuple[Contrast, ...] = ()
    choosing: tuple[Asked, ...] = ()  # by these the form is chosen in which the base is asked
    reasons: Mapping[int, str] = field(default_factory=dict)  # number of each other row → why it has no contrast

    @property
    def asked(self) -> dict[int, Asked]:
        """Every row that is contrasted or helps to choose the form, by its number."""
        return {asked.number: asked for asked in (*(row.asked for row in self.rows), *self.choosing)}


def plan_contrasts(
    rows: Dataset,
    held_out: Sequence[HeldOutRow],
    renderer: Renderer,
    *,
    most: int,
    max_tokens: int,
    seed: int,
    has_context: bool = False,
) -> SourceContrasts:
    """Choose rows and their foreign prompts: the same for all models and seeds of training.

    Args:
        rows, held_out: one source's holdout.
        most: rows that are measured.
        max_tokens: of a prompt with its answer.
        seed: of the split.
        has_context: the source's questions hold a passage that they are about.
    """
    proving, choosing, reasons, num_clusters = _drawn(rows, held_out, most=most, seed=seed, has_context=has_context)
    reader = _Reader(rows, renderer, max_tokens)
    read = {number: reader.read(number) for number in sorted({*proving, *choosing})}
    reasons |= {number: asked for number, asked in read.items() if isinstance(asked, str)}
    asked = [one for number in proving if isinstance(one := read[number], Asked)]
    contrasts = [
        contrast
        for script in sorted({one.script for one in asked})
        for contrast in _with_foreign([one for one in asked if one.script == script], reader)
    ]
    if len(contrasts) < MIN_CLUSTERS:
        contrasts = []
        if num_clusters < MIN_CLUSTERS:
            reasons |= dict.fromkeys((one.number for one in asked), TOO_FEW)
    measured = {contrast.asked.number for contrast in contrasts}
    reasons = dict.fromkeys((one.number for one in asked), NO_OTHER) | reasons
    return SourceContrasts(
        rows=tuple(sorted(contrasts, key=lambda contrast: contrast.asked.number)),
        choosing=tuple(one for number in choosing if contrasts and isinstance(one := read[number], Asked)),
        reasons={
            number: reasons.get(number, NOT_DRAWN if row.proves else CHOOSES)
            for number, row in enumerate(held_out)
            if number not in measured
        },
    )


def _drawn(
    rows: Dataset, held_out: Sequence[HeldOutRow], *, most: int, seed: int, has_context: bool
) -> tuple[list[int], list[int], dict[int, str], int]:
    """(rows that prove, rows that choose, why others cannot, proving clusters that could): one row a cluster."""
    proving: list[int] = []
    choosing: list[int] = []
    reasons: dict[int, str] = {}
    clusters: dict[str, bool] = {}  # → whether its rows prove
    columns = zip(column_values(rows, "messages"), column_values(rows, "tools"), strict=True)
    refusals = [_refusal(turns, tools, has_context=has_context) for turns, tools in columns]
    for number in drawn(held_out, seed=seed).tolist():
        row = held_out[number]
        if reason := refusals[number]:
            reasons[number] = reason
        elif row.cluster not in clusters:
            clusters[row.cluster] = row.proves
            if row.proves and len(proving) < most:
                proving.append(number)
            if row.chooses and len(choosing) < most:
                choosing.append(number)
    return proving, choosing, reasons, sum(clusters.values())


def _refusal(turns: Sequence[Mapping[str, Any]], tools: str | None, *, has_context: bool) -> str:
    """Why a row's last answer is not put behind other prompts; empty where nothing speaks against it."""
    if not turns:
        return TEXT
    if tools or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
        return TOOLS
    last = turns[-1]
    if last["role"] != "assistant" or last.get("supervised") is False:
        return NO_ANSWER
    if last.get("prefill"):
        return PREFILLED
    return CONTEXT if has_context else ""


class _Reader:
    """Rows → what is asked in them, in both forms."""

    def __init__(self, rows: Dataset, renderer: Renderer, max_tokens: int) -> None:
        self.rows, self.renderer, self.max_tokens = rows, renderer, max_tokens
        self.encoder = Encoder(renderer.tokenizer, renderer.template)
        self.opening = [] if (bos := bos_id(renderer)) is None else [bos]
        names = dict(renderer.template.markers)
        self.ends = {renderer.template.turn_end_id, names.get(renderer.template.call_end, -1)}

    def read(self, number: int) -> Asked | str:
        """A row, or why it has no contrast."""
        row = self.rows[number]
        turns, last = row["messages"][:-1], row["messages"][-1]
        ids, labels = (np.asarray(row[key], dtype=np.int32) for key in ("input_ids", "labels"))
        try:
            prompt = self.template_ids(turns)
        except TemplateError:
            return NO_ANSWER
        if not np.array_equal(ids[: len(prompt)], prompt):  # shortened, or not as it is served
            return CUT
        answer = ids[len(prompt) :]
        ends = np.flatnonzero(np.isin(answer, list(self.ends)))
        answer = answer[: ends[0] + 1] if ends.size else answer
        if not len(answer) or (labels[len(prompt) : len(prompt) + len(answer)] == IGNORED).any():
            return NO_ANSWER
        system = turns[0]["content"] if turns and turns[0]["role"] == "system" else None
        turns = turns[1:] if system is not None else turns
        script = script_of(" ".join(turn.get("content") or "" for turn in turns))
        plain = self.plain_ids(turns, system, is_korean=script == "HANGUL")
        if len(plain) + len(answer) > self.max_tokens:
            return TOO_LONG
        return Asked(
            number=number,
            row_id=row["row_id"],
            turns=turns,
            system=system,
            script=script,
            prompt=prompt,
            plain=plain,
            answer=answer,
            scored_before=int((labels[1 : len(prompt)] != IGNORED).sum()),
            reference=normal_form(last.get("content") or ""),
        )

    def foreign(self, row: Asked, other: Asked) -> tuple[Ids, Ids] | None:
        """(in the chat template, in the plain form) another row's prompt after the row's own system text.

        None: the answer does not fit behind it.
        """
        template, plain = other.prompt, other.plain
        if row.system != other.system:
            turns = [*([] if row.system is None else [{"role": "system", "content": row.system}]), *other.turns]
            try:
                template = self.template_ids(turns)
            except TemplateError:
                return None
            plain = self.plain_ids(other.turns, row.system, is_korean=other.script == "HANGUL")
        longest = max(len(template), len(plain)) + len(row.answer)
        return (template, plain) if longest <= self.max_tokens else None

    def template_ids(self, turns: Sequence[Mapping[str, Any]]) -> Ids:
        return self.encoder.encode([self.renderer.prompt([dict(turn) for turn in turns])])[0][0]

    def plain_ids(self, turns: Sequence[Mapping[str, Any]], system: str | None, *, is_korean: bool) -> Ids:
        system = self.renderer.system if system is None else system
        ids = self.encoder.encode([plain_prompt(turns, system, is_korean=is_korean)])[0][0]
        return np.concatenate([np.array(self.opening, dtype=np.int32), ids])


def plain_prompt(turns: Sequence[Mapping[str, Any]], system: str | None, *, is_korean: bool) -> str:
    """The plain form: no markers, but the words question and answer in the data's language."""
    question, answer = ("질문", "답변") if is_korean else ("Question", "Answer")
    lines = [f"{system}\n\n"] if system else []
    for turn in turns:
        content = turn.get("content") or ""
        lines.append(f"{question}: {content}\n" if turn["role"] == "user" else f"{answer}:\n{content}\n\n")
    return "".join([*lines, f"{answer}:\n"])


def script_of(text: str) -> str:
    """The script of a text's letters, as Unicode names it: HANGUL, LATIN, CJK …"""
    counts = Counter(unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha())
    others = [(count, script) for script, count in counts.items() if script != "LATIN"]
    if others and max(others)[0] >= FOREIGN_SHARE * counts.total():
        return max(others)[1]
    return "LATIN" if counts else ""


def _with_foreign(asked: Sequence[Asked], reader: _Reader) -> list[Contrast]:
    """Rows of one script, one of each cluster, with their foreign prompts; those for which there are none left out."""
    by_length = sorted(asked, key=lambda one: (len(one.prompt), one.row_id))
    grams = {one.number: one.grams for one in asked}
    prompts: dict[tuple[int, int], tuple[Ids, Ids] | None] = {}

    def is_foreign(row: Asked, other: Asked) -> bool:
        pair = row.number, other.number
        if pair not in prompts:
            a, b = grams[row.number], grams[other.number]
            is_alike = row is other or row.reference == other.reference or len(a & b) >= MAX_OVERLAP * len(a | b)
            prompts[pair] = None if is_alike else reader.foreign(row, other)
        return prompts[pair] is not None

    rows = list(by_length)
    while len(rows) > FOREIGN:
        shifts, misfit = shifted(len(rows), lambda one, other: is_foreign(rows[one], rows[other]))
        if misfit is None:
            return [_contrast(row, [rows[shift[at]] for shift in shifts], prompts) for at, row in enumerate(rows)]
        del rows[misfit]
    return []


def _contrast(
    row: Asked, others: Sequence[Asked], prompts: Mapping[tuple[int, int], tuple[Ids, Ids] | None]
) -> Contrast:
    pairs = [pair for other in others if (pair := prompts[row.number, other.number]) is not None]
    assert len(pairs) == len(others), f"row {row.number}: {len(pairs)} of {len(others)} prompts"
    return Contrast(
        asked=row,
        prompts=tuple(other.row_id for other in others),
        template=tuple(template for template, _ in pairs),
        plain=tuple(plain for _, plain in pairs),
    )


def shifted(count: int, may_take: Callable[[int, int], bool]) -> tuple[list[list[int]], int | None]:
    """`FOREIGN` permutations of the numbers below `count`, near to cyclic shifts by 1, 2, 3, of pairs that are allowed.

    Where a shift gives a number a partner that it may not take, it exchanges partners with the next number with which
    that is possible.

    Returns:
        The permutations, in which no pair comes twice; and the number that finds no partner, if one does not.
    """
    shifts: list[list[int]] = []
    for shift in range(1, FOREIGN + 1):
        taken = [(at + shift) % count for at in range(count)]

        def fits(at: int, partner: int) -> bool:
            return at != partner and all(one[at] != partner for one in shifts) and may_take(at, partner)

        for at in range(count):
            if fits(at, taken[at]):
                continue
            others = ((at + distance) % count for distance in range(1, count))
            other = next((one for one in others if fits(at, taken[one]) and fits(one, taken[at])), None)
            if other is None:
                return shifts, at
            taken[at], taken[other] = taken[other], taken[at]
        shifts.append(taken)
    return shifts, None
