"""A guess at columns whose names are not recognised, by their contents. The package `data` itself never guesses."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from seodang.data.read import column_names
from seodang.data.read.column_names import column_key
from seodang.data.read.layout import single_turns
from seodang.data.read.raw_rows import RawRow, RawRows
from seodang.data.read.reshape.nested import pair_in_lists
from seodang.data.read.turns.choices import choice_columns
from seodang.data.read.turns.messages import is_turn, turn_list

Ask = Callable[[str, Mapping[str, str], str], str]  # a question, its choices with what each means, the guess → a choice

SAMPLE_ROWS = 200
FEW_VALUES = 0.2  # share of different values below which a column is a label
LABEL_ROWS = 10  # fewer rows cannot show that a column is a label
# lists of questions and answers that may belong to one conversation
DIALOGUE = re.compile(r"turn|dialog|conv|chat|talk|history|exchange|round|대화|턴|상담", re.IGNORECASE)
OTHER_NAMES = (
    column_names.CONTEXT
    | column_names.SYSTEM
    | column_names.TOOLS
    | {"id", "idx", "index", "uuid", "key", "url", "link", "source", "date", "time", "file", "category", "label", "tag"}
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# words of a column's name (English; Korean names are searched for theirs, as they are written without blanks)
WRONG = _set(
    "false bad worse worst decoy neg invalid fake adversarial harmful unsafe dispreferred losing mistake not non"
)
WRONG_STEMS = (  # also where nothing separates the words: incorrectanswers
    *("wrong", "incorrect", "inaccura", "inappropriate", "inadequate", "reject", "distract", "negative", "mislead"),
    *("hallucinat", "unhelpful", "unfaithful", "unchosen", "unselected", "unprefer", "undesir", "lose"),
)
WRONG_KOREAN = _set("오답 틀린 잘못 거짓 부정확 부적절 부적합 비선호 비추천 미채택 정답아님 탈락 거절 오개념 함정")
# the first group that a name belongs to is its rank
RIGHT = (
    _set("best ideal gold golden chosen accepted preferred winner winning"),
    _set("correct right true truth reference target solution"),
    _set("explanation rationale"),
)
RIGHT_KOREAN = (("정답", "모범", "채택"), ("옳은", "올바른", "맞는"), ("해설", "풀이", "설명"))
ABOUT = _set(  # last words of names of columns that describe others
    "id ids idx index uuid key url link source date time file category label tag type score rating rank count number "
    "length difficulty level language lang split license author flag name names filename intention intent department "
    "domain topic speaker"
)
ABOUT_KOREAN = tuple(
    _set("여부 번호 유형 난이도 분류 출처 날짜 일자 점수 등급 코드 작성자 과목 파일명 제품명 질환명 병명 의도 진료과")
)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The contents of one column of the sample."""

    name: str
    filled: float  # share of the rows
    length: float  # mean characters
    asks: float  # share of the values that are questions


def guess_columns(raw: RawRows, ask: Ask | None) -> dict[str, str] | None:
    """Recipe keys with the columns that are most likely meant; None if none is likely.

    Args:
        ask: decides where several columns could be meant; the guess comes first.
    """
    sample = list(islice(raw.rows(), SAMPLE_ROWS))
    if choice_columns(raw.columns):
        return None  # the number of a choice is no answer, and no other column is one

    def choose(what: str, columns: list[str]) -> str:
        if not ask or not columns[1:]:
            return columns[0]
        return ask(f"{raw.where}: which column holds the {what}?", dict.fromkeys(columns, ""), columns[0])

    if single_turns(raw.columns, sample):
        return None
    if (pair := pair_in_lists(sample)) is not None:
        path, question, answer = pair
        return None if DIALOGUE.search(path) else {"question": question, "answer": answer}
    if conversations := _conversations(raw.columns, sample):
        return {"messages": choose("conversations", conversations)}
    texts = [column for name in raw.columns if (column := _column(name, sample)) is not None]
    questions = [column for column in texts if column_key(column.name) in column_names.QUESTION]
    better = column_names.REFERENCE | column_names.CORRECTION
    known = column_names.ANSWER | better
    answers = [column for column in texts if column_key(column.name) in known and column not in questions]
    keys = {column_key(column.name) for column in answers}
    if not ask and keys & better and keys & column_names.ANSWER:
        return None  # a reference may be the right answer, or name where one is found; few rows may be corrected
    if len(texts) == 1 and not questions and not answers:
        is_asked = (
            column_key(texts[0].name).rpartition(".")[2] in column_names.QUESTION
        )  # questions alone teach nothing
        return None if is_asked or any(map(_is_wrong, raw.columns)) else {"text": texts[0].name}
    questions = sorted(
        questions or [column for column in texts if column not in answers],
        key=lambda column: (-_rank(column.name), -round(column.filled, 1), -round(column.asks, 1), column.length),
    )
    if not questions:
        return None
    question = choose("questions", [column.name for column in questions])
    answers = sorted(
        answers or [column for column in texts if column_key(column.name) not in column_names.QUESTION],
        key=lambda column: (_rank(column.name), -round(column.filled, 1), -column.length),
    )
    left = [column.name for column in answers if column.name != question]
    return {"question": question, "answer": choose("answers", left)} if left else None


def _words(name: str) -> list[str]:
    """The words of a column's name, in lower case and without numbers: `incorrectAnswer2` → incorrect, answer."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def _is_wrong(name: str) -> bool:
    """Whether a name is that of wrong answers, which are never proposed."""
    words = _words(name)
    is_english = not WRONG.isdisjoint(words) or any(word.startswith(WRONG_STEMS) for word in words)
    return is_english or any(word in "".join(words) for word in WRONG_KOREAN)


def _may_be_meant(name: str) -> bool:
    """Whether a name can be that of questions, answers or conversations."""
    words = _words(name)
    is_about = bool(words) and (words[-1] in ABOUT or words[0] in ("is", "has") or words[-1].endswith(ABOUT_KOREAN))
    return column_key(name) not in OTHER_NAMES and not is_about and not _is_wrong(name)


def _rank(name: str) -> int:
    """How surely a name is that of the right answer: 0 is the surest."""
    words, plain = _words(name), "".join(_words(name))
    ranks = (
        rank
        for rank, (english, korean) in enumerate(zip(RIGHT, RIGHT_KOREAN, strict=True))
        if not english.isdisjoint(words) or any(word in plain for word in korean)
    )
    return next(ranks, len(RIGHT))


def _conversations(columns: Sequence[str], sample: Sequence[RawRow]) -> list[str]:
    """Columns that hold lists of turns; rejected conversations do not count."""

    def holds(name: str) -> bool:
        turns = next((found for row in sample if (found := turn_list(row.fields.get(name)))), None)
        return turns is not None and is_turn(turns[0])

    return [name for name in columns if _may_be_meant(name) and holds(name)]


def _column(name: str, sample: Sequence[RawRow]) -> _Column | None:
    """A column of texts; None for numbers, labels, addresses, nested values, and names of anything else."""
    values: list[Any] = [value for row in sample if (value := row.fields.get(name)) not in (None, "")]
    texts = [value.strip() for value in values if isinstance(value, str) and any(map(str.isalpha, value))]
    if not _may_be_meant(name) or not values or len(texts) < 0.5 * max(len(values), len(sample)):
        return None
    if len(sample) >= LABEL_ROWS and len(set(texts)) < FEW_VALUES * len(texts):
        return None
    if sum(text.startswith(("http://", "https://", "/", "file:")) for text in texts) > len(texts) / 2:
        return None
    return _Column(
        name=name,
        filled=len(texts) / len(sample),
        length=sum(map(len, texts)) / len(texts),
        asks=sum(text.endswith(("?", "？", "까", "까요", "나요", "죠")) for text in texts) / len(texts),
    )
