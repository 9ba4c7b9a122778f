"""Signs that a text is not what its author wrote: damaged on its way, or no answer at all. Knows texts, no rows.

None of these is changed: each can be meant, in code or in a lesson about it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NO_VALUE = frozenset(
    {"nan", "none", "null", "nil", "undefined", "na", "n/a", "<na>", "nat", r"\n", "[]", "{}", "[object object]"}
    | {"#n/a", "#na", "#null!", "#ref!", "#value!", "#name?", "#div/0!", "#num!"}
)
_EMPTY_PART = re.compile(  # an input behind its question, or a context before it, whose cell was empty
    r"\n\n(?:nan|NaN|<NA>|NaT|None|<?[Nn]o ?input>?)(?=\n|$)|(?:^|\n)(?:nan|NaN|<NA>|NaT|None)\n\n"
)
_PRINTED = re.compile(r"\s*(?:\[\s*'.*'\s*\]|\{\s*'[^']*'\s*:.*\})\s*", re.DOTALL)
_THOUGHT_TAG = re.compile(  # in the brackets of several makers; <think> itself is read as a thought
    r"\s*(?!(?-i:<think>))(?:[<\[◁]\|?(?:\w+:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|scratchpad"
    r"|analysis|inner_monologue|cot|chain_of_thought)\|?[>\]▷]|<\|channel\|>\s*analysis|<unused\d+>\s*thought)",
    re.IGNORECASE,
)
_ESCAPE = re.compile(  # of a character that nobody would escape in a text: Hangul, kana, CJK
    r"\\u(?:11|3[01]|[4-9][0-9a-f]|a[c-f]|[bc][0-9a-f]|d[0-7])[0-9a-f]{2}", re.IGNORECASE
)
_EXCEL_ESCAPE = re.compile(r"_x[0-9A-Fa-f]{4}_")
_PLACEHOLDER = re.compile(r"\{\{\s*[^\W\d][\w. ]*\}\}")
_MEDIA = re.compile(  # as LLaVA, LLaMA-Factory, Qwen-VL, Phi and Gemma write where an image, a video or a sound goes
    r"<(?:\||start_of_)?(?:image|img|video|audio)(?:_(?:pad|soft_token|placeholder|\d+)|_?\d+)?(?:\|)?>"
    r"|<\|vision_start\|>|\[(?:IMG|AUDIO)\]"
)
_LABEL = re.compile(  # of an answer, not of the first speaker of a dialogue
    r"\s*(?:\*\*)?(?:답변|응답|answer|response|assistant|A)(?:\*\*)?\s*[:：](?!.*^\s*(?:\*\*)?[BQ]\s*[:：])",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_OTHER_FORMAT = re.compile(  # how other trainers write an answer's turn into a text
    r"^### ?(?:Response|Answer|Assistant|답변|응답) ?:|<\|im_start\|>assistant|\[/INST\]|<start_of_turn>model"
    r"|<\|start_header_id\|>assistant|<\|assistant\|>|^ASSISTANT: ",
    re.MULTILINE,
)
_CP1252 = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # what Windows-1252 has at 0x80 … 0x9f
_DOUBLE = re.compile(f"[\u00c2-\u00f4][\u0080-\u00bf{_CP1252}]+")


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One kind of suspicious text."""

    check: str  # the finding's name
    what: str  # of the rows in which it is found
    hint: str
    holds: Callable[[str], bool]
    of_answers: bool = False  # else of all texts of a row


def _is_double_encoded(text: str) -> bool:
    """Two bytes alone may be two characters, as in FÉ” or × with a blank; Â and Ã hardly stand before such."""
    decoded = [(found.group(), _decoded(found.group())) for found in _DOUBLE.finditer(text)]
    return any(once and (once >= "\u0800" or twice[0] in "ÂÃ") for twice, once in decoded)


def _decoded(twice: str) -> str | None:
    """The characters whose UTF-8 bytes were read as Windows-1252, if they were."""
    try:
        raw = b"".join(char.encode("cp1252" if char in _CP1252 else "latin-1") for char in twice)
        return raw.decode("utf-8")
    except UnicodeError:
        return None


def _has_unpaired_think(text: str) -> bool:
    return "think>" in text and text.count("<think>") != text.count("</think>")


SIGNS = (
    Sign(
        check="no_value",
        what="the answer is a word for no value (nan, None, null, #N/A …)",
        hint="leave these rows out, unless the word is the answer",
        holds=lambda text: len(text) < 24 and text.strip().casefold() in _NO_VALUE,
        of_answers=True,
    ),
    Sign(
        check="no_value_part",
        what="an empty input or context was written as a word for no value (nan, None, <noinput> …)",
        hint="leave such cells empty; in pandas: fillna('') before they become text",
        holds=lambda text: "\n\n" in text and _EMPTY_PART.search(text) is not None,
    ),
    Sign(
        check="printed_values",
        what="the answer is a list or object as Python prints it",
        hint="write the text itself into the column, unless it is code",
        holds=lambda text: _PRINTED.fullmatch(text) is not None,
        of_answers=True,
    ),
    Sign(
        check="thoughts_in_answers",
        what="the answer holds thoughts in other tags than <think>, or an unpaired <think>: trained as answer text",
        hint="write thoughts as <think>…</think> or into `reasoning_content`, unless answers should contain these tags",
        holds=lambda text: _THOUGHT_TAG.match(text) is not None or _has_unpaired_think(text),
        of_answers=True,
    ),
    Sign(
        check="labelled_answers",
        what="the answer begins with a label (답변:, Answer:, A:), which the model would write too",
        hint="take the label off, unless answers should begin with it",
        holds=lambda text: _LABEL.match(text) is not None,
        of_answers=True,
    ),
    Sign(
        check="other_chat_format",
        what="the text holds the chat format of another trainer (### Response:, <|im_start|>assistant, [/INST] …)",
        hint="give question and answer a column each: the template writes the format that is served",
        holds=lambda text: _OTHER_FORMAT.search(text) is not None,
    ),
    Sign(
        check="double_encoded",
        what="text was encoded twice: it shows ê°€ where 가 was meant",
        hint="write the file again from its source, in UTF-8",
        holds=_is_double_encoded,
    ),
    Sign(
        check="escaped_characters",
        what="characters stand as escapes, such as \\uc9c8",
        hint="decode them once more (json.loads), unless it is code",
        holds=lambda text: "\\u" in text and _ESCAPE.search(text) is not None,
    ),
    Sign(
        check="excel_escapes",
        what="characters stand as Excel writes them into its files, such as _x000D_",
        hint="replace them, or export the table as CSV",
        holds=lambda text: "_x" in text and _EXCEL_ESCAPE.search(text) is not None,
    ),
    Sign(
        check="placeholders",
        what="there are placeholders that were not filled in, such as {{name}}",
        hint="fill them in, unless they are part of a template that is asked for",
        holds=lambda text: "{{" in text and _PLACEHOLDER.search(text) is not None,
    ),
    Sign(
        check="media_placeholders",
        what="there are placeholders of images, videos or sounds that the model does not get, such as <image>",
        hint="leave these rows out: only their text is trained on",
        holds=lambda text: _MEDIA.search(text) is not None,
    ),
)


def signs_of(answers: Sequence[Sequence[str]], texts: Sequence[str]) -> NDArray[np.int64]:
    """Which signs each row shows [rows]: bit n stands for the n-th of `SIGNS`.

    Args:
        answers: of each row.
        texts: all that stands in each row.
    """
    found = np.zeros(len(texts), dtype=np.int64)
    for number, sign in enumerate(SIGNS):
        if sign.of_answers:
            shown = [row for row, of_row in enumerate(answers) if any(map(sign.holds, of_row))]
        elif not sign.holds("\n".join(texts)):  # nearly always: so all are searched at once
            continue
        else:
            shown = [row for row, text in enumerate(texts) if sign.holds(text)]
        found[shown] |= 1 << number
    return found
