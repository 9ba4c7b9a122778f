"""A profile of one of the user's files: how it is read, how many rows, how long, in which language. Knows no role."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from seodang.data.read.clean import question_hash
from seodang.data.read.conversation import Conversation, read_row
from seodang.data.read.layout import Layout, find_layout
from seodang.data.read.raw_rows import RawRows
from seodang.data.read.sources import read
from seodang.data.read.unusable import UnusableRowError
from seodang.errors import SourceError
from seodang.recipe import Source
from seodang.starter.guess_columns import Ask, guess_columns

MAX_ROWS = 20_000  # of one file: more would change the profile little
MAX_CHARS = 30_000_000
KEPT_QUESTIONS = 200
LANGUAGE_ROWS = 500
TURN_TOKENS = 6  # what a template writes around a turn
HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
LATIN = re.compile("[A-Za-z]")
TAGS = re.compile("<[^<>]*>")
ENGLISH = re.compile(r"\b(the|and|what|how|you|are|with|that|is|to)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """What is known of the rows of one file, as far as they were read."""

    path: str  # as given
    layout: Layout
    keys: Mapping[str, str]  # recipe keys for columns whose names alone do not say what they are
    tokens: NDArray[np.int64]  # [usable rows] estimated tokens as rendered
    whole: bool  # read to its end
    num_questions: int  # different ones
    questions: tuple[str, ...]  # the first different ones
    language: str  # Korean, English or "another language"
    plain_turns: float  # share of the rows where user and assistant alternate and no tool is called
    remarks: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Usable rows that were read."""
        return len(self.tokens)

    @property
    def is_text(self) -> bool:
        """Plain text instead of questions and answers."""
        return self.layout.format == "text"


def profile_file(path: str, *, max_rows: int = MAX_ROWS, ask: Ask | None = None) -> FileProfile:
    """Read the first rows of a file as `convert` would.

    Args:
        ask: decides between columns that could be meant; without it the likeliest are taken, with a remark.

    Raises:
        SourceError: it cannot be read, its columns are not recognised, or none of these rows can be used.
    """
    _refuse_unwritable(path)
    raw = read(_source(path, {}))
    layout, keys = _find(raw, path, ask)
    tally = _Tally()
    chars = 0
    whole = True
    for row in raw.rows():
        if tally.rows >= max_rows or chars >= MAX_CHARS:
            whole = False
            break
        try:
            conversation = read_row(layout, row.fields, set())
        except UnusableRowError as reason:
            tally.dropped[str(reason)] += 1
            tally.where = tally.where or row.where
        else:
            chars += tally.add(conversation)
        tally.rows += 1
    if not tally.tokens:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in tally.dropped.most_common(3))
        raise SourceError(
            f"none of the first {tally.rows} rows can be used: {reasons}",
            where=tally.where or path,
            hint="mend the file, or leave it out",
        )
    return tally.profile(path, layout, keys, raw.remarks, whole=whole)


def _refuse_unwritable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError(
            "the file's name is not UTF-8, so no recipe can hold it", where=repr(path), hint="rename the file"
        ) from None


def _source(path: str, keys: Mapping[str, str]) -> Source:
    return Source.model_validate({"name": "file", "role": "domain", "path": path, **keys})


def _find(raw: RawRows, path: str, ask: Ask | None) -> tuple[Layout, Mapping[str, str]]:
    """The layout, by the columns' names; else by their contents."""
    try:
        return find_layout(raw, _source(path, {})), {}
    except SourceError as refused:
        keys = guess_columns(raw, ask)
        if keys is None:
            names_keys = ":`" in refused.hint  # of a recipe, which is only about to be written
            hint = refused.hint + "; for `init`, name them so in the file (question, answer)" * names_keys
            raise SourceError(refused.what, where=refused.where, hint=hint) from None
    return find_layout(raw, _source(path, keys)), keys


@dataclass
class _Tally:
    """Counts rows while they pass; holds numbers and a few questions, no rows."""

    rows: int = 0
    tokens: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    where: str = ""  # the first row that cannot be used
    keys: set[str] = field(default_factory=set)
    questions: list[str] = field(default_factory=list)
    plain: int = 0
    letters: Counter[str] = field(default_factory=Counter)

    def add(self, conversation: Conversation) -> int:
        """Count one row; its characters."""
        turns = [message.content or "" for message in conversation.messages]
        calls = [str(message.tool_calls) for message in conversation.messages if message.tool_calls]
        thoughts = [message.reasoning for message in conversation.messages if message.reasoning]
        whole = "\n".join([*turns, *calls, *thoughts, conversation.text or "", conversation.tools or ""])
        self.tokens.append(_tokens(whole) + TURN_TOKENS * max(len(turns), 1))
        if (key := question_hash(conversation.question)) not in self.keys:
            self.keys.add(key)
            if len(self.questions) < KEPT_QUESTIONS and conversation.text is None:
                self.questions.append(conversation.question)
        self.plain += _alternates(conversation)
        if len(self.tokens) <= LANGUAGE_ROWS:
            self._count_letters(TAGS.sub(" ", whole[:5000]))
        return len(whole)

    def _count_letters(self, text: str) -> None:
        self.letters["all"] += sum(map(str.isalpha, text))
        self.letters["hangul"] += len(HANGUL.findall(text))
        self.letters["latin"] += len(LATIN.findall(text))
        self.letters["english"] += sum(map(len, ENGLISH.findall(text)))

    def profile(
        self, path: str, layout: Layout, keys: Mapping[str, str], remarks: Sequence[str], *, whole: bool
    ) -> FileProfile:
        """What was counted."""
        all_remarks = [*remarks]
        if keys:
            all_remarks.append(
                f"the columns are a guess, please check: {', '.join(f'{k}: {v}' for k, v in keys.items())}"
            )
        if self.dropped:
            reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.dropped.most_common(3))
            all_remarks.append(f"rows that will be dropped: {reasons}")
        return FileProfile(
            path=path,
            layout=layout,
            keys=keys,
            tokens=np.array(self.tokens),
            whole=whole,
            num_questions=len(self.keys),
            questions=tuple(self.questions),
            language=self._language(),
            plain_turns=self.plain / len(self.tokens),
            remarks=tuple(f"{path}: {remark}" for remark in all_remarks),
        )

    def _language(self) -> str:
        letters = max(self.letters["all"], 1)
        if self.letters["hangul"] >= 0.2 * letters:  # a Hangul syllable is worth two or three Latin letters
            return "Korean"
        is_english = self.letters["latin"] >= 0.9 * letters and self.letters["english"] >= 0.04 * letters
        return "English" if is_english else "another language"


def _tokens(text: str) -> int:
    """Estimated tokens: Gemma and Qwen make 0.20 to 0.28 of an English, 0.26 to 0.32 of a Korean UTF-8 byte."""
    num_bytes = len(text.encode("utf-8", errors="replace"))
    ascii_bytes = num_bytes if text.isascii() else sum(map(str.isascii, text))
    return int(0.25 * ascii_bytes + 0.31 * (num_bytes - ascii_bytes)) + 1


def _alternates(conversation: Conversation) -> bool:
    """Whether every template can render it: user and assistant in turn, no tools."""
    roles = [message.role for message in conversation.messages if message.role != "system"]
    system = [index for index, message in enumerate(conversation.messages) if message.role == "system"]
    called = conversation.tools is not None or any(message.tool_calls for message in conversation.messages)
    expected = ("user", "assistant") * (len(roles) // 2 + 1)
    return not called and tuple(roles) == tuple(islice(expected, len(roles))) and system in ([], [0])
