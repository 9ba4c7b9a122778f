"""Answers as the report shows them: side by side, folded, during training, asked again, and examples of the holdout."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from seodang.data.read.clean import is_blank
from seodang.proof.behaviour import LOOPING, hangul_share, repetition
from seodang.proof.proof import AnsweredRow, Proof
from seodang.run.events import AnswersEvent, RecordedEvent
from seodang.show import formatting
from seodang.show.language import Texts
from seodang.types import Answer, AnswerKind

SHOWN_CHARACTERS = 560  # of an answer; the rest unfolds
LOOP_CHARACTERS = 180  # of one that repeats itself
COURSE_CHARACTERS = 240  # of one that was given during training
PAGE_BYTES = 2_500_000  # of all answers together, in UTF-8: a page opens quickly and can be sent by mail
CHARACTERS = (4_000, 1_500, 600, 300, 150)  # of a text, where all of them would be above that
SAMPLED, SAMPLE_SEED = 6, 42  # holdout questions that are drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A text as the page shows it: `rest` unfolds, `notes` stand below it."""

    head: str
    rest: str
    lang: str
    notes: tuple[str, ...]
    is_cut: bool = False  # did not end by itself
    times: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPair:
    """A question with the answers of base and tuned model."""

    kind: AnswerKind
    question: str
    source: str | None
    row_id: str | None
    base: Shown | None
    tuned: Shown | None
    reference: Shown | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """The question asked again, with each model's different answers, the commonest first."""

    question: str
    base: tuple[Shown, ...]
    tuned: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerViews:
    """Writes answers in one language, each text `limit` characters long at most."""

    texts: Texts
    limit: int | None  # None: they are short enough together

    def shown(self, text: str, notes: Iterable[str] = (), *, folded_after: int = SHOWN_CHARACTERS) -> Shown:
        """A text of a model or of the data, folded after about so many characters."""
        whole = formatting.visible(text).strip("\n")
        kept = whole if self.limit is None or len(whole) <= self.limit else whole[: self.limit] + " […]"
        head, rest = formatting.fold(kept, folded_after)
        lang = "ko" if (hangul_share(text) or 0) > 0.1 else "und"
        return Shown(head=head, rest=rest, lang=lang, notes=tuple(notes))

    def answer(self, answer: Answer, times: int = 1) -> Shown:
        """One answer, with how long it is and whether it ended."""
        tokens = self.texts.count("token", answer.new_tokens)
        notes = [self.texts("answers.ended" if answer.stopped else "answers.cut", tokens=tokens)]
        if is_blank(answer.text):
            notes.append(self.texts("answers.blank"))
        if is_loop := (share := repetition(answer.text)) >= LOOPING:
            notes.append(self.texts("answers.repeats", share=formatting.percent(share)))
        after = LOOP_CHARACTERS if is_loop else SHOWN_CHARACTERS
        shown = self.shown(answer.text, notes, folded_after=after // 2 if answer.kind == "repeat" else after)
        return replace(shown, is_cut=not answer.stopped, times=times)

    def pairs(self, answers: Sequence[Answer], asked: Sequence[AnswerKind]) -> list[ShownPair]:
        """One entry per question of some kinds, in their order."""
        pairs: dict[tuple[str, str, str | None], ShownPair] = {}
        for answer in answers:
            if answer.kind in asked:
                key = answer.kind, answer.question, answer.row_id
                pair = pairs.get(key) or ShownPair(
                    kind=answer.kind, question=answer.question, source=answer.source, row_id=answer.row_id,
                    base=None, tuned=None,
                    reference=self.shown(answer.reference) if answer.reference else None,
                )  # fmt: skip
                shown = self.answer(answer)
                pairs[key] = replace(pair, base=shown) if answer.model == "base" else replace(pair, tuned=shown)
        return sorted(pairs.values(), key=lambda pair: asked.index(pair.kind))

    def courses(
        self, answers: Sequence[Answer], metrics: Sequence[RecordedEvent]
    ) -> list[tuple[str, list[tuple[str, Shown]]]]:
        """(question, its answers and when they were given) where one was asked during training; the base's is first."""
        base = {(answer.kind, answer.question): answer for answer in answers if answer.model == "base"}
        asked: dict[tuple[Any, str], dict[int, tuple[str, bool]]] = {}
        for event in metrics:
            for answer in event.answers if isinstance(event, AnswersEvent) else ():
                key = answer.kind, answer.question
                start = {0: (base[key].text, base[key].stopped)} if key in base else {}
                asked.setdefault(key, start)[event.step] = answer.text, answer.stopped
        return [
            (question, [self._given(list(steps), *one) for one, steps in groupby(sorted(given), key=given.__getitem__)])
            for (_, question), given in asked.items()
        ]

    def _given(self, steps: Sequence[int], text: str, stopped: bool) -> tuple[str, Shown]:
        """An answer and when it was given: the same one several times in a row stands once."""
        first, last = (formatting.whole(step) for step in (steps[0], steps[-1]))
        if len(steps) > 1:
            when = self.texts("course.steps" if steps[0] else "course.base_to", first=first, last=last)
        else:
            when = self.texts("course.step", step=first) if steps[0] else self.texts("course.base")
        after = LOOP_CHARACTERS if repetition(text) >= LOOPING else COURSE_CHARACTERS
        notes = () if stopped else (self.texts("answers.cut_off"),)
        return when, replace(self.shown(text, notes, folded_after=after), is_cut=not stopped)

    def repeated(self, answers: Sequence[Answer]) -> Repeated | None:
        """The repeated question; None where none was asked."""
        asked = [answer for answer in answers if answer.kind == "repeat"]
        if not asked:
            return None
        base, tuned = (self._different(asked, model) for model in ("base", "tuned"))
        return Repeated(question=asked[0].question, base=base, tuned=tuned)

    def _different(self, asked: Sequence[Answer], model: str) -> tuple[Shown, ...]:
        same: dict[str, list[Answer]] = {}
        for answer in asked:
            if answer.model == model:
                same.setdefault(" ".join(answer.text.split()), []).append(answer)
        return tuple(self.answer(group[0], len(group)) for group in sorted(same.values(), key=len, reverse=True))


def characters(answers: Sequence[Answer], metrics: Sequence[RecordedEvent]) -> int | None:
    """How long a text may be, so that all of them fit into a page; None: as long as they are."""
    texts = [text for answer in answers for text in (answer.text, answer.question)]
    texts += {answer.reference for answer in answers if answer.reference}
    texts += [answer.text for event in metrics if isinstance(event, AnswersEvent) for answer in event.answers]
    for limit in (None, *CHARACTERS):
        if sum(len(text[:limit].encode(errors="replace")) for text in texts) <= PAGE_BYTES:
            return limit
    return CHARACTERS[-1]


def examples(proof: Proof | None, holdout: Sequence[ShownPair]) -> dict[str, list[tuple[AnsweredRow, ShownPair]]]:
    """Held-out questions whose loss fell most (`best`), and rose most (`worst`)."""
    by_row = {pair.row_id: pair for pair in holdout}
    lists = {"best": proof.best, "worst": proof.worst} if proof else {}
    found = {
        key: [(one, by_row[one.row_id]) for one in examples if one.row_id in by_row] for key, examples in lists.items()
    }
    return {key: pairs for key, pairs in found.items() if pairs}


def sample(holdout: Sequence[ShownPair]) -> list[ShownPair]:
    """Some held-out questions, drawn by a fixed seed: nobody picked them. In the order of the rows."""
    drawn = random.Random(SAMPLE_SEED).sample(range(len(holdout)), min(SAMPLED, len(holdout)))
    return [holdout[number] for number in sorted(drawn)]
