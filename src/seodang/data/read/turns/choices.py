"""Multiple-choice rows among others: their answer is the letter or number of a choice. Knows one row at a time."""

import re
from typing import Any

from seodang.data.read.unusable import UnusableRowError

TYPES = frozenset(
    {"객관식", "선택형", "오지선다", "multiple choice", "multiple_choice", "multiple-choice", "mcq", "choice"}
)
MARK = r"(?:\(?[1-9A-Ea-e][).]|[①-⑨])"
STARTS_WITH_MARK = re.compile(rf"\s*(?:{MARK}|[1-9A-Ea-e]\s*$)")
OPTIONS = re.compile(rf"(?:^|\s){MARK}")
ENOUGH_OPTIONS = 3
MULTIPLE_CHOICE = "a multiple-choice question, whose answer is one of its choices"
HINT = "name `question:` and `answer:` in the recipe to train on such rows anyway"


def refuse_choice(question_type: Any, question: Any, answer: Any) -> None:
    """Check that a row is not a multiple-choice question, by its type or by the choices that it lists.

    Raises:
        UnusableRowError: it is one.
    """
    if isinstance(question_type, str) and question_type.strip().casefold() in TYPES:
        raise UnusableRowError(MULTIPLE_CHOICE, hint=HINT)
    if not isinstance(question, str) or not isinstance(answer, str) or not STARTS_WITH_MARK.match(answer):
        return
    if len(OPTIONS.findall(question)) >= ENOUGH_OPTIONS:
        raise UnusableRowError(MULTIPLE_CHOICE, hint=HINT)
