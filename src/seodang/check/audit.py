"""Findings on rows before training: copies, contradictions, echoes, leaks, scarcity, languages. Changes nothing.

Works on hashes [rows]: a source of a million rows takes some tens of megabytes, whatever its texts weigh.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from seodang.check.suspicious_text import SIGNS, signs_of
from seodang.data.arrow import block
from seodang.data.split import Splits
from seodang.data.workers import in_order
from seodang.recipe import Split
from seodang.types import Finding

BATCH_ROWS = 2000
FEW_ROWS = 50
SHOWN_ROWS = 5
PUNCTUATION = "?!。？！…~:;·'\"“”‘’"
POINTS = re.compile(r"[.,](?!\d)|[.,](?<!\d[.,])")  # not those of numbers: 1.5 mg is not 15 mg
MIXED_SHARE = 0.01  # a second language below this share of the rows is not worth a note


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exchanges:
    """Questions with their answers, every turn of every row. Each field is [exchanges]."""

    row: NDArray[np.int64]  # ascending
    key: NDArray[np.int64]  # hash of question and answer

    def below(self, row: int) -> "_Exchanges":
        """Those of the rows before `row`."""
        end = np.searchsorted(self.row, row)
        return _Exchanges(row=self.row[:end], key=self.key[:end])

    def beyond(self, row: int) -> "_Exchanges":
        """Those from `row` on, which then is row 0."""
        start = np.searchsorted(self.row, row)
        return _Exchanges(row=self.row[start:] - row, key=self.key[start:])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """One source, row by row: first its training rows, then its holdout. Each field is [rows]."""

    splits: Splits
    row: NDArray[np.int64]  # hash of the whole row
    question: NDArray[np.int64]  # hash of the question
    spelled: NDArray[np.int64]  # hash of the question without blanks and punctuation
    prompt: NDArray[np.int64]  # hash of system text and question; 0 if the row is not one question and one answer
    answer: NDArray[np.int64]  # hash of the answer, white space collapsed
    is_echo: NDArray[np.bool_]  # the answer is the question
    hangul: NDArray[np.int64]  # Hangul syllables
    latin: NDArray[np.int64]  # Latin letters without accents
    exchanges: "_Exchanges"
    signs: NDArray[np.int64]  # of suspicious text, as bits

    @property
    def num_train(self) -> int:
        return len(self.splits.train)

    def row_places(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """`file:row` of the first of these rows."""
        return tuple(self._row_place(int(row)) for row in rows[:SHOWN_ROWS])

    def _row_place(self, row: int) -> str:
        rows, row = (self.splits.train, row) if row < self.num_train else (self.splits.holdout, row - self.num_train)
        found = rows.select_columns(["file", "row"])[row]
        return f"{found['file']}:{found['row']}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """Hashes that one source trains on: sorted once, and looked up by the holdout of every source."""

    question: NDArray[np.int64]
    spelled: NDArray[np.int64]
    exchange: NDArray[np.int64]

    @classmethod
    def of(cls, facts: _Facts) -> "_Trained":
        rows = facts.num_train
        found = (facts.question[:rows], facts.spelled[:rows], facts.exchanges.below(rows).key)
        question, spelled, exchange = map(np.unique, found)
        return cls(question=question, spelled=spelled, exchange=exchange)


def audit(splits: Mapping[str, Splits], by: Split, *, fewest_held_out: float = 0.0) -> list[Finding]:
    """Findings about each source and its split, and what occurs in both splits: questions (none when rows are split by
    question) and questions with their answers, whichever turn they are.

    Args:
        fewest_held_out: held-out rows of a source below which the proof shows no interval.
    """
    facts = {name: _read(one) for name, one in splits.items()}
    trained = {name: _Trained.of(known) for name, known in facts.items()}
    findings = list(_few_rows(facts, fewest_held_out))
    for name, known in facts.items():
        where = f"source {name}"
        for check in (_copies, _contradictions, _echoes, _languages, _suspicious):
            findings.extend(check(known, where))
        findings.extend(known.splits.findings)
        findings.extend(_leaks(name, facts[name], trained, by))
    return findings


def _few_rows(facts: Mapping[str, _Facts], fewest_held_out: float) -> Iterator[Finding]:
    """One finding of a kind, whatever the number of sources."""
    held_out = {name: len(known.row) - known.num_train for name, known in facts.items()}
    if few := {name: count for name, count in held_out.items() if 0 < count < fewest_held_out}:
        yield Finding(
            check="few_held_out",
            severity="warn",
            where=_sources(few),
            what=f"{_counted(few)} held-out row{'' if list(few.values()) == [1] else 's'}; "
            f"no interval is shown under {fewest_held_out:g}",
            hint=f"let each holdout be at least {fewest_held_out:g} rows, more where their lengths differ",
        )
    trained = {name: known.num_train for name, known in facts.items() if known.num_train}
    measured = {name: held_out[name] for name in facts if name not in trained and name not in few}  # one is enough
    for use, counts in (("train on", trained), ("measure with", measured)):
        if some := {name: count for name, count in counts.items() if count < FEW_ROWS}:
            yield Finding(
                check="few_rows",
                severity="warn",
                where=_sources(some),
                what=f"rows to {use}: only {_counted(some)}; a result from so few is mostly chance",
                hint=f"give at least {FEW_ROWS} rows, better some hundreds",
            )


def _sources(counts: Mapping[str, int]) -> str:
    return f"source{'' if len(counts) == 1 else 's'} {', '.join(counts)}"


def _counted(counts: Mapping[str, int]) -> str:
    """`10, 6, 8`, in the order of their sources."""
    return ", ".join(f"{count:,}" for count in counts.values())


def _copies(facts: _Facts, where: str) -> Iterator[Finding]:
    _, first, rows_of = np.unique(facts.row, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[rows_of] != np.arange(len(facts.row)))
    if len(copies):
        yield Finding(
            check="duplicate_rows",
            severity="warn",
            where=where,
            what=f"exact copies of another row: {len(copies):,} of {len(facts.row):,} rows",
            hint="leave the copies out, unless the repetition is meant",
            rows=facts.row_places(copies),
        )


def _contradictions(facts: _Facts, where: str) -> Iterator[Finding]:
    single = np.flatnonzero(facts.prompt)
    order = single[np.lexsort((facts.answer[single], facts.prompt[single]))]
    prompt, answer = facts.prompt[order], facts.answer[order]
    differs = np.flatnonzero((prompt[1:] == prompt[:-1]) & (answer[1:] != answer[:-1]))
    if not len(differs):
        return
    questions = np.unique(prompt[differs])
    rows = np.flatnonzero(np.isin(facts.prompt, questions))
    _, first, question_of_row = np.unique(facts.prompt[rows], return_index=True, return_inverse=True)
    rows = rows[np.argsort(first[question_of_row], kind="stable")]  # question by question, as the source has them
    yield Finding(
        check="conflicting_answers",
        severity="warn",
        where=where,
        what=f"questions with more than one answer: {len(questions):,}",
        hint="fine if several answers are right; else keep the right one",
        rows=facts.row_places(rows),
    )


def _echoes(facts: _Facts, where: str) -> Iterator[Finding]:
    echoes = np.flatnonzero(facts.is_echo)
    if len(echoes):
        yield Finding(
            check="echoed_question",
            severity="warn",
            where=where,
            what=f"rows whose answer is the question itself: {len(echoes):,}",
            hint="check that the answer column is the right one; leave such rows out",
            rows=facts.row_places(echoes),
        )


def _languages(facts: _Facts, where: str) -> Iterator[Finding]:
    # a Korean sentence with some foreign terms stays Korean: a syllable is worth two to three letters
    is_korean = (2 * facts.hangul >= facts.latin) & (facts.hangul > 0)
    is_latin = ~is_korean & (facts.latin > 0)
    korean, latin = int(is_korean.sum()), int(is_latin.sum())
    if min(korean, latin) > MIXED_SHARE * (korean + latin):
        yield Finding(
            check="mixed_languages",
            severity="note",
            where=where,
            what=f"{korean / (korean + latin):.0%} of the rows are mainly in Hangul, "
            f"{latin / (korean + latin):.0%} mainly in Latin script",
            rows=facts.row_places(np.flatnonzero(is_korean if korean < latin else is_latin)),
        )


def _suspicious(facts: _Facts, where: str) -> Iterator[Finding]:
    for number, sign in enumerate(SIGNS):
        rows = np.flatnonzero(facts.signs & (1 << number))
        if len(rows):
            yield Finding(
                check=sign.check,
                severity="warn",
                where=where,
                what=f"in {len(rows):,} of {len(facts.row):,} rows {sign.what}",
                hint=sign.hint,
                rows=facts.row_places(rows),
            )


def _leaks(name: str, facts: _Facts, trained: Mapping[str, _Trained], by: Split) -> Iterator[Finding]:
    """Holdout rows of one source whose question is trained on, in this source or another; then those of a turn."""
    questions = {other: known.question for other, known in trained.items()}
    leaked, trained_in = _trained_on(facts.question[facts.num_train :], questions)
    if trained_in:
        yield Finding(
            check="split_leak",
            severity="warn",
            where=f"source {name}",
            what=f"holdout rows whose question is trained on too: {int(leaked.sum()):,} of {len(leaked):,} "
            f"(in {', '.join(trained_in)}; split by {by.by}); the measured loss is optimistic (leakage)",
            hint="split: {by: question} keeps a question in one split",
            rows=facts.row_places(np.flatnonzero(leaked) + facts.num_train),
        )
    spelled = {other: known.spelled for other, known in trained.items()}
    alike, trained_in = _trained_on(facts.spelled[facts.num_train :], spelled, known_rows=leaked)
    if trained_in:
        yield Finding(
            check="spelling_leak",
            severity="warn",
            where=f"source {name}",
            what=f"holdout rows whose question is trained on with other blanks or punctuation: {int(alike.sum()):,} of "
            f"{len(alike):,} (in {', '.join(trained_in)}); the measured loss is optimistic (leakage)",
            hint="write these questions alike: the same question stays in one split",
            rows=facts.row_places(np.flatnonzero(alike) + facts.num_train),
        )
    yield from _turn_leaks(name, facts, trained, known_rows=leaked)


def _trained_on(
    held_out: NDArray[np.int64], trained: Mapping[str, NDArray[np.int64]], known_rows: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which holdout rows have a hash that is trained on [holdout rows], and in which sources.

    Args:
        held_out: hash of each holdout row of one source.
        trained: source → hashes, ascending.
        known_rows: [holdout rows] that are reported already.
    """
    leaked = np.zeros(len(held_out), dtype=bool)
    trained_in = []
    for other, known in trained.items():
        is_trained = _is_in(held_out, known)
        if known_rows is not None:
            is_trained &= ~known_rows
        if is_trained.any():
            leaked |= is_trained
            trained_in.append(other)
    return leaked, trained_in


def _is_in(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values there are among others [values]."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    places = np.searchsorted(ascending, values)
    found: NDArray[np.bool_] = ascending[np.minimum(places, len(ascending) - 1)] == values
    return found


def _turn_leaks(
    name: str, facts: _Facts, trained: Mapping[str, _Trained], *, known_rows: NDArray[np.bool_]
) -> Iterator[Finding]:
    """Holdout rows of one source with a question and answer that are trained on as some turn of another row.

    Args:
        known_rows: [holdout rows] that are reported already.
    """
    held_out = facts.exchanges.beyond(facts.num_train)
    leaked = np.zeros(len(known_rows), dtype=bool)
    trained_in = []
    for other, known in trained.items():
        rows = held_out.row[_is_in(held_out.key, known.exchange)]
        rows = rows[~known_rows[rows]]
        if len(rows):
            leaked[rows] = True
            trained_in.append(other)
    if trained_in:
        yield Finding(
            check="turn_leak",
            severity="warn",
            where=f"source {name}",
            what=f"holdout rows whose question and answer are trained as a turn of another row: "
            f"{int(leaked.sum()):,} of {len(leaked):,} (in {', '.join(trained_in)}); "
            "the measured loss is optimistic (leakage)",
            hint="fine for greetings; else leave these turns out of one of the rows",
            rows=facts.row_places(np.flatnonzero(leaked) + facts.num_train),
        )


def _read(one: Splits) -> _Facts:
    """Read both splits once, batch by batch."""
    columns = ["row_id", "question_key", "exchange_keys", "messages", "text"]
    both = [rows.select_columns(columns) for rows in (one.train, one.holdout)]
    batches = [(split, start) for split, rows in enumerate(both) for start in range(0, len(rows), BATCH_ROWS)]
    found = list(in_order(lambda batch: _columns(both[batch[0]], batch[1]), batches))
    row, question, spelled, prompt, answer, is_echo, hangul, latin, num_exchanges, exchange, signs = (
        np.concatenate([columns[index] for columns in found]) for index in range(11)
    )
    return _Facts(
        splits=one,
        row=row,
        question=question,
        spelled=spelled,
        prompt=prompt,
        answer=answer,
        is_echo=is_echo.astype(bool),
        hangul=hangul,
        latin=latin,
        exchanges=_Exchanges(row=np.repeat(np.arange(len(row)), num_exchanges), key=exchange),
        signs=signs,
    )


def _columns(rows: Dataset, start: int) -> tuple[NDArray[np.int64], ...]:
    """The fields of `_Facts` after `splits`, for one batch of one split; of exchanges their number in each row, and
    their keys."""
    batch = block(rows, start, start + BATCH_ROWS)
    messages, exchanges = (batch[name].combine_chunks() for name in ("messages", "exchange_keys"))
    turns = iter(json.loads(f"[{','.join(messages.flatten().storage.to_pylist())}]"))  # one parse for all is faster
    num_turns = messages.value_lengths().to_pylist()
    questions = batch["question_key"].to_pylist()
    facts, texts, answers, spelled = [], [], [], []
    for index, text in enumerate(batch["text"].to_pylist()):
        conversation = list(islice(turns, num_turns[index]))
        contents = [turn["content"] or "" for turn in conversation] or [text or ""]
        texts.append("\n".join([*contents, ""]))
        answers.append([turn["content"] or "" for turn in conversation if turn["role"] == "assistant"])
        facts.append(_exchange(questions[index], conversation))
        asked = next((turn["content"] or "" for turn in conversation if turn["role"] == "user"), "")
        spelled.append(hash(_spelled(asked) or questions[index]))
    prompt, answer, is_echo = np.array(facts, dtype=np.int64).T
    # hashes of this session: forked processes share the salt
    rows = np.array([hash(row_id) for row_id in batch["row_id"].to_pylist()], dtype=np.int64)
    return (
        rows,
        np.array([hash(key) for key in questions], dtype=np.int64),
        np.array(spelled, dtype=np.int64),
        prompt,
        answer,
        is_echo,
        *_scripts(texts),
        exchanges.value_lengths().to_numpy().astype(np.int64),
        np.array([hash(key) for key in exchanges.flatten().to_pylist()], dtype=np.int64),
        signs_of(answers, texts),
    )


def _exchange(question_key: str, conversation: list[dict[str, str | None]]) -> tuple[int, int, bool]:
    """(prompt hash, answer hash, answer is question) of one question with one answer, else zeros."""
    turns = [turn for turn in conversation if turn["role"] != "system"]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        return 0, 0, False
    system = [turn["content"] for turn in conversation if turn["role"] == "system"]
    question, answer = (" ".join((turn["content"] or "").split()) for turn in turns)
    return hash((question_key, *system)), hash(answer), bool(answer) and question.casefold() == answer.casefold()


def _spelled(question: str) -> str:
    """The question without blanks and punctuation; replacing one mark after the other is the fastest way."""
    text = "".join(question.casefold().split())
    for mark in PUNCTUATION:
        text = text.replace(mark, "")
    return POINTS.sub("", text)


def _scripts(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hangul syllables and Latin letters in each text [texts]; no text is empty (each ends in a line break)."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    starts = np.cumsum([0, *map(len, texts[:-1])])
    is_hangul = (codes >= ord("가")) & (codes <= ord("힣"))
    is_latin = ((codes | 32) >= ord("a")) & ((codes | 32) <= ord("z"))
    return np.add.reduceat(is_hangul, starts, dtype=np.int64), np.add.reduceat(is_latin, starts, dtype=np.int64)
