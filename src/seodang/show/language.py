"""The language of what people read: one catalogue of texts for each, and which one a run is shown in.

A catalogue is `catalog/LANGUAGE.toml`: key → text with `{placeholders}`. All have the same keys and placeholders.
Another language is one more file, and its name in `Language`. What a run recorded about its data (findings, reasons,
remarks) is in English in its files; `catalog/recorded_LANGUAGE.toml` holds these sentences as patterns.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, get_args

from seodang.proof.behaviour import hangul_share
from seodang.proof.losses import Unit
from seodang.proof.statistics import Estimate, Interval
from seodang.recipe import ReportLanguage
from seodang.show import formatting

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
PLACEHOLDER = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
HANGUL_SHARE = 0.5  # of a question's letters, from which it is Korean; and of the questions, from which the report is


class Figures(NamedTuple):
    """A change as it is written."""

    value: str  # `−0.598`
    interval: str  # `−0.684 to −0.512`; a dash where there is none
    digits: int  # decimals of both


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

    def recorded(self, sentence: str) -> str | None:
        """A sentence that a run recorded in English about its data, in this language; None where it is not known."""
        if self.language == "en":
            return sentence
        for pattern, text in _recorded(self.language):
            if found := pattern.fullmatch(sentence):
                values = {name: (value, self.recorded(value)) for name, value in found.groupdict().items()}
                if all(known for name, (_, known) in values.items() if name.startswith("sentence")):
                    filled = {name: known or value for name, (value, known) in values.items()}
                    return PLACEHOLDER.sub(lambda place, filled=filled: filled[place[1]], text)  # type: ignore[misc]
        return None

    def start(self, sentence: str) -> str:
        """A sentence as it begins: a capital letter, where the language has any."""
        return sentence[:1].upper() + sentence[1:] if self.language == "en" else sentence

    def change(self, found: Estimate, tolerance: float | None = None, *, digits: int = formatting.DIGITS) -> Figures:
        """A change and its interval, on the same side of 0 and of the tolerance as they were measured.

        Args:
            digits: decimals, unless more are needed.
        """
        ends = (found.interval.low, found.interval.high) if found.interval else (found.value,)
        digits = formatting.digits_of(ends, (0.0, tolerance), least=digits)
        return Figures(formatting.signed(found.value, digits), self.between(found.interval, digits), digits)

    def between(self, interval: Interval | None, digits: int) -> str:
        """Both ends of an interval: `−0.684 to −0.512`; a dash where there is none."""
        if interval is None:
            return formatting.MISSING
        low, high = (formatting.signed(end, digits) for end in (interval.low, interval.high))
        return self("list.range", low=low, high=high)

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


@cache
def _recorded(language: Language) -> tuple[tuple[re.Pattern[str], str], ...]:
    """(what matches an English sentence, its text), the one with most of its own words first."""
    file = files("seodang.show") / "catalog" / f"recorded_{language}.toml"
    sentences: dict[str, str] = tomllib.loads(file.read_text(encoding="utf-8"))["sentences"]
    return tuple(
        (re.compile(_regex(english), re.DOTALL), sentences[english])
        for english in sorted(sentences, key=lambda english: len(PLACEHOLDER.sub("", english)), reverse=True)
    )


def _regex(english: str) -> str:
    """What matches a sentence with anything in the place of each placeholder."""
    literals = PLACEHOLDER.split(english)  # every second one is a placeholder's name
    return "".join(f"(?P<{one}>.+?)" if place % 2 else re.escape(one) for place, one in enumerate(literals))


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
