"""How answers behave, from their text alone: do they end, repeat themselves, echo the question, stay Korean.

Knows no model and no tokenizer: whoever has `answers.jsonl` can recompute every number.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from seodang.types import Answer

NGRAM = 4  # seq-rep-4
LONG_RUN = 20  # letters without a space: no word, but a loop that lost its spaces
SHORT_QUESTION = 6  # letters; shorter ones ("감기?") stand in good answers too
HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerBehaviour:
    """How one model's answers to one kind of question behave."""

    answers: int
    stopped: int  # of them ended by themselves
    stop_rate: float  # stopped / answers
    mean_tokens: float
    repetition: float  # mean seq-rep-4, 0 to 1
    echo: float  # share that repeats the question
    hangul: float | None  # mean share of the letters; None without letters
    length_ratio: float | None  # characters per character of the references; None without references


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """Both models' answers, by kind of question: `behaviour` of proof.json."""

    SCHEMA_VERSION: ClassVar[int] = 1

    base: Mapping[str, AnswerBehaviour] = field(default_factory=dict)
    tuned: Mapping[str, AnswerBehaviour] = field(default_factory=dict)


def behaviour(answers: Sequence[Answer]) -> Behaviour:
    """How the answers of base and tuned model behave, kind by kind."""
    groups: dict[str, dict[str, list[Answer]]] = {"base": {}, "tuned": {}}
    for answer in answers:
        groups[answer.model].setdefault(answer.kind, []).append(answer)
    base, tuned = ({kind: _describe(group) for kind, group in kinds.items()} for kinds in groups.values())
    return Behaviour(base=base, tuned=tuned)


def _describe(answers: Sequence[Answer]) -> AnswerBehaviour:
    stopped = sum(answer.stopped for answer in answers)
    hangul = [share for answer in answers if (share := hangul_share(answer.text)) is not None]
    referenced = [(len(answer.text), len(answer.reference)) for answer in answers if answer.reference]
    return AnswerBehaviour(
        answers=len(answers),
        stopped=stopped,
        stop_rate=stopped / len(answers),
        mean_tokens=sum(answer.new_tokens for answer in answers) / len(answers),
        repetition=sum(repetition(answer.text) for answer in answers) / len(answers),
        echo=sum(echoes(answer.question, answer.text) for answer in answers) / len(answers),
        hangul=sum(hangul) / len(hangul) if hangul else None,
        length_ratio=sum(own for own, _ in referenced) / sum(true for _, true in referenced) if referenced else None,
    )


def repetition(text: str) -> float:
    """seq-rep-4: the share of 4-grams that stood before in the same text, 0 to 1.

    1 − distinct / all, after Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", section 6.
    Units are words and punctuation marks, so that models with different tokenizers compare; a run of more than 20
    letters without a space counts letter by letter. A text of fewer than four units repeats nothing: 0.
    """
    units = [unit for word in re.findall(r"\w+|[^\w\s]", text) for unit in (word if len(word) > LONG_RUN else [word])]
    grams = [tuple(units[i : i + NGRAM]) for i in range(len(units) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def echoes(question: str, text: str) -> bool:
    """Whether the answer repeats the question; only letters and digits count, and case does not.

    Questions of fewer than six letters echo only where the answer starts with them.
    """
    asked, answered = _letters(question), _letters(text)
    if not asked:
        return False
    return answered.startswith(asked) if len(asked) < SHORT_QUESTION else asked in answered


def hangul_share(text: str) -> float | None:
    """Hangul among the letters, 0 to 1; None for a text without letters."""
    letters = [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]
    return sum(HANGUL.match(char) is not None for char in letters) / len(letters) if letters else None


def _letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFC", text).casefold() if char.isalnum())
