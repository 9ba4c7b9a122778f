"""How answers behave, from their text alone: do they end, repeat themselves, echo the question, stay Korean.

Knows no model and no tokenizer: whoever has `answers.jsonl` can recompute every number.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from seodang.types import Answer

NGRAM = 4  # seq-rep-4
LONG_RUN = 20  # letters without a space: no word, but a loop that lost its spaces
SHORT_QUESTION = 6  # letters; shorter ones ("감기?") stand in good answers too
HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")


def behaviour(answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, Any]]]:
    """Behaviour per model and kind: `{"base": {kind: {...}}, "tuned": {kind: {...}}}`.

    Each kind holds `answers` and `stopped` (numbers), `stop_rate` (share that ended by itself), `mean_tokens`,
    `repetition` (mean seq-rep-4), `echo` (share that says the question again), `hangul` (mean share of the letters;
    None without letters) and `length_ratio` (characters of the answers per character of their references; None
    without references).
    """
    table: dict[str, dict[str, dict[str, Any]]] = {"base": {}, "tuned": {}}
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.model, answer.kind), []).append(answer)
    for (model, kind), group in groups.items():
        table.setdefault(model, {})[kind] = _describe(group)
    return table


def _describe(answers: Sequence[Answer]) -> dict[str, Any]:
    stopped = sum(answer.stopped for answer in answers)
    hangul = [share for answer in answers if (share := hangul_share(answer.text)) is not None]
    referenced = [(len(answer.text), len(answer.reference)) for answer in answers if answer.reference]
    return {
        "answers": len(answers),
        "stopped": stopped,
        "stop_rate": stopped / len(answers),
        "mean_tokens": sum(answer.new_tokens for answer in answers) / len(answers),
        "repetition": sum(repetition(answer.text) for answer in answers) / len(answers),
        "echo": sum(echoes(answer.question, answer.text) for answer in answers) / len(answers),
        "hangul": sum(hangul) / len(hangul) if hangul else None,
        "length_ratio": sum(own for own, _ in referenced) / sum(true for _, true in referenced) if referenced else None,
    }


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
    """Whether the answer says the question again; only letters and digits count, and case does not.

    Questions of fewer than six letters echo only where the answer starts with them.
    """
    asked, said = _letters(question), _letters(text)
    if not asked:
        return False
    return said.startswith(asked) if len(asked) < SHORT_QUESTION else asked in said


def hangul_share(text: str) -> float | None:
    """Hangul among the letters, 0 to 1; None for a text without letters."""
    letters = [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]
    return sum(HANGUL.match(char) is not None for char in letters) / len(letters) if letters else None


def _letters(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFC", text).casefold() if char.isalnum())
