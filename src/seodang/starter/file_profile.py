"""A profile of one of the user's files: how it is read, how many rows, how long, in which language. Knows no role."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from seodang.data.counting import Counting, uncounted
from seodang.data.read.clean import question_hash
from seodang.data.read.column_names import ANSWER, column_key
from seodang.data.read.containers.same_layout import answers_without_questions
from seodang.data.read.conversation import PARTS, Conversation, read_row
from seodang.data.read.layout import Layout, find_layout
from seodang.data.read.raw_rows import RawRows
from seodang.data.read.sources import read
from seodang.data.read.turns.merge import merge_turns
from seodang.data.read.unusable import UnusableRowError
from seodang.errors import SourceError
from seodang.proof.behaviour import HANGUL
from seodang.recipe import Source
from seodang.starter.guess_columns import Ask, guess_columns
from seodang.starter.token_count import ESTIMATED, TokenCount
from seodang.starter.walk import HUB, Part

MAX_ROWS = 20_000  # of one file: more would change the profile little
MAX_CHARS = 30_000_000
KEPT_QUESTIONS = 200
LANGUAGE_ROWS = 500
PLAIN_TURNS = 0.95  # share of rows that every template must be able to render
TURN_TOKENS = 6  # what a template writes around a turn
LATIN = re.compile("[A-Za-z]")
TAGS = re.compile("<[^<>]*>")
ENGLISH = re.compile(r"\b(the|and|what|how|you|are|with|that|is|to)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """What is known of the rows of one file, as far as they were read."""

    path: str  # as given; what messages call it
    paths: tuple[str, ...]  # as the recipe names them
    layout: Layout
    keys: Mapping[str, str]  # recipe keys for columns that are not known by their names
    tokens: NDArray[np.int64]  # [usable rows] as rendered, counted or estimated
    whole: bool  # read to its end
    num_questions: int  # different ones
    questions: tuple[str, ...]  # the first different ones
    language: str  # Korean, English or "another language"
    plain_turns: float  # share of the rows where user and assistant alternate without tools and thoughts
    merge_turns: bool  # user and assistant alternate once consecutive turns of one role are merged
    remarks: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Usable rows that were read."""
        return len(self.tokens)

    @property
    def is_answers_alone(self) -> bool:
        """Answers whose questions are not in these rows, read as plain text."""
        return self.layout.text is not None and column_key(self.layout.text) in ANSWER

    @property
    def is_text(self) -> bool:
        """Plain text instead of questions and answers."""
        return self.layout.format == "text"


def profile_file(
    part: Part,
    *,
    max_rows: int = MAX_ROWS,
    ask: Ask | None = None,
    counting: Counting = uncounted,
    tokens: TokenCount = ESTIMATED,
) -> FileProfile:
    """Read the first rows of files as `convert` would.

    Args:
        ask: decides between columns that could be meant; without it the likeliest are taken, with a remark.
        counting: shows how many files and rows were looked at.
        tokens: how they are counted.

    Raises:
        SourceError: they cannot be read, their columns are not recognised, or none of these rows can be used.
    """
    raw, layout, keys = _find(read(_source(part, {}), counting), part, ask, counting)
    tally = _Tally(tokens_of=tokens.of_file())
    with counting(f"rows of {part.label} looked at", None) as advance:
        whole = tally.read(raw, layout, max_rows, advance)
    if not tally.tokens:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in tally.dropped.most_common(3))
        raise SourceError(
            f"none of the first {tally.rows} rows can be used: {reasons}",
            where=tally.where or part.label,
            hint=tally.hint(),
        )
    return tally.profile(part, layout, keys, raw.remarks, whole=whole)


def _source(part: Part, keys: Mapping[str, str]) -> Source:
    first = part.paths[0]
    place = {"hub": first.removeprefix(HUB)} if first.startswith(HUB) else {"path": part.paths}
    return Source.model_validate({"name": "file", "role": "domain", **place, **keys})


def _find(raw: RawRows, part: Part, ask: Ask | None, counting: Counting) -> tuple[RawRows, Layout, Mapping[str, str]]:
    """The rows with their layout, by the columns' names; else by their contents."""
    try:
        return raw, find_layout(raw, _source(part, {})), {}
    except SourceError as refused:
        keys = _answers_in_parts(raw) or guess_columns(raw, ask)
        if keys is None:
            names_keys = ":`" in refused.hint  # of a recipe, which is only about to be written
            named = "name the file's columns question and answer (of a table: in its first line); each row needs both"
            hint = named if names_keys else refused.hint
            raise SourceError(refused.what, where=refused.where, hint=hint) from None
    source = _source(part, keys)
    raw = read(source, counting)  # rows are read otherwise where the recipe names columns
    return raw, find_layout(raw, source), keys


def _answers_in_parts(raw: RawRows) -> dict[str, str] | None:
    """Answers in parts that have no questions beside them, as AI Hub's health answers: readable as plain text."""
    if not answers_without_questions(raw.columns):
        return None
    answer = next(name for name in raw.columns if column_key(name) in ANSWER)
    cells = [row.fields.get(answer) for row in islice(raw.rows(), LANGUAGE_ROWS)]
    return {"text": answer} if any(isinstance(cell, dict) and cell.keys() <= PARTS for cell in cells) else None


@dataclass
class _Tally:
    """Counts rows while they pass; holds numbers and a few questions, no rows."""

    tokens_of: Callable[[str], int]
    rows: int = 0
    tokens: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    hints: dict[str, str] = field(default_factory=dict)  # reason → how to fix such rows
    where: str = ""  # the first row that cannot be used
    keys: set[str] = field(default_factory=set)
    questions: list[str] = field(default_factory=list)
    plain: int = 0
    merged: int = 0  # rows that would be plain with the turns of one role merged
    letters: Counter[str] = field(default_factory=Counter)

    def read(self, raw: RawRows, layout: Layout, max_rows: int, advance: Callable[[int], None]) -> bool:
        """Count the first rows; whether these are all."""
        chars = 0
        for row in raw.rows():
            if self.rows >= max_rows or chars >= MAX_CHARS:
                return False
            try:
                conversation = read_row(layout, row.fields, set())
            except UnusableRowError as reason:
                self.dropped[str(reason)] += 1
                self.hints[str(reason)] = reason.hint
                self.where = self.where or row.where
            else:
                chars += self.add(conversation)
            self.rows += 1
            advance(1)
        return True

    def hint(self) -> str:
        """How to fix most of the rows that cannot be used; a recipe is only about to be written."""
        hint = self.hints[self.dropped.most_common(1)[0][0]] if self.dropped else ":`"
        return "fix the file, or leave it out" if ":`" in hint else f"{hint}; or leave the file out"

    def add(self, conversation: Conversation) -> int:
        """Count one row; its characters."""
        turns = [message.content or "" for message in conversation.messages]
        calls = [str(message.tool_calls) for message in conversation.messages if message.tool_calls]
        thoughts = [message.reasoning for message in conversation.messages if message.reasoning]
        whole = "\n".join([*turns, *calls, *thoughts, conversation.text or "", conversation.tools or ""])
        self.tokens.append(self.tokens_of(whole) + TURN_TOKENS * max(len(turns), 1))
        if (key := question_hash(conversation.question)) not in self.keys:
            self.keys.add(key)
            if len(self.questions) < KEPT_QUESTIONS and conversation.text is None:
                self.questions.append(conversation.question)
        is_plain = _alternates(conversation)
        self.plain += is_plain
        self.merged += is_plain or _alternates(
            replace(conversation, messages=tuple(merge_turns(conversation.messages, set())))
        )
        if len(self.tokens) <= LANGUAGE_ROWS:
            self._count_letters(TAGS.sub(" ", whole[:5000]))
        return len(whole)

    def _count_letters(self, text: str) -> None:
        self.letters["all"] += sum(map(str.isalpha, text))
        self.letters["hangul"] += len(HANGUL.findall(text))
        self.letters["latin"] += len(LATIN.findall(text))
        self.letters["english"] += sum(map(len, ENGLISH.findall(text)))

    def profile(
        self, part: Part, layout: Layout, keys: Mapping[str, str], remarks: Sequence[str], *, whole: bool
    ) -> FileProfile:
        """What was counted."""
        all_remarks = [*remarks]
        rows = len(self.tokens)
        merge = self.plain < PLAIN_TURNS * rows <= self.merged
        if merge:
            all_remarks.append("consecutive turns of one role will be merged (merge_turns)")
        if keys:
            all_remarks.append(
                f"the columns are a guess, please check: {', '.join(f'{k}: {v}' for k, v in keys.items())}"
            )
        if self.dropped:
            reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.dropped.most_common(3))
            all_remarks.append(f"rows that will be dropped: {reasons}")
        return FileProfile(
            path=part.label,
            paths=part.paths,
            layout=layout,
            keys=keys,
            tokens=np.array(self.tokens),
            whole=whole,
            num_questions=len(self.keys),
            questions=tuple(self.questions),
            language=self._language(),
            plain_turns=(self.merged if merge else self.plain) / rows,
            merge_turns=merge,
            remarks=tuple(f"{part.label}: {remark}" for remark in all_remarks),
        )

    def _language(self) -> str:
        letters = max(self.letters["all"], 1)
        if self.letters["hangul"] >= 0.2 * letters:  # a Hangul syllable is worth two or three Latin letters
            return "Korean"
        is_english = self.letters["latin"] >= 0.9 * letters and self.letters["english"] >= 0.04 * letters
        return "English" if is_english else "another language"


def _alternates(conversation: Conversation) -> bool:
    """Whether every template can render it: user and assistant in turn, no tools, no thoughts."""
    roles = [message.role for message in conversation.messages if message.role != "system"]
    system = [index for index, message in enumerate(conversation.messages) if message.role == "system"]
    called = conversation.tools is not None or any(
        message.tool_calls or message.reasoning is not None for message in conversation.messages
    )
    expected = ("user", "assistant") * (len(roles) // 2 + 1)
    return not called and tuple(roles) == tuple(islice(expected, len(roles))) and system in ([], [0])
