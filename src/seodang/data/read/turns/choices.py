"""Multiple-choice rows: their answer is the letter or number of a choice. Knows names of columns and single rows."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from seodang.data.read.column_names import CHOICES, column_key, words
from seodang.data.read.unusable import UnusableRowError

TYPES = frozenset(
    {"객관식", "선택형", "오지선다", "multiple choice", "multiple_choice", "multiple-choice", "mcq", "choice"}
)
MARK = r"(?:\(?[1-9A-Ea-e][).]|[①-⑨])"
STARTS_WITH_MARK = re.compile(rf"\s*(?:{MARK}|[1-9A-Ea-e]\s*$)")
OPTIONS = re.compile(rf"(?:^|\s){MARK}")
_BARE = r"(?:\(?(?:[0-9A-Ja-j]|[①-⑩])\)?[.)]?(?:\s?번)?)"
MARKS_ALONE = re.compile(rf"\s*{_BARE}(?:\s*[,/&]?\s+{_BARE}|\s*[,/&]\s*{_BARE})*\s*|\s*[①-⑩]+\s*")
ENOUGH_OPTIONS = 3
# columns that hold a choice each: option_a … option_d, 보기1 … 보기5, A … D
ONE_CHOICE = re.compile(r"(?P<name>.*?)_?(?P<mark>[1-9a-e①-⑨])(?:번)?")
ONE_CHOICE_NAMES = words("option opt op choice candidate sol ending 보기 선택지 선지 답지 객관식보기 객관식_보기")
MULTIPLE_CHOICE = "a multiple-choice question, whose answer is one of its choices"
HINT = "name `question:` and `answer:` in the recipe to train on such rows anyway"


def choice_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that hold the choices of multiple-choice questions: one list of them, or one choice each."""
    lists = []
    families: dict[tuple[str, bool], list[str]] = defaultdict(list)  # letters and numbers apart
    for column in columns:
        key = column_key(column)
        if key in CHOICES:
            lists.append(column)
        elif found := ONE_CHOICE.fullmatch(key):
            families[found["name"], found["mark"].isalpha()].append(column)
    single = [
        column
        for (name, _), members in families.items()
        if (name in ONE_CHOICE_NAMES and len(members) > 1) or (not name and len(members) >= ENOUGH_OPTIONS)
        for column in members
    ]
    return (*lists, *single)


def is_choice_mark(answer: Any) -> bool:
    """Whether an answer is nothing but letters or numbers of choices: `B`, `(2)`, `3번`, `①, ③`."""
    return isinstance(answer, str) and len(answer) < 40 and MARKS_ALONE.fullmatch(answer) is not None


def refuse_choice(question_type: Any, question: Any, answer: Any, *, has_choices: bool) -> None:
    """Check that a row is not a multiple-choice question: by its type, or by its choices, one of which is the answer.

    Args:
        has_choices: the row has choices in columns of their own.

    Raises:
        UnusableRowError: it is one.
    """
    if isinstance(question_type, str) and question_type.strip().casefold() in TYPES:
        raise UnusableRowError(MULTIPLE_CHOICE, hint=HINT)
    if not isinstance(answer, str) or not (has_choices or STARTS_WITH_MARK.match(answer)):
        return
    is_mark = is_choice_mark(answer)
    if has_choices and is_mark:
        raise UnusableRowError(MULTIPLE_CHOICE, hint=HINT)
    if not isinstance(question, str) or not STARTS_WITH_MARK.match(answer):
        return
    # a list may be answered by a list, as when it is to be translated: that answer is not among the choices
    if (is_mark or question_type is not None or answer.strip() in question) and (
        len(OPTIONS.findall(question)) >= ENOUGH_OPTIONS
    ):
        raise UnusableRowError(MULTIPLE_CHOICE, hint=HINT)
