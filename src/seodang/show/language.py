"""The language of what people read: one catalogue of texts for each, and which one a run is shown in.

A catalogue is `catalog/LANGUAGE.toml`: key → text with `{placeholders}`. All have the same keys and placeholders.
Another language is one more file, and its name in `Language`.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from seodang.proof.behaviour import hangul_share
from seodang.proof.losses import Unit
from seodang.proof.statistics import Interval
from seodang.recipe import ReportLanguage
from seodang.show import formatting

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
HANGUL_SHARE = 0.5  # of a question's letters, from which it is Korean; and of the questions, from which the report is


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """All texts in one language. Calling it gives the text of a key with its placeholders filled."""

    language: Language
    entries: Mapping[str, str]  # key such as "headline.kept" → text

    def __call__(self, key: str, **values: object) -> str:
        return self.entries[key].format(**values)

    def known(self, group: str, word: str) -> str:
        """A word of the program (a role, an outcome) in this language; as it is where the catalogue lacks it."""
        return self.entries.get(f"{group}.{word}", word)

    def count(self, what: str, number: int) -> str:
        """`1 row`, `4,173 rows`: a number of what `count.WHAT` names."""
        return self(f"count.{what}.{'one' if number == 1 else 'many'}", number=formatting.whole(number))

    def listing(self, words: Sequence[str]) -> str:
        """`a`, `a and b`, `a, b and c`."""
        *first, last = words
        return self("list.and", first=", ".join(first), last=last) if first else last

    def start(self, sentence: str) -> str:
        """A sentence as it begins: a capital letter, where the language has any."""
        return sentence[:1].upper() + sentence[1:] if self.language == "en" else sentence

    def between(self, interval: Interval | None, digits: int = 3, *, sign: bool = True) -> str:
        """Both ends of an interval: `−0.684 to −0.512`; a dash where there is none."""
        if interval is None:
            return formatting.MISSING
        write = formatting.signed if sign else formatting.number
        return self("list.range", low=write(interval.low, digits), high=write(interval.high, digits))

    def percents(self, interval: Interval | None) -> str:
        """Both ends of a share's interval: `64% to 93%`; a dash where there is none."""
        if interval is None:
            return formatting.MISSING
        return self("list.range", low=formatting.percent(interval.low), high=formatting.percent(interval.high))

    def amount(self, value: str, unit: Unit) -> str:
        """`0.598 nats per token`."""
        return self(f"amount.{'bits' if unit == 'bits per byte' else 'nats'}", value=value)

    def duration(self, seconds: float | None) -> str:
        """`4.2 s`, `21 min 3 s`, `2 h 5 min`."""
        short, minutes, hours = (self.entries[f"time.{form}"] for form in ("seconds", "minutes", "hours"))
        return formatting.duration(seconds, (short, minutes, hours))


@cache
def texts_in(language: Language) -> Texts:
    """The catalogue of a language."""
    file = files("seodang.show") / "catalog" / f"{language}.toml"
    return Texts(language=language, entries=dict(_flat(tomllib.loads(file.read_text(encoding="utf-8")))))


def language_of(setting: ReportLanguage, questions: Iterable[str]) -> Language:
    """The language to show a run in; `auto`: Korean where most questions are Hangul, else English."""
    if setting != "auto":
        return setting
    asked = list(dict.fromkeys(questions))
    korean = sum((hangul_share(question) or 0) > HANGUL_SHARE for question in asked)
    return "ko" if korean > HANGUL_SHARE * len(asked) else "en"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


ENGLISH = texts_in("en")
